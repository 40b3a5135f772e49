"""The bus: how the processes of one machine send messages to each other, over Unix sockets."""

from gows.bus.bus import Bus

__all__ = ["Bus"]
