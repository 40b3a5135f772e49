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
from typing import Any, NamedTuple

from gows.errors import ConnectError, LoopClosedError, UsageError
from gows.reactor import Loop, Observer, Stream
from gows.reactor.sockets import remove_stale
from gows.reactor.waits import inner_lock

logger = logging.getLogger("gows")

MAX_FRAME = 16 << 20
"""Bytes of one frame at most."""
MAX_QUEUED = 32 << 20
"""Bytes that may wait for one process that does not read."""
RECONNECT = 0.5
"""Seconds between two attempts to reach a process whose socket is there."""
START_TIMEOUT = 1.0
"""Seconds that `start` gives the others to answer."""
CUT_OFF = 0.2
"""Seconds after the loss of our connection to a process until that from it is given up as well."""
LEAVE_TIMEOUT = 1.0
"""Seconds that `close` gives the others to take what waits for them."""

Handler = Callable[[str, bytes], "bytes | None"]

_VERSION = 2
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
    in it: letters, digits, ".", "_", "-". Methods may be called from any thread unless they say otherwise. Make it
    after fork(2), in the process that it is for. `loop`: a loop made by the caller, who also runs and closes it; None:
    one with a thread of its own.
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
        """Called with the name of a process that hears us, and that we hear, from now on. In the bus's thread, as
        `on_down` and `on_missed`."""
        self.on_down: list[Callable[[str], object]] = []
        """Called with the name of a process from which nothing comes any more, nor goes there. If it is still there, it
        comes up again; what was sent meanwhile may be lost. Also of one that was never up, when it has sent something,
        or was there for so long that its `start` waited for us no more: we were stopped meanwhile."""
        self.on_missed: list[Callable[[str], object]] = []
        """Called with the name of a process that did not read, lost messages (`dropped`), and reads again."""
        self.on_leave: list[Callable[[], object]] = []
        """Called when we are about to leave, while messages can still be sent."""
        self._handlers: dict[str, Handler] = {}
        self._links: dict[str, Outbound] = {}  # to whom we send, or try to; replaced, never changed, as `_up`
        self._up: dict[str, Outbound] = {}  # those that are connected
        self._inbound: dict[str, Inbound] = {}  # from whom we hear; bus thread
        self._present: set[str] = set()  # those that `on_up` was called for; bus thread
        self._heard: set[str] = set()  # … and others of which something has come
        self._awaited: set[str] = set()  # whom `start` waits for; bus thread
        self._met = threading.Event()
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count(self._nanoseconds())  # a process that had our name before asked with others
        self._lock = inner_lock()  # of `dropped`; a signal handler may send within a send
        self._changing = threading.Lock()  # of start and close
        self._started = False
        self._leaving = False
        self._closed = False
        self._left = threading.Event()

    @property
    def peers(self) -> list[str]:
        """The names of the other processes that we are connected to now, sorted."""
        return sorted(self._up)

    @property
    def running(self) -> bool:
        """Whether it was started and not closed."""
        return self._started and not self._closed

    def handle(self, kind: str, handler: Handler) -> None:
        """Call `handler(sender, data)` for what comes under `kind`; what it returns answers an `ask`. It runs in the
        bus's thread and must not block. One handler for a kind: ValueError for a second."""
        if kind in self._handlers:
            raise ValueError(f"{kind!r} has a handler already")
        self._handlers[kind] = handler

    def start(self) -> None:
        """Listen, and meet the others, in a thread of its own. When it returns, all whose socket was in the folder
        are connected in both directions, or did not answer within a second; what is sent to those that have not
        answered yet waits for them. Idempotent. Raises OSError when the socket cannot be made, PermissionError when
        others than this user may enter the folder."""
        with self._changing:
            if not self._started:
                self._sockets.prepare()
                with self._sockets.locked():
                    self.loop.listen(self._sockets.address(self.name), self._accepted, mode=0o600)
                if self._own_loop:
                    self.loop.start("gows-bus")
                self.loop.call_soon(self._meet)
                self._started = True
        self.wait(self._met, START_TIMEOUT)

    def close(self) -> None:
        """Leave, and have the others take what waits for them, for a second at most. Questions that wait end with the
        answers that are there. Idempotent; not in the bus's own thread."""
        with self._changing:
            if not self._closed:
                if self.loop.running and not self.loop.in_loop():
                    self.loop.call_soon(self._leave)
                    self._left.wait(LEAVE_TIMEOUT)
                elif self._started:
                    self._leave()
            self._closed = True
            if self._own_loop:
                self.loop.close()

    def now(self) -> float:
        """Seconds of a clock that all processes of this machine share."""
        return self.loop.time()

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call it in the bus's thread; not at all once the bus is closed."""
        try:
            self.loop.call_soon(call, *arguments)
        except LoopClosedError:
            pass

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call it in the bus's thread after so many seconds; not at all once the bus is closed."""
        try:
            self.loop.call_later(seconds, call, *arguments)
        except LoopClosedError:
            pass

    def wait(self, event: threading.Event, timeout: float) -> bool:
        """Wait for something that the bus's thread does; at once over in that thread, or when no thread runs the loop.
        Whether it has happened."""
        if self.loop.in_loop() or not self.loop.running:
            return event.is_set()
        return event.wait(timeout)

    def send(self, kind: str, data: bytes, to: str | None = None) -> bool:
        """Send to everybody else, or to one. Never blocks; what goes to one is kept in order. Nothing goes to a process
        that is not known. False: it was lost for one that does not read, since too much waits for it. Raises ValueError
        for more than 16 MiB."""
        frame = encode(_SEND, 0, kind, data)
        lost = 0
        for link in self._chosen(to).values():
            lost += not link.write(frame)
        return not lost

    def ask(self, kind: str, data: bytes = b"", timeout: float = 1.0, to: str | None = None) -> dict[str, bytes]:
        """Ask everybody else, or one, and wait: the answers that came within `timeout` seconds, by name. A process that
        dies meanwhile is not waited for. Raises UsageError in the bus's thread, which would wait for itself; ValueError
        as `send`."""
        if self.loop.in_loop():
            raise UsageError("ask() would wait for the thread it is called in")
        number = next(self._numbers)
        frame = encode(_ASK, number, kind, data)
        links = self._chosen(to)
        question = self._questions[number] = _Question(links)
        try:
            for name, link in links.items():
                if not link.write(frame) or self._links.get(name) is not link:
                    question.forget(name)
            question.done.wait(timeout)
        finally:
            del self._questions[number]
        return question.answers()

    def _chosen(self, to: str | None) -> dict[str, Outbound]:
        links = self._links
        if to is None:
            return links
        return {to: links[to]} if to in links else {}

    def _nanoseconds(self) -> int:
        """The loop's time."""
        return int(self.loop.time() * 1e9)

    def count_dropped(self) -> None:
        """A message was lost."""
        with self._lock:
            self.dropped += 1

    # ------------------------------------------------------------------ bus thread: who is there

    def _meet(self) -> None:
        """Dial everybody whose socket is in the folder."""
        names = self._sockets.names()
        self._awaited.update(names)
        for name in names:
            self.dial(name)
        self._no_longer_awaited(self.name)

    def _no_longer_awaited(self, name: str) -> None:
        self._awaited.discard(name)
        if not self._awaited:
            self._met.set()

    def dial(self, name: str) -> None:
        """Have a connection to `name`, unless there is one, or it is us."""
        if name == self.name or name in self._links or self._leaving or self._closed:
            return
        link = Outbound(self, name)
        link.stream = self.loop.connect(self._sockets.address(name), link)
        link.stream.write(encode(_HELLO, self._nanoseconds(), "", self.name.encode()))
        self._links = {**self._links, name: link}  # now, so that nothing goes out before the greeting
        if link.is_connected:
            self.on_connected(link)

    def on_connected(self, link: Outbound) -> None:
        """A connection of ours is made."""
        if self._links.get(link.name) is not link:  # `dial` is about to see it
            return
        self._up = {**self._up, link.name: link}
        self._look_whether_up(link.name)
        if self._leaving:
            link.stream.close(linger=False)

    def _look_whether_up(self, name: str) -> None:
        """One direction of two has come."""
        if name in self._up and name in self._inbound and name not in self._present:
            self._present.add(name)
            self._tell(self.on_up, name)
            self._no_longer_awaited(name)

    def _cut_off(self, inbound: Inbound) -> None:
        """A process to which we had a connection that was lost is still there: begin anew, with both directions."""
        if self._inbound.get(inbound.name) is inbound and inbound.name in self._present and inbound.is_alone:
            inbound.stream.abort()

    def _look_whether_down(self, name: str) -> None:
        """Nothing comes of it any more. What it had sent has come by now, so nothing of it comes after that is told.
        One that died before we could reach it has been heard all the same: we may have been stopped."""
        if name in self._present or name in self._heard:
            self._present.discard(name)
            self._heard.discard(name)
            if not self._closed:
                self._tell(self.on_down, name)

    def _tell(self, calls: list[Callable[[str], object]], name: str) -> None:
        for call in list(calls):
            try:
                call(name)
            except Exception:
                logger.exception("what was to be called about the process %s failed", name)

    def on_outbound_lost(self, link: Outbound, error: Exception | None) -> None:
        """A connection of ours is gone, or could not be made."""
        name = link.name
        if self._links.get(name) is link:
            self._links = {other: each for other, each in self._links.items() if other != name}
        if self._up.get(name) is link:
            self._up = {other: each for other, each in self._up.items() if other != name}
        for question in list(self._questions.values()):
            question.forget(name)
        inbound = self._inbound.get(name)
        if inbound is not None:  # if the process has ended that will be over soon, when all that it had sent is read
            inbound.is_alone = True
            if not self._leaving:
                self.loop.call_later(CUT_OFF, self._cut_off, inbound)
        self._no_longer_awaited(name)
        if self._leaving:
            if not self._links:
                self._left.set()
            return
        if isinstance(error, ConnectError) and isinstance(error.__cause__, ConnectionRefusedError):
            self._remove_stale_socket(name)
        if self._sockets.holds(name):
            self.loop.call_later(RECONNECT, self.dial, name)

    def on_reads_again(self, name: str) -> None:
        """A process that lost messages has taken what waited for it."""
        self._tell(self.on_missed, name)

    def _remove_stale_socket(self, name: str) -> None:
        """Nobody listens at this socket: the process is dead, or has just come and is about to listen."""
        try:
            with self._sockets.locked(wait=False):  # so that it is not about to listen
                self._sockets.remove_stale(name)
        except OSError:  # somebody is at it, or has done it
            pass

    def on_hello(self, inbound: Inbound, number: int) -> bool:
        """Somebody said who it is. False: this connection is older than another of the same name, which counts."""
        name = inbound.name
        before = self._inbound.get(name)
        if before is not None:
            if before.number > number:
                return False
            before.stream.abort()  # what it still holds is of a process that has died, or had been cut off
            self._look_whether_down(name)
        inbound.number = number
        self._inbound[name] = inbound
        self.dial(name)
        self._look_whether_up(name)
        return True

    def on_inbound_lost(self, inbound: Inbound) -> None:
        """A connection to us is gone."""
        name = inbound.name
        if self._inbound.get(name) is inbound:
            del self._inbound[name]
            if name not in self._present and self._nanoseconds() - inbound.number > START_TIMEOUT * 1e9:
                self._heard.add(name)  # it has not waited for us any longer, and served
            self._look_whether_down(name)

    def _leave(self) -> None:
        for call in self.on_leave:
            call()
        self._leaving = True
        for link in self._links.values():
            if link.is_connected:  # else once it is: to close it now would give it up
                link.stream.close(linger=False)
        if not self._links:
            self._left.set()

    def _accepted(self, stream: Stream) -> None:
        stream.observer = Inbound(self, stream)

    # ------------------------------------------------------------------ bus thread: what is said

    def on_frame(self, sender: str, frame: Frame) -> None:
        """A frame of `sender`'s."""
        if frame.type == _SEND:
            if sender not in self._present:
                self._heard.add(sender)
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


