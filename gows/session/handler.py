"""Handler: the callbacks of a connection, which the user's code implements."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from weakref import ref

from gows.options import check_plain_function

if TYPE_CHECKING:
    from gows.bytebuffer import ByteBuffer
    from gows.codes import Opcode
    from gows.session.websocket import WebSocket


class Handler:
    """Callbacks of one connection; subclass it and override what you need.

    Callbacks of one connection run in order and never two at once; those of different connections run in parallel
    on the worker pool (`workers=0`: in the loop's thread, where they must not block). A callback that raises is logged
    with the connection, and the connection is closed with 1011. They are plain functions: a class with an `async def`
    among them is refused with TypeError where it is given to gows.

    A handler that defines `on_chunk(ws, opcode, fin, buff)` gets the pieces of data messages as they arrive, instead
    of whole messages in `on_message`. A piece of a text message may end in the middle of a character.
    """

    __slots__ = ()

    inline: ClassVar[bool] = False
    """True in a class whose callbacks never block: they run in the loop's thread, beside a pool too, which spares the
    hand-over. One that blocks all the same holds up every connection. Looked at when `ws.serve(handler)` is called."""

    def on_open(self, ws: WebSocket) -> None:
        """Begin: the upgrade is answered, and messages may be written. The first of all callbacks."""

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        """Take one whole message, TEXT (checked UTF-8) or BINARY. `buff` is lent until this returns."""

    def on_close(self, ws: WebSocket) -> None:
        """Clean up: the connection has ended. Called exactly once and last, whatever ended it: `ws.close_code`,
        `ws.close_reason`."""

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        """Take note of a ping; the pong was already sent."""

    def on_pong(self, ws: WebSocket, data: bytes) -> None:
        """Take note of a pong, asked for or not."""

    def on_drain(self, ws: WebSocket) -> None:
        """Go on writing: the outgoing queue had passed the high-water mark, and fell to the low-water mark."""


_CALLBACKS = ("on_open", "on_message", "on_chunk", "on_close", "on_ping", "on_pong", "on_drain", "on_publish")
_checked: dict[int, ref[type]] = {}
"""The classes that were looked at, by id, until they end. (A WeakSet costs each connection two calls more.)"""


def check_handler(handler: object) -> None:
    """Raise TypeError unless `handler` is a Handler whose callbacks are plain functions. Each class is looked at once.
    Any thread."""
    kind = type(handler)
    if id(kind) in _checked:
        return
    if not isinstance(handler, Handler):
        raise TypeError(f"the handler must be a gows.Handler, not {kind.__name__}")
    for name in _CALLBACKS:
        callback = getattr(handler, name, None)
        if callback is not None:
            check_plain_function(f"{kind.__name__}.{name}", callback)
    number = id(kind)
    _checked[number] = ref(kind, lambda _: _checked.pop(number, None))
