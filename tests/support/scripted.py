"""ScriptedServer: a peer that does byte by byte what a test says, on blocking sockets and threads."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType

from gows.protocol.handshake import accept_key

SECONDS = 10.0
"""Nothing here blocks longer."""


class Peer:
    """One connection, seen from the server."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; raises EOFError at the end of the stream."""
        while len(self._buffer) < size:
            self._receive()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self._buffer += data

    def read_head(self) -> str:
        """The request, its empty line included."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        return self.read(self._buffer.index(b"\r\n\r\n") + 4).decode()

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def accept(self, *headers: str, behind: bytes = b"", spoil: Callable[[str], str] = str) -> str:
        """Read the request and answer with 101, spoilt; `behind` goes out in the same piece. Returns the request."""
        head = self.read_head()
        key = head.split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(key)}",
            *headers,
            "\r\n",
        ]
        self.send(spoil("\r\n".join(lines)).encode() + behind)
        return head

    def read_frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame, which must be masked and whole."""
        first, second = self.read(2)
        assert first & 0x80
        assert second & 0x80
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read(8))
        key = self.read(4)
        masked = self.read(length)
        whole = (key * (length // 4 + 1))[:length]
        payload = int.from_bytes(masked, "big") ^ int.from_bytes(whole, "big")
        return first & 0xF, payload.to_bytes(length, "big")

    def wait_end(self) -> None:
        """Read on until the client has closed."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A whole frame of a server, short."""
    assert len(payload) < 126
    return bytes((0x80 | opcode, len(payload))) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(8, struct.pack("!H", code) + reason.encode())


class ScriptedServer:
    """Runs `script(peer)` for each connection. A context; leaving it raises what a script raised."""

    def __init__(
        self, script: Callable[[Peer], None], *, ssl_context: ssl.SSLContext | None = None, path: str | None = None
    ) -> None:
        self._script = script
        self._ssl_context = ssl_context
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # so that little makes a client wait
        self._listener.bind(path or ("127.0.0.1", 0))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._serve)]
        self._errors: list[BaseException] = []
        self._ending = False
        self.port = 0 if path else self._listener.getsockname()[1]
        scheme = "wss" if ssl_context else "ws"
        self.url = f"{scheme}+unix://{path}:/" if path else f"{scheme}://127.0.0.1:{self.port}/"
        self.connections = 0

    def _serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._ending:
                sock.close()
                return
            self.connections += 1
            thread = threading.Thread(target=self._run, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        sock.settimeout(SECONDS)
        try:
            if self._ssl_context is not None:
                sock = self._ssl_context.wrap_socket(sock, server_side=True)
            with sock:
                self._script(Peer(sock))
        except BaseException as error:
            sock.close()
            self._errors.append(error)

    def __enter__(self) -> ScriptedServer:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending = True
        with socket.socket(self._listener.family) as last:  # wakes accept()
            last.connect(self._listener.getsockname())
        for thread in list(self._threads):
            thread.join(SECONDS)
            assert not thread.is_alive()
        self._listener.close()
        if self._errors and error is None:
            raise self._errors[0]
