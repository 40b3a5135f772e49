"""Serving: a server of this process on real sockets, with handlers that remember, and a log that is looked at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from gows import AcceptOptions, ByteBuffer, Handler, Opcode, Request, Server, WebSocket, accept
from tests.support import wire
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until


class Recorder(Handler):
    """An echo that writes down what it is told."""

    def __init__(self) -> None:
        self.ws: WebSocket
        self.calls: list[str] = []
        self.messages: list[bytes] = []
        self.close_code: int | None = None
        self.close_reason = ""

    def on_open(self, ws: WebSocket) -> None:
        self.calls.append("on_open")
        self.ws = ws

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.calls.append("on_message")
        self.messages.append(buff.clone_bytes())
        ws.write_message(opcode, buff)

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        self.calls.append("on_ping")

    def on_pong(self, ws: WebSocket, data: bytes) -> None:
        self.calls.append("on_pong")

    def on_close(self, ws: WebSocket) -> None:
        self.close_code = ws.close_code
        self.close_reason = ws.close_reason
        self.calls.append("on_close")

    @property
    def closes(self) -> int:
        return self.calls.count("on_close")


class Faults(logging.Handler):
    """What the engine logs as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.errors: list[BaseException | None] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())  # now: a WebSocket has its peer's address as long as it is open
        self.errors.append(record.exc_info[1] if record.exc_info else None)

    def take(self) -> list[str]:
        """The messages, which are thereby expected."""
        taken, self.messages = self.messages, []
        self.errors.clear()
        return taken


class Serving:
    """A running server: `/ws` is served with what `make_handler` makes and with `options`; `/echo` always echoes.

    `asked_with`: how others connect, whom it must go on serving.
    """

    def __init__(
        self,
        workers: int,
        options: AcceptOptions | None = None,
        address: Any = None,
        asked_with: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.workers = workers
        self.options = options or AcceptOptions(compression=True)
        self.make_handler: Callable[[], Handler] = Recorder
        self.handlers: list[Any] = []
        self.keeps_handlers = True
        self.stopped = False
        self.asked_with = asked_with or {}
        self.view: Callable[[Request], Any] = self._accept
        self.faults = Faults()
        logging.getLogger("gows").addHandler(self.faults)
        self.server = Server(workers=workers, **settings)
        self.server.add_route("/ws", lambda request: self.view(request), ("GET", "POST", "PUT", "HEAD", "DELETE"))
        self.server.add_route("/echo", lambda request: accept(request).serve(Recorder()))
        self.address = self.server.listen(address or ("127.0.0.1", 0))
        self.server.start()

    def _accept(self, request: Request) -> None:
        ws = accept(request, self.options)
        handler = self.make_handler()
        if self.keeps_handlers:
            self.handlers.append(handler)
        ws.serve(handler)

    @property
    def handler(self) -> Any:
        """The handler of the only connection to /ws."""
        (handler,) = self.handlers
        return handler

    @property
    def loop(self) -> Any:
        return self.server.loop

    def connect(self, **settings: Any) -> RawPeer:
        """A connection, nothing sent."""
        return RawPeer(self.address, **settings)

    def upgraded(self, *headers: str, **settings: Any) -> RawPeer:
        """A connection to /ws, upgraded."""
        peer = self.connect(**settings)
        try:
            peer.upgrade("/ws", *headers)
        except BaseException:
            peer.close()
            raise
        return peer

    def assert_serves(self) -> None:
        """Somebody else comes, and is served as ever."""
        with self.connect(**self.asked_with) as peer:
            peer.upgrade("/echo")
            peer.send(wire.frame(wire.TEXT, "still there?"))
            assert peer.read_text() == "still there?"
            peer.send(wire.close(1000))
            peer.expect_close(1000)

    def wait_closed(self, handler: Recorder | None = None) -> Recorder:
        """Wait until the connection's `on_close` was called; that it was called once is seen in the end."""
        handler = handler or self.handler
        wait_until(lambda: handler.closes, what=lambda: f"on_close after {handler.calls}")
        return handler

    def wait_gone(self, streams: int = 0) -> None:
        """Wait until no more than `streams` connections are there."""
        loop = self.server.loop
        wait_until(lambda: loop.live_streams <= streams, what=lambda: f"{loop.live_streams} streams")

    def forget(self) -> None:
        """Back to the beginning, for the next test."""
        self.handlers.clear()
        self.faults.take()
        self.keeps_handlers = True
        self.make_handler = Recorder
        self.view = self._accept

    def stop(self, timeout: float = 5.0) -> None:
        """Stop, and stop looking at the log."""
        self.stopped = True
        self.server.stop(timeout)
        logging.getLogger("gows").removeHandler(self.faults)
