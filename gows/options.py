"""What may be set: AcceptOptions, Keep, and the process-wide defaults that the module-level functions change.

Every value is checked when it is set: a wrong one raises ValueError or TypeError there, not at the first connection.
"""

from __future__ import annotations

import inspect
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import CoroutineType, FunctionType, MethodType
from typing import Any

logger = logging.getLogger("gows")

OriginCheck = Callable[[Any], bool]
"""Takes the `gows.Request` of an upgrade, returns whether its Origin is welcome."""

OVERFLOW_POLICIES = ("refuse", "block", "drop", "drop_oldest", "latest", "close")


@dataclass(frozen=True)
class Keep:
    """How much of a topic is kept: at most `messages`, and none older than `seconds` (None: however old)."""

    messages: int
    seconds: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.messages, bool) or not isinstance(self.messages, int) or self.messages < 1:
            raise ValueError(f"messages must be an int of 1 or more, not {self.messages!r}")
        if self.seconds is not None and not (isinstance(self.seconds, int | float) and self.seconds > 0):
            raise ValueError(f"seconds must be more than 0, or None, not {self.seconds!r}")


@dataclass(slots=True)
class AcceptOptions:
    """How WebSocket connections are accepted and kept. Shared by all connections made with it; do not change it
    after use. One made for each request costs no memory of a connection: those with equal values count as one.

    Sizes are bytes, times are seconds; `None` for a time means no limit.
    """

    subprotocols: Sequence[str] = ()
    """Subprotocols that this end speaks, best first (Sec-WebSocket-Protocol)."""
    check_origin: OriginCheck | None = None
    """A function of the request: return whether its Origin is welcome, True or False. None: the host of the Origin
    must equal Host, and a request without Origin passes. `lambda request: True` allows all."""

    compression: bool = False
    """Negotiate permessage-deflate (RFC 7692) when the client offers it."""
    compression_level: int = 1
    """zlib level, 1 (fast) to 9 (small)."""
    min_compress_size: int = 1024
    """Messages smaller than this go out uncompressed."""
    server_context_takeover: bool = False
    """Keep the server's compression window between messages: messages become smaller, for up to 256 KiB a
    connection."""
    client_context_takeover: bool = False
    """Let the client keep its compression window between messages: up to 44 KiB a connection on this side."""
    server_max_window_bits: int = 15
    """Largest compression window of the server, as a power of two, 9 to 15."""
    client_max_window_bits: int = 15
    """Largest compression window of the client, as a power of two, 8 to 15; asked of clients that can limit it."""

    max_message_size: int = 1 << 20
    """Largest message accepted, after decompression; larger ones end the connection with 1009."""
    max_fragments: int = 16384
    """Fragments in one message; more end the connection with 1008."""
    max_empty_fragments: int = 128
    """Empty fragments in one message; more end the connection with 1008."""
    frame_read_buffer_size: int = 262144
    """Most bytes read from one connection in one turn: the size of the loop's one read buffer, set when the loop is
    made."""
    message_buffer_size: int = 4096
    """For handlers with `on_chunk`: pieces of an unfinished frame are gathered to so many bytes before they are
    delivered."""

    ping_interval: float | None = 30.0
    """Seconds of silence after which the peer is pinged; up to a quarter earlier at random, and the first time up to
    three quarters, so that not all are pinged at once."""
    ping_timeout: float | None = 20.0
    """Seconds after a ping in which something must come from the peer; otherwise the connection is lost (1006)."""
    read_timeout: float | None = None
    """Seconds without a byte from the peer, not even a pong, after which the connection is closed (1001)."""
    write_timeout: float | None = 30.0
    """Seconds in which the peer takes no byte of a waiting queue, nor of what the kernel holds, after which it is
    dropped (1006)."""
    message_timeout: float | None = 60.0
    """Seconds in which an unfinished message must make progress: by a byte, or by 1 kB a second if more than 8 KiB
    of it are held. Otherwise the connection is closed (1008). Not for handlers with `on_chunk`."""
    close_timeout: float = 5.0
    """Seconds in which the peer must answer a close frame. They begin again while the peer takes what was written
    before, at 2 kB a second or more."""

    high_water: int = 262144
    """Bytes in the outgoing queue above which `overflow` decides about new messages."""
    low_water: int = 65536
    """Bytes in the outgoing queue at which `on_drain` is called: writing may go on."""
    overflow: str = "refuse"
    """What becomes of a message over the high-water mark. "refuse": the write raises QueueFullError. "block": it
    waits for room, up to `write_timeout`, then raises QueueFullError; in the loop's thread it is refused. "drop":
    the message is lost. "drop_oldest": older messages are lost. "latest": the message replaces a waiting one with
    the same `key`. "close": the connection ends (1013). With "drop_oldest" and "latest", messages wait as soon as
    the kernel takes no more, up to `high_water` bytes of them."""
    send_buffer: int | None = None
    """Bytes that the kernel holds for a peer that does not take them (SO_SNDBUF; Linux doubles it). None: the system
    decides, up to megabytes. What waits there cannot be dropped or replaced; with "drop_oldest" and "latest" the
    kernel is given little that it cannot send yet, whatever this is."""
    inbox_messages: int = 64
    """Received messages that wait for a busy handler, from which on the connection is not read from."""

    group: str = ""
    """A label for the connections accepted with these options, for `server.broadcast(…, group="chat")`."""

    max_message_rate: float | None = None
    """Messages and control frames received a second, on average; more end the connection with 1008."""
    message_burst: int | None = None
    """Messages received at once, above the average. None: those of a second."""
    max_byte_rate: float | None = None
    """Bytes received a second, on average; more end the connection with 1008."""
    byte_burst: int | None = None
    """Bytes received at once, above the average. None: those of a second, but at least a message of
    `max_message_size`."""

    keep_request: bool = False
    """Keep `ws.request` for the life of the connection (a few kB each). Otherwise it is let go when `on_open` has
    returned."""

    def __post_init__(self) -> None:
        check_options(self)


