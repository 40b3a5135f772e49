"""An in-memory selector, clock and socket layer: whole conversations in virtual time, in one thread."""

from tests.fakes.clock import VirtualClock
from tests.fakes.folder import MemoryFolder
from tests.fakes.network import MemoryNetwork, MemorySocket
from tests.fakes.poller import MemoryPoller
from tests.fakes.world import World

__all__ = ["MemoryFolder", "MemoryNetwork", "MemoryPoller", "MemorySocket", "VirtualClock", "World"]
