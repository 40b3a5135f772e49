"""Load tests for a gows server, and for any that echoes: locust -f loadtest/

EchoUser       sends a message every --echo-interval seconds, and measures until it comes back
IdleUser       connects, answers pings, and says nothing
ChatUser       sends a message with its time every --chat-interval seconds on --chat-path, where each goes to everybody,
               and measures how old the messages of all are when they arrive (hosts' clocks must agree)
ReconnectUser  connects, echoes once, leaves, and comes again after --reconnect-interval seconds

The target is `gows echo --broadcast-path /broadcast`. README.md says more.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from _client import PATIENCE, WebSocketUser
from _shapes import SHAPES
from locust import constant, events, runners, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

runners.HEARTBEAT_LIVENESS = 60  # a worker with 10,000 users that all connect is late, not lost


def seconds(text: str) -> float:
    """A number of seconds from 0."""
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"a number of seconds, not {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0, not {text!r}")
    return int(text)


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Options of our own, for the command line and the web page."""
    group = parser.add_argument_group("WebSocket options")
    group.add_argument("--path", default="/", help="path of all but ChatUser (default: /)")
    group.add_argument("--chat-path", default="/broadcast", help="path of ChatUser (default: /broadcast)")
    group.add_argument("--payload-size", type=whole, default=64, help="bytes of a message (default: 64)")
    group.add_argument("--echo-interval", type=seconds, default=10.0, help="seconds (default: 10)")
    group.add_argument("--chat-interval", type=seconds, default=10.0, help="seconds (default: 10)")
    group.add_argument("--reconnect-interval", type=seconds, default=30.0, help="seconds (default: 30)")
    group.add_argument(
        "--chat-users",
        type=whole,
        default=40,
        help="how many of the users are ChatUsers (default: 40): each message goes to all of them",
    )
    group.add_argument(
        "--source-addresses",
        type=whole,
        default=64,
        help="to a loopback address, connect from so many of 127.0.0.0/8, for each has some 28,000 ports (default: 64)",
    )
    group.add_argument("--shape", choices=sorted(SHAPES), default=None, help="a load shape instead of plain -u and -r")


@events.init.add_listener
def apply_options(environment: Environment, **_more: Any) -> None:
    """The number of ChatUsers, and the shape."""
    options = environment.parsed_options
    if options is None:
        return
    ChatUser.fixed_count = options.chat_users
    if options.shape is not None:
        time_limit = options.run_time or 600
        environment.shape_class = SHAPES[options.shape](options.num_users or 1, options.spawn_rate or 1, time_limit)
        options.run_time = None  # it is the shape's to end


class EchoUser(WebSocketUser):
    """Sends, waits for the echo, and rests."""

    weight = 8
    wait_time = constant(0)

    @tag("echo")
    @task
    def echo(self) -> None:
        if not self.connected():
            return
        self.round_trip()
        self.listen(self.options.echo_interval * random.uniform(0.5, 1.5))

    def round_trip(self) -> None:
        """One message, and its echo."""
        text = f"{random.getrandbits(63):x} ".ljust(self.options.payload_size, "x")
        began = time.perf_counter()
        if not self.send(text):
            return
        while (answer := self.receive(began + PATIENCE - time.perf_counter())) is not None:
            if answer == text:
                self.report("echo", began, size=len(text))
                return
        if self.ws is not None:
            self.report("echo", began, exception=TimeoutError(f"no echo within {PATIENCE:g} s"))


class IdleUser(WebSocketUser):
    """Holds a connection."""

    weight = 90
    wait_time = constant(0)

    @tag("idle")
    @task
    def idle(self) -> None:
        if self.connected():
            self.listen(3600.0)


class ChatUser(WebSocketUser):
    """One of few who all hear each other."""

    fixed_count = 40
    wait_time = constant(0)

    def path(self) -> str:
        path: str = self.options.chat_path
        return path

    @tag("chat")
    @task
    def chat(self) -> None:
        if not self.connected():
            return
        self.hear(self.options.chat_interval * random.uniform(0.5, 1.5))
        if self.ws is not None:
            self.send(f"chat {time.time():.6f} ".ljust(self.options.payload_size, "x"))

    def hear(self, seconds: float) -> None:
        """Listen for so long, and measure how old messages are."""
        end = time.perf_counter() + seconds
        while self.ws is not None and (left := end - time.perf_counter()) > 0:
            message = self.receive(left)
            if isinstance(message, str) and message.startswith("chat "):
                age = time.time() - float(message.split(" ", 2)[1])
                self.report_time("fan-out", age * 1000, size=len(message))


class ReconnectUser(EchoUser):
    """Comes and goes."""

    weight = 2
    wait_time = constant(0)

    @tag("reconnect")
    @task
    def echo(self) -> None:
        if self.connected():
            self.round_trip()
            self.close()
        self.sleep(self.options.reconnect_interval * random.uniform(0.5, 1.5))
