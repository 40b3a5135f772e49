"""What a hostile client may send before and in a handshake: the exact outcome, and that the others are still served.

Each is sent whole and byte by byte, and with bytes behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import gows
from gows.http.request import Request
from gows.http.router import Router
from tests.support.http_site import Site, get

MakeSite = Callable[..., Site]

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
VALID = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def upgrade(*more: str, line: str = "GET /ws HTTP/1.1", body: str = "", **changes: str | None) -> bytes:
    """A valid upgrade with fields changed (`_` for `-`), left out (None), or added."""
    fields = {**VALID, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None), *more]
    return ("\r\n".join([*lines, "", ""]) + body).encode("latin-1")


class Echo(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff.get_bytes())


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    router = Router()

    def chat(request: Request) -> None:
        gows.accept(request, gows.AcceptOptions(subprotocols=["chat"], compression=True)).serve(Echo())

    router.add("/ws", chat, ["GET", "POST"])
    router.add("/page", lambda request: "page")

    def view(request: Request) -> object:
        found, params = router.match(request.method, request.path)
        return found(request, **params)

    return make_site(view)


def first_line_of(site: Site, wire: bytes, step: int) -> tuple[bytes, bytes]:
    """The status line of the answer and its fields; the connection ends after it."""
    browser = site.browser()
    for at in range(0, len(wire), step):
        if browser.pump().received:
            break  # what is sent to a closed connection is of no interest
        browser.send(wire[at : at + step])
        site.world.turn()
    received = browser.until_over()
    assert not browser.reset
    assert received.count(b"\r\n\r\n") == 1
    assert b"\r\nConnection: close" in received
    line, _, rest = received.partition(b"\r\n")
    return line.removeprefix(b"HTTP/1.1 ")[:3], rest


BAD: dict[str, tuple[int, bytes]] = {
    "head too large": (431, upgrade("X: " + "a" * 16384)),
    "too many headers": (431, upgrade(*["X: a"] * 96)),
    "no Host": (400, upgrade(Host=None)),
    "two Hosts": (400, upgrade("Host: example.com")),
    "wrong method": (405, upgrade(line="POST /ws HTTP/1.1")),
    "no Upgrade": (426, upgrade(Upgrade=None)),
    "a page where a WebSocket is": (426, get("/ws")),
    "no version": (426, upgrade(Sec_WebSocket_Version=None)),
    "wrong version": (426, upgrade(Sec_WebSocket_Version="8")),
    "no key": (400, upgrade(Sec_WebSocket_Key=None)),
    "malformed key": (400, upgrade(Sec_WebSocket_Key="not base64 at all!")),
    "key of 15 bytes": (400, upgrade(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAA")),
    "key of 17 bytes": (400, upgrade(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAAA=")),
    "two keys": (400, upgrade(f"Sec-WebSocket-Key: {KEY}")),
    "foreign Origin": (403, upgrade(Origin="http://evil.example")),
    "Origin null": (403, upgrade(Origin="null")),
    "malformed Origin": (403, upgrade(Origin="example.com")),
    "two Origins": (400, upgrade("Origin: http://evil.example", Origin="http://example.com")),
    "control character in a header": (400, upgrade("X: \x01")),
    "non-ASCII in the subprotocols": (400, upgrade(Sec_WebSocket_Protocol="ch\xe4t")),
    "subprotocols that are no tokens": (400, upgrade(Sec_WebSocket_Protocol="chat, a b")),
    "malformed extensions": (400, upgrade(Sec_WebSocket_Extensions="permessage-deflate; =")),
    "line separators of ASCII": (400, upgrade("X: a\x1cSec-WebSocket-Protocol: b")),
    "obs-fold": (400, upgrade("X: a", " b")),
    "bare LF": (400, upgrade("X: a\nY: b")),
    "body on an upgrade": (400, upgrade("Content-Length: 5", body="hello")),
    "chunked body on an upgrade": (400, upgrade("Transfer-Encoding: chunked", body="0\r\n\r\n")),
    "unknown coding on an upgrade": (400, upgrade("Transfer-Encoding: gzip")),
    "Content-Length and Transfer-Encoding": (400, get("/page", "Content-Length: 5", "Transfer-Encoding: chunked")),
    "unknown coding": (501, get("/page", "Transfer-Encoding: gzip")),
    "upgrade in HTTP/1.0": (505, upgrade(line="GET /ws HTTP/1.0")),
    "HTTP/2": (505, upgrade(line="GET /ws HTTP/2.0")),
    "body too large": (413, get("/page", "Content-Length: 1001")),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("step", [1, 10**6])
def test_refused(site: Site, name: str, step: int) -> None:
    status, wire = BAD[name]
    if step == 1 and len(wire) > 2000:
        step = 97  # the parser's own tests do it byte by byte
    line, fields = first_line_of(site, wire, step)
    assert int(line) == status
    if status == 405:
        assert b"\r\nAllow: GET\r\n" in fields
    if status == 426:
        assert b"\r\nUpgrade: websocket\r\n" in fields
        assert (b"\r\nSec-WebSocket-Version: 13\r\n" in fields) == ("version" in name)
    line, _ = first_line_of(site, wire + b"\x81\x80\0\0\0\0", 10**6)
    assert int(line) == status
    assert site.still_serves()


@pytest.mark.parametrize("name", ["unknown path", "path that is not quite it"])
def test_unknown_paths_are_404(site: Site, name: str) -> None:
    answer = site.fetch(upgrade(line=f"GET /ws/{'x' if name == 'unknown path' else ''} HTTP/1.1"))
    assert answer.status == 404
    assert site.still_serves()


@pytest.mark.parametrize("step", [1, 10**6])
def test_frames_before_the_101_are_refused(site: Site, step: int) -> None:
    """Cut in single bytes they come behind it, in this server's eyes, and are frames like others."""
    wire = upgrade() + b"\x89\x80\0\0\0\0"
    if step == 1:
        browser = site.browser()
        for at in range(len(wire)):
            browser.send(wire[at : at + 1])
            site.world.turn()
        assert browser.answer().status == 101
        browser.until(lambda: browser.received == b"\x8a\x00")
    else:
        assert first_line_of(site, wire, step)[0] == b"400"
    assert site.still_serves()


def test_an_incomplete_head_is_408_after_10_seconds(site: Site) -> None:
    browser = site.browser()
    wire = upgrade()
    start = site.world.clock()
    for at in range(len(wire)):
        if browser.pump().received:
            break
        browser.send(wire[at : at + 1])
        site.world.run_for(0.5)
    assert browser.answer().status == 408
    assert 9.5 <= site.world.clock() - start <= 11
    assert site.still_serves()


@pytest.mark.parametrize("more", [{}, {"Origin": "http://example.com"}, {"Sec_WebSocket_Protocol": "x, chat"}])
def test_what_is_welcome(site: Site, more: dict[str, str]) -> None:
    """The same request without any of that."""
    browser = site.browser()
    browser.send(upgrade(**more))
    answer = browser.answer()
    assert answer.status == 101
    assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer.headers.get("sec-websocket-protocol") == ("chat" if "Sec_WebSocket_Protocol" in more else None)
    browser.send(b"\x81\x82\0\0\0\0hi")
    browser.until(lambda: browser.received == b"\x81\x02hi")
