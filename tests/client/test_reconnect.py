from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from gows.client import Reconnect, ReconnectingClient, connect
from gows.client.retry import MAX_RETRY_AFTER, is_temporary, retry_after
from gows.errors import (
    ConnectError,
    ConnectionClosedError,
    ConnectTimeoutError,
    GowsError,
    HandshakeError,
    HttpError,
    InvalidCloseCodeError,
    ProxyError,
    UsageError,
)
from gows.http.request import Request
from gows.options import AcceptOptions
from gows.reactor.stream import Stream
from gows.reactor.transports import Loop
from gows.server.accept import accept
from gows.server.server import Server
from gows.session.handler import Handler
from gows.session.websocket import WebSocket
from tests.support.fakes import World
from tests.support.recording import Recorder
from tests.support.scripted import Peer, ScriptedServer, close_frame

URL = "ws://10.0.0.1:80/"


# ---------------------------------------------------------------------- the policy


def test_the_delay_is_random_over_a_range_that_grows_up_to_the_maximum() -> None:
    random.seed(1)
    policy = Reconnect(initial=0.5, maximum=30, factor=2)
    for failures, limit in [(0, 0.5), (1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (1000, 30.0), (5000, 30.0)]:
        delays = [policy.delay(failures) for _ in range(500)]
        assert 0 <= min(delays) < 0.05 * limit
        assert 0.95 * limit < max(delays) <= limit


def test_the_random_part_can_be_made_smaller() -> None:
    assert Reconnect(jitter=0).delay(3) == 4.0
    delays = [Reconnect(jitter=0.5).delay(3) for _ in range(500)]
    assert 2.0 <= min(delays) < 2.2
    assert 3.8 < max(delays) <= 4.0


@pytest.mark.parametrize("code", [1012, 1013])
def test_a_server_that_restarts_is_given_5_to_30_seconds(code: int) -> None:
    delays = [Reconnect().delay(0, ConnectionClosedError("", code)) for _ in range(500)]
    assert 5 <= min(delays) < 7
    assert 28 < max(delays) <= 30
    for maximum in (1, 2, 5):
        delays = [Reconnect(maximum=maximum).delay(0, ConnectionClosedError("", code)) for _ in range(500)]
        assert max(delays) <= maximum
        assert max(delays) - min(delays) > 0.4 * maximum
        assert min(delays) >= 0.5 * maximum


def test_other_close_codes_change_nothing() -> None:
    assert max(Reconnect().delay(0, ConnectionClosedError("", 1001)) for _ in range(100)) <= 0.5


def refusal(status: int, **headers: str) -> HandshakeError:
    return HandshakeError(status, "no", [(name.replace("_", "-"), value) for name, value in headers.items()])


def test_retry_after_is_added_to_the_random_delay() -> None:
    delays = [Reconnect().delay(2, refusal(503, Retry_After="7")) for _ in range(200)]
    assert min(delays) >= 7
    assert max(delays) <= 9
    assert max(delays) - min(delays) > 1


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("0", 0, 0),
        ("120", 120, 120),
        ("99999999999", MAX_RETRY_AFTER, MAX_RETRY_AFTER),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("1.5", 0, 0),
        ("", 0, 0),
    ],
)
def test_retry_after_is_a_number(value: str, low: float, high: float) -> None:
    assert low <= retry_after(refusal(503, retry_after=value)) <= high
    assert retry_after(refusal(503)) == 0


@pytest.mark.parametrize(
    ("seconds", "low", "high"),
    [(1000, 900, 1000), (-100, 0, 0), (10**6, MAX_RETRY_AFTER, MAX_RETRY_AFTER)],
)
def test_retry_after_may_be_a_date(seconds: float, low: float, high: float) -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)
    assert low <= retry_after(refusal(503, Retry_After=date)) <= high


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (ConnectError("refused"), True),
        (ConnectTimeoutError("late"), True),
        (ConnectionClosedError("", 1006), True),
        (ConnectionClosedError("", 1000), True),
        (ProxyError("closed"), True),
        (ProxyError("403", 403, temporary=False), False),
        (refusal(101), False),
        (refusal(200), False),
        (refusal(302), False),
        (refusal(400), False),
        (refusal(401), False),
        (refusal(403), False),
        (refusal(404), False),
        (refusal(408), True),
        (refusal(425), True),
        (refusal(429), True),
        (refusal(500), True),
        (refusal(503), True),
        (GowsError("another"), False),
        (ConnectionClosedError("", 1008), False),
        (ConnectionClosedError("", 1008, "not here"), False),
        (ConnectionClosedError("", 1008, "too many messages a second"), True),
        (ConnectionClosedError("", 4000), True),
        (ConnectionClosedError("", 4401), False),
        (ConnectionClosedError("", 4429), True),
        (ConnectionClosedError("", 4500), True),
    ],
)
def test_what_is_tried_again(error: GowsError, temporary: bool) -> None:
    assert is_temporary(error) is temporary


