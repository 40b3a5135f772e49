"""Two servers of two processes each on one Redis, and subscribers that write down every message while a process is
killed and a server is drained.

    python -m bench.cluster [--subscribers 20000] [--topics 2000] [--rate 1000] [--seconds 90]

A publisher of its own sends `--rate` messages a second, to one topic after the other; each subscriber follows one
topic by gows.TopicClient. After a third of the time a process of the first server is killed with -9; after two thirds
the second server is drained (its clients are told 1012) and another one takes its port. In the end every subscriber
must have every message of its topic, once and in order, and no word of a gap; all must have been acknowledged.

Needs redis-server and `gows[redis]`. Exits with 1 when something is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import gows
from bench.holding import say
from bench.serving import free_port
from bench.usage import cpu_seconds, family
from gows.brokers.redis.broker import RedisBroker

KEPT = gows.Keep(1000, 600.0)
DRAIN = 10.0
CLIENTS = 2
"""Processes of subscribers: each may have some 19,000 descriptors."""


def topic_name(number: int) -> str:
    """The name of a topic."""
    return f"bench.{number}"


def serve(port: int, url: str) -> None:
    """One server."""

    def make_server() -> gows.Server:
        server = gows.Server(
            workers=0, may_subscribe=lambda ws, topic: True, keep=lambda topic: KEPT, broker=RedisBroker(url)
        )
        gows.serve_topics(server, "/live", script=None)
        return server

    gows.run(make_server, ("127.0.0.1", port), processes=2, drain=DRAIN)


class Subscriber:
    """One, with all that it has heard."""

    def __init__(self, url: str, topic: str) -> None:
        self.heard: list[int] = []
        self.lost = 0
        self.latest = 0.0
        self.delays: list[float] = []
        self.topic = topic
        self.client = gows.TopicClient(url, timeout=30.0)
        self.subscription = self.client.subscribe(topic, self._hear, lost=self._lose)

    def _hear(self, data: Any, topic: str) -> None:
        self.heard.append(data["n"])
        if len(self.heard) % 8 == 0:
            self.delays.append(time.time() - data["at"])

    def _lose(self, topic: str) -> None:
        self.lost += 1


def follow(ports: list[int], first: int, count: int, topics: int) -> None:
    """The subscribers of one process. Reads a line for each thing to do, answers with a line of JSON."""

    def make(number: int) -> Subscriber:
        made = Subscriber(f"ws://127.0.0.1:{ports[number % len(ports)]}/live", topic_name(number % topics))
        made.subscription.ready.result(30)
        return made

    with ThreadPoolExecutor(16) as pool:
        subscribers = list(pool.map(make, range(first, first + count)))
    print(json.dumps({"ready": len(subscribers)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "count":
            answer: dict[str, Any] = {
                "connected": sum(subscriber.client.connected for subscriber in subscribers),
                "heard": sum(len(subscriber.heard) for subscriber in subscribers),
            }
        else:
            expected = {topic_name(number): total for number, total in enumerate(asked["published"])}
            wrong = [s for s in subscribers if s.heard != list(range(expected[s.topic]))]
            delays = sorted(delay for subscriber in subscribers for delay in subscriber.delays)
            answer = {
                "complete": count - len(wrong),
                "heard": sum(len(subscriber.heard) for subscriber in subscribers),
                "lost": sum(subscriber.lost for subscriber in subscribers),
                "twice": sum(len(s.heard) - len(set(s.heard)) for s in subscribers),
                "disorder": sum(s.heard != sorted(s.heard) for s in subscribers),
                "missing": sum(len(set(range(expected[s.topic])) - set(s.heard)) for s in subscribers),
                "p50": delays[len(delays) // 2] if delays else 0.0,
                "p99": delays[len(delays) * 99 // 100] if delays else 0.0,
                "longest": delays[-1] if delays else 0.0,
            }
        print(json.dumps(answer), flush=True)


class Publisher:
    """A server that serves nobody, and publishes."""

    def __init__(self, url: str, topics: int, rate: float) -> None:
        self.published = [0] * topics
        self.acknowledged = 0
        self.failed = 0
        self.server = gows.Server(workers=0, broker=RedisBroker(url, outage="queue"))
        self.server.start()
        self._rate = rate
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self.began = time.monotonic()
        self._thread.start()

    def _publish(self) -> None:
        sent = 0
        while not self._ended.wait(0.01):
            due = int((time.monotonic() - self.began) * self._rate)
            while sent < due:
                number = sent % len(self.published)
                data = {"n": self.published[number], "at": time.time(), "pad": "x" * 60}
                self.server.publish(topic_name(number), data, history=KEPT, done=self._done)
                self.published[number] += 1
                sent += 1

    def _done(self, error: Exception | None) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.failed += 1

    def end(self) -> None:
        """Until all is answered."""
        self._ended.set()
        self._thread.join()
        end = time.monotonic() + 20
        while self.acknowledged + self.failed < sum(self.published) and time.monotonic() < end:
            time.sleep(0.05)
        self.server.stop()


@contextmanager
def child(*words: Any, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of ours; it is ended by its own number."""
    process = subprocess.Popen([*map(str, words)], text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(DRAIN + 20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ask(process: subprocess.Popen[str], **what: Any) -> dict[str, Any]:
    """What a process of subscribers answers."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()
    return answer(process)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Its next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("bench.cluster: the subscribers' process has ended")
    found: dict[str, Any] = json.loads(line)
    return found


def workers(server: subprocess.Popen[str]) -> list[int]:
    """The processes of a server that serve."""
    return [pid for pid in family(server.pid) if pid != server.pid]


def measure(subscribers: int, topics: int, rate: float, seconds: float) -> bool:
    """All of it; whether nothing was missing."""
    redis_program = shutil.which("redis-server")
    if redis_program is None:
        raise SystemExit("bench.cluster: redis-server is not installed")
    me = [sys.executable, "-m", "bench.cluster"]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        redis_port, *ports = free_port(), free_port(), free_port()
        url = f"redis://127.0.0.1:{redis_port}/0"
        settings = ["--bind", "127.0.0.1", "--save", "", "--dir", folder, "--logfile", "log"]
        redis = stack.enter_context(child(redis_program, "--port", redis_port, *settings))
        time.sleep(0.5)
        log = stack.enter_context(open(os.path.join(folder, "servers"), "w+"))
        servers = [stack.enter_context(child(*me, "--serve", port, "--redis", url, stderr=log)) for port in ports]
        time.sleep(2.0)
        say(f"{subscribers:,} subscribers come")
        began = time.monotonic()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        each = subscribers // CLIENTS
        clients = [
            stack.enter_context(
                child(*me, "--follow", *ports, "--first", at * each, "--subscribers", each, "--topics", topics, **pipes)
            )
            for at in range(CLIENTS)
        ]
        ready = sum(answer(client)["ready"] for client in clients)
        say(f"{ready:,} are subscribed, after {time.monotonic() - began:.0f} s")
        publisher = Publisher(url, topics, rate)
        used = {server.pid: cpu_seconds(family(server.pid)) for server in servers}

        def until(share: float) -> None:
            while time.monotonic() - publisher.began < share * seconds:
                time.sleep(1.0)
                counts = [ask(client, do="count") for client in clients]
                connected, heard = (sum(count[key] for count in counts) for key in ("connected", "heard"))
                say(f"{sum(publisher.published):,} published, {heard:,} heard, {connected:,} connected", end="\r")

        until(1 / 3)
        spent = sum(cpu_seconds(family(server.pid)) - used[server.pid] for server in servers)
        per_delivery = spent / (seconds / 3 * rate * subscribers / topics)
        victim = random.choice(workers(servers[0]))
        os.kill(victim, signal.SIGKILL)
        say(f"process {victim} of the first server is killed")
        until(2 / 3)
        say("the second server is drained, and another one takes its port")
        servers[1].terminate()
        servers[1].wait(DRAIN + 20)
        stack.enter_context(child(*me, "--serve", ports[1], "--redis", url, stderr=log))
        until(1.0)
        publisher.end()
        end = time.monotonic() + 60
        while True:
            found = [ask(client, do="check", published=publisher.published) for client in clients]
            if sum(each["complete"] for each in found) == ready or time.monotonic() > end:
                break
            time.sleep(1.0)
        log.seek(0)
        errors = [line for line in log if "Traceback" in line]
    total = {key: sum(each[key] for each in found) for key in found[0] if key not in ("p50", "p99", "longest")}
    published = sum(publisher.published)
    print(f"\nsubscribers          {ready:,}, of {topics:,} topics, at two servers of two processes on one Redis")
    print(f"published            {published:,} in {seconds:.0f} s; acknowledged {publisher.acknowledged:,}")
    print(
        f"delivered            {total['heard']:,}; {per_delivery * 1e6:.0f} us CPU each in the servers, all their work"
    )
    print(f"complete, in order   {total['complete']:,} subscribers")
    print(
        f"missing, twice, out of order, told of a gap: {[total[k] for k in ('missing', 'twice', 'disorder', 'lost')]}"
    )
    delays = ", ".join(f"{key} {max(each[key] for each in found) * 1000:,.0f} ms" for key in ("p50", "p99", "longest"))
    print(f"from publish to callback: {delays} (recovered ones included)")
    print(f"tracebacks in the servers' log: {len(errors)}")
    redis.poll()
    return total["complete"] == ready and total["lost"] == 0 and publisher.acknowledged == published and not errors


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=__doc__.split("\n\n")[0])
    parser.add_argument("--subscribers", type=int, default=20_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--topics", type=int, default=2_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=1_000.0, metavar="N", help="messages a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=90.0, metavar="S", help="of publishing (default: %(default)s)")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    parser.add_argument("--follow", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve, args.redis)
        return 0
    if args.follow is not None:
        follow(args.follow, args.first, args.subscribers, args.topics)
        return 0
    if min(args.subscribers, args.topics) < CLIENTS or args.rate <= 0 or args.seconds < 3:
        parser.error("there must be some subscribers and topics, a rate, and 3 seconds at least")
    return 0 if measure(args.subscribers, args.topics, args.rate, args.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
