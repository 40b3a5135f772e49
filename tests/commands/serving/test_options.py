"""The options of `gows serve`: from the command line, from the environment, by default; and those of uvicorn."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from gows.commands.serving import options as module
from gows.commands.serving.elsewhere import ELSEWHERE, SAME
from gows.commands.serving.options import OptionError, ServeOptions, all_options, flag, read, variable
from tests.support.needs import need_module


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="gows serve")
    module.add_arguments(made)
    return made


def asked(*arguments: str, **environ: str) -> ServeOptions:
    return read(parser().parse_args(["main:app", *arguments]), environ)


def test_the_defaults() -> None:
    options = asked()
    assert options == ServeOptions(app="main:app")
    assert (options.host, options.port, options.loop, options.interface) == ("127.0.0.1", 8000, "auto", "auto")


VALUES: list[tuple[str, str, Any]] = [
    ("factory", "1", True),
    ("interface", "wsgi", "wsgi"),
    ("app_dir", "src", "src"),
    ("env_file", ".env", ".env"),
    ("root_path", "/api", "/api"),
    ("lifespan", "off", "off"),
    ("host", "::", "::"),
    ("port", "0", 0),
    ("unix", "/run/app.sock", "/run/app.sock"),
    ("unix_mode", "660", 0o660),
    ("fd", "3,4", (3, 4)),
    ("backlog", "1", 1),
    ("certificate", "c.pem", "c.pem"),
    ("key", "k.pem", "k.pem"),
    ("trusted_proxies", "10.0.0.0/8, unix", ("10.0.0.0/8", "unix")),
    ("processes", "auto", "auto"),
    ("workers", "0", 0),
    ("loop", "asyncio", "asyncio"),
    ("max_connections", "5", 5),
    ("max_body_size", "0", 0),
    ("keep_alive", "0.5", 0.5),
    ("max_message_size", "1", 1),
    ("ping_interval", "0", 0.0),
    ("ping_timeout", "2.5", 2.5),
    ("compression", "yes", True),
    ("timeout", "0.1", 0.1),
    ("drain", "30", 30.0),
    ("not_ready", "10", 10.0),
    ("log_level", "debug", "debug"),
    ("access_log", "off", False),
    ("log_config", "log.json", "log.json"),
    ("reload", "true", True),
    ("reload_dir", "a,b", ("a", "b")),
    ("reload_include", "*.html", ("*.html",)),
    ("reload_exclude", "test_*", ("test_*",)),
]
BESIDE = {"unix_mode": {"unix": "x"}, "key": {"certificate": "c"}, "reload_": {"reload": "1"}}
"""What has to be said, too."""


def test_every_option_is_tested() -> None:
    assert [name for name, _, _ in VALUES] == [each.name for each, _ in all_options()]


@pytest.mark.parametrize(("name", "text", "value"), VALUES, ids=[name for name, _, _ in VALUES])
def test_an_option_is_taken_from_both(name: str, text: str, value: Any) -> None:
    needed = next((more for start, more in BESIDE.items() if name.startswith(start)), {})
    beside = {variable(key): each for key, each in needed.items()}
    about = next(about for each, about in all_options() if each.name == name)
    typed = [flag(name) if value else f"--no-{flag(name)[2:]}"] if about.switch else [flag(name), text]
    for options in (asked(*typed, **beside), asked(**{variable(name): text}, **beside)):
        assert getattr(options, name) == value
        assert name in options.given
    other = {"1": "0", "off": "on", "yes": "no", "true": "0"}.get(text, "nonsense")
    assert getattr(asked(*typed, **{variable(name): other}, **beside), name) == value, "what is typed comes first"
    unset = asked(**{variable(name): ""}, **beside)
    assert getattr(unset, name) == getattr(ServeOptions(app="a"), name)


def test_lists_are_repeated_or_have_commas() -> None:
    assert asked("--fd", "3", "--fd", "4,5").fd == (3, 4, 5)
    assert asked("--trusted-proxies", "10.0.0.0/8", GOWS_TRUSTED_PROXIES="::1").trusted_proxies == ("10.0.0.0/8",)


def test_the_application_may_be_in_the_environment() -> None:
    assert read(parser().parse_args([]), {"GOWS_APP": "main:app"}).app == "main:app"
    assert read(parser().parse_args(["a:b"]), {"GOWS_APP": "main:app"}).app == "a:b"


WRONG = [
    ("port", "-1", "a number from 0 to 65535, not '-1'"),
    ("port", "65536", "a number from 0 to 65535, not '65536'"),
    ("backlog", "0", "a number from 1, not '0'"),
    ("workers", "many", "a number from 0, not 'many'"),
    ("processes", "0", "a number from 1, or 'auto', not '0'"),
    ("timeout", "0", "a number of seconds, more than 0, not '0'"),
    ("timeout", "inf", "a number of seconds, more than 0, not 'inf'"),
    ("drain", "soon", "a number of seconds, more than 0, not 'soon'"),
    ("ping_interval", "-1", "a number of seconds, 0 or more, not '-1'"),
    ("ping_interval", "nan", "a number of seconds, 0 or more, not 'nan'"),
    ("unix_mode", "999", "permissions in octal, such as 660, not '999'"),
    ("fd", "3,x", "a number from 0, not 'x'"),
]


@pytest.mark.parametrize(("name", "text", "words"), WRONG)
def test_a_wrong_value_is_said(name: str, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        asked(f"{flag(name)}={text}")
    assert ended.value.code == 2
    assert f"error: argument {flag(name)}: {words}" in capsys.readouterr().err
    with pytest.raises(OptionError, match=re.escape(f"{variable(name)} is {words}")):
        asked(**{variable(name): text})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("loop", "trio", "is one of auto, asyncio, uvloop, not 'trio'"),
        ("reload", "maybe", "is 1 or 0, not 'maybe'"),
    ],
)
def test_a_wrong_choice_in_the_environment(name: str, text: str, words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(f"{variable(name)} {words}")):
        asked(**{variable(name): text})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--unix x --port 1", "--port cannot stand beside --unix"),
        ("--unix x --fd 3", "--fd cannot stand beside --unix"),
        ("--fd 3 --host a", "--host cannot stand beside --fd"),
        ("--unix-mode 600", "--unix-mode needs --unix"),
        ("--key k", "--key needs --certificate"),
        ("--reload --processes 2", "--processes cannot stand beside --reload, which has one process"),
        ("--reload --drain 2", "--drain cannot stand beside --reload, which does not wait long"),
        ("--reload-dir x", "--reload-dir needs --reload"),
    ],
)
def test_options_that_contradict_each_other(arguments: str, words: str) -> None:
    with pytest.raises(OptionError) as raised:
        asked(*arguments.split())
    assert str(raised.value) == words


def test_without_an_application() -> None:
    with pytest.raises(OptionError, match="which application"):
        read(parser().parse_args([]), {})


def test_no_option_is_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked("--work", "4")
    assert "unrecognized arguments: --work" in capsys.readouterr().err


def test_the_help_has_every_option_with_its_default() -> None:
    text = " ".join(parser().format_help().split())
    for each, about in all_options():
        assert f"{flag(each.name)}" in text
        assert about.help[-1] != "."
        if not (about.switch or each.default in (None, (), "")):
            assert f"(default: {each.default:g})" if isinstance(each.default, float) else str(each.default) in text
    assert not any(f"--{name} " in text for name in ELSEWHERE)


# ---------------------------------------------------------------------- those of uvicorn


def uvicorn_options() -> set[str]:
    command = need_module("uvicorn").main
    return {each.opts[0].removeprefix("--") for each in command.params if each.opts[0].startswith("--")}


def test_every_option_of_uvicorn_has_its_place() -> None:
    assert not SAME.keys() & ELSEWHERE.keys()
    assert SAME.keys() | ELSEWHERE.keys() == uvicorn_options() - {"help"}


def test_options_of_the_same_name_are_there() -> None:
    ours = {flag(each.name)[2:] for each, _ in all_options()}
    assert SAME.keys() <= ours
    assert not ELSEWHERE.keys() & ours


def test_what_takes_the_place_of_an_option_is_there() -> None:
    ours = {flag(each.name) for each, _ in all_options()}
    for text in ELSEWHERE.values():
        assert set(re.findall(r"--[a-z-]+", text)) - {"--limit-max-requests", "--version"} <= ours, text


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_an_option_of_uvicorn_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for typed in ([f"--{name}", "x"], [f"--no-{name}"], [f"--{name}"]):
        with pytest.raises(SystemExit) as ended:
            asked(*typed)
        assert ended.value.code == 2
        words = f"error: {typed[0]} is an option of uvicorn; here it is {ELSEWHERE[name]}"
        assert words in capsys.readouterr().err
