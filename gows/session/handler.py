"""Handler: the callbacks of a connection, which the user's code implements."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

from gows.options import check_function, is_coroutine_function

if TYPE_CHECKING:
    from gows.bytebuffer import ByteBuffer
    from gows.codes import Opcode
    from gows.session.websocket import WebSocket


Result = Coroutine[Any, Any, None] | None
"""What a callback returns: nothing, or the coroutine of an `async def`."""


class Handler:
    """Callbacks of one connection; subclass it and override what you need.

    Callbacks of one connection run in order and never two at once; those of different connections run in parallel
    on the worker pool (`workers=0`: in the loop's thread, where they must not block). A callback that raises is logged
    with the connection, and the connection is closed with 1011.

    Any of them may be an `async def`. It runs in the loop's thread, which then has an asyncio loop around it, and not
    on a worker; the others stay where they are. The next callback of a connection begins when the one before has ended,
    so `buff` is lent until the coroutine has. What it must not do is block: every connection would wait.

    A handler that defines `on_chunk(ws, opcode, fin, buff)` gets the pieces of data messages as they arrive, instead
    of whole messages in `on_message`. A piece of a text message may end in the middle of a character.
    """

    __slots__ = ()

    inline: ClassVar[bool] = False
    """True in a class whose callbacks never block: they run in the loop's thread, beside a pool too, which spares the
    hand-over. One that blocks all the same holds up every connection. Looked at when `ws.serve(handler)` is called."""

    def on_open(self, ws: WebSocket) -> Result:
        """Begin: the upgrade is answered, and messages may be written. The first of all callbacks."""

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> Result:
        """Take one whole message, TEXT (checked UTF-8) or BINARY. `buff` is lent until this returns."""

    def on_close(self, ws: WebSocket) -> Result:
        """Clean up: the connection has ended. Called exactly once and last, whatever ended it: `ws.close_code`,
        `ws.close_reason`."""

    def on_ping(self, ws: WebSocket, data: bytes) -> Result:
        """Take note of a ping; the pong was already sent."""

    def on_pong(self, ws: WebSocket, data: bytes) -> Result:
        """Take note of a pong, asked for or not."""

    def on_drain(self, ws: WebSocket) -> Result:
        """Go on writing: the outgoing queue had passed the high-water mark, and fell to the low-water mark."""


_NAMES = ("on_open", "on_message", "on_chunk", "on_close", "on_ping", "on_pong", "on_drain")


class Callbacks:
    """What is known of the callbacks of a class of handlers."""

    __slots__ = ("any_async", "in_loop", "offloaded", "ref")

    def __init__(self, kind: ref[type], functions: dict[str, Callable[..., Any]]) -> None:
        """`functions`: those that the class has, by name."""
        self.ref = kind
        asynchronous = {name for name, function in functions.items() if is_coroutine_function(function)}
        self.any_async = len(asynchronous) > 0
        """Whether one is an `async def`."""
        self.in_loop = ("on_chunk" if "on_chunk" in functions else "on_message") in asynchronous
        """Whether messages are handled by an `async def`, in the loop's thread."""
        self.offloaded = functions.keys() - asynchronous if self.in_loop else frozenset()
        """The plain ones beside it, which may block: a worker calls them."""


_known: dict[int, Callbacks] = {}
"""By the id of the class, until that ends. (A WeakKeyDictionary costs each connection two calls more.)"""


def callbacks_of(handler: object) -> Callbacks:
    """Return what is known of a handler's class, which is looked at once. Raises TypeError unless it is a Handler with
    callbacks that can be called. Any thread."""
    kind = type(handler)
    found = _known.get(id(kind))
    if found is not None:
        return found
    if not isinstance(handler, Handler):
        raise TypeError(f"the handler must be a gows.Handler, not {kind.__name__}")
    publish = getattr(handler, "on_publish", None)
    if publish is not None:
        check_function(f"{kind.__name__}.on_publish", publish)
    functions: dict[str, Callable[..., Any]] = {}
    for name in _NAMES:
        callback = getattr(handler, name, None)
        if callback is not None:
            check_function(f"{kind.__name__}.{name}", callback)
            if getattr(callback, "__func__", callback) is not getattr(Handler, name, None):
                functions[name] = callback
    number = id(kind)
    found = _known[number] = Callbacks(ref(kind, lambda _: _known.pop(number, None)), functions)
    if publish is not None and is_coroutine_function(publish):
        found.any_async = True
    return found
