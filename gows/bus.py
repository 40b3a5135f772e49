"""Bus: what the processes of one server tell each other, over Unix-domain sockets in one folder.

There is no broker process. Each process listens at `folder/NAME.sock`. It sends over connections that it made itself,
exactly one to each other process, and receives over those that were made to it. So between two processes there are two
one-way connections: the order of what one sends is kept, and newcomers who find each other at the same moment need not
agree on whose connection counts. A newcomer connects to every socket in the folder and says who it is; whoever hears of
somebody new connects back.

A frame on the wire: length of what follows (4 bytes), version (1), type (1), number (8: of the question; in a greeting
the time), length of the kind (1), kind, data; numbers are unsigned and big-endian. Nothing is unpickled.

What waits for a process that does not read is bounded (`MAX_QUEUED`). What goes beyond is lost for that process,
counted in `Bus.dropped`, and the log says so. The connection stays: to cut it would lose what waits as well, and bring
the same state back after the next attempt.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from gows.errors import ConnectError, UsageError
from gows.reactor import Loop, Observer, Stream
from gows.reactor.sockets import remove_stale

logger = logging.getLogger("gows")

MAX_FRAME = 16 << 20
"""Bytes of one frame at most."""
MAX_QUEUED = 32 << 20
"""Bytes that may wait for one process that does not read."""
RECONNECT = 0.5
"""Seconds between two attempts to reach a process whose socket is there."""
LEAVE_TIMEOUT = 1.0
"""Seconds that `close` gives the others to take what waits for them."""

Handler = Callable[[str, bytes], "bytes | None"]

_VERSION = 1
_HELLO, _SEND, _ASK, _ANSWER, _NO_ANSWER = range(5)
_HEAD = struct.Struct("!IBBQB")
_FIXED = _HEAD.size - 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Frame(NamedTuple):
    """One frame, taken apart."""

    type: int
    number: int
    kind: str
    data: bytes


def encode(type_: int, number: int, kind: str, data: bytes) -> bytes:
    """A frame as it travels. Raises ValueError when it is too large."""
    name = kind.encode()
    size = _FIXED + len(name) + len(data)
    if size > MAX_FRAME or len(name) > 255:
        raise ValueError(f"a message between processes has at most {MAX_FRAME} bytes, not {size}")
    return b"".join((_HEAD.pack(size, _VERSION, type_, number, len(name)), name, data))


class FrameReader:
    """Bytes in, frames out."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that are whole now. Raises ValueError for what is none."""
        rest = self._rest
        rest += data
        frames: list[Frame] = []
        pos = 0
        while len(rest) - pos >= _HEAD.size:
            size, version, type_, number, kind_size = _HEAD.unpack_from(rest, pos)
            if version != _VERSION or size > MAX_FRAME or size < _FIXED + kind_size or type_ > _NO_ANSWER:
                raise ValueError("this is no frame of the bus, or one of another version")
            end = pos + 4 + size
            if end > len(rest):
                break
            body = pos + _HEAD.size
            kind = rest[body : body + kind_size].decode()
            frames.append(Frame(type_, number, kind, bytes(rest[body + kind_size : end])))
            pos = end
        del rest[:pos]
        return frames


class SocketFolder:
    """The folder with the sockets of all processes. Tests have one in memory, with the same methods."""

    def __init__(self, path: str) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the folder, if it is not there. Raises PermissionError when others than this user may enter it."""
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        status = os.stat(self.path)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(f"the folder of the bus must be this user's alone, mode 0700: {self.path}")

    def address(self, name: str) -> str:
        """Return where the process `name` listens."""
        return f"unix:{self._file(name)}"

    def names(self) -> list[str]:
        """Return the names of the processes whose socket is there, sorted."""
        pairs = (file.rpartition(".sock") for file in os.listdir(self.path))
        return sorted(name for name, dot, _ in pairs if dot and _NAME.fullmatch(name))

    def holds(self, name: str) -> bool:
        """Return whether the socket of `name` is there."""
        return os.path.exists(self._file(name))

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Have nobody else make or remove sockets meanwhile. Raises BlockingIOError with `wait=False`."""
        fd = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(fd)

    def remove_stale(self, name: str) -> None:
        """Remove the socket of `name` if nobody listens at it."""
        remove_stale(self._file(name))

    def _file(self, name: str) -> str:
        return os.path.join(self.path, f"{name}.sock")


