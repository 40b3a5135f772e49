"""The two steps of a turn that are taken for each event and for each written stream; `Loop._turn` has them all.

They stand apart to be compiled. The rest of a turn stays Python: where no bytecode runs, no signal handler does either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gows.reactor.endpoint import Endpoint
from gows.reactor.poller import READ, Events
from gows.reactor.stream import Stream

Failed = Callable[[Endpoint, Exception], None]


def deliver(events: Events, endpoints: list[Endpoint | None], scratch: bytearray, ticks: int, failed: Failed) -> None:
    """Tell each endpoint of its event. What one raises ends its own connection only."""
    for fd, mask in events:
        endpoint = endpoints[fd]
        if endpoint is None:  # closed by an earlier event of this batch
            continue
        try:
            if mask == READ:
                endpoint.on_readable(scratch, ticks)
            else:
                endpoint.on_event(mask, scratch, ticks)
        except Exception as error:
            failed(endpoint, error)


def flush(dirty: deque[Stream], failed: Failed) -> None:
    """One send for each stream that was written to until now."""
    for _ in range(len(dirty)):
        stream = dirty.popleft()
        try:
            stream.flush_dirty()
        except Exception as error:
            failed(stream, error)