def _in_range(options: AcceptOptions, name: str, low: int, high: int | None) -> None:
    value = getattr(options, name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < low or (high is not None and value > high):
        bound = f"{low} or more" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bound}, not {value}")


def check_options(options: AcceptOptions) -> None:
    """Raise ValueError or TypeError when a value cannot be meant."""
    if isinstance(options.subprotocols, str):
        raise TypeError("subprotocols must be a sequence of strings, not one string")
    try:
        options.subprotocols = tuple(options.subprotocols)
    except TypeError:
        kind = type(options.subprotocols).__name__
        raise TypeError(f"subprotocols must be a sequence of strings, not {kind}") from None
    for each in options.subprotocols:
        if not isinstance(each, str):
            raise TypeError(f"subprotocols must be strings, not {type(each).__name__}")
    for name in ("compression", "server_context_takeover", "client_context_takeover", "keep_request"):
        if not isinstance(getattr(options, name), bool):
            raise TypeError(f"{name} must be True or False, not {getattr(options, name)!r}")
    if not isinstance(options.group, str):
        raise TypeError(f"group must be a string, not {type(options.group).__name__}")
    if options.check_origin is not None:
        check_plain_function("check_origin", options.check_origin)
    _in_range(options, "compression_level", 1, 9)
    _in_range(options, "min_compress_size", 0, None)
    _in_range(options, "server_max_window_bits", 9, 15)  # zlib cannot deflate with a 256-byte window
    _in_range(options, "client_max_window_bits", 8, 15)
    _in_range(options, "max_message_size", 1, None)
    _in_range(options, "max_fragments", 1, None)
    _in_range(options, "max_empty_fragments", 0, None)
    _in_range(options, "frame_read_buffer_size", 512, 1 << 26)
    _in_range(options, "message_buffer_size", 1, 1 << 26)
    _in_range(options, "high_water", 1, None)
    _in_range(options, "low_water", 0, None)
    _in_range(options, "inbox_messages", 1, None)
    if options.send_buffer is not None:
        _in_range(options, "send_buffer", 1, (1 << 31) - 1)
    if options.low_water > options.high_water:
        raise ValueError("low_water must not be above high_water")
    if options.overflow not in OVERFLOW_POLICIES:
        raise ValueError(f"overflow must be one of {', '.join(OVERFLOW_POLICIES)}, not {options.overflow!r}")
    for name in ("ping_interval", "ping_timeout", "read_timeout", "write_timeout", "message_timeout", "close_timeout"):
        check_seconds(name, getattr(options, name), optional=name != "close_timeout")
    check_rate(options, "max_message_rate", "message_burst")
    check_rate(options, "max_byte_rate", "byte_burst")


def check_rate(holder: object, rate_name: str, burst_name: str) -> None:
    """Raise unless both are positive numbers or None, and no burst is given without a rate."""
    rate, burst = getattr(holder, rate_name), getattr(holder, burst_name)
    if rate is not None:
        if not isinstance(rate, (int, float)) or isinstance(rate, bool):
            raise TypeError(f"{rate_name} must be a number a second or None, not {type(rate).__name__}")
        if not 0 < rate < math.inf:
            raise ValueError(f"{rate_name} must be more than 0 a second, not {rate}")
    if burst is not None:
        if not isinstance(burst, int) or isinstance(burst, bool):
            raise TypeError(f"{burst_name} must be an int or None, not {type(burst).__name__}")
        if burst < 1:
            raise ValueError(f"{burst_name} must be 1 or more, not {burst}")
        if rate is None:
            raise ValueError(f"{burst_name} is of no use without {rate_name}")


