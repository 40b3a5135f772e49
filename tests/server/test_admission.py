"""Admission: who may connect, exactly and on every way to the end; who is believed about whom. In virtual time."""

from __future__ import annotations

import gc
import logging
import os
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trustme

from gows import Admission, CloseCause, ConnectionClosedError, HandshakeError, Request, Server, UsageError, accept
from gows.reactor import Stream, Target
from gows.reactor.networks import ip_number
from gows.server.admission import REFUSAL_CAUSES
from gows.server.gate import MAX_REFUSED
from tests.support import wire
from tests.support.addresses import tcp
from tests.support.http_site import get
from tests.support.raw import RawPeer
from tests.support.serving import Recorder
from tests.support.stage import ADDRESS, Guest, Stage
from tests.support.waiting import wait_until
from tests.support.wire import TEXT, Answer, frame

PROXY = "10.0.0.5"
DOOR = Target(socket.AF_INET, ADDRESS)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

MakeStage = Callable[..., Stage]


@pytest.fixture
def make_stage() -> Iterator[MakeStage]:
    """Makes servers with an Admission of these settings; in the end all counts must be down to nothing."""
    made: list[Stage] = []

    def make(options: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **settings: Any) -> Stage:
        stage = Stage(server={"admission": Admission(**settings), **(server or {})}, **options or {})
        made.append(stage)
        return stage

    yield make
    for stage in made:
        admission = stage.server.admission
        for guest in stage.guests:
            guest.sock.close()
        stage.run_for(20)
        assert stage.loop.live_streams == 0
        assert stage.server._gate.refused == 0
        assert (admission._by_ip, admission._by_subnet) == ({}, {})
        assert set(admission._clients) <= {None}
        assert stage.loop.peer_names == {}
        stage.close()


def counts(stage: Stage) -> dict[str, int]:
    """The causes that were counted."""
    return {cause: count for cause, count in stage.server.admission.counts.items() if count}


def refused(stage: Stage, host: str = "10.0.0.9") -> Answer:
    """The answer to one more connection, which ends it."""
    guest = stage.connect(host)
    guest.wait(lambda: guest.end)
    assert guest.end == "FIN"
    assert guest._head is not None
    guest.sock.close()
    return Answer.parse(guest._head.partition(b"\r\n\r\n")[0])


def fetch(guest: Guest, *fields: str, target: str = "/page") -> tuple[int, str]:
    """The answer to a request on this connection: its status and its body."""
    guest._head = b""
    guest.send(get(target, *fields))
    guest.wait(lambda: guest._head and b"\r\n\r\n" in guest._head)
    head, _, body = guest._head.partition(b"\r\n\r\n")
    return Answer.parse(head).status, body.decode()


# ---------------------------------------------------------------------- caps


def await_close(stage: Stage, handler: Any) -> None:
    stage.run_until(lambda: handler.close_code is not None)


def test_a_cap_for_each_address(make_stage: MakeStage) -> None:
    stage = make_stage(per_ip=2)
    mine = [stage.guest()[0], stage.connect()]
    answer = refused(stage)
    assert answer.status == 429
    assert 5 <= int(answer.headers["retry-after"]) <= 30
    stage.guest(host="10.0.0.8")
    mine[1].sock.close()
    stage.run_for(3)
    stage.guest()
    assert refused(stage).status == 429
    assert counts(stage) == {"per_ip": 2}


