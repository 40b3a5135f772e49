"""The two steps of a turn that are taken for each event and for each written stream; `Loop._turn` has them all.

They stand apart to be compiled. The rest of a turn stays Python: where no bytecode runs, no signal handler does either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import Context

from gows.debug import DEBUG, check_unlocked
from gows.reactor.interfaces import Endpoint, Transport
from gows.reactor.poller import READ, Events

Failed = Callable[[Endpoint, Exception], None]


def deliver(
    events: Events,
    endpoints: list[Endpoint | None],
    scratch: bytearray,
    ticks: int,
    failed: Failed,
    context: Context | None,
    clean: Context | None,
) -> None:
    """Tell each endpoint of its event. What one raises ends its own connection only, and the context variables that its
    callbacks set are its own: `context`, in which this runs, is then no longer equal to `clean`."""
    for fd, mask in events:
        endpoint = endpoints[fd]
        if endpoint is None:  # closed by an earlier event of this batch
            continue
        if DEBUG:
            check_unlocked("tell an endpoint of an event")
        try:
            if clean is not None and context != clean:
                clean.copy().run(_tell, endpoint, mask, scratch, ticks)
            elif mask == READ:
                endpoint.on_readable(scratch, ticks)
            else:
                endpoint.on_event(mask, scratch, ticks)
        except Exception as error:
            failed(endpoint, error)


def _tell(endpoint: Endpoint, mask: int, scratch: bytearray, ticks: int) -> None:
    if mask == READ:
        endpoint.on_readable(scratch, ticks)
    else:
        endpoint.on_event(mask, scratch, ticks)


def flush(dirty: deque[Transport], failed: Failed) -> None:
    """Send once for each stream that was written to until now."""
    for _ in range(len(dirty)):
        stream = dirty.popleft()
        try:
            stream.flush_dirty()
        except Exception as error:
            failed(stream, error)
