"""websocket-client against our server. It knows no compression, so a server that would compress must do without."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gows import AcceptOptions
from tests.support.interop import MESSAGES, SECONDS, OurServer
from tests.support.needs import need_module
from tests.support.waiting import wait_until

websocket = need_module("websocket")

BOTH = pytest.mark.parametrize(
    ("secure", "compression"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["ws", "ws-compression", "wss", "wss-compression"],
)


@contextmanager
def their_client(server: OurServer, **settings: Any) -> Iterator[Any]:
    # it cannot verify a certificate made for this test without a file, and that is not what is tested here
    ws = websocket.create_connection(server.url, timeout=SECONDS, sslopt={"cert_reqs": ssl.CERT_NONE}, **settings)
    try:
        yield ws
    finally:
        ws.shutdown()


def send(ws: Any, message: str | bytes) -> None:
    ws.send(message, websocket.ABNF.OPCODE_TEXT if isinstance(message, str) else websocket.ABNF.OPCODE_BINARY)


@BOTH
def test_their_client_gets_its_messages_back(secure: bool, compression: bool) -> None:
    options = AcceptOptions(compression=compression, min_compress_size=0)
    with OurServer(secure, options) as server, their_client(server) as ws:
        for message in MESSAGES:
            send(ws, message)
            assert ws.recv() == message
        for message in MESSAGES[:10]:
            send(ws, message)
        assert [ws.recv() for _ in MESSAGES[:10]] == MESSAGES[:10]


@BOTH
def test_their_client_sends_fragments_with_pings_between(secure: bool, compression: bool) -> None:
    frame, text, more = websocket.ABNF, websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_CONT
    with OurServer(secure, AcceptOptions(compression=compression)) as server, their_client(server) as ws:
        grüße = "grüße".encode()
        ws.send_frame(frame.create_frame(grüße[:3], text, fin=0))  # in the middle of the ü
        ws.ping("between")
        ws.send_frame(frame.create_frame(grüße[3:], more, fin=0))
        ws.send_frame(frame.create_frame(b"", more, fin=1))
        assert ws.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_PONG, b"between")
        assert ws.recv() == "grüße"


@BOTH
def test_their_client_answers_our_pings(secure: bool, compression: bool) -> None:
    with OurServer(secure, AcceptOptions(compression=compression)) as server, their_client(server) as ws:
        server.handler.ws.write_ping(b"from us")
        assert ws.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_PING, b"from us")
        wait_until(lambda: server.handler.pongs == [b"from us"])


def test_their_client_chooses_a_subprotocol_of_ours() -> None:
    options = AcceptOptions(subprotocols=["best", "chat"])
    with OurServer(False, options) as server, their_client(server, subprotocols=["other", "chat"]) as ws:
        assert ws.getsubprotocol() == "chat"


@BOTH
def test_their_client_closes(secure: bool, compression: bool) -> None:
    with OurServer(secure, AcceptOptions(compression=compression)) as server, their_client(server) as ws:
        ws.close(status=4000, reason=b"enough", timeout=int(SECONDS))
        server.assert_closed(4000, "enough")


@BOTH
def test_we_close_their_client(secure: bool, compression: bool) -> None:
    with OurServer(secure, AcceptOptions(compression=compression)) as server, their_client(server) as ws:
        ws.send("close 4001 that is all")
        opcode, body = ws.recv_data(control_frame=True)
        assert (opcode, body) == (websocket.ABNF.OPCODE_CLOSE, (4001).to_bytes(2, "big") + b"that is all")
        server.assert_closed(1000)  # what it answers to every code


def test_their_client_of_another_origin_is_refused() -> None:
    with OurServer(False, AcceptOptions()) as server:
        with (
            pytest.raises(websocket.WebSocketBadStatusException) as caught,
            their_client(server, origin="http://a.example"),
        ):
            pass
        assert caught.value.status_code == 403
        with their_client(server, origin=f"http://127.0.0.1:{server.port}") as ws:
            ws.send("fine")
            assert ws.recv() == "fine"


def test_their_application_class() -> None:
    """The way most of its users go: callbacks, in a thread of its own."""
    received: list[str] = []
    opened = threading.Event()

    def on_open(app: Any) -> None:
        opened.set()
        app.send("hello")

    def on_message(app: Any, message: str) -> None:
        received.append(message)
        app.close()

    with OurServer(False, AcceptOptions()) as server:
        app = websocket.WebSocketApp(server.url, on_open=on_open, on_message=on_message)
        thread = threading.Thread(target=app.run_forever)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert opened.is_set()
        server.assert_closed(1000)
    assert received == ["hello"]
