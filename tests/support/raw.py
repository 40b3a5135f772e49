"""RawPeer: a client on a real socket that sends bytes and reads frames by itself."""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from types import TracebackType
from typing import Any, TypeVar

from tests.support import wire
from tests.support.wire import Answer, Frame, FrameReader

Self = TypeVar("Self", bound="RawPeer")

SECONDS = 10.0
"""Nothing here waits longer."""


class RawPeer:
    """A connection to `address`: (host, port), or the path of a Unix-domain socket. A context that closes it."""

    def __init__(
        self, address: Any, *, ssl_context: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> None:
        self.sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        try:
            if receive_buffer is not None:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.sock.settimeout(SECONDS)
            self.sock.connect(address)
            if not isinstance(address, str):
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if ssl_context is not None:
                self.sock = ssl_context.wrap_socket(self.sock, server_hostname=address[0])
        except BaseException:
            self.sock.close()
            raise
        self._buffer = b""
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()

    # ------------------------------------------------------------------ HTTP

    def read_answer(self) -> tuple[Answer, bytes]:
        """The head of the next answer, and its body (with a Content-Length)."""
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(65536)
            assert data, f"the server closed after {self._buffer!r}"
            self._buffer += data
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        answer = Answer.parse(head)
        length = int(answer.headers.get("content-length", 0))
        while len(self._buffer) < length:
            data = self.sock.recv(65536)
            assert data, f"the server closed within {self._buffer!r}"
            self._buffer += data
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return answer, body

    def ask(self, head: bytes) -> Answer:
        """Send `head`; the head of what answers it."""
        self.send(head)
        return self.read_answer()[0]

    def upgrade(self, path: str = "/ws", *headers: str) -> Answer:
        """The opening handshake, which must succeed."""
        answer = self.ask(wire.request(path, *headers))
        assert answer.status == 101, answer
        assert answer.headers["sec-websocket-accept"] == wire.ACCEPT
        data, self._buffer = self._buffer, b""
        self._frames.extend(self._reader.feed(data))
        return answer

    # ------------------------------------------------------------------ frames

    def send(self, *data: bytes) -> None:
        """All of it, in one segment if it fits into one."""
        self.sock.sendall(b"".join(data))

    def read(self) -> Frame:
        """The next frame, which must come."""
        while not self._frames:
            data = self.sock.recv(65536)
            assert data, f"the server closed, {self._reader.unfinished} bytes into a frame"
            self._frames.extend(self._reader.feed(data))
        return self._frames.popleft()

    def read_text(self) -> str:
        """The next frame, which must be a whole text message."""
        found = self.read()
        assert found[2:] == (True, 0), found
        assert found.opcode == wire.TEXT, found
        return found.payload.decode()

    def expect_close(self, code: int) -> Frame:
        """The next frame must be a close frame with this code, and the last; then comes the server's FIN."""
        found = self.read()
        assert found.opcode == wire.CLOSE, found
        assert found.close_code == code, (found.close_code, found.reason)
        assert self.read_end() == "FIN"
        return found

    def read_end(self) -> str:
        """How the server ended the connection, "FIN" or "RST"; nothing may come before."""
        assert not self._frames, self._frames
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            return "RST"
        assert not data, data
        return "FIN"

    def drain(self) -> str:
        """Read whatever comes until the end; "FIN" or "RST"."""
        try:
            while self.sock.recv(1 << 20):
                pass
        except ConnectionResetError:
            return "RST"
        return "FIN"

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """FIN, or RST when something was not read."""
        self.sock.close()

    def reset(self) -> None:
        """RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