class Outbound(Observer):
    """Our connection to one other process: it only sends."""

    __slots__ = ("_missed", "bus", "is_connected", "name", "stream")

    stream: Stream

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus = bus
        self.name = name
        self.is_connected = False
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
            self._missed += 1
            self.bus.count_dropped()
            if self._missed == 1:  # in the bus's thread, for the caller holds a lock, and a logging handler may publish
                self.bus.call_soon(logger.error, "process %s does not read: messages to it are lost", self.name)
            return False
        self.stream.write(frame)
        return True

    def drained(self) -> None:
        if self._missed:
            missed, self._missed = self._missed, 0
            logger.error("process %s reads again; it missed %d messages", self.name, missed)
            self.bus.on_reads_again(self.name)

    def connected(self, stream: Stream) -> None:
        self.stream = stream  # `connect` may get here before it returns
        self.is_connected = True
        self.bus.on_connected(self)

    def data_received(self, buf: bytearray, n: int, /) -> None:
        self.stream.abort(ValueError("the other end of a one-way connection spoke"))

    def eof_received(self) -> None:
        self.stream.close(linger=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.bus.on_outbound_lost(self, error)


class Inbound(Observer):
    """A connection that another process made to us: it only receives."""

    __slots__ = ("_reader", "bus", "is_alone", "name", "number", "stream")

    def __init__(self, bus: Bus, stream: Stream) -> None:
        self.bus = bus
        self.stream = stream
        self.name = ""
        self.number = 0
        self.is_alone = False  # our connection to that process was lost
        self._reader = FrameReader()

    def data_received(self, buf: bytearray, n: int, /) -> None:
        try:
            for frame in self._reader.feed(memoryview(buf)[:n]):
                if self.name:
                    self.bus.on_frame(self.name, frame)
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
        if self.bus.on_hello(self, frame.number):
            return True
        self.stream.abort()
        return False

    def eof_received(self) -> None:
        self.stream.close(linger=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.bus.on_inbound_lost(self)


class _Question:
    """One `ask` that waits."""

    __slots__ = ("_answers", "_lock", "_open", "done")

    def __init__(self, names: Iterable[str]) -> None:
        self.done = threading.Event()
        self._lock = inner_lock()
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