class Bus:
    """One process's place among the others. Make it, register what is to be heard with `handle`, then `start()`; in the
    end `close()`.

    `folder` belongs to the processes of one server alone; it is made (mode 0700) if it is not there. `name` is unique
    in it: letters, digits, ".", "_", "-". `loop`: a loop made by the caller, who also runs and closes it; None: one
    with a thread of its own. Methods may be called from any thread unless they say otherwise. Make it after fork(2), in
    the process that it is for.
    """

    def __init__(self, folder: str | SocketFolder, name: str, *, loop: Loop | None = None) -> None:
        """Raises ValueError for a name that cannot be a file's."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"a name on the bus has letters, digits, '.', '_' and '-', not {name!r}")
        self._sockets = folder if isinstance(folder, SocketFolder) else SocketFolder(os.fspath(folder))
        self.folder = self._sockets.path
        self.name = name
        self._own_loop = loop is None
        self.loop = loop or Loop(workers=0)
        self.dropped = 0
        """Messages that were lost since their receiver read too slowly, over all receivers."""
        self.on_up: list[Callable[[str], object]] = []
        """Called with the name of a process that hears us from now on. In the bus's thread, as `on_down`."""
        self.on_down: list[Callable[[str], object]] = []
        """Called with the name of a process from which nothing comes any more."""
        self._handlers: dict[str, Handler] = {}
        self._links: dict[str, _Link] = {}  # to whom we send, or try to; bus thread
        self._up: dict[str, _Link] = {}  # those that are connected; replaced, never changed
        self._ears: dict[str, _Ear] = {}  # from whom we hear; bus thread
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count(self._nanoseconds())  # a process that had our name before asked with others
        self._lock = threading.Lock()  # of `dropped`
        self._changing = threading.Lock()  # of start and close
        self._started = False
        self._closed = False
        self._left = threading.Event()

    @property
    def peers(self) -> list[str]:
        """The names of the other processes that we are connected to now, sorted."""
        return sorted(self._up)

    def handle(self, kind: str, handler: Handler) -> None:
        """Call `handler(sender, data)` for what comes under `kind`; what it returns answers an `ask`. It runs in the
        bus's thread and must not block. One handler for a kind: ValueError for a second."""
        if kind in self._handlers:
            raise ValueError(f"{kind!r} has a handler already")
        self._handlers[kind] = handler

    def start(self) -> None:
        """Listen, and go to meet the others, in a thread of its own. Idempotent. Raises OSError when the socket cannot
        be made, PermissionError when others than this user may enter the folder."""
        with self._changing:
            if self._started:
                return
            self._sockets.prepare()
            with self._sockets.locked():
                self.loop.listen(self._sockets.address(self.name), self._accepted, mode=0o600)
            if self._own_loop:
                self.loop.start("gows-bus")
            self.loop.call_soon(self._look_round)
            self._started = True

    def close(self) -> None:
        """Leave, and have the others take what waits for them, for a second at most. Questions that wait end with the
        answers that are there. Idempotent; not in the bus's own thread."""
        with self._changing:
            if not self._closed and self.loop.running:
                self._closed = True
                self.loop.call_soon(self._leave)
                self._left.wait(LEAVE_TIMEOUT)
            self._closed = True
            if self._own_loop:
                self.loop.close()

    def send(self, kind: str, data: bytes, to: str | None = None) -> None:
        """Send to everybody else, or to one. Never blocks; what goes to one is kept in order. Nothing goes to who is
        not among `peers`. Raises ValueError for more than 16 MiB."""
        frame = encode(_SEND, 0, kind, data)
        for link in self._chosen(to).values():
            link.write(frame)

    def ask(self, kind: str, data: bytes = b"", timeout: float = 1.0, to: str | None = None) -> dict[str, bytes]:
        """Ask everybody else, or one, and wait: the answers that came within `timeout` seconds, by name. Whoever dies
        meanwhile is not waited for. Raises UsageError in the bus's thread, which would wait for itself; ValueError as
        `send`."""
        if self.loop.in_loop():
            raise UsageError("ask() would wait for the thread it is called in")
        number = next(self._numbers)
        frame = encode(_ASK, number, kind, data)
        links = self._chosen(to)
        question = self._questions[number] = _Question(links)
        try:
            for name, link in links.items():
                if not link.write(frame) or self._up.get(name) is not link:
                    question.forget(name)
            question.done.wait(timeout)
        finally:
            del self._questions[number]
        return question.answers()

    def _chosen(self, to: str | None) -> dict[str, _Link]:
        up = self._up
        if to is None:
            return up
        return {to: up[to]} if to in up else {}

    def _nanoseconds(self) -> int:
        """The loop's time."""
        return int(self.loop.time() * 1e9)

    def count_dropped(self) -> None:
        """A message was lost."""
        with self._lock:
            self.dropped += 1

    # ------------------------------------------------------------------ bus thread: who is there

    def _look_round(self) -> None:
        """Dial everybody whose socket is in the folder."""
        for name in self._sockets.names():
            self.dial(name)

    def dial(self, name: str) -> None:
        """Have a connection to `name`, unless there is one, or it is us."""
        if name == self.name or name in self._links or self._closed:
            return
        link = self._links[name] = _Link(self, name)
        link.stream = self.loop.connect(self._sockets.address(name), link)
        link.stream.write(encode(_HELLO, self._nanoseconds(), "", self.name.encode()))

    def link_up(self, link: _Link) -> None:
        """A connection of ours is made."""
        self._up = {**self._up, link.name: link}
        if self.on_up:
            self.loop.call_soon(self._tell_up, link)  # our greeting is still to be written

    def _tell_up(self, link: _Link) -> None:
        if self._up.get(link.name) is link:
            for call in self.on_up:
                call(link.name)

    def link_down(self, link: _Link, error: Exception | None) -> None:
        """A connection of ours is gone, or could not be made."""
        name = link.name
        del self._links[name]
        if self._up.get(name) is link:
            self._up = {other: up for other, up in self._up.items() if other != name}
        for question in list(self._questions.values()):
            question.forget(name)
        if self._closed:
            if not self._links:
                self._left.set()
            return
        if isinstance(error, ConnectError) and isinstance(error.__cause__, ConnectionRefusedError):
            self._bury(name)
        if self._sockets.holds(name):
            self.loop.call_later(RECONNECT, self.dial, name)

    def _bury(self, name: str) -> None:
        """Nobody listens at this socket: the process is dead, or has just come and is about to listen."""
        try:
            with self._sockets.locked(wait=False):  # so that it is not about to listen
                self._sockets.remove_stale(name)
        except OSError:  # somebody is at it, or has done it
            pass

    def met(self, ear: _Ear, number: int) -> bool:
        """Somebody said who it is. False: this connection is older than another of the same name, which counts."""
        before = self._ears.get(ear.name)
        if before is not None:
            if before.number > number:
                return False
            before.stream.abort()  # what it still holds is of a process that has died, or had been cut off
        ear.number = number
        self._ears[ear.name] = ear
        self.dial(ear.name)
        return True

    def parted(self, ear: _Ear) -> None:
        """A connection to us is gone."""
        if self._ears.get(ear.name) is ear:
            del self._ears[ear.name]
            if not self._closed:
                for call in self.on_down:
                    call(ear.name)

    def _leave(self) -> None:
        for link in self._links.values():
            link.stream.close(linger=False)
        if not self._links:
            self._left.set()

    def _accepted(self, stream: Stream) -> None:
        stream.observer = _Ear(self, stream)

    # ------------------------------------------------------------------ bus thread: what is said

    def heard(self, sender: str, frame: Frame) -> None:
        """A frame of `sender`'s."""
        if frame.type == _SEND:
            self._handled(sender, frame)
        elif frame.type == _ASK:
            answer = self._handled(sender, frame)
            link = self._links.get(sender)
            if link is not None:  # else it has gone
                type_ = _NO_ANSWER if answer is None else _ANSWER
                link.write(encode(type_, frame.number, "", answer or b""))
        else:
            question = self._questions.get(frame.number)
            if question is not None:
                question.answer(sender, frame.data if frame.type == _ANSWER else None)

    def _handled(self, sender: str, frame: Frame) -> bytes | None:
        """What the handler returns, if there is one."""
        handler = self._handlers.get(frame.kind)
        if handler is None:
            return None
        try:
            answer = handler(sender, frame.data)
            if answer is not None:
                encode(_ANSWER, 0, "", answer)
        except Exception:
            logger.exception("the bus's handler of %r failed", frame.kind)
            return None
        return answer


