"""`async def` where gows calls a plain function: refused where it is set, and never taken as a yes."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

import gows
from gows.options import AcceptOptions, check_answer, check_plain_function, set_origin_check_func
from gows.session.handler import _known, callbacks_of
from tests.support.addresses import tcp
from tests.support.servers import MakeServer


async def coroutine(*_: Any, **__: Any) -> bool:
    return True


async def async_generator(*_: Any) -> Any:
    yield True


def generator(*_: Any) -> Iterator[bool]:
    yield True


class Asynchronous:
    async def __call__(self, *_: Any) -> bool:
        return True

    async def method(self, *_: Any) -> bool:
        return True

    @classmethod
    async def of_class(cls, *_: Any) -> bool:
        return True

    @staticmethod
    async def static(*_: Any) -> bool:
        return True


ASYNC: dict[str, Any] = {
    "coroutine": coroutine,
    "generator": async_generator,
    "object": Asynchronous(),
    "method": Asynchronous().method,
    "class method": Asynchronous.of_class,
    "static method": Asynchronous.static,
    "partial": functools.partial(coroutine, 1),
    "partial of an object": functools.partial(Asynchronous(), 1),
    "partial of a partial of a method": functools.partial(functools.partial(Asynchronous().method), 1),
    "AsyncMock": AsyncMock(),
}


def plain(*_: Any, **__: Any) -> bool:
    return True


@functools.wraps(coroutine)
def wrapped(*_: Any, **__: Any) -> bool:
    return True


class Plain:
    def __call__(self, *_: Any) -> bool:
        return True

    def method(self, *_: Any) -> bool:
        return True


PLAIN: dict[str, Any] = {
    "function": plain,
    "wrapper of an async def": wrapped,
    "lambda": lambda *_: True,
    "object": Plain(),
    "method": Plain().method,
    "partial": functools.partial(plain, 1),
    "class": Plain,
    "class of async objects": Asynchronous,
    "built-in": print,
    "Mock": Mock(),
}


@pytest.mark.parametrize("function", ASYNC.values(), ids=ASYNC.keys())
def test_an_async_def_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match=r"rule is an `async def`; .* give a plain function"):
        check_plain_function("rule", function)


def test_a_generator_is_refused_where_it_does_not_run() -> None:
    with pytest.raises(TypeError, match="rule is a generator"):
        check_plain_function("rule", generator)
    check_plain_function("rule", generator, generator=True)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="rule must be a function, not str"):
        check_plain_function("rule", "yes")


@pytest.mark.parametrize("function", PLAIN.values(), ids=PLAIN.keys())
def test_a_plain_function_is_taken(function: Any) -> None:
    check_plain_function("rule", function)


class GeneratorHandler(gows.TopicHandler):
    async def on_publish(self, ws: Any, topic: str, data: Any) -> Any:
        yield data


def _topic_client() -> None:
    client = gows.TopicClient.__new__(gows.TopicClient)
    client.subscribe("a", lambda data, topic: None, lost=coroutine)


PLACES: dict[str, Callable[[gows.Server], object]] = {
    "check_origin": lambda _: AcceptOptions(check_origin=coroutine),  # type: ignore[arg-type]
    "set_origin_check_func": lambda _: set_origin_check_func(coroutine),  # type: ignore[arg-type]
    "retry_if": lambda _: gows.Reconnect(retry_if=coroutine),  # type: ignore[arg-type]
    "wsgi": lambda _: gows.Server(wsgi=coroutine),  # type: ignore[arg-type]
    "make_handler": lambda server: gows.serve_topics(server, "/", make_handler=coroutine),  # type: ignore[arg-type]
    "done": lambda server: server.publish("a", 1, done=coroutine),
    "app_factory": lambda _: gows.run(coroutine),  # type: ignore[arg-type]
    "ready": lambda _: gows.run(gows.Server, ready=coroutine),
    "ready of listen_and_serve": lambda server: server.listen_and_serve(ready=coroutine),
    "url": lambda _: gows.connect(coroutine),  # type: ignore[arg-type]
    "headers": lambda _: gows.connect("ws://127.0.0.1:1", headers=coroutine),  # type: ignore[arg-type]
    "cookies": lambda _: gows.connect("ws://127.0.0.1:1", cookies=coroutine),  # type: ignore[arg-type]
    "callback of a TopicClient": lambda _: _topic_client(),
}


@pytest.fixture
def server(make_server: MakeServer) -> gows.Server:
    return make_server(start=False)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_it_is_refused_where_it_is_set(place: Callable[[gows.Server], object], server: gows.Server) -> None:
    with pytest.raises(TypeError, match="`async def`"):
        place(server)


def test_an_asgi_application_is_refused_as_wsgi() -> None:
    def asgi(scope: Any, receive: Any, send: Any) -> Any:
        return coroutine()

    with pytest.raises(TypeError, match=r"\(environ, start_response\).*ASGI"):
        gows.Server(wsgi=asgi)
    with pytest.raises(TypeError, match="ASGI"):
        gows.Server(wsgi=Asynchronous())  # type: ignore[arg-type]


def test_a_wsgi_application_may_be_a_generator_or_a_class() -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x"

    class Application:
        def __init__(self, environ: Any, start_response: Any) -> None: ...

    applications: list[Any] = [application, Application, Mock(), lambda *arguments: []]
    for each in applications:
        gows.Server(wsgi=each).stop()


@pytest.mark.parametrize("name", ["on_open", "on_message", "on_chunk", "on_close", "on_ping", "on_pong", "on_drain"])
@pytest.mark.parametrize("function", [generator, async_generator], ids=["generator", "async generator"])
def test_a_callback_of_which_a_call_runs_nothing_is_refused(name: str, function: Any) -> None:
    kind = type("Mine", (gows.Handler,), {name: function})
    for _ in range(2):
        with pytest.raises(TypeError, match=rf"Mine\.{name} is an? .*generator"):
            callbacks_of(kind())


@pytest.mark.parametrize("name", ["on_message", "on_chunk"])
def test_messages_of_an_async_callback_are_handled_in_the_loop(name: str) -> None:
    kind = type("Mine", (gows.Handler,), {name: coroutine, "on_close": plain})
    known = callbacks_of(kind())
    assert known.any_async
    assert known.in_loop
    assert known.offloaded == {"on_close"}


def test_a_plain_callback_beside_an_async_one_stays_on_the_workers() -> None:
    kind = type("Mine", (gows.Handler,), {"on_message": plain, "on_open": coroutine})
    known = callbacks_of(kind())
    assert known.any_async
    assert not known.in_loop
    assert not known.offloaded


def test_a_class_of_handlers_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(gows.Handler):
        pass

    callbacks_of(Mine())
    monkeypatch.setattr("gows.session.handler.check_function", None)
    callbacks_of(Mine())


@pytest.mark.parametrize("answer", [None, 1, "yes", Mock()])
def test_an_answer_that_is_no_bool_is_no(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    assert check_answer("rule", answer) is False
    assert "rule returned" in caplog.text


def test_a_coroutine_as_an_answer_is_no(caplog: pytest.LogCaptureFixture) -> None:
    assert check_answer("rule", coroutine()) is False  # and Python does not warn that nobody awaits it
    assert "rule returned coroutine" in caplog.text


@pytest.mark.parametrize("answer", [True, False])
def test_a_bool_is_the_answer(answer: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert check_answer("rule", answer) is answer
    assert not caplog.text


@pytest.mark.parametrize("answer", [coroutine, lambda: None, Mock], ids=["coroutine", "None", "Mock"])
def test_check_origin_lets_nobody_in_by_what_is_no_bool(
    answer: Callable[[], object], server: gows.Server, caplog: pytest.LogCaptureFixture
) -> None:
    options = AcceptOptions(check_origin=lambda request: answer())  # type: ignore[arg-type, return-value]
    server.add_route("/", lambda request: gows.accept(request, options).serve(gows.Handler()))
    port = tcp(server.listen("127.0.0.1:0"))[1]
    server.start()
    with pytest.raises(gows.HandshakeError) as refused:
        gows.connect(f"ws://127.0.0.1:{port}/", loop=server.loop)
    assert refused.value.status == 403
    assert "check_origin returned" in caplog.text


def test_a_handler_of_topics_that_cannot_be_is_refused_before_the_upgrade(
    server: gows.Server, caplog: pytest.LogCaptureFixture
) -> None:
    gows.serve_topics(server, "/", make_handler=lambda request: GeneratorHandler())
    port = tcp(server.listen("127.0.0.1:0"))[1]
    server.start()
    with pytest.raises(gows.HandshakeError) as refused:
        gows.connect(f"ws://127.0.0.1:{port}/", subprotocols=["gows.v1"], loop=server.loop)
    assert refused.value.status == 500
    assert "GeneratorHandler.on_publish is an async generator" in caplog.text


def test_retry_if_that_returns_no_bool_does_not_go_on(server: gows.Server, caplog: pytest.LogCaptureFixture) -> None:
    policy = gows.Reconnect(retry_if=lambda error: coroutine())  # type: ignore[arg-type, return-value]
    ended: list[object] = []

    class Mine(gows.Handler):
        def on_close(self, ws: gows.WebSocket) -> None:
            ended.append(ws)

    server.start()
    client = gows.connect("ws://127.0.0.1:1/", Mine(), reconnect=policy, wait=False, loop=server.loop)
    assert client.wait(5.0)
    assert ended
    assert "retry_if returned coroutine" in caplog.text


def test_a_class_that_has_ended_was_looked_at_for_no_other() -> None:
    def look_at_one() -> int:
        class Passing(gows.Handler):
            pass

        callbacks_of(Passing())
        assert id(Passing) in _known
        return id(Passing)

    number = look_at_one()
    gc.collect()
    assert number not in _known  # another class may have its id
