"""Tortures sessions with real threads: eight of them write, stream, publish, subscribe and close on the same few
connections, while workers run callbacks and the peers read slowly. In the end every message is accounted for: it came,
in the order of its thread; or its write raised; or a policy dropped it and counted that.

    python -m tests.session.torture --seconds 300 [--seed 7] [--policy block]

runs rounds of about a second, each with other settings, until the time is over. The suite runs one round of each policy
(test_torture.py). What threads do depends on the machine, so a seed chooses the settings, but repeats no run exactly.
GOWS_DEBUG is set unless it is 0: locks and threads are checked as well.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOWS_DEBUG", "1")  # before gows is imported, which reads it then

import argparse
import random
import socket
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from gows import AcceptOptions, ByteBuffer, Handler, Opcode, Request, Server, WebSocket, accept
from gows.errors import ConnectionClosedError, QueueFullError, WriterBusyError
from gows.options import OVERFLOW_POLICIES
from tests.support import wire
from tests.support.addresses import tcp

THREADS = 8
PEERS = 5
TOPICS = ("a", "b.c", "b.>")
WORKER = THREADS
"""The number by which the messages go that a handler writes."""
PATIENCE = 30.0
"""Seconds after which something hangs."""


@dataclass(frozen=True)
class Settings:
    """One round."""

    policy: str
    rough: bool
    """Connections are closed and reset amid it all; else only in the end, and in order."""
    seed: int = 0
    seconds: float = 0.5
    deflate: bool = False
    streams: bool = False
    """Some messages are written in pieces. Their policy is asked more than once, so counters are not compared."""
    workers: int = 2
    max_queued: int | None = None

    @classmethod
    def choose(cls, rng: random.Random, policy: str | None = None, seconds: float = 1.0) -> Settings:
        return cls(
            policy=policy or rng.choice(OVERFLOW_POLICIES),
            rough=rng.random() < 0.4,
            seed=rng.getrandbits(32),
            seconds=seconds,
            deflate=rng.random() < 0.3,
            streams=rng.random() < 0.4,
            workers=rng.choice([0, 1, 2, 4]),
            max_queued=rng.choice([None, None, 50_000]),
        )


class Ledger:
    """What one thread has written to one connection (or published); only that thread changes it."""

    def __init__(self) -> None:
        self.next = 0
        self.passed: list[int] = []
        self.refused: set[int] = set()

    def write(self, action: Callable[[str], object], prefix: str, size: int, raised: Counter[str]) -> None:
        number, self.next = self.next, self.next + 1
        try:
            action(f"{prefix}:{number}:{'x' * size}")
        except WriterBusyError:
            self.refused.add(number)
        except QueueFullError:
            self.refused.add(number)
            raised["full"] += 1
        except ConnectionClosedError:
            self.refused.add(number)
            raised["closed"] += 1
        else:
            self.passed.append(number)


class Talker(Handler):
    """Answers what comes, and notes whether it came in order."""

    def __init__(self, torture: Torture) -> None:
        self.torture = torture
        self.ledgers = [Ledger() for _ in range(THREADS + 1)]
        self.raised: Counter[str] = Counter()
        self.messages: list[str] = []
        self.inside = False
        self.ended = threading.Event()
        self.drained = 0

    def on_open(self, ws: WebSocket) -> None:
        self.ws = ws
        assert ws.request is not None
        self.torture.talkers[int(ws.request.query["n"])] = self

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.enter("on_message")
        self.messages.append(buff.get_string())
        self.ledgers[WORKER].write(lambda text: ws.write_string(text, key="w"), f"d{WORKER}", 10, self.raised)
        self.inside = False

    def on_drain(self, ws: WebSocket) -> None:
        self.enter("on_drain")
        self.drained += 1
        self.inside = False

    def on_close(self, ws: WebSocket) -> None:
        self.enter("on_close")
        assert not self.ended.is_set(), "on_close came twice"
        self.ended.set()

    def has(self, count: int) -> bool:
        return len(self.messages) >= count

    def enter(self, name: str) -> None:
        if self.inside or self.ended.is_set():
            self.torture.faults.append(f"{name} came amid another callback, or after on_close")
        self.inside = True


class Peer:
    """A client that reads slowly, until it is told to hurry."""

    def __init__(self, number: int, address: tuple[str, int], deflate: bool) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self.sock.sendall(wire.request(f"/ws?n={number}", *([wire.DEFLATE] if deflate else [])))
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.sock.recv(4096)
        head, _, rest = head.partition(b"\r\n\r\n")
        assert b" 101 " in head, head
        self.sock.setblocking(False)
        self.received: list[str] = []
        self.sent = 0
        self.end = ""
        self.closed = False
        self._inflate = zlib.decompressobj(-15) if b"permessage-deflate" in head else None
        self._reader = wire.FrameReader()
        self._message = b""
        self._compressed = False
        self._out = bytearray()
        self._take(rest)

    def say(self) -> None:
        self._out += wire.frame(wire.TEXT, str(self.sent))
        self.sent += 1

    def ping(self) -> None:
        self._out += wire.frame(wire.PING, "?")

    @property
    def flushed(self) -> bool:
        return not self._out or bool(self.end)

    def work(self, most: int) -> None:
        """Send what is due, and read at most so many bytes."""
        if self.end:
            return
        try:
            if self._out:
                del self._out[: self.sock.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()
        try:
            data = self.sock.recv(most) if most else None
        except BlockingIOError:
            return
        except OSError:
            self.end = "RST"
            return
        if data == b"":
            self.end = "FIN"
            self.sock.close()
        elif data:
            self._take(data)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()
        self.end = "reset"

    def _take(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            if frame.opcode == wire.CLOSE:
                self.closed = True
                self._out += wire.close(frame.close_code)
            elif frame.opcode < 8:
                assert not self.closed, "a message after the close frame"
                assert (frame.opcode == wire.CONTINUE) is bool(self._message), "fragments of two messages"
                self._compressed = self._compressed or frame.rsv == 4
                self._message += frame.payload or b" "[: not frame.fin]
                if frame.fin:
                    self._finish()

    def _finish(self) -> None:
        message, compressed = self._message, self._compressed
        self._message, self._compressed = b"", False
        if compressed:
            assert self._inflate is not None
            message = self._inflate.decompress(message + wire.DEFLATE_TAIL)
        self.received.append(message.decode())


class Torture:
    """One round."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults: list[str] = []
        self.talkers: dict[int, Talker] = {}
        self.published = [Ledger() for _ in range(THREADS)]
        self.raised = [Counter[str]() for _ in range(THREADS)]
        self.rng = random.Random(settings.seed)
        self.stop = threading.Event()  # nobody begins anything any more
        self.hurry = threading.Event()  # peers read all that is there
        self.over = threading.Event()
        self.options = AcceptOptions(
            overflow=settings.policy,
            high_water=8192,
            low_water=1000,
            send_buffer=4096,
            ping_interval=None,
            write_timeout=PATIENCE,
            close_timeout=PATIENCE,
            compression=settings.deflate,
            min_compress_size=0,
        )

    def run(self) -> dict[str, int]:
        """Run it. Return numbers; raises AssertionError if a message is not accounted for, or something hangs."""
        self.server = Server(workers=self.settings.workers, max_queued=self.settings.max_queued)
        self.server.add_route("/ws", self.view)
        self.server.start("127.0.0.1:0")
        try:
            address = tcp(self.server.addresses[0])
            self.peers = [Peer(number, address, self.settings.deflate) for number in range(PEERS)]
            self.wait(lambda: len(self.talkers) == PEERS, "connections opened")
            threads = [
                threading.Thread(target=self.guarded, args=(self.write, number), name=f"writer {number}", daemon=True)
                for number in range(THREADS)
            ]
            threads.append(threading.Thread(target=self.guarded, args=(self.read,), name="peers", daemon=True))
            for thread in threads:
                thread.start()
            time.sleep(self.settings.seconds)
            self.stop.set()
            self.hurry.set()
            for thread in threads[:-1]:
                thread.join(PATIENCE)
                assert not thread.is_alive(), f"{thread.name} hangs"
            self.end_connections()
            self.over.set()
            threads[-1].join(PATIENCE)
            assert not threads[-1].is_alive(), "the peers hang"
        finally:
            self.stop.set()
            self.over.set()
            self.server.stop(timeout=1)
            for peer in getattr(self, "peers", ()):
                peer.sock.close()
        assert not self.faults, self.faults
        return self.check()

    def view(self, request: Request) -> None:
        accept(request, self.options).serve(Talker(self))

    def guarded(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except BaseException as error:
            self.faults.append(f"{threading.current_thread().name}: {type(error).__name__}: {error}")
            self.stop.set()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert not self.faults, self.faults
            assert time.monotonic() < end, f"not {what} within {PATIENCE:g} s"
            time.sleep(0.002)

    def end_connections(self) -> None:
        server = self.server
        self.wait(lambda: not server.fanout.busy and not server.news.busy, "published")
        if not self.settings.rough and self.settings.policy != "close":
            self.wait(lambda: all(peer.flushed for peer in self.peers), "sent by the peers")
            for number, talker in self.talkers.items():
                sent = self.peers[number].sent
                self.wait(partial(talker.has, sent), "received by the handlers")
        for talker in self.talkers.values():
            talker.ws.close_handshake()
        for talker in self.talkers.values():
            assert talker.ended.wait(PATIENCE), f"{talker.ws} does not end"
        self.wait(lambda: all(peer.end for peer in self.peers), "read to the end")

    # ------------------------------------------------------------------ what threads do

    def write(self, me: int) -> None:
        rng = random.Random(self.settings.seed * THREADS + me)
        talkers, raised, server = list(self.talkers.values()), self.raised[me], self.server
        while not self.stop.is_set():
            talker = rng.choice(talkers)
            ws, ledger = talker.ws, talker.ledgers[me]
            chance, size = rng.random(), rng.choice([0, 10, 100, 1000])
            prefix = f"d{me}"
            if chance < 0.4:
                ledger.write(partial(ws.write_string, key=me), prefix, size, raised)
            elif chance < 0.7:
                ledger.write(partial(write_plain, ws, me), prefix, size, raised)
            elif chance < 0.78:
                if self.settings.streams:
                    size = rng.choice([10, 1000, 20000]) if self.settings.policy == "block" else 10
                    ledger.write(partial(stream, ws), prefix, size, raised)
            elif chance < 0.86:
                # to one topic, whose order is kept; a key stands for different messages in different topics
                topic = TOPICS[me % 2]
                publish = self.published[me].write
                publish(partial(server.publish, topic, key=f"p{me}"), f"p{me}", size, raised)
            elif chance < 0.93:
                try:
                    rng.choice([ws.subscribe, ws.unsubscribe])(rng.choice(TOPICS))
                except ConnectionClosedError:
                    pass
            elif chance < 0.95:
                ws.set_read_timeout(rng.choice([100.0, 200.0]))
            elif chance < 0.96 and self.settings.rough and rng.random() < 0.1:
                rng.choice([ws.close, ws.close_handshake])()
            else:
                time.sleep(rng.random() * 0.004)

    def read(self) -> None:
        """The peers: one thread for all."""
        rng = random.Random(self.settings.seed)
        while not (self.over.is_set() or all(peer.end for peer in self.peers)):
            for peer in self.peers:
                if not self.stop.is_set() and peer.flushed and rng.random() < 0.2:
                    (peer.say if rng.random() < 0.8 else peer.ping)()
                if self.settings.rough and not self.stop.is_set() and rng.random() < 0.001 and not peer.end:
                    peer.reset()
                if self.hurry.is_set():
                    peer.work(65536)
                elif rng.random() < 0.5:
                    peer.work(rng.choice([0, 100, 4000]))
            time.sleep(0 if self.hurry.is_set() else 0.002)

    # ------------------------------------------------------------------ the account

    def check(self) -> dict[str, int]:
        """Compare what was written with what came."""
        settings, counts, fanout = self.settings, self.server.overflow.counts, self.server.fanout
        passed = missing = came_published = came = 0
        for number, talker in self.talkers.items():
            peer = self.peers[number]
            found: dict[str, list[int]] = defaultdict(list)
            for text in peer.received:
                who, at, _ = text.split(":")
                found[who].append(int(at))
            for thread in range(THREADS + 1):
                ledger, numbers = talker.ledgers[thread], found.pop(f"d{thread}", [])
                where = f"thread {thread}, connection {number}"
                self.check_order(where, ledger, numbers)
                lost = len(ledger.passed) - len(numbers)
                if settings.policy in ("refuse", "block"):
                    assert ledger.passed[: len(numbers)] == numbers, f"{where}: lost one amid others"
                    assert settings.rough or not lost, f"{where}: {lost} were lost"
                passed += len(ledger.passed)
                missing += lost
                came += len(numbers)
            for thread in range(THREADS):
                numbers = found.pop(f"p{thread}", [])
                self.check_order(f"published by {thread}, connection {number}", self.published[thread], numbers)
                came_published += len(numbers)
            assert not found, found.keys()
            said = [str(at) for at in range(peer.sent)]
            assert talker.messages == said[: len(talker.messages)], f"connection {number}: messages of the peer"
        full = sum(raised["full"] for raised in (*self.raised, *(talker.raised for talker in self.talkers.values())))
        if not settings.rough and not settings.streams:
            lost_published = fanout.delivered - came_published
            if settings.policy == "close":
                assert missing + lost_published <= counts["closed"], (missing, counts)
            elif settings.policy in ("drop_oldest", "latest"):
                assert missing + lost_published == counts["dropped_oldest"] + counts["replaced"], (missing, counts)
            else:
                assert lost_published == 0, (fanout.delivered, came_published)
                if settings.policy == "drop":
                    assert missing + fanout.missed == counts["dropped"], (missing, fanout.missed, counts)
                else:
                    refused = counts["refused"] + counts["block_timeouts"]
                    assert full + fanout.missed == refused, (full, fanout.missed, counts)
        return {
            "written": passed,
            "came": came,
            "published": came_published,
            "refused": full,
            "drained": sum(talker.drained for talker in self.talkers.values()),
            **{cause: number for cause, number in counts.items() if number and cause != "refused"},
        }

    def check_order(self, where: str, ledger: Ledger, numbers: list[int]) -> None:
        assert all(one < two for one, two in pairwise(numbers)), f"{where}: out of order"
        assert not ledger.refused.intersection(numbers), f"{where}: one came whose write raised"
        assert set(numbers) <= set(ledger.passed), f"{where}: one came that was never written"


def write_plain(ws: WebSocket, key: int, text: str) -> None:
    """Write a message that is not compressed."""
    ws.write_binary(text.encode(), compress=False, key=key)


def stream(ws: WebSocket, text: str) -> None:
    """Write a message in pieces."""
    with ws.next_writer() as writer:
        for at in range(0, len(text), 7000):
            writer.write_string(text[at : at + 7000])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.session.torture", description="Torture sessions.")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (default %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round's settings")
    parser.add_argument("--policy", choices=OVERFLOW_POLICIES, help="this one only")
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    end = time.monotonic() + chosen.seconds
    rounds = 0
    while time.monotonic() < end:
        settings = Settings.choose(rng, chosen.policy)
        print(settings, flush=True)
        print("   ", Torture(settings).run(), flush=True)
        rounds += 1
    print(f"{rounds} rounds, every message accounted for")


if __name__ == "__main__":
    main()
