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
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from _client import PATIENCE, WebSocketUser
from _shapes import SHAPES
from flask import jsonify, request
from flask_login import current_user
from gevent import get_hub
from locust import constant, events, runners, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.util.timespan import parse_timespan

if TYPE_CHECKING:
    from _shapes import Shape  # Locust runs each shape class that it finds here

PLAIN = "none"
"""No shape."""

runners.HEARTBEAT_LIVENESS = 60  # a worker with 10,000 users that all connect is late, not lost


def seconds(text: str) -> float:
    """A number of seconds from 0."""
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"a number of seconds, not {text!r}")
    return value


def rate(text: str) -> float:
    """Users a second, above 0."""
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"a number of users a second, not {text!r}")
    return value


def timespan(text: str) -> int | None:
    """Seconds, of Locust's notation; None of an empty text."""
    try:
        return parse_timespan(text) if text else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"a time like 90, 20s, 3m or 1h20m, not {text!r}") from None


def whole(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0, not {text!r}")
    return int(text)


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Options of our own, for the command line and the web page. The page shows what was added to the parser itself,
    and not what is in a group of it."""
    add = parser.add_argument
    add("--path", default="/", help="path of all but ChatUser (default: /)")
    add("--chat-path", default="/broadcast", help="path of ChatUser (default: /broadcast)")
    add("--payload-size", type=whole, default=64, help="bytes of a message (default: 64)")
    add("--echo-interval", type=seconds, default=10.0, help="seconds between an EchoUser's messages (default: 10)")
    add("--chat-interval", type=seconds, default=10.0, help="seconds between a ChatUser's messages (default: 10)")
    add("--reconnect-interval", type=seconds, default=30.0, help="seconds that a ReconnectUser is away (default: 30)")
    add(
        "--chat-users",
        type=whole,
        default=40,
        help="how many of the users are ChatUsers (default: 40): each message goes to all of them",
    )
    add(
        "--source-addresses",
        type=whole,
        default=64,
        help="to a loopback address, connect from so many of 127.0.0.0/8, for each has some 28,000 ports (default: 64)",
    )
    add("--shape", choices=[PLAIN, *sorted(SHAPES)], default=PLAIN, help="a load shape instead of plain -u and -r")


CHECKS: dict[str, Callable[[str], Any]] = {
    "user_count": whole,
    "spawn_rate": rate,
    "run_time": timespan,
    "payload_size": whole,
    "echo_interval": seconds,
    "chat_interval": seconds,
    "reconnect_interval": seconds,
    "chat_users": whole,
    "source_addresses": whole,
}
"""How the values of the page's form are read, Locust's own too: some releases start with any of them, or answer with an
error 500. The command line's are read by the parser."""


@events.init.add_listener
def set_clock(**_more: Any) -> None:
    """Set the clock of gevent's loop, which has stood since the loop turned last: timers count from it, so that a slow
    machine took the seconds that it needed to load all this off the run."""
    get_hub().loop.update_now()


@events.init.add_listener
def apply_options(environment: Environment, **_more: Any) -> None:
    """The number of ChatUsers, and the shape, of the command line; then those of each run that the page starts."""
    options = environment.parsed_options
    if options is None:
        return
    ChatUser.fixed_count = options.chat_users
    if options.shape != PLAIN:
        environment.shape_class = make_shape(options.shape, options.num_users, options.spawn_rate, options.run_time)
        options.run_time = None  # it is the shape's to end
    if environment.web_ui is not None and environment.web_ui.app is not None:
        environment.web_ui.app.before_request(partial(apply_form, environment))


def read(name: str, text: str) -> Any:
    """Read a value of the form. Raises ArgumentTypeError with its name."""
    try:
        return CHECKS[name](text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from None


def make_shape(name: str, users: int | None, rate: float | None, limit: float | None) -> Shape:
    """A load shape by its name: users, users a second, and seconds."""
    return SHAPES[name](users or 1, rate or 1, limit or 600)


def apply_form(environment: Environment) -> Any:
    """Before Locust starts a run from the page's form: check our values, and apply those that are no plain options.
    Returns an answer that refuses, or None."""
    if request.method != "POST" or not request.path.endswith("/swarm"):
        return None
    if environment.web_ui is not None and environment.web_ui.web_login and not current_user.is_authenticated:
        return None  # Locust refuses it
    form = request.form
    try:
        values = {name: read(name, form[name]) for name in CHECKS if name in form}
        shape = form.get("shape", PLAIN)
        if shape not in (PLAIN, *SHAPES):
            raise ValueError(f"a shape is one of {', '.join((PLAIN, *SHAPES))}, not {shape!r}")
        if shape != PLAIN:
            chosen = make_shape(shape, values["user_count"], values["spawn_rate"], values.get("run_time"))
    except (argparse.ArgumentTypeError, KeyError, ValueError) as error:
        return jsonify({"success": False, "message": f"not started: {error}", "host": environment.host})
    if environment.runner is None or environment.runner.state in ("running", "spawning"):
        return None  # an edit: what a run began with stays
    ChatUser.fixed_count = values.get("chat_users", ChatUser.fixed_count)
    environment.shape_class = None if shape == PLAIN else chosen
    return None


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
