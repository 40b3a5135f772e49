"""Peers that read slowly and steadily get all that was written before an end, over real sockets."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

import gows
from gows.reactor import Loop
from gows.reactor import stream as stream_module
from tests.support import wire
from tests.support.interop import client_tls, server_tls
from tests.support.raw import SECONDS, RawPeer
from tests.support.waiting import wait_until

SIZE = 2_000_000
SHORT = 0.7
"""Seconds of every timeout of an end here; to read it all takes three times as long."""


class Last(gows.Handler):
    """Writes much, and closes."""

    def on_open(self, ws: gows.WebSocket) -> None:
        ws.write_binary(bytes(SIZE))
        ws.close_handshake(4000, "done")


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(stream_module, "CLOSE_TIMEOUT", SHORT)
    monkeypatch.setattr(stream_module, "LINGER_TIMEOUT", SHORT)
    kind: str = request.param
    options = gows.AcceptOptions(close_timeout=SHORT, high_water=1 << 22)
    server = gows.Server(options=options, ssl_context=server_tls(kind == "tls"))
    server.add_route("/ws", lambda asked: gows.accept(asked).serve(Last()))
    server.add_route("/whole", lambda asked: bytes(SIZE))
    server.add_route("/pieces", lambda asked: gows.Response(bytes(20_000) for _ in range(100)))
    address = server.listen(f"unix:{tmp_path}/socket" if kind == "unix" else "127.0.0.1:0")
    server.start()
    try:
        with RawPeer(address, ssl_context=client_tls(kind == "tls"), receive_buffer=32768) as peer:
            yield peer
        wait_until(lambda: not server.loop.live_streams)
    finally:
        server.stop()


def read_slowly(sock: socket.socket) -> int:
    """Read to the end, at most 1 MB a second; how many bytes that were."""
    count = 0
    begun = time.monotonic()
    while data := sock.recv(20_000):
        count += len(data)
        assert time.monotonic() - begun < SECONDS
        time.sleep(0.02)
    return count


@pytest.mark.slow
@pytest.mark.parametrize(("site", "path"), [("tls", "/whole"), ("unix", "/pieces")], indirect=["site"])
def test_an_answer_before_connection_close(site: RawPeer, path: str) -> None:
    site.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert read_slowly(site.sock) > SIZE


@pytest.mark.slow
@pytest.mark.parametrize("site", ["tcp"], indirect=True)
def test_a_message_before_a_close_handshake(site: RawPeer) -> None:
    site.sock.sendall(wire.request("/ws"))
    count = 0
    while count < SIZE:
        data = site.sock.recv(20_000)
        assert data, f"the end came after {count} bytes"  # the 101 among them
        count += len(data)
        time.sleep(0.02)
    site.sock.sendall(wire.close(4000))
    read_slowly(site.sock)


@pytest.mark.slow
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "handler"])
def test_what_a_client_wrote_before_it_closed(blocking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes 1 MB a second."""
    monkeypatch.setattr(stream_module, "CLOSE_TIMEOUT", SHORT)
    monkeypatch.setattr(stream_module, "LINGER_TIMEOUT", SHORT)
    got: list[int] = []
    ends: list[int | None] = []

    class Slow(gows.Handler):
        def on_chunk(self, ws: gows.WebSocket, opcode: gows.Opcode, fin: bool, buff: gows.ByteBuffer) -> None:
            got.append(len(buff))
            time.sleep(len(buff) / 1_000_000)

        def on_close(self, ws: gows.WebSocket) -> None:
            ends.append(ws.close_code)

    server = gows.Server(options=gows.AcceptOptions(max_message_size=1 << 24, inbox_messages=1))
    server.loop.scratch = bytearray(16384)  # what a read takes at once is not slow
    server.add_route("/", lambda asked: gows.accept(asked).serve(Slow()))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    url = "ws://{}:{}/".format(*listener.getsockname())
    server.start(listener)
    loop = Loop(workers=1)
    loop.start()
    try:
        options = gows.AcceptOptions(close_timeout=SHORT, high_water=1 << 24)
        if blocking:
            with gows.connect(url, options=options, loop=loop) as ws:
                ws.write_binary(bytes(SIZE))
        else:
            told = gows.connect(url, gows.Handler(), options=options, loop=loop)
            told.write_binary(bytes(SIZE))
            told.close_handshake()
        wait_until(lambda: ends)
        assert (sum(got), ends) == (SIZE, [1000])
    finally:
        loop.close()
        server.stop()
