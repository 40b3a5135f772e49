"""An in-memory selector, clock and socket layer: whole conversations in virtual time, in one thread."""

from tests.support.fakes.clock import VirtualClock
from tests.support.fakes.folder import MemoryFolder
from tests.support.fakes.network import MemoryNetwork, MemorySocket
from tests.support.fakes.poller import MemoryPoller
from tests.support.fakes.world import World

__all__ = ["MemoryFolder", "MemoryNetwork", "MemoryPoller", "MemorySocket", "VirtualClock", "World"]
