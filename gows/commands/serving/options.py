"""Options: all that can be said to `gows serve`, on the command line, in the environment, or by default.

Each option is a field of ServeOptions, with its help. The flags, the environment variables and the table in the
documentation are made from those.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, NamedTuple, NoReturn

from gows.commands.echo import processes
from gows.commands.serving.elsewhere import ELSEWHERE

GROUPS = ("application", "address", "processes and threads", "HTTP and WebSocket", "the end", "log", "reload")

PREFIX = "GOWS_"
"""What the names of the environment variables begin with."""

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})


class OptionError(Exception):
    """An option that cannot be meant; its text says which, and what to do."""


class About(NamedTuple):
    """What is known of an option besides its name and default."""

    group: str
    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] | None = None
    many: bool = False
    switch: bool = False


def _option(group: str, default: Any, help: str, metavar: str | None = None, **more: Any) -> Any:
    return field(default=default, metadata={"about": About(group, help, metavar, **more)})


def _number(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"a number from {least}{f' to {most}' if most else ''}, not {text!r}")
        return int(text)

    return parse


def _seconds(least: float | None = None) -> Callable[[str], float]:
    """Read seconds: more than 0, or `least` and more."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (value > 0 if least is None else value >= least) or value == float("inf"):
            what = "more than 0" if least is None else f"{least:g} or more"
            raise argparse.ArgumentTypeError(f"a number of seconds, {what}, not {text!r}")
        return value

    return parse


def _octal(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"permissions in octal, such as 660, not {text!r}")
    return mode


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `gows serve` was asked for."""

    app: str
    given: frozenset[str] = frozenset()
    """The names of the options that were said, and not left to their default."""

    factory: bool = _option("application", False, "NAME is a function that returns the application", switch=True)
    interface: str = _option("application", "auto", "what NAME is", choices=("auto", "asgi", "wsgi", "gows"))
    app_dir: str = _option("application", ".", "look for MODULE in this folder first", "FOLDER")
    env_file: str | None = _option(
        "application", None, "set environment variables from this file before MODULE is imported", "FILE"
    )
    root_path: str = _option("application", "", "ASGI: the path below which a proxy has put the application", "PATH")
    lifespan: str = _option(
        "application",
        "auto",
        "ASGI: whether there is a lifespan; auto: try",
        choices=("auto", "on", "off"),
    )

    host: str = _option("address", "127.0.0.1", "address to listen on, 0.0.0.0 or :: for all", "HOST")
    port: int = _option("address", 8000, "port to listen on, 0 for a free one", "PORT", parse=_number(0, 65535))
    unix: str | None = _option("address", None, "listen on a Unix-domain socket instead", "PATH")
    unix_mode: int | None = _option(
        "address", None, "who may connect to it, in octal; default: as umask says", "MODE", parse=_octal
    )
    fd: tuple[int, ...] = _option(
        "address", (), "accept from this socket, which was inherited, instead", "NUMBER", parse=_number(0), many=True
    )
    backlog: int = _option(
        "address", 4096, "connections that wait in the kernel until they are accepted", "N", parse=_number(1)
    )
    certificate: str | None = _option("address", None, "serve over TLS: the certificate and its chain, PEM", "FILE")
    key: str | None = _option("address", None, "its private key, PEM; default: in the same file", "FILE")
    trusted_proxies: tuple[str, ...] = _option(
        "address",
        (),
        "networks of the proxies that are believed when they name their client, such as 10.0.0.0/8 or unix",
        "NETWORK",
        many=True,
    )

    processes: int | str | None = _option(
        "processes and threads",
        None,
        "worker processes on the port, auto: one a CPU; default: none, the command itself serves",
        "N",
        parse=processes,
    )
    workers: int = _option(
        "processes and threads",
        4,
        "threads of each process, for WSGI and plain callbacks; 0: those run in the loop",
        "N",
        parse=_number(0),
    )
    loop: str = _option(
        "processes and threads",
        "auto",
        "whose asyncio loop runs coroutines; auto: uvloop if it is installed",
        choices=("auto", "asyncio", "uvloop"),
    )

    max_connections: int | None = _option(
        "HTTP and WebSocket", None, "open connections of a process; more get 503", "N", parse=_number(1)
    )
    max_body_size: int | None = _option(
        "HTTP and WebSocket",
        None,
        "largest body of a request, larger ones get 413; default: 1 MiB, and any size for ASGI",
        "BYTES",
        parse=_number(0),
    )
    keep_alive: float = _option(
        "HTTP and WebSocket", 75.0, "how long a connection is kept for the next request", "SECONDS", parse=_seconds()
    )
    max_message_size: int = _option(
        "HTTP and WebSocket", 1 << 20, "largest WebSocket message; larger ones end it", "BYTES", parse=_number(1)
    )
    ping_interval: float = _option(
        "HTTP and WebSocket", 30.0, "ping a peer that was silent for so long; 0: never", "SECONDS", parse=_seconds(0.0)
    )
    ping_timeout: float = _option(
        "HTTP and WebSocket",
        20.0,
        "time for an answer to a ping; 0: for ever",
        "SECONDS",
        parse=_seconds(0.0),
    )
    compression: bool = _option("HTTP and WebSocket", False, "negotiate permessage-deflate", switch=True)

    timeout: float = _option(
        "the end", 5.0, "time for connections to end in, after a signal", "SECONDS", parse=_seconds()
    )
    drain: float | None = _option(
        "the end",
        None,
        "close WebSockets over so many seconds; default: all at once",
        "SECONDS",
        parse=_seconds(),
    )
    not_ready: float | None = _option(
        "the end",
        None,
        "say so at /-/ready for so many seconds before anything is closed",
        "SECONDS",
        parse=_seconds(),
    )

    log_level: str | None = _option(
        "log",
        None,
        "least level that is logged; default: info, or what --log-config says",
        choices=("critical", "error", "warning", "info", "debug"),
    )
    access_log: bool = _option("log", True, "a line for each answer", switch=True)
    log_config: str | None = _option(
        "log", None, "configure logging from this file: .json, .yaml, or the format of fileConfig", "FILE"
    )

    reload: bool = _option("reload", False, "start anew when a file was changed; for development", switch=True)
    reload_dir: tuple[str, ...] = _option(
        "reload", (), "watch this folder; default: that of --app-dir", "FOLDER", many=True
    )
    reload_include: tuple[str, ...] = _option(
        "reload", (), "watch files of this name too, besides *.py", "PATTERN", many=True
    )
    reload_exclude: tuple[str, ...] = _option(
        "reload", (), "do not watch files of this name, or below this folder", "PATTERN", many=True
    )

    def accepting_from(self, descriptors: Sequence[int]) -> ServeOptions:
        """Return the same options for a process that inherits the sockets."""
        return replace(self, fd=tuple(descriptors), unix=None)


def all_options() -> list[tuple[Field[Any], About]]:
    """Return all options, in their order."""
    return [(each, each.metadata["about"]) for each in fields(ServeOptions) if "about" in each.metadata]


def flag(name: str) -> str:
    """Return an option as it is typed."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of an option."""
    return PREFIX + name.upper()


