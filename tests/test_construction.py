"""Objects made in a wrong way are refused where that is done, with a message that says what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import gows

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "ByteBuffer": (lambda: gows.ByteBuffer(), "lends them to callbacks"),
    "ByteBuffer of bytes": (lambda: gows.ByteBuffer(b"x"), "lends them to callbacks"),
    "WebSocket": (lambda: gows.WebSocket("ws://localhost"), "argument"),  # type: ignore[call-arg,arg-type]
    "WebSocket of others": (lambda: gows.WebSocket(*"abc"), r"gows.accept|gows.reactor.stream.Stream"),
    "BlockingWebSocket": (lambda: gows.BlockingWebSocket(*"abc"), r"gows.connect|Stream"),
    "MessageWriter": (lambda: gows.MessageWriter(*"abc"), r"next_writer|WebSocket"),
    "Request": (lambda: gows.Request("/path"), "RequestHead"),  # type: ignore[arg-type]
    "Request of bytes": (lambda: gows.Request(b"GET / HTTP/1.1"), "RequestHead"),  # type: ignore[arg-type]
    "RemoteConnection": (lambda: gows.RemoteConnection(*"abcde"), "Server.connections"),
    "TopicSubscription": (lambda: gows.TopicSubscription(*"abcdefg"), "TopicClient.subscribe"),
    "ReconnectingClient": (lambda: gows.ReconnectingClient(*"abc"), "gows.connect"),
    "Response of None": (lambda: gows.Response(None), "not NoneType"),  # type: ignore[arg-type]
    "Response of a number": (lambda: gows.Response(5), "not int"),  # type: ignore[arg-type]
    "Response of a dict": (lambda: gows.Response({"a": 1}), "Response.json"),  # type: ignore[dict-item]
    "Response's status": (lambda: gows.Response("", "200"), "status must be an int"),  # type: ignore[arg-type]
    "Reconnect.factor": (lambda: gows.Reconnect(factor="2"), "factor must be a number"),  # type: ignore[arg-type]
    "Reconnect.jitter": (lambda: gows.Reconnect(jitter=None), "jitter must be a number"),  # type: ignore[arg-type]
    "Reconnect.attempts": (lambda: gows.Reconnect(attempts=1.5), "attempts must be an int"),  # type: ignore[arg-type]
    "Admission.retry_after": (lambda: gows.Admission(retry_after=5), "retry_after must be"),  # type: ignore[arg-type]
    "AcceptOptions": (lambda: gows.AcceptOptions(5), "subprotocols must be"),  # type: ignore[arg-type]
    "AcceptOptions.subprotocols": (lambda: gows.AcceptOptions([5]), "subprotocols must be"),  # type: ignore[list-item]
    "AcceptOptions.compression": (lambda: gows.AcceptOptions(compression="no"), "compression must be"),  # type: ignore[arg-type]
    "serve_topics": (lambda: gows.serve_topics("server", "/"), "takes a gows.Server"),  # type: ignore[arg-type]
    "TopicHandler": (lambda: gows.TopicHandler("room"), "takes no arguments"),  # type: ignore[call-arg]
    "Handler": (lambda: gows.Handler("room"), "takes no arguments"),  # type: ignore[call-arg]
    "accept": (lambda: gows.accept(5), "takes a gows.Request"),  # type: ignore[arg-type]
    "connect": (lambda: gows.connect("ws://localhost", 5), "gows.Handler"),  # type: ignore[call-overload]
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_construction_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()
