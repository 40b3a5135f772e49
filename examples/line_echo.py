"""A line-echo server on the bare reactor: plain TCP, no WebSocket, no HTTP.

    python examples/line_echo.py [ADDRESS]        # ":7000" unless given; also "unix:/tmp/echo.sock"
    nc localhost 7000

Every line comes back. It shows what an observer is for:

- `data_received` gets the loop's own buffer, so what is kept of it is copied: here the unfinished line.
- Limits are the observer's business: a line may have 64 KiB, and a client that is silent for 5 minutes is sent away.
- A client that does not read what we send is not read from, until it has: so its queue stays bounded.
"""

from __future__ import annotations

import sys

from gows.reactor import Loop, Observer, Stream

MAX_LINE = 65536
IDLE_SECONDS = 300.0


class LineEcho(Observer):
    """One connection."""

    __slots__ = ("_line", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._line = bytearray()  # what has come of the line that has not ended yet
        stream.set_deadline(IDLE_SECONDS)

    def data_received(self, buf: bytearray, n: int, /) -> None:
        line = self._line
        before = len(line)
        line += memoryview(buf)[:n]
        end = line.rfind(b"\n", before) + 1  # only in what is new: one byte at a time must not cost the whole each time
        if end:
            self._stream.write(bytes(line[:end]))
            del line[:end]
        if len(line) > MAX_LINE:
            self._stream.write(b"line too long\n")
            self._stream.close()

    def blocked(self) -> None:
        self._stream.pause_reading()  # it does not take what we send: then we take nothing from it

    def drained(self) -> None:
        self._stream.resume_reading()

    @property
    def high_water(self) -> int:
        return 0  # so that whatever was blocked is drained some time

    @property
    def low_water(self) -> int:
        return 0

    def eof_received(self) -> None:
        self._stream.write(bytes(self._line))
        self._stream.close()  # after everything has gone out

    def deadline_reached(self) -> None:
        left = IDLE_SECONDS - self._stream.silent_for()
        if left > 0:
            self._stream.set_deadline(
                left
            )  # it has talked meanwhile: nothing was moved then, so that talk costs nothing
        else:
            self._stream.write(b"goodbye\n")
            self._stream.close()


def accept(stream: Stream) -> None:
    """A connection has come: say who looks after it."""
    stream.observer = LineEcho(stream)


def main(address: str = ":7000") -> None:
    """Serve until Ctrl-C."""
    with Loop(workers=0) as loop:
        listener = loop.listen(address, accept)
        print("echoing lines at", listener.address, flush=True)
        try:
            loop.run()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main(*sys.argv[1:2])
