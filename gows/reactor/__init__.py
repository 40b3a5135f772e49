"""The bare reactor: descriptors, events, deadlines and threads. It knows nothing of WebSocket or HTTP, and carries
any byte protocol.

    from gows.reactor import Loop, Observer

    class Echo(Observer):
        def __init__(self, stream):
            self.stream = stream

        def data_received(self, buf, n):
            self.stream.write(bytes(buf[:n]))

        def eof_received(self):
            self.stream.close()

    def accept(stream):
        stream.observer = Echo(stream)

    with Loop() as loop:
        loop.listen(":7000", accept)
        loop.run()

`examples/line_echo.py` is a whole server.
"""

from gows.reactor.address import Address, AddressLike, parse_address
from gows.reactor.endpoint import Endpoint, Sock
from gows.reactor.listener import Listener
from gows.reactor.loop import Loop, live_loops
from gows.reactor.observer import Observer
from gows.reactor.poller import ERROR, READ, WRITE, Poller, available_pollers, make_poller
from gows.reactor.shared import shared_loop
from gows.reactor.sockets import SocketLayer, Target
from gows.reactor.stream import Stream
from gows.reactor.timers import Timer, TimingWheel
from gows.reactor.tls import TLSStream
from gows.reactor.wakeup import Wakeup
from gows.reactor.workers import InlinePool, Task, WorkerPool

__all__ = [
    "ERROR",
    "READ",
    "WRITE",
    "Address",
    "AddressLike",
    "Endpoint",
    "InlinePool",
    "Listener",
    "Loop",
    "Observer",
    "Poller",
    "Sock",
    "SocketLayer",
    "Stream",
    "TLSStream",
    "Target",
    "Task",
    "Timer",
    "TimingWheel",
    "Wakeup",
    "WorkerPool",
    "available_pollers",
    "live_loops",
    "make_poller",
    "parse_address",
    "shared_loop",
]
