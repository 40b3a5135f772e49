"""The bus: how the processes of one machine send messages to each other, over Unix sockets.

wire      frames: how a message travels
folder    the folder of the sockets: who is there
links     connections between two processes: Outbound sends, Inbound receives
question  the answers that one `ask` waits for
bus       Bus: who is connected, messages, questions and their answers
"""

from gows.bus.bus import Bus

__all__ = ["Bus"]