def check_seconds(name: str, value: float | None, *, optional: bool = True) -> None:
    """Raise unless `value` is a positive number of seconds (or None, where that means no limit)."""
    if value is None and optional:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds{' or None' if optional else ''}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {value}")


_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR


def check_plain_function(name: str, function: object, *, generator: bool = False) -> None:
    """Raise TypeError unless a call of `function` runs it: it is no `async def` and no generator (unless `generator`),
    nor an object, method or partial of such. What those return is true whatever they would decide, and nothing of them
    has run. `name`: what the user calls it. Any thread."""
    if not _is_plain(function):
        if callable(function) and any(map(_is_async, _called(function))):
            raise TypeError(f"{name} is an `async def`; gows calls it in a worker thread, give a plain function")
        check_function(name, function, generator=generator)


def check_function(name: str, function: object, *, generator: bool = False) -> None:
    """Raise TypeError unless `function` may be called: plain, or an `async def` whose coroutine is then awaited. A
    generator may not be (unless `generator`): a call of it runs nothing. `name`: what the user calls it. Any thread."""
    if _is_plain(function):
        return
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {type(_unwrap(function)).__name__}")
    called = _called(function)
    if any(map(inspect.isasyncgenfunction, called)):
        raise TypeError(f"{name} is an async generator, of which a call runs nothing; give a function")
    if not generator and any(map(inspect.isgeneratorfunction, called)):
        raise TypeError(f"{name} is a generator, of which a call runs nothing; give a plain function")


def is_coroutine_function(function: object) -> bool:
    """Return whether a call of `function` returns a coroutine: it is an `async def`, or an object, method or partial of
    such. Any thread."""
    return not _is_plain(function) and callable(function) and any(map(_is_async, _called(function)))


def _is_plain(function: object) -> bool:
    """Return whether it is a plain function or a method of such: the usual case, for the price of a look."""
    function = _unwrap(function)
    return type(function) is FunctionType and not function.__code__.co_flags & _NOT_PLAIN and not function.__dict__


def _called(function: object) -> list[object]:
    """Return what a call of `function` may call."""
    function = _unwrap(function)
    if isinstance(function, type):  # a call of a class makes an object
        return [function]
    return [function, _unwrap(type(function).__call__)]


def _unwrap(function: Any) -> Any:
    """Return the function that a method or a partial calls."""
    while isinstance(function, (partial, MethodType)):
        function = function.func if isinstance(function, partial) else function.__func__
    return function


def _is_async(function: object) -> bool:
    """Return whether a call returns something to be awaited. asyncio's own mark is that of AsyncMock and of asgiref."""
    asyncio_mark = getattr(sys.modules.get("asyncio.coroutines"), "_is_coroutine", None)
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or (asyncio_mark is not None and getattr(function, "_is_coroutine", None) is asyncio_mark)
    )


def check_answer(name: str, answer: object) -> bool:
    """Return `answer` if it is a bool. Anything else, such as a coroutine, is logged as an error and is a no: it would
    be true, whatever it says. `name`: the function of the user's that gave it. Any thread."""
    if answer is True or answer is False:
        return answer
    if isinstance(answer, CoroutineType):
        answer.close()  # or Python warns that nobody awaited it
    logger.error("%s returned %s, which is no bool, and counts as False", name, type(answer).__name__)
    return False


_default = AcceptOptions()


def default_options() -> AcceptOptions:
    """Return the process-wide defaults: what `accept`, `connect` and `Server` use when given no options. Not to be
    changed, but with the functions below: each puts a new object in its place."""
    return _default


def _change(**values: Any) -> None:
    global _default
    _default = replace(_default, **values)  # checks everything before anything is changed


def use_flate(level: int = 1) -> None:
    """Negotiate compression by default, with this zlib level (1 to 9)."""
    _change(compression=True, compression_level=level)


def set_min_compress_size(size: int) -> None:
    """Compress only messages of at least `size` bytes by default."""
    _change(min_compress_size=size)


def set_origin_check_func(check: OriginCheck | None) -> None:
    """Decide on Origin with `check(request) -> bool` by default; None brings the same-host check back."""
    _change(check_origin=check)


def set_frame_read_buffer_size(size: int) -> None:
    """Read at most `size` bytes (512 or more) of a connection in a turn, by default; loops made from now on take
    it."""
    _change(frame_read_buffer_size=size)


def set_message_buffer_size(size: int) -> None:
    """Gather the pieces of an unfinished frame to `size` bytes by default, for handlers with `on_chunk`."""
    _change(message_buffer_size=size)
