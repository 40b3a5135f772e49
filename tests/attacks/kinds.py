"""The kinds of attacks, each with what it may cost: memory of the server, and the wait of an honest client beside it.

The bounds are wide, for a busy machine: an attack that is not bounded passes them by far within its time.
"""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.attacks.crowd import Crowd, topics_frame
from tests.support import wire

MEBIBYTE = 1 << 20
NO_MASK = bytes(4)
V1 = "Sec-WebSocket-Protocol: gows.v1"
SMALL_WINDOW = 4096
"""Receive buffer of a peer that hardly reads."""


@dataclass(frozen=True)
class Attack:
    """One kind of attack."""

    name: str
    run: Callable[[Crowd], None]
    memory: int
    """MB by which the server may grow at most."""
    quick: float | None = 1.0
    """The size at which it runs in CI, 1.0 the full one; None: only by `make attacks`."""
    kind: str = "plain"
    """The kind of server; "stuck" is a plain one all of whose workers the attack takes."""
    wait: float = 1.0
    """Seconds that nine tenths of the echoes of others wait at most."""
    seconds: float = 4.0
    """How long it lasts in CI; five times as long by hand."""


ATTACKS: list[Attack] = []


def attack(
    *, memory: int, quick: float | None = 1.0, kind: str = "plain", wait: float = 1.0, seconds: float = 4.0
) -> Callable[[Callable[[Crowd], None]], Callable[[Crowd], None]]:
    """List a function of the crowd among the attacks, by its name."""

    def add(run: Callable[[Crowd], None]) -> Callable[[Crowd], None]:
        ATTACKS.append(Attack(run.__name__, run, memory, quick, kind, wait, seconds))
        return run

    return add