@pytest.mark.parametrize(
    ("prefixes", "within", "beyond"),
    [
        ({}, ("198.51.100.1", "198.51.100.77"), "198.51.101.1"),
        ({"ipv4_prefix": 30}, ("198.51.100.1", "198.51.100.3"), "198.51.100.4"),
        ({}, ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"), "2001:db8:0:2::1"),
        ({"ipv6_prefix": 48}, ("2001:db8:0:1::1", "2001:db8:0:ffff::1"), "2001:db8:1::1"),
    ],
)
def test_a_cap_for_each_network(
    make_stage: MakeStage, prefixes: dict[str, int], within: tuple[str, str], beyond: str
) -> None:
    stage = make_stage(per_subnet=2, per_ip=2, **prefixes)
    for host in within:
        stage.connect(host)
    assert refused(stage, within[0]).status == 429
    stage.connect(beyond)
    assert counts(stage) == {"per_subnet": 1}


def test_who_is_exempt(make_stage: MakeStage) -> None:
    stage = make_stage(per_ip=1, per_subnet=1, handshake_rate=0.001, exempt=["10.0.0.0/28", "unix"])
    for _ in range(5):
        stage.guest(host="10.0.0.9")
    stage.guest(host="10.0.0.16")
    assert refused(stage, "10.0.0.16").status == 429
    assert refused(stage, "10.1.0.16").status == 503


def leave_by_fin(stage: Stage, guest: Guest) -> None:
    guest.fin()


def leave_by_rst(stage: Stage, guest: Guest) -> None:
    guest.reset()


def leave_by_closing(stage: Stage, guest: Guest) -> None:
    guest.sock.close()


def leave_by_close_frame(stage: Stage, guest: Guest) -> None:
    if guest._head is None:
        guest.send(wire.close(1000))
    else:
        guest.sock.close()


def leave_by_fault(stage: Stage, guest: Guest) -> None:
    guest.send(b"\xff\xff\xff\xff\r\n\r\n")


def leave_by_silence(stage: Stage, guest: Guest) -> None:
    guest.sock.partition()
    stage.run_for(100)


def leave_by_server(stage: Stage, guest: Guest) -> None:
    for ws in stage.server.connections:
        ws.close()
    guest.sock.close()


WAYS = [
    leave_by_fin,
    leave_by_rst,
    leave_by_closing,
    leave_by_close_frame,
    leave_by_fault,
    leave_by_silence,
    leave_by_server,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("upgraded", [True, False], ids=["websocket", "http"])
def test_every_way_to_the_end_makes_room(make_stage: MakeStage, way: Callable[..., None], upgraded: bool) -> None:
    stage = make_stage(per_ip=1)
    for _ in range(3):
        guest = stage.guest()[0] if upgraded else stage.connect()
        way(stage, guest)
        stage.run_for(20)
        assert stage.server.admission._by_ip == {}
        guest.sock.close()


def test_counts_under_churn(make_stage: MakeStage) -> None:
    stage = make_stage(per_ip=7, per_subnet=20)
    chance = random.Random(7)
    alive: list[tuple[str, Guest]] = []
    for _ in range(400):
        if alive and chance.random() < 0.3:
            _, guest = alive.pop(chance.randrange(len(alive)))
            chance.choice([leave_by_rst, leave_by_closing])(stage, guest)
            stage.run_for(0)
        else:
            host = f"198.51.{chance.randrange(2)}.{chance.randrange(1, 5)}"
            guest = stage.connect(host)
            if chance.random() < 0.5:
                guest.send(wire.request("/ws"))
            stage.run_for(0)
            guest.pump()
            if guest.end or b" 429 " in (guest._head or b""):
                guest.sock.close()
                stage.run_for(0)
            else:
                alive.append((host, guest))
        by_ip: dict[str, int] = {}
        for host, _ in alive:
            by_ip[host] = by_ip.get(host, 0) + 1
        numbers = {ip_number((host, 1)): count for host, count in by_ip.items()}
        assert stage.server.admission._by_ip == numbers
        assert stage.server.admission.clients == len(numbers)
    assert max(by_ip.values()) == 7
    assert sum(by_ip.values()) == 40
    assert counts(stage).keys() == {"per_ip", "per_subnet"}


def test_a_connection_that_is_counted_is_no_object_more(make_stage: MakeStage) -> None:
    stage = make_stage(per_ip=1000)
    admission = stage.server.admission
    guests = [stage.connect() for _ in range(300)]
    fds = [fd for fd, number in enumerate(admission._clients) if number is not None]
    assert len(fds) == len(guests)
    assert len({id(admission._clients[fd]) for fd in fds}) <= len(fds)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        admission._clients.extend([None] * 10_000)
        with admission._lock:
            for fd in range(1000, 10_000):
                admission._count_locked(fd, next(iter(admission._by_ip)))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 9_000 * 20
    for fd in range(1000, 10_000):
        admission._clients[fd] = None
    admission._by_ip[next(iter(admission._by_ip))] = len(guests)


# ---------------------------------------------------------------------- the rate, and refusing


def test_new_connections_have_a_rate(make_stage: MakeStage) -> None:
    stage = make_stage(handshake_rate=2, handshake_burst=5)
    for _ in range(5):
        stage.guest()
    answer = refused(stage)
    assert answer.status == 503
    assert "retry-after" in answer.headers
    stage.run_for(0.4)
    assert refused(stage).status == 503
    stage.run_for(0.1)
    stage.guest()
    assert refused(stage).status == 503
    stage.run_for(60)
    for _ in range(5):
        stage.guest()
    assert refused(stage).status == 503
    assert counts(stage) == {"handshake_rate": 4}


def test_the_burst_is_that_of_a_second(make_stage: MakeStage) -> None:
    stage = make_stage(handshake_rate=3)
    for _ in range(3):
        stage.connect()
    assert refused(stage).status == 503
    slow = make_stage(handshake_rate=0.1)
    slow.connect()
    assert refused(slow).status == 503


def test_who_is_refused_for_his_address_takes_nothing_of_the_rate(make_stage: MakeStage) -> None:
    stage = make_stage(per_ip=1, handshake_rate=0.001, handshake_burst=2)
    stage.connect("10.0.0.1")
    for _ in range(3):
        assert refused(stage, "10.0.0.1").status == 429
    stage.connect("10.0.0.2")
    assert refused(stage, "10.0.0.3").status == 503


def test_those_who_are_refused_are_told_different_times(make_stage: MakeStage) -> None:
    stage = make_stage(per_ip=1, retry_after=(100, 199))
    stage.connect()
    times = [int(refused(stage).headers["retry-after"]) for _ in range(60)]
    assert all(100 <= time <= 199 for time in times)
    assert len(set(times)) > 20


def test_the_answer_arrives_though_the_client_was_sending(make_stage: MakeStage) -> None:
    """Bytes that lie unread when a socket is closed would make the kernel send RST."""
    stage = make_stage(per_ip=1)
    stage.connect()
    guest = stage.connect()
    guest.send(wire.request("/ws"), bytes(3000))
    guest.wait(lambda: guest.end)
    assert guest.end == "FIN"
    assert guest._head is not None
    assert guest._head.startswith(b"HTTP/1.1 429 ")


def test_a_storm(make_stage: MakeStage) -> None:
    """Everybody comes at once; a few are admitted, the others answered, none is left half-way."""
    stage = make_stage(handshake_rate=100, handshake_burst=100)
    crowd = []
    for number in range(1000):
        stage.world.network.host = f"10.1.{number // 250}.{number % 250}"
        sock, _ = stage.world.network.dial(DOOR)
        crowd.append(Guest(stage, sock))
        crowd[-1].send(wire.request("/ws"))
    stage.guests += crowd
    stage.run_until(lambda: [guest.pump() for guest in crowd] and all(guest._head or guest.end for guest in crowd))
    statuses = [int((guest._head or b"HTTP/1.1 000")[9:12]) for guest in crowd]
    assert statuses.count(101) == 100
    assert statuses.count(503) >= MAX_REFUSED
    assert statuses.count(503) + statuses.count(0) == 900
    assert counts(stage) == {"handshake_rate": 900}
    for guest in crowd:
        guest.sock.close()
    stage.run_for(5)
    stage.guest()


def test_more_refused_ones_than_may_linger_are_cut_off(make_stage: MakeStage) -> None:
    stage = make_stage(per_ip=1)
    stage.connect()
    guests = [stage.connect() for _ in range(MAX_REFUSED + 5)]
    stage.run_for(0)
    for guest in guests:
        guest.pump()
    assert [guest.end for guest in guests].count("RST") == 5
    assert counts(stage) == {"per_ip": MAX_REFUSED + 5}


def test_max_connections_counts_none_that_were_refused(make_stage: MakeStage) -> None:
    stage = make_stage(server={"max_connections": 3})
    guests = [stage.connect() for _ in range(3)]
    lingering = [stage.connect() for _ in range(10)]
    stage.run_for(0)
    guests[0].reset()
    stage.run_for(0)
    assert stage.server._gate.refused == 10
    stage.guest()
    assert refused(stage).status == 503
    assert counts(stage) == {"max_connections": 11}
    for each in lingering:
        each.pump()
        assert b"503" in (each._head or b"")


def test_a_refusal_is_an_access(make_stage: MakeStage, caplog: pytest.LogCaptureFixture) -> None:
    stage = make_stage(per_ip=1)
    stage.connect()
    with caplog.at_level(logging.INFO, "gows.access"):
        refused(stage)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("10.0.0.9:")
    assert said.endswith('"-" 429 0')


def test_the_server_pauses_at_the_descriptor_reserve(make_stage: MakeStage) -> None:
    stage = make_stage(options={"network": {"descriptors": 100}}, descriptor_reserve=50)
    network = stage.world.network
    network.elsewhere = True
    crowd = [network.dial(DOOR)[0] for _ in range(80)]
    network.elsewhere = False
    stage.guests += [Guest(stage, sock) for sock in crowd]
    stage.run_for(1)
    assert 3 + network.taken == 103 - 50
    assert counts(stage) == {"descriptors": 1}
    (said,) = stage.log.take()
    assert "50 kept free" in said
    for sock in crowd[:40]:
        sock.close()
    stage.run_for(1)
    assert stage.loop.live_streams == 40


# ---------------------------------------------------------------------- behind proxies that forward


def behind_proxy(make_stage: MakeStage, **settings: Any) -> Stage:
    stage = make_stage(trusted_proxies=[PROXY, "unix"], **settings)
    stage.server.add_route("/page", lambda request: f"{request.remote_addr} {request.scheme} {request.host}")
    return stage


def test_requests_of_one_connection_come_from_many_clients(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, per_ip=1)
    guest = stage.connect(PROXY)
    assert fetch(guest, "X-Forwarded-For: 192.0.2.1")[1] == "('192.0.2.1', 0) http example.com"
    assert fetch(guest, "X-Forwarded-For: 192.0.2.2", "X-Forwarded-Proto: https")[1].startswith(
        "('192.0.2.2', 0) https"
    )
    assert fetch(guest, "X-Forwarded-Host: evil.test")[1].endswith("http example.com"), "not asked for"
    assert fetch(guest, "X-Forwarded-For: nonsense") == (400, "a forwarded address cannot be read\n")
    assert stage.server.admission._by_ip == {}


def test_forged_headers_are_of_no_use(make_stage: MakeStage) -> None:
    """As CVE-2026-71485: whoever connects directly stays who he is, for the route, the origin check and the caps."""
    stage = behind_proxy(make_stage, per_ip=1, forwarded_fields=["X-Forwarded-For", "X-Forwarded-Host"])
    forged = ["X-Forwarded-For: 192.0.2.77", "Forwarded: for=192.0.2.77", "X-Forwarded-Host: evil.test"]
    guest = stage.connect("198.51.100.1")
    assert fetch(guest, *forged)[1].startswith("('198.51.100.1', ")
    assert refused(stage, "198.51.100.1").status == 429
    answer = stage.connect("198.51.100.2").upgrade(*forged, "Origin: http://evil.test")
    assert answer.status == 403
    proxy = stage.connect(PROXY)
    assert "192.0.2.1" in fetch(proxy, "X-Forwarded-For: 203.0.113.1, 192.0.2.1", "Forwarded: for=203.0.113.2")[1]


def test_a_websocket_counts_for_the_client_behind_the_proxy(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, per_ip=2, handshake_rate=0.001, handshake_burst=6)
    handlers = [stage.guest("X-Forwarded-For: 192.0.2.1", host=PROXY)[1] for _ in range(2)]
    assert handlers[0].ws.remote_addr == ("192.0.2.1", 0)
    assert repr(handlers[0].ws) == "<WebSocket 192.0.2.1 OPEN>"
    guest = stage.connect(PROXY)
    answer = guest.upgrade("X-Forwarded-For: 192.0.2.1")
    assert answer.status == 429
    assert "retry-after" in answer.headers
    for host in ("192.0.2.2", "192.0.2.2", "unknown", PROXY):
        stage.guest(f"X-Forwarded-For: {host}", host=PROXY)
    assert stage.connect(PROXY).upgrade("X-Forwarded-For: 192.0.2.3").status == 503
    for peer in stage.guests[:1]:
        peer.reset()
    stage.run_for(0)
    assert stage.server.admission._by_ip == {
        ip_number(("192.0.2.1", 0)): 1,
        ip_number(("192.0.2.2", 0)): 2,
    }


def test_an_upgrade_that_fails_is_not_counted(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, per_ip=1)
    caught: list[Exception] = []

    def view(request: Request) -> str | None:
        try:
            stage.accept(request)
            return None
        except HandshakeError as error:
            caught.append(error)
            return "refused, and the connection goes on"

    stage.view = view
    guest = stage.connect(PROXY)
    guest.send(wire.request("/ws", "X-Forwarded-For: 192.0.2.1") + b"early")
    guest.wait(lambda: guest._head and b"goes on" in guest._head)
    assert "before the handshake" in str(caught[0])
    assert stage.server.admission._by_ip == {}


def test_an_upgrade_of_nobody_known_gets_400(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage)
    assert stage.connect(PROXY).upgrade("X-Forwarded-For: nonsense").status == 400
    assert stage.handlers == []


def test_who_has_gone_is_not_admitted(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, per_ip=1)
    guest = stage.connect(PROXY)
    (stream,) = [each for each in stage.loop.streams if getattr(each, "observer", None) and hasattr(each, "sock")]

    def view(request: Request) -> None:
        stream.abort()  # type: ignore[union-attr]
        stage.accept(request)

    stage.view = view
    guest.send(wire.request("/ws", "X-Forwarded-For: 192.0.2.1"))
    guest.wait(lambda: guest.end)
    assert stage.server.admission._by_ip == {}


def test_nobody_is_counted_whose_end_was_told_already(make_stage: MakeStage) -> None:
    stage = make_stage(per_ip=1)
    streams: list[Stream] = []
    stage.loop.on_end.append(streams.append)
    stage.connect().reset()
    stage.run_for(0)
    with pytest.raises(ConnectionClosedError):
        stage.server.admission.enter(streams[0], ("192.0.2.1", 1))


def test_the_origin_check_goes_by_what_the_browser_asked_for(make_stage: MakeStage) -> None:
    fields = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"]
    stage = behind_proxy(make_stage, forwarded_fields=fields)
    page = "Origin: https://chat.example"
    told = ["X-Forwarded-Proto: https", "X-Forwarded-Host: chat.example"]
    assert stage.connect(PROXY).upgrade(page).status == 403
    assert stage.connect(PROXY).upgrade(page, *told).status == 101
    assert stage.connect(PROXY).upgrade("Origin: http://chat.example", *told).status == 403, "port 80 is another origin"


def test_the_access_log_names_the_client(make_stage: MakeStage, caplog: pytest.LogCaptureFixture) -> None:
    stage = behind_proxy(make_stage)
    guest = stage.connect(PROXY)
    with caplog.at_level(logging.INFO, "gows.access"):
        fetch(guest, "X-Forwarded-For: 192.0.2.1")
        fetch(guest, "X-Forwarded-For: nonsense")
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("192.0.2.1 ")
    assert said[1].startswith("10.0.0.5:")


def test_what_a_wsgi_application_sees(make_stage: MakeStage) -> None:
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return [b"ok"]

    stage = behind_proxy(
        make_stage, server={"wsgi": application}, forwarded_fields=["X-Forwarded-For", "X-Forwarded-Host"]
    )
    guest = stage.connect(PROXY)
    fetch(guest, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: a.example", target="/app")
    fetch(guest, "X-Forwarded-For: 192.0.2.1:7", target="/app")
    assert [seen[0].get(key) for key in ("REMOTE_ADDR", "REMOTE_PORT", "HTTP_HOST")] == [
        "192.0.2.1",
        None,
        "a.example",
    ]
    assert [seen[1].get(key) for key in ("REMOTE_ADDR", "REMOTE_PORT", "HTTP_HOST")] == [
        "192.0.2.1",
        "7",
        "example.com",
    ]


# ---------------------------------------------------------------------- behind proxies that speak PROXY


def header(version: str, host: str, port: int = 7, fields: bytes = b"") -> bytes:
    if version == "v1":
        return f"PROXY TCP4 {host} 10.0.0.1 {port} 80\r\n".encode()
    addresses = socket.inet_aton(host) + socket.inet_aton("10.0.0.1") + struct.pack("!HH", port, 80) + fields
    return SIGNATURE + b"\x21\x11" + struct.pack("!H", len(addresses)) + addresses


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("cut", [None, 1, 7])
def test_a_proxy_header_names_the_client(make_stage: MakeStage, version: str, cut: int | None) -> None:
    stage = behind_proxy(make_stage, proxy_protocol=True, per_ip=1)
    guest = stage.connect(PROXY)
    data = header(version, "192.0.2.1") + wire.request("/ws") + b""
    for at in range(0, len(data), cut or len(data)):
        guest.send(data[at : at + (cut or len(data))])
        stage.run_for(0)
    assert guest.upgrade(head=b"").status == 101
    (handler,) = stage.handlers
    stage.run_until(lambda: handler.calls)
    assert handler.ws.remote_addr == ("192.0.2.1", 7)
    guest.send(frame(TEXT, "hello"))
    stage.run_until(lambda: handler.messages == ["hello"])
    other = stage.connect(PROXY)
    other.send(header(version, "192.0.2.1"))
    other.wait(lambda: other.end)
    assert (other._head or b"").startswith(b"HTTP/1.1 429 ")
    third = stage.connect(PROXY)
    third.send(header(version, "192.0.2.2"))
    assert fetch(third)[1].startswith("('192.0.2.2', 7) http")
    assert fetch(third, "X-Forwarded-For: 203.0.113.1")[1].startswith("('192.0.2.2', 7)"), "which is no proxy of ours"
    assert counts(stage) == {"per_ip": 1}


@pytest.mark.parametrize(("flags", "scheme"), [(1, "https"), (7, "https"), (0, "http"), (2, "http")])
def test_a_proxy_header_tells_of_tls(make_stage: MakeStage, flags: int, scheme: str) -> None:
    stage = behind_proxy(make_stage, proxy_protocol="v2")
    guest = stage.connect(PROXY)
    guest.send(header("v2", "192.0.2.1", fields=struct.pack("!BHBI", 0x20, 5, flags, 0)))
    for _ in range(2):
        assert fetch(guest)[1].startswith(f"('192.0.2.1', 7) {scheme} ")


def test_a_proxy_that_speaks_for_itself(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, proxy_protocol="v2", per_ip=1)
    for _ in range(3):
        guest = stage.connect(PROXY)
        guest.send(SIGNATURE + b"\x20\x00\x00\x00")
        assert fetch(guest)[1].startswith(f"('{PROXY}', ")


def test_a_chain_of_proxies(make_stage: MakeStage) -> None:
    stage = make_stage(trusted_proxies=[PROXY, "203.0.113.0/24"], proxy_protocol=True, per_ip=1)
    stage.server.add_route("/page", lambda request: f"{request.remote_addr}")
    guest = stage.connect(PROXY)
    guest.send(header("v2", "203.0.113.1"))
    assert fetch(guest, "X-Forwarded-For: 192.0.2.1")[1] == "('192.0.2.1', 0)"


@pytest.mark.parametrize(
    "data",
    [get("/page"), b"\x16\x03\x01", header("v1", "192.0.2.1").replace(b"TCP4", b"TCP6"), b"PROXY UNKNOWN" + b"x" * 99],
)
def test_without_the_header_there_is_no_connection(make_stage: MakeStage, data: bytes) -> None:
    stage = behind_proxy(make_stage, proxy_protocol=True)
    for _ in range(3):
        guest = stage.connect(PROXY)
        guest.send(data)
        assert (guest.wait_end(), guest._head) == ("RST", b"")
    assert counts(stage) == {"proxy_protocol": 3}
    (said,) = stage.log.take()
    assert "further ones are only counted" in said


def test_the_header_is_believed_from_proxies_only(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, proxy_protocol=True)
    guest = stage.connect("198.51.100.1")
    guest.wait(lambda: guest.end)
    assert guest._head == b""
    assert counts(stage) == {"proxy_protocol": 1}
    assert len(stage.log.take()) == 1


def test_the_header_and_the_head_share_their_time(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, proxy_protocol=True, server={"head_timeout": 10})
    begun = stage.now
    silent, slow = stage.connect(PROXY), stage.connect(PROXY)
    slow.send(header("v1", "192.0.2.1")[:9])
    stage.run_for(9)
    slow.send(header("v1", "192.0.2.1")[9:] + b"GET / HT")
    silent.wait(lambda: silent.end)
    assert stage.now - begun < 10.3
    assert (silent.end, silent._head) == ("RST", b"")
    slow.wait(lambda: slow.end)
    assert stage.now - begun < 10.5
    assert (slow._head or b"").startswith(b"HTTP/1.1 408 ")


def test_who_says_nothing_is_no_fault(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, proxy_protocol=True)
    for bytes_before in (b"", b"PROX"):
        guest = stage.connect(PROXY)
        guest.send(bytes_before)
        guest.fin()
        assert guest.drain() == "FIN"
    assert counts(stage) == {}


def test_one_address_with_the_header_and_one_without(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage)
    stage.server.listen(("10.0.0.1", 81), proxy_protocol="v1")
    stage.world.network.host = PROXY
    sock, _ = stage.world.network.dial(Target(socket.AF_INET, ("10.0.0.1", 81)))
    guest = Guest(stage, sock)
    stage.guests.append(guest)
    guest.send(header("v1", "192.0.2.1"))
    assert fetch(guest)[1].startswith("('192.0.2.1', 7)")
    assert fetch(stage.connect("192.0.2.9"))[1].startswith("('192.0.2.9', ")
    with pytest.raises(ValueError, match="proxy_protocol"):
        stage.server.listen(("10.0.0.1", 82), proxy_protocol="v3")


def test_a_server_that_stops_does_not_wait_for_headers() -> None:
    server = Server(workers=0, admission=Admission(trusted_proxies=["127.0.0.1"], proxy_protocol=True))
    server.start("127.0.0.1:0")
    with RawPeer(server.addresses[0]) as peer:
        peer.send(b"PROX")
        wait_until(lambda: server.loop.live_streams)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert peer.read_end() == "FIN"
    stopping.join(10)
    assert not stopping.is_alive()


def test_max_connections_behind_a_proxy(make_stage: MakeStage) -> None:
    stage = behind_proxy(make_stage, proxy_protocol=True, server={"max_connections": 1})
    stage.connect(PROXY)
    assert refused(stage, PROXY).status == 503


# ---------------------------------------------------------------------- rates of one connection


def test_messages_over_the_rate_end_the_connection(make_stage: MakeStage) -> None:
    for inline in (True, False):
        stage = make_stage(options={"max_message_rate": 5, "message_burst": 10, "inline": inline})
        guest, handler = stage.guest()
        for _ in range(20):
            guest.send(frame(TEXT, "in time"))
            stage.run_for(0.2)
        assert len(handler.messages) == 20
        guest.send(*[frame(TEXT, str(number)) for number in range(15)])
        assert guest.close_frame() == (1008, "too many messages a second")
        assert guest.drain() == "FIN"
        await_close(stage, handler)
        assert (handler.close_code, handler.ws.close_cause) == (1008, CloseCause.RATE)
        assert handler.messages[20:] == [str(number) for number in range(len(handler.messages) - 20)]
        assert 9 <= len(handler.messages) - 20 <= 10


def test_what_came_before_is_answered_first(make_stage: MakeStage) -> None:
    stage = make_stage(options={"max_message_rate": 1, "message_burst": 3, "inline": False})
    stage.pool.held = True
    guest = stage.connect()
    guest.send(wire.request("/ws"))
    stage.pool.held = False
    guest.upgrade(head=b"")
    (handler,) = stage.handlers
    handler.do["on_message"] = lambda ws, opcode, buff: ws.write_message(opcode, buff)
    guest.send(*[frame(TEXT, str(number)) for number in range(9)])
    assert [guest.text() for _ in range(3)] == ["0", "1", "2"]
    assert guest.close_frame()[0] == 1008


def test_a_flood_of_pings_ends_the_connection(make_stage: MakeStage) -> None:
    stage = make_stage(options={"max_message_rate": 10})
    guest, handler = stage.guest()
    guest.send(frame(wire.PING, "x") * 500)
    guest.wait(lambda: guest.end)
    assert (handler.close_code, handler.ws.close_cause) == (1008, CloseCause.RATE)
    assert handler.calls.count("on_ping") == 10


def test_bytes_over_the_rate_end_the_connection(make_stage: MakeStage) -> None:
    stage = make_stage(options={"max_byte_rate": 1000, "max_message_size": 5000})
    guest, handler = stage.guest()
    guest.send(frame(wire.BINARY, bytes(5000)))
    stage.run_until(lambda: handler.messages)
    guest.send(frame(wire.BINARY, bytes(5000)))
    assert guest.close_frame() == (1008, "too many bytes a second")
    assert len(handler.messages) == 1
    assert handler.ws.close_cause is CloseCause.RATE
    slow, handler = stage.guest()
    for _ in range(10):
        slow.send(frame(wire.BINARY, bytes(900)))
        stage.run_for(1)
    assert len(handler.messages) == 10


def test_an_idle_connection_costs_nothing_of_it(make_stage: MakeStage) -> None:
    stage = make_stage(options={"max_message_rate": 10, "max_byte_rate": 10_000, "ping_interval": None})
    guest, handler = stage.guest()
    guest.send(frame(TEXT, "a"))
    stage.run_until(lambda: handler.messages)
    rates = handler.ws.connection.config.rates
    assert (len(rates.messages), len(rates.bytes)) == (1, 1)
    other, _ = stage.guest()
    stage.run_for(1000)
    other.pump()
    other.send(frame(wire.PONG))
    stage.run_for(0)
    assert handler.ws.connection not in rates.messages._new
    assert len(rates.messages) == 1
    guest.sock.close()
    other.sock.close()
    stage.run_for(0)
    assert (len(rates.messages), len(rates.bytes)) == (0, 0)


# ---------------------------------------------------------------------- what cannot be meant


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"per_ip": 0}, ValueError),
        ({"per_ip": 1.5}, TypeError),
        ({"per_subnet": True}, TypeError),
        ({"ipv4_prefix": 33}, ValueError),
        ({"ipv4_prefix": None}, TypeError),
        ({"ipv6_prefix": 0}, ValueError),
        ({"handshake_rate": 0}, ValueError),
        ({"handshake_rate": "1"}, TypeError),
        ({"handshake_burst": 1}, ValueError),
        ({"handshake_rate": 1, "handshake_burst": 0}, ValueError),
        ({"handshake_rate": 1, "handshake_burst": 0.5}, TypeError),
        ({"handshake_rate": float("inf")}, ValueError),
        ({"retry_after": (5, 4)}, ValueError),
        ({"retry_after": (-1, 4)}, ValueError),
        ({"retry_after": (0.5, 4)}, TypeError),
        ({"exempt": ["nowhere"]}, ValueError),
        ({"trusted_proxies": ["0.0.0.0/0"]}, ValueError),
        ({"forwarded_fields": ["X-Real-IP"]}, ValueError),
        ({"proxy_protocol": True}, ValueError),
        ({"proxy_protocol": "v3", "trusted_proxies": ["unix"]}, ValueError),
        ({"descriptor_reserve": -1}, ValueError),
    ],
)
def test_what_cannot_be_meant(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Admission(**settings)


def test_one_admission_for_one_server() -> None:
    admission = Admission()
    Server(admission=admission).stop()
    with pytest.raises(UsageError, match="one server"):
        Server(admission=admission)
    assert admission.counts.keys() == set(REFUSAL_CAUSES)
    assert not any(admission.counts.values())


def test_a_loop_that_outlives_its_servers_remembers_none(make_stage: MakeStage) -> None:
    stage = make_stage()
    for _ in range(3):
        server = Server(loop=stage.loop, admission=Admission(per_ip=1))
        assert len(stage.loop.on_end) == 1
        server.stop()
    assert stage.loop.on_end == []


# ---------------------------------------------------------------------- real sockets


@pytest.mark.parametrize("workers", [0, 4])
def test_over_real_sockets(workers: int) -> None:
    server = Server(workers=workers, admission=Admission(per_ip=3))
    server.add_route("/echo", lambda request: accept(request).serve(Recorder()))
    server.start("127.0.0.1:0")
    try:
        address = server.addresses[0]
        for _ in range(3):
            peers = [RawPeer(address) for _ in range(3)]
            peers[0].upgrade("/echo")
            peers[1].upgrade("/echo")
            with RawPeer(address) as peer:
                assert peer.read_answer()[0].status == 429
                assert peer.read_end() == "FIN"
            peers[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for peer in peers:
                peer.close()
            wait_until(lambda: server.admission.clients == 0)
    finally:
        server.stop()
    assert server.admission.counts["per_ip"] == 3


SMALL_SERVER = """
import resource, sys, gows
resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
server = gows.Server(workers=0)
server.add_route("/", lambda request: "served")
print(server.listen("127.0.0.1:0")[1], flush=True)
server.start()
sys.stdin.read()
print(server.admission.counts["descriptors"])
server.stop()
"""


@pytest.mark.slow
def test_a_process_with_few_descriptors() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SMALL_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            port = int(child.stdout.readline())
            crowd = [RawPeer(("127.0.0.1", port)) for _ in range(200)]
            descriptors = f"/proc/{child.pid}/fd"
            if os.path.isdir(descriptors):  # Linux
                wait_until(lambda: len(os.listdir(descriptors)) == 150 - 64)
            for peer in crowd:  # the first make room for the last
                peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer, body = peer.read_answer()
                assert (answer.status, body) == (200, b"served")
                peer.close()
        finally:
            printed, said = child.communicate(timeout=20)
    assert int(printed) >= 1
    assert said.count(b"kept free") == 1


@pytest.mark.slow
def test_a_proxy_header_before_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("gows.test").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = Server(
        ssl_context=context, admission=Admission(trusted_proxies=["127.0.0.1"], proxy_protocol=True, per_ip=1)
    )
    server.add_route("/who", lambda request: f"{request.remote_addr} {request.scheme}")
    server.start("127.0.0.1:0")
    try:
        for version in ("v1", "v2"):
            with socket.create_connection(tcp(server.addresses[0]), timeout=10) as sock:
                sock.sendall(header(version, "192.0.2.1"))
                with trusting.wrap_socket(sock, server_hostname="gows.test") as tls:
                    tls.sendall(b"GET /who HTTP/1.1\r\nHost: gows.test\r\nConnection: close\r\n\r\n")
                    answer = b"".join(iter(partial(tls.recv, 4096), b""))
                    assert answer.endswith(b"('192.0.2.1', 7) https")
                    with socket.create_connection(tcp(server.addresses[0]), timeout=10) as second:
                        second.sendall(header(version, "192.0.2.1"))
                        if server.admission.clients:  # the first may have gone by now
                            assert second.recv(10) == b"", "over TLS nothing is said"
            wait_until(lambda: server.admission.clients == 0)
        with (
            socket.create_connection(tcp(server.addresses[0]), timeout=10) as sock,
            pytest.raises((ConnectionError, ssl.SSLError)),
        ):
            trusting.wrap_socket(sock, server_hostname="gows.test")
    finally:
        server.stop()
    assert server.admission.counts["proxy_protocol"] == 1
