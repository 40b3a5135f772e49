"""Stage: a Server and its guests in virtual time, in one thread; callbacks run inline, or as tasks of a pool that the
test can hold."""

from __future__ import annotations

import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from gows import AcceptOptions, ByteBuffer, Handler, Opcode, Request, Server, WebSocket, accept
from gows.reactor import WRITE, Target, Task
from tests.support import wire
from tests.support.fakes import World
from tests.support.wire import Answer, Frame, FrameReader

ADDRESS = ("10.0.0.1", 80)


class HeldPool:
    """A worker pool whose one worker works at the end of a turn, unless it is held."""

    inline = False

    def __init__(self, wake: Callable[[], None]) -> None:
        self.tasks: deque[Task] = deque()
        self.held = False
        self._wake = wake

    def submit(self, task: Task) -> None:
        assert task not in self.tasks, "submitted twice"
        self.tasks.append(task)
        self._wake()

    def withdraw(self, task: Task) -> bool:
        if task not in self.tasks:
            return False
        self.tasks.remove(task)
        return True

    def kick(self) -> None:
        while self.tasks and not self.held:
            self.tasks.popleft().run()

    def max_sleep(self) -> float | None:
        return None

    def in_worker(self) -> bool:
        return False

    def stop(self, timeout: float) -> bool:
        self.held = False
        self.kick()
        return True


class Actor(Handler):
    """Writes down what it is told; a test puts its own functions in the place of `do`."""

    def __init__(self) -> None:
        self.ws: WebSocket
        self.calls: list[str] = []
        self.messages: list[bytes | str] = []
        self.do: dict[str, Callable[..., object]] = {}
        self.close_code: int | None = None
        self.close_reason = ""
        self._inside = False

    def on_open(self, ws: WebSocket) -> None:
        self.ws = ws
        self._told("on_open", ws)

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        assert type(opcode) is Opcode
        self.messages.append(buff.get_string() if opcode is Opcode.TEXT else buff.clone_bytes())
        self._told("on_message", ws, opcode, buff)

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        self._told("on_ping", ws, data)

    def on_pong(self, ws: WebSocket, data: bytes) -> None:
        self._told("on_pong", ws, data)

    def on_drain(self, ws: WebSocket) -> None:
        self._told("on_drain", ws)

    def on_close(self, ws: WebSocket) -> None:
        self.close_code, self.close_reason = ws.close_code, ws.close_reason
        self._told("on_close", ws)

    def _told(self, name: str, *arguments: Any) -> None:
        assert not self._inside, f"{name} within {self.calls[-1]}"
        assert "on_close" not in self.calls, f"{name} after on_close"
        self.calls.append(name)
        self._inside = True
        try:
            if name in self.do:
                self.do[name](*arguments)
        finally:
            self._inside = False


