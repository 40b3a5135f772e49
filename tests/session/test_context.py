"""Contexts: equal options share one, whoever made them, and different options none."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

import gows
from gows import AcceptOptions, Request, Server, WebSocket
from gows.client.blocking import BlockingWebSocket
from gows.client.request import make_request
from gows.protocol.connection import Role
from gows.reactor import Loop
from gows.server.accept import Agreement, _parse
from gows.session.context import KEPT, NAMES, Contexts, SessionContext, context_for, values_of
from tests.support import wire
from tests.support.fakes import World
from tests.support.stage import Actor, Echo, MakeStage
from tests.support.wire import TEXT, frame


@pytest.fixture
def loop() -> Iterator[Loop]:
    world = World()
    yield world.loop()
    world.close()


def test_values_are_those_of_the_names_in_their_order() -> None:
    options = AcceptOptions(subprotocols=("chat",), max_message_size=77, group="hall")
    assert values_of(options) == tuple(getattr(options, name) for name in NAMES)
    assert {("chat",), 77, "hall"} <= set(values_of(options))


def test_server_and_client_share_no_context(loop: Loop) -> None:
    options = AcceptOptions()
    server, client = context_for(loop, options, Role.SERVER), context_for(loop, options, Role.CLIENT)
    assert (server.role, client.role) == (Role.SERVER, Role.CLIENT)
    assert context_for(loop, options, Role.SERVER) is server
    assert context_for(loop, options, Role.CLIENT) is client


def living() -> int:
    gc.collect()
    return sum(type(found) is SessionContext for found in gc.get_objects())


def server_context(loop: Loop, owner: object = None, **options: Any) -> SessionContext:
    return context_for(loop, AcceptOptions(**options), Role.SERVER, owner)


# ---------------------------------------------------------------------- by value


OTHER: dict[str, Any] = {
    "subprotocols": ("a",),
    "overflow": "drop",
    "group": "desk",
    "server_max_window_bits": 12,
    "client_max_window_bits": 12,
    "compression_level": 6,
    "max_message_rate": 5.0,
    "max_byte_rate": 5e6,
    "send_buffer": 65536,
}


NEEDS: dict[str, dict[str, Any]] = {
    "message_burst": {"max_message_rate": 9.0},
    "byte_burst": {"max_byte_rate": 9.0},
}
"""By option: what it cannot be without."""


@pytest.mark.parametrize("name", NAMES)
def test_options_that_differ_have_contexts_of_their_own(loop: Loop, name: str) -> None:
    needs = NEEDS.get(name, {})
    plain = AcceptOptions(**needs)
    before = getattr(plain, name)
    if name in OTHER:
        value = OTHER[name]
    elif isinstance(before, bool):
        value = not before
    else:
        value = 1001 if before is None else before + 1
    first = context_for(loop, plain, Role.SERVER)
    other = context_for(loop, replace(plain, **{name: value}), Role.SERVER)
    assert first is not other
    assert getattr(first.options, name) == before
    assert getattr(other.options, name) == value
    assert context_for(loop, replace(plain), Role.SERVER) is first
    assert context_for(loop, replace(plain, **{name: value}), Role.SERVER) is other


def test_all_options_count_but_one() -> None:
    """The handshake asks `check_origin` of the options that it was given."""
    assert {field.name for field in fields(AcceptOptions)} - set(NAMES) == {"check_origin"}


def test_roles_and_owners_share_nothing(loop: Loop) -> None:
    one, two = Server(loop=loop), Server(loop=loop)
    options = AcceptOptions()
    found = [context_for(loop, options, role, owner) for role in Role for owner in (None, one, two)]
    assert len(set(map(id, found))) == 6
    assert [(context.role, context.owner) for context in found] == [
        (role, owner) for role in Role for owner in (None, one, two)
    ]


def test_a_function_made_for_each_request_is_no_difference(loop: Loop) -> None:
    assert len({server_context(loop, check_origin=lambda request: True) for _ in range(100)}) == 1


def test_options_that_are_changed_get_another_context_and_change_nobodys(loop: Loop) -> None:
    options, equal = AcceptOptions(high_water=100_000), AcceptOptions(high_water=100_000)
    first = context_for(loop, options, Role.SERVER)
    assert context_for(loop, equal, Role.SERVER) is first
    options.high_water = 200_000
    second = context_for(loop, options, Role.SERVER)
    assert (first.high_water, first.options.high_water) == (100_000, 100_000)
    assert (second.high_water, second.options.high_water) == (200_000, 200_000)
    assert context_for(loop, equal, Role.SERVER) is first
    options.high_water = 100_000
    assert context_for(loop, options, Role.SERVER) is first
    options.read_timeout = -1
    with pytest.raises(ValueError, match="read_timeout"):
        context_for(loop, options, Role.SERVER)


def test_subprotocols_that_were_set_to_a_list(loop: Loop) -> None:
    found = set()
    for _ in range(10):
        options = AcceptOptions()
        options.subprotocols = ["a", "b"]
        found.add(context_for(loop, options, Role.SERVER))
    found.add(server_context(loop, subprotocols=("a", "b")))
    assert len(found) == 1
    first = found.pop()
    assert first is not server_context(loop, subprotocols=("b", "a"))
    assert context_for(loop, options, Role.SERVER) is first
    options.subprotocols.append("c")  # type: ignore[attr-defined]
    assert context_for(loop, options, Role.SERVER) is not first


def test_what_cannot_be_hashed_is_equal_to_itself_only(loop: Loop) -> None:
    class Name(str):
        __hash__ = None  # type: ignore[assignment]

    name = Name("a")
    first = server_context(loop, group=name)
    assert server_context(loop, group="b") is not first
    assert server_context(loop, group=name) is first
    assert server_context(loop, group="b") is not first
    assert server_context(loop, group=Name("a")) is not first
    assert server_context(loop, subprotocols=[name]) is server_context(loop, subprotocols=[name])


def test_classes_of_options_with_equal_values_are_equal(loop: Loop) -> None:
    class Mine(AcceptOptions):
        pass

    assert context_for(loop, Mine(), Role.SERVER) is context_for(loop, AcceptOptions(), Role.SERVER)


# ---------------------------------------------------------------------- how long


def test_eviction_disturbs_nobody(loop: Loop) -> None:
    used = server_context(loop, group="used")
    idle = weakref.ref(server_context(loop, group="idle"))
    often = weakref.ref(server_context(loop, group="often"))
    for number in range(10 * KEPT):
        server_context(loop, group=f"flood {number}")
        assert context_for(loop, AcceptOptions(group="often"), Role.SERVER) is often()
    gc.collect()
    assert idle() is None, "nobody uses it, and others were used since"
    assert server_context(loop, group="used") is used
    assert len(loop.shared[Contexts]) <= 2 * KEPT + 1


def test_what_is_not_used_is_let_go(loop: Loop) -> None:
    before = living()
    for number in range(300):
        server_context(loop, group=str(number)).with_timeouts(read_timeout=number + 1)
    assert living() - before <= 2 * KEPT
    loop.shared.clear()
    assert living() == before


def test_threads_find_what_others_made(loop: Loop) -> None:
    found: list[SessionContext] = []
    ready = threading.Barrier(4)

    def ask() -> None:
        ready.wait(10)
        found.extend(server_context(loop, group=str(number % 50)) for number in range(500))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 2000
    # two that come in the same moment may each make one
    assert len(set(found)) <= 4 * 50
    assert [server_context(loop, group=str(number)).options.group for number in range(50)] == [*map(str, range(50))]
    assert len({server_context(loop, group=str(number % 50)) for number in range(500)}) == 50


# ---------------------------------------------------------------------- connections


def bytes_of_each(count: int, accept: Callable[[], object]) -> float:
    """What a connection takes of those that `accept` makes."""
    kept = [accept() for _ in range(100)]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept += [accept() for _ in range(count)]
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("count", "timeout"), [(500, None), (500, 50.0), pytest.param(10_000, None, marks=pytest.mark.slow)]
)
def test_options_made_in_the_view_cost_nothing_to_keep(loop: Loop, count: int, timeout: float | None) -> None:
    contexts = set()
    request = _parse(wire.request("/ws"))

    def accept(options: AcceptOptions) -> object:
        agreement = Agreement(request, loop, options, [])
        context = agreement.context
        if timeout is not None:
            context = context.with_timeouts(read_timeout=timeout)
        contexts.add(context)
        return context, context.connection(agreement.params)

    shared = AcceptOptions(max_message_size=5000, subprotocols=("a",))
    usual = bytes_of_each(count, lambda: accept(shared))
    made = bytes_of_each(count, lambda: accept(AcceptOptions(max_message_size=5000, subprotocols=["a"])))
    assert len(contexts) == 1
    assert made == pytest.approx(usual, abs=8)


def test_a_view_that_makes_options(make_stage: MakeStage) -> None:
    stage = make_stage()
    limit = 10

    def view(request: Request) -> None:
        ws = gows.accept(request, AcceptOptions(max_message_size=limit, check_origin=lambda request: True))
        stage.handlers.append(Echo())
        ws.serve(stage.handlers[-1])

    stage.view = view
    guests = [stage.guest() for _ in range(70)]
    assert len({handler.ws.context for _, handler in guests}) == 1
    assert len({id(handler.ws.connection.config) for _, handler in guests}) == 1
    limit = 11
    guest, handler = stage.guest()
    assert handler.ws.context is not guests[0][1].ws.context
    for size, close_guest in ((11, guests[0][0]), (12, guest)):
        close_guest.send(frame(TEXT, "x" * (size - 1)))
        assert close_guest.text() == "x" * (size - 1)
        close_guest.send(frame(TEXT, "x" * size))
        assert close_guest.close_frame()[0] == 1009


@pytest.mark.parametrize("options", [None, AcceptOptions(high_water=100_000)])
def test_clients_of_topics_share_one(make_stage: MakeStage, options: AcceptOptions | None) -> None:
    stage = make_stage()
    found = []

    class Client(gows.TopicHandler):
        def on_open(self, ws: WebSocket) -> None:
            found.append(ws.context)

    gows.serve_topics(stage.server, "/live", options=options, make_handler=lambda request: Client())
    for _ in range(70):
        guest = stage.connect()
        head = wire.request("/live", "Sec-WebSocket-Protocol: gows.v1")
        assert guest.upgrade(head=head).status == 101
    stage.run_until(lambda: len(found) == 70)
    assert len(set(found)) == 1


def test_timeouts_that_connections_set_for_themselves(make_stage: MakeStage) -> None:
    """Those that set the same share a context, and all share the tables."""
    stage = make_stage(ping_interval=None)
    sockets = [stage.guest()[1].ws for _ in range(50)]
    shared = sockets[0].context
    for ws in sockets[1:40]:
        ws.set_read_timeout(50)
    assert len({ws.context for ws in sockets[1:40]}) == 1
    for ws in sockets[20:40]:
        ws.set_write_timeout(60)
    assert len({ws.context for ws in sockets}) == 3
    assert {ws.context.options.read_timeout for ws in sockets[20:40]} == {50}
    assert {ws.context.options.write_timeout for ws in sockets[20:40]} == {60}
    assert {ws.context.options.read_timeout for ws in sockets[40:]} == {None}
    assert len({id(ws.context.config) for ws in sockets}) == 1
    for ws in sockets[:40]:
        ws.set_write_timeout(shared.options.write_timeout)
        ws.set_read_timeout(None)
    assert {ws.context for ws in sockets} == {shared}, "as it was"


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_timeouts_set_in_on_open(make_stage: MakeStage, count: int) -> None:
    def make_handler() -> Actor:
        handler = Actor()
        handler.do["on_open"] = lambda ws: ws.set_read_timeout(50)
        return handler

    stage = make_stage(make_handler=make_handler, by_class=True)
    contexts = {stage.guest()[1].ws.context for _ in range(count)}
    assert len(contexts) == 1
    context = contexts.pop()
    assert context.options.read_timeout == 50
    assert context.inline, "callbacks go on running where they did"


def test_a_timeout_of_each_connections_own_is_let_go_with_it(loop: Loop) -> None:
    base = server_context(loop)
    before = living()
    contexts = [base.with_timeouts(read_timeout=seconds) for seconds in range(1, 301)]
    assert len(set(contexts)) == 300
    assert server_context(loop) is base, "nobody's place was taken"
    contexts.clear()
    assert living() == before


def test_clients_with_options_made_for_each(loop: Loop) -> None:
    plans = [
        make_request(
            "ws://127.0.0.1:9/",
            loop,
            options=AcceptOptions(compression=True, max_message_size=5000),
            subprotocols=(),
            headers=None,
            cookies=None,
            origin=None,
            compression=None,
            ssl_context=None,
            timeout=10,
            proxy=None,
            redirects=0,
        )
        for _ in range(100)
    ]
    assert len({plan.context for plan in plans}) == 1


def test_blocking_clients_of_a_loop_without_workers(loop: Loop) -> None:
    shared = context_for(loop, AcceptOptions(), Role.CLIENT)
    assert shared.inline
    stream: Any = None
    made = [BlockingWebSocket(stream, shared.connection(None), shared) for _ in range(10)]
    assert len({ws.context for ws in made}) == 1
    assert not made[0].context.inline
    assert made[0].context.config is shared.config
