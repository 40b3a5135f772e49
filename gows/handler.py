"""Handler: what the user's code implements to hear of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from gows.bytebuffer import ByteBuffer
    from gows.codes import Opcode
    from gows.websocket import WebSocket


class Handler:
    """Callbacks of one connection; subclass it and override what you need.

    Callbacks of one connection run in order and never two at once; those of different connections run in parallel
    on the worker pool (`workers=0`: in the loop's thread, where they must not block). A callback that raises is logged
    with the connection, and the connection is closed with 1011.

    A handler that defines `on_chunk(ws, opcode, fin, buff)` gets the pieces of data messages as they arrive, instead
    of whole messages in `on_message`. A piece of a text message may end in the middle of a character.
    """

    __slots__ = ()

    inline: ClassVar[bool] = False
    """True in a class whose callbacks never block: they run in the loop's thread, beside a pool too, which spares the
    hand-over. One that blocks all the same holds up every connection. Looked at when `ws.serve(handler)` is called."""

    def on_open(self, ws: WebSocket) -> None:
        """The upgrade is answered; messages may be written. First of all callbacks."""

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        """One whole message, TEXT (checked UTF-8) or BINARY. `buff` is lent until this returns."""

    def on_close(self, ws: WebSocket) -> None:
        """The connection has ended: `ws.close_code`, `ws.close_reason`. Exactly once and last, whatever ended it."""

    def on_ping(self, ws: WebSocket, data: bytes) -> None:
        """A ping came; the pong was already sent."""

    def on_pong(self, ws: WebSocket, data: bytes) -> None:
        """A pong came, asked for or not."""

    def on_drain(self, ws: WebSocket) -> None:
        """The outgoing queue had passed the high-water mark and fell to the low-water mark: writing may go on."""