def echo(ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
    """For `do["on_message"]`."""
    ws.write_message(opcode, buff)


class Echo(Actor):
    """An Actor that sends back what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.do["on_message"] = echo


class Stage:
    """A server at ADDRESS. `/ws` is served with what `make_handler` makes. Callbacks run in the loop, or else in a
    HeldPool; with `by_class` in the loop, beside that pool."""

    def __init__(
        self,
        *,
        inline: bool = True,
        by_class: bool = False,
        make_handler: Callable[[], Handler] = Actor,
        network: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.world = World(**network or {})
        self.loop = self.world.loop()
        self.pool = HeldPool(self.loop.wakeup.wake)
        self.by_class = by_class
        if by_class or not inline:
            self.loop.pool = self.pool  # type: ignore[assignment]
        self.options = AcceptOptions(**options)
        self.make_handler = make_handler
        self.handlers: list[Any] = []
        self.view: Callable[[Request], Any] = self.accept
        self.server = Server(loop=self.loop, **server or {})
        self.server.add_route("/ws", lambda request: self.view(request))
        self.server.listen(ADDRESS)
        self.guests: list[Guest] = []
        self.log = Log()

    def accept(self, request: Request) -> None:
        """The usual view."""
        ws = accept(request, self.options)
        handler = self.make_handler()
        if self.by_class:
            handler.inline = True  # type: ignore[misc]  # of this one, instead of a class of each kind
        self.handlers.append(handler)
        ws.serve(self.handlers[-1])

    def connect(self, host: str = "10.0.0.9") -> Guest:
        """One more connection, from `host`; nothing was said yet."""
        self.world.network.host = host
        sock, _ = self.world.network.dial(Target(socket.AF_INET, ADDRESS))
        self.world.run_until(lambda: sock.accepted)
        self.guests.append(Guest(self, sock))
        return self.guests[-1]

    def guest(self, *headers: str, host: str = "10.0.0.9") -> tuple[Guest, Any]:
        """A guest that was upgraded, and the handler of its connection, whose `on_open` has returned."""
        guest = self.connect(host)
        before = len(self.handlers)
        answer = guest.upgrade(*headers)
        assert answer.status == 101, answer
        handler = self.handlers[before]
        if isinstance(handler, Actor):
            self.run_until(lambda: handler.calls)
        return guest, handler

    def run_until(self, condition: Callable[[], object], limit: float = 60.0) -> None:
        """Let virtual time go by until `condition` holds; the guests read only when they are asked."""
        self.world.run_until(condition, limit)

    def run_for(self, seconds: float) -> None:
        self.world.run_for(seconds)

    @property
    def now(self) -> float:
        return self.world.clock()

    def close(self) -> None:
        """The end of everything; nothing unexpected may have been logged."""
        for guest in self.guests:
            guest.sock.close()
        self.world.close()
        assert not self.world.network.open, f"descriptors left open: {self.world.network.open}"
        self.log.close()
        assert not self.log.messages, self.log.messages


MakeStage = Callable[..., Stage]
"""What the fixture `make_stage` gives: a Stage with these settings, closed when the test is over."""


class Guest:
    """A client's end of a connection. It reads only when it is asked."""

    def __init__(self, stage: Stage, sock: Any) -> None:
        self.stage = stage
        self.sock = sock
        self.end = ""  # "FIN" or "RST" once it has come
        self.received = 0
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self._head: bytes | None = b""

    def send(self, *data: bytes) -> None:
        """Send all of it, as the server takes it."""
        left = memoryview(b"".join(data))
        while left:
            if not self.sock.readiness() & WRITE:
                self.stage.run_until(lambda: self.sock.readiness() & WRITE)
            left = left[self.sock.send(left) :]

    def upgrade(self, *headers: str, head: bytes | None = None) -> Answer:
        """The opening handshake; its answer."""
        self.send(wire.request("/ws", *headers) if head is None else head)
        self.wait(lambda: self._head is None or b"\r\n\r\n" in self._head)
        assert self._head is not None
        first, _, rest = self._head.partition(b"\r\n\r\n")
        self._head = None
        self._frames.extend(self._reader.feed(rest))
        return Answer.parse(first)

    def pump(self, most: int = 1 << 30) -> bool:
        """Read what is there, `most` bytes at most; whether anything was."""
        before = self.received
        while not self.end and self.received - before < most:
            try:
                data = self.sock.recv(min(65536, most - (self.received - before)))
            except BlockingIOError:
                break
            except OSError:
                self.end = "RST"
                break
            if not data:
                self.end = "FIN"
            self.received += len(data)
            if self._head is None:
                self._frames.extend(self._reader.feed(data))
            else:
                self._head += data
        return self.received > before

    def wait(self, condition: Callable[[], object], limit: float = 60.0) -> None:
        """Read until `condition` holds."""
        self.stage.run_until(lambda: (self.pump(), condition())[1], limit)

    def read(self, limit: float = 60.0) -> Frame:
        """The next frame, which must come."""
        self.wait(lambda: self._frames or self.end, limit)
        assert self._frames, f"{self.end} came, {self._reader.unfinished} bytes into a frame"
        return self._frames.popleft()

    def text(self, limit: float = 60.0) -> str:
        """The next frame, a whole text message."""
        found = self.read(limit)
        assert (found.opcode, found.fin, found.rsv) == (wire.TEXT, True, 0), found
        return found.payload.decode()

    def close_frame(self, limit: float = 60.0) -> tuple[int, str]:
        """The next frame, a close frame: its code and reason."""
        found = self.read(limit)
        assert found.opcode == wire.CLOSE, found
        return found.close_code, found.reason

    def wait_end(self, limit: float = 60.0) -> str:
        """Nothing but the end may come: "FIN" or "RST"."""
        self.wait(lambda: self._frames or self.end, limit)
        assert not self._frames, self._frames
        return self.end

    def pending(self) -> list[Frame]:
        """The frames that are there now."""
        self.pump()
        return self.taken()

    def taken(self) -> list[Frame]:
        """The frames that were read already."""
        found = list(self._frames)
        self._frames.clear()
        return found

    def drain(self, limit: float = 60.0) -> str:
        """Read whatever comes until the end: "FIN" or "RST"."""
        self.wait(lambda: self.end, limit)
        self._frames.clear()
        return self.end

    @property
    def unread(self) -> int:
        """Bytes of ours that the server has not read."""
        return int(self.stage.world.network.buffer_size - self.sock._outgoing.room)

    def fin(self) -> None:
        """Half-close: nothing more is sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Log(logging.Handler):
    """What the engine logs as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        logging.getLogger("gows").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def take(self) -> list[str]:
        """The messages, which are thereby expected."""
        taken, self.messages = self.messages, []
        return taken

    def close(self) -> None:
        logging.getLogger("gows").removeHandler(self)
        super().close()
