"""The end of the program: what its clients wrote before it is sent, and their connections are closed (1001).

Threads of loops are daemons, which Python ends where they stand. So when it exits, after the functions that programs
register themselves (atexit runs the latest first, and this one is registered when gows is imported), each client's
connection begins its close handshake, behind what is queued. The exit waits as long as peers go on taking that.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref

from gows.client.blocking import BlockingWebSocket
from gows.codes import CloseCode
from gows.errors import LoopClosedError
from gows.protocol.connection import Role
from gows.reactor.stream import Stream
from gows.reactor.transports import Loop
from gows.session.websocket import WebSocket

STALL_SECONDS = 5.0
"""The exit does not wait longer than this for peers that take nothing of what is queued."""
ANSWER_SECONDS = 1.0
"""… nor longer than this for the answers to our close frames when they have taken all."""
LOOK_SECONDS = 0.005

_loops: weakref.WeakSet[Loop] = weakref.WeakSet()


def flush_at_exit(loop: Loop) -> None:
    """Have the connections of the clients on `loop` ended in order when the program exits. Any thread."""
    _loops.add(loop)


def end_clients() -> None:
    """End every client's connection, and wait until they have ended; bounded. Not in a loop's thread."""
    left: list[Stream] = []
    begun: list[None] = []
    loops = [loop for loop in _loops if loop.running and not loop.in_loop()]
    for loop in loops:
        try:
            loop.call_soon(_begin, loop, left, begun)
        except LoopClosedError:
            begun.append(None)
    try:
        _wait(left, begun, len(loops))
    except KeyboardInterrupt:  # once more: the user does not want to wait
        pass


def _begin(loop: Loop, left: list[Stream], begun: list[None]) -> None:
    """Begin the close of each connection. Loop thread."""
    for stream in loop.streams:
        ws = stream.observer if isinstance(stream, Stream) else None
        if isinstance(ws, WebSocket) and ws.context.role is Role.CLIENT:
            left.append(ws.stream)
            ws.close_handshake(CloseCode.GOING_AWAY)
            if isinstance(ws, BlockingWebSocket):
                ws.drop_messages()
    begun.append(None)


def _wait(left: list[Stream], begun: list[None], loops: int) -> None:
    least: int | None = None
    deadline = time.monotonic() + STALL_SECONDS
    while time.monotonic() < deadline:
        if len(begun) == loops:
            going = [stream for stream in left if stream.sock is not None and stream.sock.fileno() >= 0]
            if not going:
                return
            untaken = sum(stream.untaken() for stream in going)
            if least is None or untaken < least:
                least = untaken
                deadline = time.monotonic() + (STALL_SECONDS if untaken else ANSWER_SECONDS)
        time.sleep(LOOK_SECONDS)


def _forget() -> None:
    """Forget the parent's loops: in a forked process (fork(2)) none of them turns."""
    global _loops
    _loops = weakref.WeakSet()


atexit.register(end_clients)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