def deflated(data: bytes) -> bytes:
    """A compressed payload (RFC 7692 §7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _stick(crowd: Crowd, count: int, payload: bytes, *headers: str) -> None:
    """Give handlers something from which they do not come back, and then `payload`."""
    for peer in crowd.websockets(count, "/stuck", *headers):
        crowd.push(peer, wire.frame(wire.BINARY, b"x", key=NO_MASK) + payload)


# ---------------------------------------------------------------------- HTTP


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def _post(path: str, content_type: str, body: bytes, declared: int | None = None) -> bytes:
    length = len(body) if declared is None else declared
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


@attack(memory=60)
def pipelined_pages_unread(crowd: Crowd) -> None:
    """Requests for a page of 60 kB, pipelined by one who reads nothing."""
    peers = [peer for _ in range(crowd.count(4)) if (peer := crowd.connect(SMALL_WINDOW))]
    crowd.flood(peers, lambda number: _get("/page") * 1000)


@attack(memory=60)
def pipelined_health_unread(crowd: Crowd) -> None:
    """The same for answers that the loop gives itself."""
    peers = [peer for _ in range(crowd.count(4)) if (peer := crowd.connect(SMALL_WINDOW))]
    crowd.flood(peers, lambda number: _get("/-/live") * 1000)


@attack(memory=60)
def pipelined_files_unread(crowd: Crowd) -> None:
    """The same for a file of 4 MiB."""
    peers = [peer for _ in range(crowd.count(20)) if (peer := crowd.connect(SMALL_WINDOW))]
    crowd.flood(peers, lambda number: _get("/files/large") * 100)


@attack(memory=100)
def forms_of_semicolons(crowd: Crowd) -> None:
    """Multipart forms whose part heads are long and hard to read."""
    body = b'--b\r\nContent-Disposition: form-data; name="' + b";" * 900_000 + b"\r\n\r\nx\r\n--b--\r\n"
    peers = [peer for _ in range(8) if (peer := crowd.connect())]
    crowd.flood(peers, lambda number: _post("/form", "multipart/form-data; boundary=b", body), read=True)


@attack(memory=100)
def forms_of_many_parts(crowd: Crowd) -> None:
    """Multipart forms of nothing but parts, and of nothing but beginnings of boundaries."""
    parts = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 20_000 + b"--b--\r\n"
    starts = b"\r\n--" * 250_000
    peers = [peer for _ in range(8) if (peer := crowd.connect())]
    crowd.flood(
        peers,
        lambda number: _post("/form", "multipart/form-data; boundary=b", parts if number % 2 else starts),
        read=True,
    )


@attack(memory=100)
def forms_with_long_boundaries(crowd: Crowd) -> None:
    """Content-Type fields that are hard to read."""
    types = ['multipart/form-data; boundary="' + ";" * 15_000, "multipart/form-data" + "; a=b" * 3000]
    peers = [peer for _ in range(8) if (peer := crowd.connect())]
    crowd.flood(peers, lambda number: _post("/form", types[number % 2], b"x" * 1000), read=True)


@attack(memory=100)
def deep_json(crowd: Crowd) -> None:
    """JSON of nothing but brackets."""
    peers = [peer for _ in range(4) if (peer := crowd.connect())]
    body = b"[" * 500_000 + b"]" * 500_000
    crowd.flood(peers, lambda number: _post("/json", "application/json", body), read=True)


@attack(memory=100)
def many_cookies(crowd: Crowd) -> None:
    """Heads as large as they may be, full of cookies."""
    head = b"GET /cookies HTTP/1.1\r\nHost: a\r\n" + (b"Cookie: " + b"a=b;" * 39 + b"\r\n") * 90 + b"\r\n"
    peers = [peer for _ in range(8) if (peer := crowd.connect())]
    crowd.flood(peers, lambda number: head, read=True)


@attack(memory=100)
def bodies_of_empty_lines(crowd: Crowd) -> None:
    """Chunked bodies of nothing but ends of lines, each pair of which could be the end of the body."""
    head = b"POST /form HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"80000\r\n" + b"\r\n" * 0x40000 + b"\r\n0\r\n\r\n"
    peers = [peer for _ in range(8) if (peer := crowd.connect())]
    crowd.flood(peers, lambda number: head + body, read=True)


@attack(memory=100)
def heads_of_repeated_fields(crowd: Crowd) -> None:
    """Heads as large as they may be, full of everything that a view may look at."""
    head = b"GET /cookies?" + b"%41=+&" * 900 + b" HTTP/1.1\r\nHost: a\r\n"
    head += b"".join(b"X-%d: %b\r\nx-%d: \xff\r\n" % (number, b'; =,"' * 20, number) for number in range(40)) + b"\r\n"
    peers = [peer for _ in range(8) if (peer := crowd.connect())]
    crowd.flood(peers, lambda number: head, read=True)


@attack(memory=450)
def unfinished_bodies(crowd: Crowd) -> None:
    """Request bodies of a MiB of which the last byte never comes."""
    body = _post("/form", "text/plain", bytes(MEBIBYTE - 1), MEBIBYTE)
    for _ in range(crowd.count(900)):
        peer = crowd.connect()
        if peer is None or crowd.over:
            break
        crowd.push(peer, body)
    crowd.wait()


@attack(memory=100, kind="stuck", wait=60)
def requests_of_those_who_leave(crowd: Crowd) -> None:
    """Whole requests, with a body of a MiB or a long path, while no worker is free; their senders reset at once."""
    _stick(crowd, 4, b"")
    time.sleep(0.2)  # until they have taken all workers
    requests = [_post("/form", "text/plain", bytes(MEBIBYTE)), _get("/" + "x" * 8000)]
    for number in crowd.numbers():
        peer = crowd.connect()
        if peer is not None:
            crowd.push(peer, requests[number % 2])
            peer.reset()


@attack(memory=150)
def unfinished_heads(crowd: Crowd) -> None:
    """Request heads of which the end never comes."""
    for _ in range(crowd.count(2000)):
        peer = crowd.connect()
        if peer is None or crowd.over:
            break
        crowd.push(peer, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 15_000)
    crowd.wait()


@attack(memory=200, seconds=6)
def downloads_unread(crowd: Crowd) -> None:
    """Streamed answers of a WSGI application, for peers that hardly read."""
    for _ in range(crowd.count(300)):
        peer = crowd.connect(SMALL_WINDOW)
        if peer is None or crowd.over:
            break
        crowd.push(peer, _get("/download"))
    crowd.wait()


@attack(memory=100)
def connections_that_come_and_go(crowd: Crowd) -> None:
    """Connections opened and reset at once, some in the middle of a handshake."""
    for number in crowd.numbers():
        peer = crowd.connect()
        if peer is not None:
            crowd.push(peer, wire.request("/echo")[: (number * 7) % 160])
            peer.reset()


# ---------------------------------------------------------------------- WebSocket


@attack(memory=450)
def unfinished_compressed_messages(crowd: Crowd) -> None:
    """Messages of nearly a MiB, made of a kilobyte each, that never end."""
    part = wire.frame(wire.TEXT, deflated(b"a" * (MEBIBYTE - 64)), fin=False, rsv=4, key=NO_MASK)
    for peer in crowd.websockets(crowd.count(900), "/idle", wire.DEFLATE):
        crowd.push(peer, part)
    crowd.wait()


@attack(memory=150)
def unfinished_frames(crowd: Crowd) -> None:
    """Frames that declare a MiB and bring a byte."""
    part = wire.frame(wire.BINARY, b"x", length=MEBIBYTE, key=NO_MASK)
    for peer in crowd.websockets(crowd.count(2000), "/idle"):
        crowd.push(peer, part)
    crowd.wait()


@attack(memory=450)
def unfinished_fragments(crowd: Crowd) -> None:
    """Messages of thousands of fragments of a byte, that never end."""
    parts = wire.frame(wire.BINARY, b"x", fin=False, key=NO_MASK)
    parts += wire.frame(wire.CONTINUE, b"x", fin=False, key=NO_MASK) * 16_000
    for peer in crowd.websockets(crowd.count(900), "/idle"):
        crowd.push(peer, parts)
    crowd.wait()


def _stuck(crowd: Crowd, count: int, payload: bytes, *headers: str) -> None:
    """The same to many handlers that do not come back, until the time has run out."""
    _stick(crowd, count, payload, *headers)
    crowd.wait()


@attack(memory=450, kind="stuck", wait=60)
def empty_messages_to_a_stuck_handler(crowd: Crowd) -> None:
    """Reads full of empty messages, for handlers that do not come back."""
    _stuck(crowd, crowd.count(100), wire.frame(wire.BINARY, key=NO_MASK) * 43_000)


@attack(memory=450, kind="stuck", wait=60)
def messages_that_pile_up_for_a_stuck_handler(crowd: Crowd) -> None:
    """A few kilobytes in each read, for handlers that do not come back."""
    peers = crowd.websockets(crowd.count(900), "/stuck")
    for _ in range(100):
        for peer in peers:
            crowd.push(peer, wire.frame(wire.BINARY, bytes(9000), key=NO_MASK))
        time.sleep(0.1)  # so that each is read by itself
    crowd.wait()


@attack(memory=450, kind="stuck", wait=60)
def pongs_to_a_stuck_handler(crowd: Crowd) -> None:
    """Reads full of unasked pongs, for handlers that do not come back."""
    _stuck(crowd, crowd.count(100), wire.frame(wire.PONG, key=NO_MASK) * 43_000)


@attack(memory=450, kind="stuck", wait=60)
def compressed_messages_to_a_stuck_handler(crowd: Crowd) -> None:
    """Messages of a MiB, made of a kilobyte each, for handlers that do not come back."""
    whole = wire.frame(wire.BINARY, deflated(b"a" * (MEBIBYTE - 64)), rsv=4, key=NO_MASK)
    _stuck(crowd, crowd.count(600), whole * 4, wire.DEFLATE)


@attack(memory=300)
def messages_to_waiting_coroutines(crowd: Crowd) -> None:
    """Messages of a MiB for coroutines that wait, and more for each."""
    message = wire.frame(wire.BINARY, bytes(MEBIBYTE), key=NO_MASK)
    for peer in crowd.websockets(crowd.count(600), "/async/stuck"):
        crowd.push(peer, message)
        time.sleep(0.004)  # so that it is whole before others begin
    crowd.wait()


@attack(memory=100)
def compressed_empty_messages(crowd: Crowd) -> None:
    """Compressed messages of nothing, seven bytes each, as fast as they go."""
    peers = crowd.websockets(10, "/echo", wire.DEFLATE)
    crowd.flood(peers, lambda number: b"\xc2\x81\0\0\0\0\0" * 20_000)


@attack(memory=100)
def empty_messages(crowd: Crowd) -> None:
    """Messages of nothing, six bytes each, as fast as they go."""
    peers = crowd.websockets(10, "/echo")
    crowd.flood(peers, lambda number: b"\x82\x80\0\0\0\0" * 20_000)


@attack(memory=100)
def pings_unread(crowd: Crowd) -> None:
    """Pings of one who does not read the pongs."""
    peers = crowd.websockets(10, "/echo", receive_buffer=SMALL_WINDOW)
    crowd.flood(peers, lambda number: wire.frame(wire.PING, bytes(125), key=NO_MASK) * 1000)


@attack(memory=200)  # a hundred times `high_water`, and what is read while that much waits
def echoes_unread(crowd: Crowd) -> None:
    """Messages of one who does not read their echo."""
    peers = crowd.websockets(crowd.count(100), "/echo", receive_buffer=SMALL_WINDOW)
    crowd.flood(peers, lambda number: wire.frame(wire.BINARY, bytes(60_000), key=NO_MASK))


@attack(memory=200)
def echoes_of_coroutines_unread(crowd: Crowd) -> None:
    """Messages of one who does not read their echo, each of which is a coroutine that waits for that."""
    peers = crowd.websockets(crowd.count(100), "/async/echo", receive_buffer=SMALL_WINDOW)
    crowd.flood(peers, lambda number: wire.frame(wire.BINARY, bytes(60_000), key=NO_MASK))


@attack(memory=450, wait=60)
def messages_to_a_stuck_coroutine(crowd: Crowd) -> None:
    """All kinds of messages for coroutines that do not come back: they keep no thread, so others are served."""
    peers = crowd.websockets(crowd.count(900), "/async/stuck", wire.DEFLATE)
    small = wire.frame(wire.BINARY, key=NO_MASK) * 3000
    packed = wire.frame(wire.BINARY, deflated(b"a" * (MEBIBYTE - 64)), rsv=4, key=NO_MASK)
    for payload in (small, packed, *[wire.frame(wire.BINARY, bytes(9000), key=NO_MASK)] * 50):
        for peer in peers:
            crowd.push(peer, payload)
        time.sleep(0.1)  # so that each is read by itself
    crowd.wait()


@attack(memory=200)
def bombs(crowd: Crowd) -> None:
    """Compressed messages that are a thousand times what they seem, over the limit."""
    bomb = wire.frame(wire.BINARY, deflated(bytes(64 * MEBIBYTE)), rsv=4, key=NO_MASK)
    for _ in crowd.numbers():
        peer = crowd.websocket("/echo", wire.DEFLATE)
        if peer is not None:
            crowd.push(peer, bomb)
            peer.sock.close()


# ---------------------------------------------------------------------- topics


@attack(memory=150)
def keys_of_a_megabyte(crowd: Crowd) -> None:
    """Kept messages of a byte whose keys are as long as a message may be."""
    peers = crowd.websockets(4, "/live", V1)
    text = '{"type":"publish","topic":"room.%d","data":1,"key":"%d' + "k" * 1_000_000 + '","id":1}'
    crowd.flood(peers, lambda number: topics_frame(text % (number, number)), read=True)


@attack(memory=100)
def patterns_of_many_words(crowd: Crowd) -> None:
    """Subscriptions to patterns as long as they may be, no two alike."""
    letters = random.Random(1)

    def pattern() -> str:
        words = ".".join(letters.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(123))
        return f'{{"type":"subscribe","topic":"public.{words}.*","id":1}}'

    peers = crowd.websockets(crowd.count(60), "/live", V1)
    for peer in peers:
        crowd.push(peer, b"".join(topics_frame(pattern()) for _ in range(128)))
    crowd.wait()


@attack(memory=100)
def topics_published_once(crowd: Crowd) -> None:
    """Publications to topics that nobody has heard of, each another one, for who has subscribed to all."""
    peers = crowd.websockets(crowd.count(8), "/live", V1)
    for peer in peers:
        crowd.push(peer, topics_frame('{"type":"subscribe","topic":"public.>","id":1}'))
    name = "x" * 200
    text = '{"type":"publish","topic":"public.%s%d","data":1,"id":1}'
    crowd.flood(peers, lambda number: topics_frame(text % (name, number)), read=True)


@attack(memory=150)
def history_over_and_over(crowd: Crowd) -> None:
    """Small requests for a large history, over and over."""
    peers = crowd.websockets(4, "/live", V1)
    request = topics_frame('{"type":"subscribe","topic":"room.full","history":10000,"id":1}')
    crowd.flood(peers, lambda number: request * 20, read=True)


@attack(memory=150)
def history_unread(crowd: Crowd) -> None:
    """The same by clients that do not read it."""
    peers = crowd.websockets(crowd.count(100), "/live", V1, receive_buffer=SMALL_WINDOW)
    request = topics_frame('{"type":"subscribe","topic":"room.full","history":10000,"id":1}')
    crowd.flood(peers, lambda number: request * 20)


@attack(memory=150)
def presence_of_a_hall(crowd: Crowd) -> None:
    """Small requests for the members of a large topic."""
    hall = crowd.websockets(crowd.count(1000), "/live", V1)
    for peer in hall:
        crowd.push(peer, topics_frame('{"type":"subscribe","topic":"hall"}'))
    request = topics_frame('{"type":"presence","topic":"hall","id":1}')
    crowd.flood(hall[:4], lambda number: request * 20, read=True)


@attack(memory=150)
def members_that_come_and_go(crowd: Crowd) -> None:
    """Subscribing and unsubscribing in a large topic with presence."""
    hall = crowd.websockets(crowd.count(500), "/live", V1)
    for peer in hall:
        crowd.push(peer, topics_frame('{"type":"subscribe","topic":"hall"}'))
    requests = topics_frame('{"type":"unsubscribe","topic":"hall"}') + topics_frame(
        '{"type":"subscribe","topic":"hall"}'
    )
    crowd.flood(hall[:4], lambda number: requests * 10, read=True)


@attack(memory=150)
def requests_that_no_library_likes(crowd: Crowd) -> None:
    """JSON that is deep, has huge numbers, or halves of characters."""
    texts = [
        '{"type":"publish","topic":"public.a","data":' + "[" * 900 + "]" * 900 + ',"id":1}',
        '{"type":"publish","topic":"public.a","data":1' + "0" * 4000 + ',"id":1}',
        '{"type":"publish","topic":"public.a","data":"\\ud800","id":1}',
        '{"type":"subscribe","topic":"room.a","epoch":"x","offset":1' + "0" * 4000 + ',"id":1}',
        '{"type":"publish","topic":"public.a","data":1e999,"ttl":NaN,"id":1}',
        "[" * 100_000,
    ]
    peers = crowd.websockets(4, "/live", V1)
    crowd.flood(peers, lambda number: topics_frame(texts[number % len(texts)]), read=True)


@attack(memory=150, kind="block")
def subscribers_unread(crowd: Crowd) -> None:
    """Subscribers that do not read, of a server whose policy is to wait for them."""
    readers = crowd.websockets(crowd.count(50), "/live", V1, receive_buffer=SMALL_WINDOW)
    for peer in readers:
        crowd.push(peer, topics_frame('{"type":"subscribe","topic":"public.a"}'))
    text = '{"type":"publish","topic":"public.a","data":"' + "x" * 20_000 + '","id":1}'
    crowd.flood(crowd.websockets(2, "/live", V1), lambda number: topics_frame(text), read=True)


@attack(memory=100)
def forbidden_requests(crowd: Crowd) -> None:
    """Requests that are refused, as fast as they go."""
    peers = crowd.websockets(8, "/live", V1)
    crowd.flood(peers, lambda number: topics_frame('{"type":"publish","topic":"x","data":1,"id":1}') * 50, read=True)


# ---------------------------------------------------------------------- without workers


@attack(memory=100, kind="inline")
def compressed_empty_messages_inline(crowd: Crowd) -> None:
    """Compressed messages of nothing, to a server whose callbacks run in its loop."""
    peers = crowd.websockets(10, "/echo", wire.DEFLATE)
    crowd.flood(peers, lambda number: b"\xc2\x81\0\0\0\0\0" * 20_000)


@attack(memory=200, kind="inline")
def echoes_unread_inline(crowd: Crowd) -> None:
    """Messages of one who does not read their echo, to the same."""
    peers = crowd.websockets(crowd.count(100), "/echo", receive_buffer=SMALL_WINDOW)
    crowd.flood(peers, lambda number: wire.frame(wire.BINARY, bytes(60_000), key=NO_MASK))


@attack(memory=450, kind="inline")
def lengths_that_lie(crowd: Crowd) -> None:
    """Frames with lengths of up to 2**63, wrong forms and reserved bits."""
    dice = random.Random(2)
    for _ in crowd.numbers():
        peer = crowd.websocket("/echo")
        if peer is not None:
            crowd.push(peer, bytes([dice.randrange(256), 0xFF]) + struct.pack("!Q", dice.getrandbits(64)) + bytes(100))
            peer.sock.close()
