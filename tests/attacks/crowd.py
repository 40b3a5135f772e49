"""Crowd: the attackers' side. Sockets by the hundred that send what they like and read as little as they like."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from tests.attacks.victim import Victim
from tests.support import wire
from tests.support.raw import RawPeer

PATIENCE = 0.2
"""Seconds for which a send waits for a server that does not read."""


class Crowd:
    """Attackers of one victim for so many `seconds`; `size` scales how many they are. A context that closes them."""

    def __init__(self, victim: Victim, seconds: float, size: float) -> None:
        self.victim = victim
        self.seconds = seconds
        self.size = size
        self._peers: list[RawPeer] = []
        self._lock = threading.Lock()
        self._end = time.monotonic() + seconds

    def count(self, number: int) -> int:
        """`number` at full size, fewer in a quick run; at least one."""
        return max(1, round(number * self.size))

    @property
    def over(self) -> bool:
        """Whether the time has run out."""
        return time.monotonic() >= self._end

    def wait(self) -> None:
        """Sit on what was opened until the time has run out."""
        time.sleep(max(0.0, self._end - time.monotonic()))

    def connect(self, receive_buffer: int | None = None) -> RawPeer | None:
        """A connection, or None when the server takes none."""
        try:
            peer = RawPeer(self.victim.address, receive_buffer=receive_buffer)
        except OSError:
            return None
        with self._lock:
            self._peers.append(peer)
        return peer

    def websocket(self, path: str, *headers: str, receive_buffer: int | None = None) -> RawPeer | None:
        """An upgraded connection, or None when it was refused."""
        peer = self.connect(receive_buffer)
        try:
            if peer is not None:
                peer.upgrade(path, *headers)
        except (OSError, AssertionError):
            return None
        return peer

    def websockets(self, count: int, path: str, *headers: str, receive_buffer: int | None = None) -> list[RawPeer]:
        """As many of `count` as are accepted."""
        found = (self.websocket(path, *headers, receive_buffer=receive_buffer) for _ in range(count))
        return [peer for peer in found if peer is not None]

    def push(self, peer: RawPeer, data: bytes) -> bool:
        """Send as much of `data` as the server takes. Return whether that was all."""
        peer.sock.settimeout(PATIENCE)
        view = memoryview(data)
        try:
            while view and not self.over:
                sent = peer.sock.send(view)
                with self._lock:
                    self.victim.sent += sent
                view = view[sent:]
        except OSError:
            return False
        return not view

    def flood(self, peers: Iterable[RawPeer], make: Callable[[int], bytes], *, read: bool = False) -> None:
        """All of them send what `make` makes of a running number, over and over until the time has run out; they `read`
        answers, or do not."""
        threads = [threading.Thread(target=self._send, args=(peer, make), daemon=True) for peer in peers]
        if read:
            threads += [threading.Thread(target=self._read, args=(peer,), daemon=True) for peer in peers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.seconds + 30)

    def _send(self, peer: RawPeer, make: Callable[[int], bytes]) -> None:
        number = 0
        rest = memoryview(b"")
        peer.sock.settimeout(PATIENCE)
        while not self.over:
            if not rest:
                rest = memoryview(make(number))
                number += 1
            try:
                sent = peer.sock.send(rest)
            except TimeoutError:
                continue
            except OSError:
                return
            with self._lock:
                self.victim.sent += sent
            rest = rest[sent:]

    def _read(self, peer: RawPeer) -> None:
        while not self.over:
            with contextlib.suppress(TimeoutError):
                try:
                    if not peer.sock.recv(1 << 18):
                        return
                except TimeoutError:
                    continue
                except OSError:
                    return

    def numbers(self) -> Iterator[int]:
        """0, 1, … until the time has run out."""
        number = 0
        while not self.over:
            yield number
            number += 1

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for peer in self._peers:
            peer.sock.close()


def topics_frame(text: str) -> bytes:
    """A request of gows.v1, in a frame."""
    return wire.frame(wire.TEXT, text, key=bytes(4))