class _Link(Observer):
    """Our connection to one other process: it only sends."""

    __slots__ = ("_missed", "bus", "name", "stream")

    stream: Stream

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus = bus
        self.name = name
        self._missed = 0  # messages, since it last read

    @property
    def high_water(self) -> int:
        return MAX_QUEUED // 2

    @property
    def low_water(self) -> int:
        return MAX_QUEUED // 4

    def write(self, frame: bytes) -> bool:
        """Queue a frame; False: too much waits, and it is lost. Any thread."""
        if self.stream.queued + len(frame) > MAX_QUEUED:
            if not self._missed:
                logger.error("process %s does not read what is sent to it: messages are lost", self.name)
            self._missed += 1
            self.bus.count_dropped()
            return False
        self.stream.write(frame)
        return True

    def drained(self) -> None:
        if self._missed:
            logger.error("process %s reads again; it missed %d messages", self.name, self._missed)
            self._missed = 0

    def connected(self, stream: Stream) -> None:
        self.stream = stream  # `connect` may get here before it returns
        self.bus.link_up(self)

    def data_received(self, buf: bytearray, n: int, /) -> None:
        self.stream.abort(ValueError("the other end of a one-way connection spoke"))

    def eof_received(self) -> None:
        self.stream.close(linger=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.bus.link_down(self, error)


class _Ear(Observer):
    """A connection that another process made to us: it only receives."""

    __slots__ = ("_reader", "bus", "name", "number", "stream")

    def __init__(self, bus: Bus, stream: Stream) -> None:
        self.bus = bus
        self.stream = stream
        self.name = ""
        self.number = 0
        self._reader = FrameReader()

    def data_received(self, buf: bytearray, n: int, /) -> None:
        try:
            for frame in self._reader.feed(memoryview(buf)[:n]):
                if self.name:
                    self.bus.heard(self.name, frame)
                elif not self._greeted(frame):
                    return
        except ValueError as error:
            logger.error("the bus: %s; cut off", error)
            self.stream.abort()

    def _greeted(self, frame: Frame) -> bool:
        """The first frame says who is speaking; False: it is not to be listened to."""
        name = frame.data.decode()
        if frame.type != _HELLO or not _NAME.fullmatch(name):
            raise ValueError("the first frame does not say who is speaking")
        self.name = name
        if self.bus.met(self, frame.number):
            return True
        self.stream.abort()
        return False

    def eof_received(self) -> None:
        self.stream.close(linger=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.bus.parted(self)


class _Question:
    """One `ask` that waits."""

    __slots__ = ("_answers", "_lock", "_open", "done")

    def __init__(self, names: Iterable[str]) -> None:
        self.done = threading.Event()
        self._lock = threading.Lock()
        self._open = set(names)  # from whom something may still come
        self._answers: dict[str, bytes] = {}
        if not self._open:
            self.done.set()

    def answer(self, name: str, data: bytes | None) -> None:
        """Somebody answered, or has nothing to say."""
        with self._lock:
            if data is not None:
                self._answers[name] = data
        self.forget(name)

    def forget(self, name: str) -> None:
        """Nothing (more) comes from `name`."""
        with self._lock:
            self._open.discard(name)
            if not self._open:
                self.done.set()

    def answers(self) -> dict[str, bytes]:
        """What was answered until now."""
        with self._lock:
            return dict(self._answers)