@pytest.mark.parametrize(
    "settings",
    [
        {"initial": 0},
        {"maximum": -1},
        {"stable": 0},
        {"factor": 0.5},
        {"jitter": 1.5},
        {"jitter": -0.1},
        {"attempts": 0},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Reconnect(**settings)


# ---------------------------------------------------------------------- the client, in virtual time


class Town:
    """A server that can be stopped and started, and clients, in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loop = world.loop()
        self.clients = world.loop()
        self.server = Server(loop=self.loop, max_connections=100_000)
        self.server.add_route("/", self.view)
        self.refusal: HttpError | None = None
        self.farewell = False
        self.arrivals: list[float] = []
        self.accepted: list[WebSocket] = []
        self.start()

    def view(self, request: Request) -> None:
        self.arrivals.append(self.world.clock())
        if self.refusal is not None:
            raise self.refusal
        ws = accept(request)
        self.accepted.append(ws)
        ws.serve(Handler())
        if self.farewell:
            ws.close_handshake()

    def start(self) -> None:
        self.server.listen("10.0.0.1:80")

    def stop(self) -> None:
        """At once, as when the process is killed."""
        for listener in self.server._listeners:
            listener.close()
        self.server._listeners.clear()
        for stream in self.loop.streams:
            if isinstance(stream, Stream):
                stream.abort()

    def connect(
        self,
        handler: Handler,
        policy: Reconnect | None = None,
        options: AcceptOptions | None = None,
        *,
        url: Any = URL,
        **settings: Any,
    ) -> ReconnectingClient:
        policy = policy or Reconnect()
        return connect(url, handler, reconnect=policy, wait=False, options=options, loop=self.clients, **settings)

    def until(self, condition: Callable[[], object], limit: float = 60.0) -> None:
        self.world.run_until(condition, limit)


@pytest.fixture
def town() -> Iterator[Town]:
    random.seed(7)
    world = World(latency=0.01)
    town = Town(world)
    yield town
    world.run_for(10.0)  # closing handshakes
    left = [stream for stream in town.clients.streams if isinstance(stream, Stream)]
    assert not left
    assert town.clients.active_timers == 0
    world.close()


def test_a_lost_connection_is_made_again(town: Town) -> None:
    handler = Recorder()
    client = town.connect(handler)
    assert repr(client) == "<ReconnectingClient 10.0.0.1:80 connecting>"
    with pytest.raises(ConnectionClosedError, match=r"not connected to 10\.0\.0\.1:80"):
        client.ws.write_string("too early")
    town.until(lambda: client.connected)
    assert repr(client) == "<ReconnectingClient 10.0.0.1:80 connected>"
    first = client.ws
    assert first is handler.sockets[0]
    town.stop()
    town.until(lambda: not client.connected)
    with pytest.raises(ConnectionClosedError):
        client.ws.write_string("in between")
    town.start()
    town.until(lambda: client.connected)
    assert client.ws is handler.sockets[-1]
    assert client.ws is not first
    assert isinstance(client.error, ConnectionClosedError | ConnectError)
    client.stop(1001, "done")
    town.until(lambda: client.stopped)
    assert repr(client) == "<ReconnectingClient 10.0.0.1:80 stopped>"
    assert handler.calls == ["open", (1006, ""), "open", (1001, "done")]
    assert not client.connected


def test_attempts_that_fail_are_no_business_of_the_handler(town: Town) -> None:
    town.stop()
    handler = Recorder()
    client = town.connect(handler)
    town.world.run_for(60.0)
    assert handler.calls == []
    assert isinstance(client.error, ConnectError)
    town.start()
    town.until(lambda: client.connected)
    client.stop()
    town.until(lambda: client.stopped)
    assert handler.calls == ["open", (1000, "")]


def test_the_delays_grow(town: Town) -> None:
    town.refusal = HttpError(503, "busy")
    client = town.connect(Recorder(), Reconnect(initial=0.5, maximum=8.0, factor=2.0, jitter=0.0))
    town.until(lambda: len(town.arrivals) == 7)
    gaps = [later - earlier for earlier, later in zip(town.arrivals, town.arrivals[1:], strict=False)]
    for gap, delay in zip(gaps, [1.0, 2.0, 4.0, 8.0, 8.0, 8.0], strict=True):
        assert delay <= gap < delay + 0.5
    client.stop()
    town.until(lambda: client.stopped)


@pytest.mark.parametrize("up", [5.0, 15.0])
def test_only_a_connection_that_stayed_up_makes_failures_forgotten(up: float, town: Town) -> None:
    town.refusal = HttpError(503, "busy")
    client = town.connect(Recorder(), Reconnect(initial=1.0, maximum=60.0, jitter=0.0, stable=10.0))
    town.until(lambda: len(town.arrivals) == 4)  # three failures, and a fourth: 16 s
    town.refusal = None
    town.until(lambda: client.connected)
    town.world.run_for(up)
    town.stop()
    town.start()
    lost_at = town.world.clock()
    town.until(lambda: client.connected and len(town.arrivals) == 6)
    waited = town.arrivals[-1] - lost_at
    assert 1.0 <= waited < 1.5 if up >= 10 else 32.0 <= waited < 32.5
    client.stop()
    town.until(lambda: client.stopped)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_final_refusal_ends_it(status: int, town: Town) -> None:
    town.refusal = HttpError(status, "no")
    handler = Recorder()
    client = town.connect(handler)
    town.until(lambda: client.stopped)
    assert len(handler.calls) == 1
    assert handler.sockets[0].close_code == 1006
    assert handler.sockets[0].close_reason.startswith(f"{status} 10.0.0.1:80 refused the upgrade")
    assert isinstance(client.error, HandshakeError)
    assert client.error.status == status
    town.world.run_for(100.0)
    assert len(town.arrivals) == 1


def test_a_final_refusal_after_a_loss_is_told_too(town: Town) -> None:
    handler = Recorder()
    client = town.connect(handler)
    town.until(lambda: client.connected)
    town.refusal = HttpError(403, "no more")
    town.stop()
    town.start()
    town.until(lambda: client.stopped)
    assert handler.calls[:2] == ["open", (1006, "")]
    assert len(handler.calls) == 3
    assert "403" in handler.calls[2][1]  # type: ignore[index]


def test_retry_after_is_honoured(town: Town) -> None:
    town.refusal = HttpError(429, "slow down", (("Retry-After", "7"),))
    client = town.connect(Recorder())
    town.until(lambda: len(town.arrivals) == 2)
    assert 7.0 <= town.arrivals[1] - town.arrivals[0] < 8.5
    client.stop()
    town.until(lambda: client.stopped)


def test_attempts_are_counted(town: Town) -> None:
    town.refusal = HttpError(503, "busy")
    handler = Recorder()
    client = town.connect(handler, Reconnect(attempts=3))
    town.until(lambda: client.stopped)
    assert len(town.arrivals) == 3
    assert len(handler.calls) == 1


def test_a_connection_that_never_stays_up_counts_as_an_attempt(town: Town) -> None:
    handler = Recorder()
    client = town.connect(handler, Reconnect(attempts=2))
    for _ in range(2):
        town.until(lambda: client.connected)
        town.stop()
        town.start()
        town.until(lambda: not client.connected)
    assert client.stopped
    assert handler.calls == ["open", (1006, ""), "open", (1006, "")]


def test_the_user_may_decide(town: Town) -> None:
    seen: list[GowsError] = []

    def unless_normal(error: GowsError) -> bool:
        seen.append(error)
        return not (isinstance(error, ConnectionClosedError) and error.code == 1000)

    handler = Recorder()
    client = town.connect(handler, Reconnect(retry_if=unless_normal))
    town.until(lambda: client.connected)
    town.accepted[-1].close_handshake(1001, "restart")
    town.until(lambda: len(handler.calls) == 3)
    town.accepted[-1].close_handshake(1000)
    town.until(lambda: client.stopped)
    assert handler.calls == ["open", (1001, "restart"), "open", (1000, "")]
    assert [error.code for error in seen if isinstance(error, ConnectionClosedError)] == [1001, 1000]


def test_a_decision_that_raises_is_a_no(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: GowsError) -> bool:
        raise ZeroDivisionError

    town.stop()
    handler = Recorder()
    client = town.connect(handler, Reconnect(retry_if=broken))
    town.until(lambda: client.stopped)
    assert len(handler.calls) == 1
    assert "retry_if raised" in caplog.text


def test_what_happens_is_logged(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gows")
    town.stop()
    client = town.connect(Recorder(), Reconnect(attempts=2))
    town.until(lambda: client.stopped)
    levels = [record.levelname for record in caplog.records if "connecting again" in record.message]
    assert levels == ["INFO", "WARNING"]


def test_a_handler_that_raises_gets_a_new_connection(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def on_message(self, ws: WebSocket, opcode: Any, buff: Any) -> None:
            raise ZeroDivisionError

    handler = Broken()
    client = town.connect(handler)
    town.until(lambda: client.connected)
    town.accepted[-1].write_string("boom")
    town.until(lambda: len(handler.calls) == 3)
    assert handler.calls == ["open", (1011, ""), "open"]
    assert "on_message" in caplog.text
    client.stop()
    town.until(lambda: client.stopped)


# ---------------------------------------------------------------------- stopping


def test_stopping_while_it_waits(town: Town) -> None:
    town.stop()
    handler = Recorder()
    client = town.connect(handler)
    town.until(lambda: town.clients.active_timers == 1 and client.error is not None)
    client.stop()
    client.stop()
    assert client.stopped
    town.start()
    town.world.run_for(60.0)
    assert town.arrivals == []
    assert handler.calls == []


def test_stopping_while_it_connects(town: Town) -> None:
    town.world.network.unreachable.add("10.0.0.1")
    handler = Recorder()
    client = town.connect(handler)
    town.world.run_for(1.0)
    assert not client.stopped
    client.stop()
    town.until(lambda: client.stopped, limit=1.0)
    assert handler.calls == []


def test_stopping_before_it_began(town: Town) -> None:
    client = town.connect(Recorder())
    client.stop()
    town.until(lambda: client.stopped)
    town.world.run_for(1.0)
    assert town.arrivals == []


def test_stopping_in_the_moment_of_success(town: Town) -> None:
    class Hasty(Recorder):
        client: ReconnectingClient

        def on_open(self, ws: WebSocket) -> None:
            super().on_open(ws)
            self.client.stop(4001)

    handler = Hasty()
    handler.client = town.connect(handler)
    town.until(lambda: handler.client.stopped)
    assert handler.calls == ["open", (4001, "")]


def test_stopping_in_on_close(town: Town) -> None:
    class Done(Recorder):
        def on_close(self, ws: WebSocket) -> None:
            super().on_close(ws)
            ws.close()

    handler = Done()
    client = town.connect(handler)
    town.until(lambda: client.connected)
    town.stop()
    town.until(lambda: client.stopped)
    assert handler.calls == ["open", (1006, "")]


@pytest.mark.parametrize(
    ("close", "code"),
    [(lambda ws: ws.close_handshake(4002, "enough"), 4002), (lambda ws: ws.close(), 1006)],
    ids=["close_handshake", "close"],
)
def test_closing_the_connection_ends_it(close: Callable[[WebSocket], None], code: int, town: Town) -> None:
    handler = Recorder()
    client = town.connect(handler)
    town.until(lambda: client.connected)
    close(client.ws)
    town.until(lambda: client.stopped)
    town.world.run_for(60.0)
    assert [call if call == "open" else call[0] for call in handler.calls] == ["open", code]  # type: ignore[index]
    assert len(town.arrivals) == 1


def test_a_code_that_may_not_travel_stops_nothing(town: Town) -> None:
    client = town.connect(Recorder())
    town.until(lambda: client.connected)
    with pytest.raises(InvalidCloseCodeError):
        client.stop(1004)
    with pytest.raises(InvalidCloseCodeError):
        client.ws.close_handshake(1006)
    town.stop()
    town.start()
    town.until(lambda: len(town.accepted) == 2 and client.connected)
    client.stop()
    town.until(lambda: client.stopped)


def test_waiting_in_the_loops_thread_is_refused(town: Town) -> None:
    client = town.connect(Recorder())
    town.until(lambda: client.connected)
    refused = []

    def in_loop() -> None:
        try:
            client.wait()
        except UsageError as error:
            refused.append(str(error))

    town.clients.call_soon(in_loop)
    town.until(lambda: refused)
    assert "wait() waits for the loop" in refused[0]
    client.stop()
    town.until(lambda: client.stopped)


@pytest.mark.parametrize("state", ["waiting", "connected", "connecting", "preparing"])
def test_closing_the_loop_ends_it_in_every_state(state: str) -> None:
    world = World(latency=0.01)
    town = Town(world)
    over: list[str] = []
    handler = Recorder()
    client = town.connect(handler, headers=list)
    client.when_over(lambda: over.append("over"))
    if state != "connecting":
        town.until(lambda: client.connected)
    if state in ("waiting", "preparing"):
        town.stop()
        town.until(lambda: client._timer is not None)
    if state == "preparing":
        client._timer.cancel()  # type: ignore[union-attr]
        client._attempt()
    town.clients.close()
    assert client.wait(0)
    assert over == ["over"]
    client.when_over(lambda: over.append("again"))
    assert over == ["over", "again"]
    client.stop()
    world.close()


# ---------------------------------------------------------------------- another URL, other headers for each attempt


class Doors(Town):
    """A server that lets in who has the right token."""

    token = "1"

    def view(self, request: Request) -> None:
        token = request.query.get("token") or request.headers.get("x-token") or request.cookies.get("token")
        if token != self.token:
            raise HttpError(401, "expired")
        super().view(request)


@pytest.fixture
def doors() -> Iterator[Doors]:
    world = World(latency=0.01)
    doors = Doors(world)
    yield doors
    world.run_for(10.0)
    assert doors.clients.active_timers == 0
    world.close()


def lose(doors: Doors, client: ReconnectingClient, token: str) -> None:
    doors.token = token
    doors.accepted[-1].close_handshake(1001)
    doors.until(lambda: not client.connected)


@pytest.mark.parametrize("how", ["url", "headers", "pairs", "mapping", "cookies", "mapping of cookies"])
def test_each_attempt_may_have_another_token(how: str, doors: Doors) -> None:
    handler = Recorder()
    mapping, cookies = {"X-Token": "1"}, {"token": "1"}
    settings: dict[str, dict[str, Any]] = {
        "url": {"url": lambda: f"{URL}?token={doors.token}"},
        "headers": {"headers": lambda: {"X-Token": doors.token}},
        "pairs": {"headers": lambda: [("X-Token", doors.token)]},
        "mapping": {"headers": mapping},
        "cookies": {"cookies": lambda: {"token": doors.token}},
        "mapping of cookies": {"cookies": cookies},
    }
    client = doors.connect(handler, **settings[how])
    doors.until(lambda: client.connected)
    for token in ("2", "3"):
        mapping["X-Token"] = cookies["token"] = token
        lose(doors, client, token)
        doors.until(lambda: client.connected)
    client.stop()
    doors.until(lambda: client.stopped)
    assert handler.calls.count("open") == 3


def test_a_function_that_raises_is_a_failed_attempt(doors: Doors, caplog: pytest.LogCaptureFixture) -> None:
    handler = Recorder()
    errors: list[GowsError | Exception | None] = [None, ZeroDivisionError("no token"), None, HandshakeError(401, "out")]

    def url() -> str:
        error = errors.pop(0)
        if error is not None:
            raise error
        return f"{URL}?token={doors.token}"

    client = doors.connect(handler, url=url)
    doors.until(lambda: client.connected)
    lose(doors, client, "2")
    doors.until(lambda: client.connected)
    assert "no URL, or there are no headers or cookies" in caplog.text
    lose(doors, client, "3")
    doors.until(lambda: client.stopped)
    assert isinstance(client.error, HandshakeError)
    assert handler.calls[-1] == (1006, "401 out")


def test_stopping_while_a_token_is_fetched(doors: Doors) -> None:
    def url() -> str:
        if doors.token == "2":
            client.stop()
        return f"{URL}?token={doors.token}"

    client = doors.connect(Recorder(), url=url)
    doors.until(lambda: client.connected)
    lose(doors, client, "2")
    doors.until(lambda: client.stopped)
    assert len(doors.accepted) == 1


def test_a_function_is_called_for_a_connection_that_does_not_come_back_too(doors: Doors) -> None:
    handler = Recorder()
    connect(lambda: f"{URL}?token=1", handler, wait=False, loop=doors.clients)
    doors.until(handler.opened.is_set)
    handler.sockets[0].close()

    async def later() -> str:
        return URL

    with pytest.raises(TypeError, match="url is an `async def`"):
        connect(later, handler, wait=False, loop=doors.clients)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="headers is an `async def`"):
        connect(URL, handler, wait=False, headers=later, loop=doors.clients)  # type: ignore[call-overload]


# ---------------------------------------------------------------------- the herd


@pytest.mark.slow
def test_a_thousand_clients_come_back_spread_over_time() -> None:
    """The server is killed, is away for five seconds, and comes back: nothing of that may bring the clients in step.

    The second time it lets everybody go at once, which keeps the number of open connections, and so this test, small.
    """
    random.seed(11)
    count = 1000
    policy = Reconnect(
        maximum=8.0, retry_if=lambda error: not (isinstance(error, ConnectionClosedError) and error.code == 1000)
    )
    world = World()
    town = Town(world)
    options = AcceptOptions(ping_interval=None)
    handlers = [Recorder() for _ in range(count)]
    clients = [town.connect(handler, policy, options=options) for handler in handlers]
    town.until(lambda: len(town.accepted) == count and all(client.connected for client in clients))
    world.run_for(policy.stable + 1.0)
    town.arrivals.clear()
    town.stop()
    world.run_for(5.0)
    assert not any(client.connected for client in clients)
    town.farewell = True
    town.start()
    back = world.clock()
    town.until(lambda: len(town.arrivals) == count and all(client.stopped for client in clients))
    waits = [arrival - back for arrival in town.arrivals]
    tenths = Counter(int(wait * 10) for wait in waits)
    assert max(tenths.values()) <= count * 0.06  # in no tenth of a second more than 60 of them
    assert max(waits) <= policy.maximum + 0.5  # and nobody is forgotten
    assert all(handler.calls == ["open", (1006, ""), "open", (1000, "")] for handler in handlers)
    world.run_for(5.0)
    world.close()


# ---------------------------------------------------------------------- waiting for the first connection


def test_the_first_attempt_must_succeed_when_it_is_waited_for(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    handler = Recorder()
    with ScriptedServer(script) as server, pytest.raises(HandshakeError, match="Busy"):
        connect(server.url, handler, reconnect=True, loop=loop)
    assert handler.calls == []


def test_waiting_for_the_first_connection_and_for_the_end(loop: Loop) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        opcode, body = peer.read_frame()
        peer.send(close_frame(1000))
        assert (opcode, body[:2]) == (8, b"\x03\xe8")

    handler = Recorder()
    with ScriptedServer(script) as server:
        client = connect(server.url, handler, reconnect=Reconnect(), loop=loop)
        assert client.connected
        assert not client.wait(0.01)
        client.stop()
        assert client.wait(10)
    assert handler.calls == ["open", (1000, "")]


def test_a_loop_that_is_closed_ends_it() -> None:
    class Slow(Recorder):
        """Its on_close ends after the loop was closed."""

        closing = threading.Event()

        def on_close(self, ws: WebSocket) -> None:
            super().on_close(ws)
            assert self.closing.wait(10)

    def script(peer: Peer) -> None:
        peer.accept()
        peer.wait_end()

    handler = Slow()
    loop = Loop(workers=1)
    loop.start()
    with ScriptedServer(script) as server:
        client = connect(server.url, handler, reconnect=True, loop=loop)
        loop.close(timeout=0.2)
        assert not client.stopped
        handler.closing.set()
        assert client.wait(10)
