"""HTTP of ASGI on the wire: every message, at every moment."""

from __future__ import annotations

from typing import Any

from tests.asgi.conftest import MakeSite
from tests.support.asgi_site import answer, get


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body, piece by piece as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


def test_an_answer_in_one_piece_has_a_length(serve: MakeSite) -> None:
    with serve(answer(b"hello", headers=[(b"content-type", b"text/plain")])) as site, site.peer() as peer:
        for _ in range(3):
            peer.send(get())
            status, headers, body, _ = peer.answer()
            assert (status, body) == (200, b"hello")
            assert (headers["content-type"], headers["content-length"]) == ("text/plain", "5")
            assert "date" in headers
            assert "connection" not in headers


def test_an_answer_in_pieces_is_chunked(serve: MakeSite) -> None:
    with serve(answer(b"a", b"", b"b" * 100_000, b"c")) as site, site.peer() as peer:
        peer.send(get(), get())
        for _ in range(2):
            found = peer.answer()
            assert found.headers["transfer-encoding"] == "chunked"
            assert found.body == b"a" + b"b" * 100_000 + b"c"


def test_a_body_comes_back(serve: MakeSite) -> None:
    body = bytes(range(256)) * 4000
    with serve(echo) as site:
        assert site.fetch(get(method="POST", body=b"short")).body == b"short"
        assert site.fetch(get(method="POST", body=body)).body == body
