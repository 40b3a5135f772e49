"""The states of a stream, as bits of `Stream._state`; `stream.py` takes every step between them."""

from __future__ import annotations

from gows.reactor.poller import READ, WRITE

# The lowest are the mask that the poller watches for: READ = 1, WRITE = 4.
WATCHED = READ | WRITE
CONNECTING = 1 << 5  # no descriptor yet, or no TLS session: writes wait
CORKED = 1 << 6  # writes only queue, uncork() sends
DIRTY = 1 << 7  # the loop flushes at the end of its turn
BLOCKED = 1 << 8  # the kernel takes no more: the queue waits for WRITE
PAUSED = 1 << 9  # the observer takes no more
EOF = 1 << 10  # the peer's FIN was read
ENDING = 1 << 11  # our FIN goes out behind the queue; nothing more may be queued
ENDED = 1 << 12  # our FIN is out
CLOSING = 1 << 13  # close() was called
HASTY = 1 << 14  # ... without lingering
ABORTED = 1 << 15  # abort() was called, or an error met: only the end is left
RESET = 1 << 16  # the end is to be RST
LOST = 1 << 17  # connection_lost was called
OVER = 1 << 18  # the queue passed the high-water mark: drained() is owed
LINGERING = 1 << 19  # queue and FIN are out: `_progress` counts the bytes thrown away
BROKEN = 1 << 20  # sending failed; what the peer sent before is still being read
BOUNDED = 1 << 21  # close() has set its own deadline
GOODBYE = 1 << 24  # TLS: close_notify was queued
DEFERRED = 1 << 25  # TLS: what comes is not TLS yet, it goes to the observer as it is

NO_DATA = CONNECTING | PAUSED | EOF | CLOSING | ABORTED | LOST  # on_readable has more to look at than the socket
NO_WRITE = ENDING | ABORTED | LOST  # what is written is dropped
NO_SEND = CONNECTING | BLOCKED | ABORTED | LOST | ENDED
NO_MARK = CORKED | DIRTY | BLOCKED | CONNECTING  # a queued piece is sent by somebody already
