"""Locust's web page: it asks for the options of loadtest/, and a run goes by what is filled in."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.addresses import free_port
from tests.support.needs import missing
from tests.support.processes import Children, start_echo
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def page() -> Iterator[tuple[Ask, str]]:
    """Ask Locust's page, and the address of an echo server."""
    if find_spec("locust") is None:  # to import it would change this process
        missing("the Python module locust")
    port = free_port()
    with Children() as children:
        host = f"ws://127.0.0.1:{start_echo(children, '--broadcast-path', '/broadcast')}"
        web = ["--web-host", "127.0.0.1", "--web-port", str(port), "--host", host]
        locust = children.start(
            [sys.executable, "-W", "ignore", "-m", "locust", "-f", "loadtest/", *web, "--payload-size", "70"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def ask(path: str, **form: object) -> Any:
            data = urlencode(form).encode() if form else None
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data, 30.0) as answer:
                text = answer.read().decode()
            return json.loads(text) if path else text

        def is_up() -> bool:
            assert locust.poll() is None
            try:
                return bool(ask(""))
            except urllib.error.URLError:
                return False

        wait_until(is_up, 60.0)
        yield ask, host


@pytest.fixture
def run(page: tuple[Ask, str]) -> Iterator[Ask]:
    """Fill in the form and start a run; what the page answers."""
    ask, host = page
    values = {"user_count": 6, "spawn_rate": 100, "host": host, "run_time": "", "shape": "none"}
    yield lambda **changes: ask("swarm", **(values | changes))
    stop(ask)
    wait_until(lambda: ask("stats/requests")["state"] in ("stopped", "ready"), 30.0)


def stop(ask: Ask) -> None:
    """Press Stop: POST in Locust 2.47, GET in older releases."""
    try:
        ask("stop", now=1)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.METHOD_NOT_ALLOWED:
            raise
        ask("stop")


def sizes(ask: Ask) -> dict[str, float]:
    """By what was measured, the bytes of its messages."""
    stats = ask("stats/requests")["stats"]
    return {each["name"]: each["avg_content_length"] for each in stats if each["num_requests"]}


def test_the_page_shows_our_options(page: tuple[Ask, str]) -> None:
    text = page[0]("")
    arguments, _ = json.JSONDecoder().raw_decode(text, text.index("window.templateArgs = ") + 22)
    shown = {name: (option["default_value"], option["choices"]) for name, option in arguments["extra_options"].items()}
    assert shown == {
        "path": ("/", None),
        "chat_path": ("/broadcast", None),
        "payload_size": (70, None),
        "echo_interval": (10.0, None),
        "chat_interval": (10.0, None),
        "reconnect_interval": (30.0, None),
        "chat_users": (40, None),
        "source_addresses": (64, None),
        "shape": ("none", ["none", "ramp", "storm"]),
    }
    assert all(option["help_text"] for option in arguments["extra_options"].values())


def test_a_run_goes_by_what_is_filled_in(page: tuple[Ask, str], run: Ask) -> None:
    ask, _ = page
    assert run(payload_size=333, chat_interval=0.1, chat_users=6)["success"] is True
    wait_until(lambda: "fan-out" in sizes(ask), 30.0)
    assert sizes(ask)["fan-out"] == 333.0
    assert "echo" not in sizes(ask), "all six are ChatUsers"


def test_the_next_run_goes_by_its_own(page: tuple[Ask, str], run: Ask) -> None:
    ask, _ = page
    values = {"payload_size": 444, "chat_users": 0, "reconnect_interval": 0.1, "echo_interval": 0.1}
    assert run(user_count=60, **values)["success"] is True
    wait_until(lambda: sizes(ask).get("echo") == 444.0, 30.0)


def test_a_shape_is_chosen_there(page: tuple[Ask, str], run: Ask) -> None:
    ask, _ = page
    answer = run(shape="ramp", run_time="6s", user_count=4, chat_users=0)
    assert "Ramp" in answer["message"]
    # the page's figures are up to 2 s old
    wait_until(lambda: ask("stats/requests")["state"] in ("spawning", "running"), 30.0)
    wait_until(lambda: ask("stats/requests")["state"] == "stopped", 30.0)  # by itself, when the time is over
    assert run()["message"] == "Swarming started", "the next is a plain one"
    wait_until(lambda: ask("stats/requests")["user_count"] == 6, 30.0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("payload_size", "-1", "whole number"),
        ("chat_users", "x", "whole number"),
        ("echo_interval", "nan", "seconds"),
        ("user_count", "many", "whole number"),
        ("spawn_rate", "0", "users a second"),
        ("spawn_rate", "nan", "users a second"),
        ("run_time", "soon", "run_time"),
        ("shape", "square", "a shape is one of none, ramp, storm"),
    ],
)
@pytest.mark.parametrize("shape", ["none", "ramp"])
def test_what_cannot_be_is_refused(page: tuple[Ask, str], shape: str, field: str, value: str, said: str) -> None:
    ask, host = page
    answer = ask("swarm", **{"user_count": 1, "spawn_rate": 1, "host": host, "shape": shape, field: value})
    assert answer["success"] is False
    assert said in answer["message"]
    assert ask("stats/requests")["state"] in ("ready", "stopped")
