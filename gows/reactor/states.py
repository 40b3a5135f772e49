"""The states of a stream, as bits of `Stream._state`; `stream.py` takes every step between them."""

from __future__ import annotations

from gows.reactor.poller import READ, WRITE

# The lowest are the mask that the poller watches for: READ = 1, WRITE = 4.
WATCHED = READ | WRITE
CONNECTING = 1 << 5  # there is no descriptor yet, or no TLS session: writes wait
CORKED = 1 << 6  # writes only queue, uncork() sends
DIRTY = 1 << 7  # the loop sends at the end of its turn
BLOCKED = 1 << 8  # the kernel takes no more: the queue waits for WRITE
PAUSED = 1 << 9  # the observer takes no more
EOF_RECEIVED = 1 << 10  # the peer's FIN was read
FIN_QUEUED = 1 << 11  # our FIN goes out behind the queue; nothing more may be queued
FIN_SENT = 1 << 12  # our FIN was sent, or close(2) sends it next
CLOSING = 1 << 13  # close() was called
NO_LINGER = 1 << 14  # close(linger=False) was called
ABORTED = 1 << 15  # abort() was called, or an error was met: only the end is left
RESET = 1 << 16  # the end is to be RST
LOST_REPORTED = 1 << 17  # connection_lost was called
DRAIN_OWED = 1 << 18  # the queue passed the high-water mark: drained() is to be called
LINGERING = 1 << 19  # queue and FIN were sent: `_progress` counts the bytes that are read and thrown away
SEND_FAILED = 1 << 20  # a send failed; what the peer sent before is still being read
CLOSE_TIMER_SET = 1 << 21  # the deadline is that of close(), and not the observer's
CLOSE_NOTIFY_SENT = 1 << 24  # TLS: close_notify was queued
TLS_DEFERRED = 1 << 25  # TLS: start_tls() was not called yet, and what comes goes to the observer as it is

NO_DATA = CONNECTING | PAUSED | EOF_RECEIVED | CLOSING | ABORTED | LOST_REPORTED  # on_readable does not hand data over
NO_WRITE = FIN_QUEUED | ABORTED | LOST_REPORTED  # what is written is dropped
NO_SEND = CONNECTING | BLOCKED | ABORTED | LOST_REPORTED | FIN_SENT  # flush_locked sends nothing
WILL_BE_SENT = CORKED | DIRTY | BLOCKED | CONNECTING  # somebody sends the queue already
