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

interfaces  what the parts ask of each other
address     where to listen, or to connect to
networks    sets of IP networks
kernel      sockets whose calls keep the interpreter lock
lock        the re-entrant lock of streams
poller      which descriptors are ready: epoll, kqueue, poll or select
timers      deadlines and timers, in ticks of a tenth of a second
wakeup      ends the sleep of a loop from another thread
sockets     every call by which a socket comes into being
hosting     what runs coroutines in a loop's thread
waits       which threads may wait, and for what
workers     threads that run tasks
progress    what peers take of what was sent
turn        the two steps of a turn that are taken for each event and each written stream
loop        one thread that moves the bytes of all its connections
states      the states of a stream, as bits
enciphered  a socket whose bytes travel in a TLS session
stream      one connection's bytes, in both directions
tls         the same under TLS
listener    accepts connections
resolver    looks up names
connector   makes one outgoing connection
transports  the loop that listens, connects and adopts
reserve     descriptors that are kept free
shared      the loop of the whole process
"""

from gows.reactor.address import Address, AddressLike, parse_address
from gows.reactor.interfaces import Endpoint, Observer, Sock
from gows.reactor.listener import Listener
from gows.reactor.loop import BaseLoop, live_loops
from gows.reactor.poller import ERROR, READ, WRITE, Poller, available_pollers, make_poller
from gows.reactor.shared import shared_loop
from gows.reactor.sockets import SocketLayer, Target
from gows.reactor.stream import Stream
from gows.reactor.timers import Timer, TimingWheel
from gows.reactor.tls import TLSStream
from gows.reactor.transports import Loop
from gows.reactor.wakeup import Wakeup
from gows.reactor.workers import InlinePool, Task, WorkerPool

__all__ = [
    "ERROR",
    "READ",
    "WRITE",
    "Address",
    "AddressLike",
    "BaseLoop",
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