def shown_default(each: Field[Any], about: About) -> str:
    """Return a default as it would be typed; "" if the help says it, or there is none."""
    if about.switch:
        return "on" if each.default else "off"
    if each.default in (None, (), ""):
        return ""
    return f"{each.default:g}" if isinstance(each.default, float) else str(each.default)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all options, in groups, to a parser."""
    parser.allow_abbrev = False
    parser.usage = "%(prog)s MODULE:NAME [options]"
    parser.add_argument(
        "app", nargs="?", metavar="MODULE:NAME", help="the application: where `import MODULE` finds it as NAME"
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for each, about in all_options():
        default = shown_default(each, about)
        settings: dict[str, Any] = {"default": None, "dest": each.name}
        settings["help"] = about.help + (f" (default: {default})" if default else "")
        if about.switch:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"metavar": about.metavar, "choices": about.choices, "type": about.parse}
        if about.many:
            settings |= {"action": "append", "type": _split(about.parse)}
            settings["help"] += "; may be repeated"
        groups[about.group].add_argument(flag(each.name), **settings)
    for name, instead in ELSEWHERE.items():
        parser.add_argument(
            f"--{name}", f"--no-{name}", action=_Elsewhere, nargs="*", help=argparse.SUPPRESS, const=instead
        )


class _Elsewhere(argparse.Action):
    """An option of uvicorn: ends with what is to be used here."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string} is an option of uvicorn; here it is {self.const}")


def _split(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Read several values with commas between them."""

    def several(text: str) -> list[Any]:
        return [parse(each.strip()) for each in text.split(",") if each.strip()]

    return several


def read(arguments: argparse.Namespace, environ: Mapping[str, str]) -> ServeOptions:
    """Return what is said on the command line, or else in the environment, or else by default. Raises OptionError."""
    values: dict[str, Any] = {}
    for each, about in all_options():
        value = getattr(arguments, each.name)
        if value is None and environ.get(variable(each.name)):
            value = _from_environment(variable(each.name), environ[variable(each.name)], about)
        elif value is not None and about.many:
            value = [inner for several in value for inner in several]
        if value is not None:
            values[each.name] = tuple(value) if about.many else value
    app = arguments.app or environ.get(variable("app"))
    if not app:
        raise OptionError("which application? Say MODULE:NAME, such as main:app")
    options = ServeOptions(app=app, given=frozenset(values), **values)
    _check(options)
    return options


def _from_environment(name: str, text: str, about: About) -> Any:
    """Read the value of an environment variable."""
    if about.switch:
        if text.lower() not in _YES | _NO:
            raise OptionError(f"{name} is 1 or 0, not {text!r}")
        return text.lower() in _YES
    if about.choices is not None and text not in about.choices:
        raise OptionError(f"{name} is one of {', '.join(about.choices)}, not {text!r}")
    try:
        return _split(about.parse)(text) if about.many else about.parse(text)
    except argparse.ArgumentTypeError as error:
        raise OptionError(f"{name} is {error}") from None


def _check(options: ServeOptions) -> None:
    """Raise OptionError for options that contradict each other."""
    if options.unix is not None:
        _refuse(options, ("host", "port", "fd"), "cannot stand beside --unix")
    elif options.fd:
        _refuse(options, ("host", "port"), "cannot stand beside --fd")
    if options.unix is None:
        _refuse(options, ("unix_mode",), "needs --unix")
    if options.certificate is None:
        _refuse(options, ("key",), "needs --certificate")
    if options.reload:
        _refuse(options, ("processes",), "cannot stand beside --reload, which has one process")
        _refuse(options, ("drain", "not_ready", "timeout"), "cannot stand beside --reload, which does not wait long")
    else:
        _refuse(options, ("reload_dir", "reload_include", "reload_exclude"), "needs --reload")


def _refuse(options: ServeOptions, names: Sequence[str], why: str) -> None:
    for name in names:
        if name in options.given:
            raise OptionError(f"{flag(name)} {why}")


def default_of(name: str) -> Any:
    """Return the default of an option."""
    (default,) = (each.default for each, _ in all_options() if each.name == name)
    assert default is not MISSING
    return default
