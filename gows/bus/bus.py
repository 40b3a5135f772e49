"""Bus: how the processes of one server send each other messages, over Unix-domain sockets in one folder.

There is no broker process. Each process listens at `folder/NAME.sock`. It sends over connections that it made itself,
exactly one to each other process, and receives over those that were made to it. So between two processes there are two
one-way connections: the order of what one sends is kept, and newcomers who find each other at the same moment need not
agree on whose connection counts. A newcomer connects to every socket in the folder and says who it is; whoever hears of
somebody new connects back.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from gows.bus.folder import SocketFolder, is_name
from gows.bus.links import Inbound, Outbound
from gows.bus.question import Question
from gows.bus.wire import ANSWER, ASK, HELLO, NO_ANSWER, SEND, Frame, encode
from gows.errors import ConnectError, LoopClosedError, UsageError
from gows.reactor import Loop, Stream
from gows.reactor.waits import inner_lock

logger = logging.getLogger("gows")

RECONNECT = 0.5
"""Seconds between two attempts to reach a process whose socket is there."""
START_TIMEOUT = 1.0
"""Seconds that `start` gives the others to answer."""
CUT_OFF = 0.2
"""Seconds after the loss of our connection to a process until that from it is given up as well."""
LEAVE_TIMEOUT = 1.0
"""Seconds that `close` gives the others to take what waits for them."""

MessageHandler = Callable[[str, bytes], "bytes | None"]


class Bus:
    """Connects one process to the others of its server. Make it, register handlers of messages with `handle`, then
    call `start()`, and `close()` in the end.

    `folder` belongs to the processes of one server alone; it is made (mode 0700) if it is not there. `name` is unique
    in it: letters, digits, ".", "_", "-". Methods may be called from any thread unless they say otherwise. Make it
    after fork(2), in the process that it is for. `loop`: a loop made by the caller, who also runs and closes it; None:
    one with a thread of its own.
    """

    def __init__(self, folder: str | SocketFolder, name: str, *, loop: Loop | None = None) -> None:
        """Make the bus, not started yet. Raises ValueError for a name that cannot be a file's."""
        if not is_name(name):
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
        self._handlers: dict[str, MessageHandler] = {}
        self._links: dict[str, Outbound] = {}  # to each process that was dialled; replaced, never changed, as `_up`
        self._up: dict[str, Outbound] = {}  # those that are connected
        self._inbound: dict[str, Inbound] = {}  # from each process; bus thread
        self._present: set[str] = set()  # processes that `on_up` was called for; bus thread
        self._senders: set[str] = set()  # other processes that have sent something
        self._awaited: set[str] = set()  # processes that `start` waits for; bus thread
        self._all_connected = threading.Event()
        self._questions: dict[int, Question] = {}
        self._numbers = itertools.count(self._nanoseconds())  # a process that had our name before asked with others
        self._lock = inner_lock("bus")  # of `dropped`; a signal handler may send within a send
        self._changing = threading.Lock()  # of start and close
        self._started = False
        self._leaving = False
        self._closed = False
        self._has_left = threading.Event()

    @property
    def peers(self) -> list[str]:
        """Return the names of the other processes that we are connected to now, sorted."""
        return sorted(self._up)

    @property
    def running(self) -> bool:
        """Return whether it was started and not closed."""
        return self._started and not self._closed

    def handle(self, kind: str, handler: MessageHandler) -> None:
        """Have `handler(sender, data)` called for each message of a kind; what it returns answers an `ask`. It runs in
        the bus's thread and must not block. Raises ValueError if the kind has a handler already."""
        if kind in self._handlers:
            raise ValueError(f"{kind!r} has a handler already")
        self._handlers[kind] = handler

    def start(self) -> None:
        """Listen, and connect to the others, in a thread of its own. When it returns, all whose socket was in the
        folder are connected in both directions, or did not answer within a second; what is sent to those that have not
        answered yet waits for them. Idempotent. Raises OSError when the socket cannot be made, PermissionError when
        others than this user may enter the folder."""
        with self._changing:
            if not self._started:
                self._sockets.prepare()
                with self._sockets.locked():
                    self.loop.listen(self._sockets.address(self.name), self._on_accepted, mode=0o600)
                if self._own_loop:
                    self.loop.start("gows-bus")
                self.loop.call_soon(self._dial_all)
                self._started = True
        self.wait(self._all_connected, START_TIMEOUT)

    def close(self) -> None:
        """Leave, and have the others take what waits for them, for a second at most. Questions that wait end with the
        answers that are there. Idempotent; not in the bus's own thread."""
        with self._changing:
            if not self._closed:
                if self.loop.running and not self.loop.in_loop():
                    self.loop.call_soon(self._leave)
                    self._has_left.wait(LEAVE_TIMEOUT)
                elif self._started:
                    self._leave()
            self._closed = True
            if self._own_loop:
                self.loop.close()

    def now(self) -> float:
        """Return the time, in seconds, by a clock that all processes of this machine share."""
        return self.loop.time()

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call `call(*arguments)` in the bus's thread; not at all once the bus is closed. Any thread."""
        try:
            self.loop.call_soon(call, *arguments)
        except LoopClosedError:
            pass

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call `call(*arguments)` in the bus's thread after `seconds`; not at all once it is closed. Any thread."""
        try:
            self.loop.call_later(seconds, call, *arguments)
        except LoopClosedError:
            pass

    def wait(self, event: threading.Event, timeout: float) -> bool:
        """Wait until the bus's thread sets `event`, for `timeout` seconds at most. In that thread itself, or if no
        thread runs the loop, it does not wait. Returns whether the event is set."""
        if self.loop.in_loop() or not self.loop.running:
            return event.is_set()
        return event.wait(timeout)

    def send(self, kind: str, data: bytes, to: str | None = None) -> bool:
        """Send a message to all other processes, or to the process `to`. Never blocks. What is sent to one process
        arrives in order; a process that is not known gets nothing. Returns False if the message was lost for a process
        that does not read, since too much waits for it. Raises ValueError for more than 16 MiB."""
        frame = encode(SEND, 0, kind, data)
        lost = 0
        for link in self._links_to(to).values():
            lost += not link.write(frame)
        return not lost

    def ask(self, kind: str, data: bytes = b"", timeout: float = 1.0, to: str | None = None) -> dict[str, bytes]:
        """Ask all other processes, or the process `to`, and return the answers that came within `timeout` seconds, by
        the name of the process. It does not wait for a process that dies meanwhile. Raises UsageError in the bus's
        thread, which would wait for itself; ValueError as `send`."""
        if self.loop.in_loop():
            raise UsageError("ask() would wait for the thread it is called in")
        number = next(self._numbers)
        frame = encode(ASK, number, kind, data)
        links = self._links_to(to)
        question = self._questions[number] = Question(links)
        try:
            for name, link in links.items():
                if not link.write(frame) or self._links.get(name) is not link:
                    question.forget(name)
            question.done.wait(timeout)
        finally:
            del self._questions[number]
        return question.answers()

    def _links_to(self, to: str | None) -> dict[str, Outbound]:
        """Return the connections to all other processes, or to the process `to`."""
        links = self._links
        if to is None:
            return links
        return {to: links[to]} if to in links else {}

    def _nanoseconds(self) -> int:
        """Return the loop's time."""
        return int(self.loop.time() * 1e9)

    def count_dropped(self) -> None:
        """Count a message that was lost."""
        with self._lock:
            self.dropped += 1

    # ------------------------------------------------------------------ bus thread: who is there

    def _dial_all(self) -> None:
        """Connect to all processes whose socket is in the folder."""
        names = self._sockets.names()
        self._awaited.update(names)
        for name in names:
            self.dial(name)
        self._stop_awaiting(self.name)

    def _stop_awaiting(self, name: str) -> None:
        """Let `start` wait for a process no longer."""
        self._awaited.discard(name)
        if not self._awaited:
            self._all_connected.set()

    def dial(self, name: str) -> None:
        """Connect to the process `name`, unless there is a connection, or it is this process."""
        if name == self.name or name in self._links or self._leaving or self._closed:
            return
        link = Outbound(self, name)
        link.stream = self.loop.connect(self._sockets.address(name), link)
        link.stream.write(encode(HELLO, self._nanoseconds(), "", self.name.encode()))
        self._links = {**self._links, name: link}  # now, so that nothing goes out before the greeting
        if link.is_connected:
            self.on_connected(link)

    def on_connected(self, link: Outbound) -> None:
        """Note that a connection of ours is made."""
        if self._links.get(link.name) is not link:  # `dial` is about to see it
            return
        self._up = {**self._up, link.name: link}
        self._check_up(link.name)
        if self._leaving:
            link.stream.close(linger=False)

    def _check_up(self, name: str) -> None:
        """Call `on_up` if both directions are connected now."""
        if name in self._up and name in self._inbound and name not in self._present:
            self._present.add(name)
            self._call_each(self.on_up, name)
            self._stop_awaiting(name)

    def _cut_off(self, inbound: Inbound) -> None:
        """Give up the connection from a process that is still there after ours to it was lost: both begin anew."""
        if self._inbound.get(inbound.name) is inbound and inbound.name in self._present and inbound.is_alone:
            inbound.stream.abort()

    def _check_down(self, name: str) -> None:
        """Call `on_down` if the process was up. All that it had sent has come by now, so nothing of it comes after
        `on_down`. A process that died before we could reach it may have sent something all the same: this process may
        have been stopped meanwhile."""
        if name in self._present or name in self._senders:
            self._present.discard(name)
            self._senders.discard(name)
            if not self._closed:
                self._call_each(self.on_down, name)

    def _call_each(self, calls: list[Callable[[str], object]], name: str) -> None:
        """Call each with the name of a process, and log what they raise."""
        for call in list(calls):
            try:
                call(name)
            except Exception:
                logger.exception("a callback about the process %s failed", name)

    def on_outbound_lost(self, link: Outbound, error: Exception | None) -> None:
        """Note that a connection of ours is lost, or could not be made: try again if the socket is there."""
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
        self._stop_awaiting(name)
        if self._leaving:
            if not self._links:
                self._has_left.set()
            return
        if isinstance(error, ConnectError) and isinstance(error.__cause__, ConnectionRefusedError):
            self._remove_stale_socket(name)
        if self._sockets.holds(name):
            self.loop.call_later(RECONNECT, self.dial, name)

    def on_reads_again(self, name: str) -> None:
        """Call `on_missed`: a process that lost messages has taken what waited for it."""
        self._call_each(self.on_missed, name)

    def _remove_stale_socket(self, name: str) -> None:
        """Remove a socket that nobody listens at, unless its process has just come and is about to listen."""
        try:
            with self._sockets.locked(wait=False):  # so that it is not about to listen
                self._sockets.remove_stale(name)
        except OSError:  # somebody is at it, or has done it
            pass

    def on_hello(self, inbound: Inbound, number: int) -> bool:
        """Take a connection whose other end said its name. Returns False if there is a newer one of that name."""
        name = inbound.name
        before = self._inbound.get(name)
        if before is not None:
            if before.number > number:
                return False
            before.stream.abort()  # what it still holds is of a process that has died, or had been cut off
            self._check_down(name)
        inbound.number = number
        self._inbound[name] = inbound
        self.dial(name)
        self._check_up(name)
        return True

    def on_inbound_lost(self, inbound: Inbound) -> None:
        """Note that a connection to us is lost: nothing comes from that process any more."""
        name = inbound.name
        if self._inbound.get(name) is inbound:
            del self._inbound[name]
            if name not in self._present and self._nanoseconds() - inbound.number > START_TIMEOUT * 1e9:
                self._senders.add(name)  # it has not waited for us any longer, and served
            self._check_down(name)

    def _leave(self) -> None:
        """Call `on_leave`, and close our connections once what waits is sent."""
        for call in self.on_leave:
            call()
        self._leaving = True
        for link in self._links.values():
            if link.is_connected:  # else once it is: to close it now would give it up
                link.stream.close(linger=False)
        if not self._links:
            self._has_left.set()

    def _on_accepted(self, stream: Stream) -> None:
        stream.observer = Inbound(self, stream)

    # ------------------------------------------------------------------ bus thread: messages

    def on_frame(self, sender: str, frame: Frame) -> None:
        """Handle a frame that the process `sender` sent."""
        if frame.type == SEND:
            if sender not in self._present:
                self._senders.add(sender)
            self._call_handler(sender, frame)
        elif frame.type == ASK:
            answer = self._call_handler(sender, frame)
            link = self._links.get(sender)
            if link is not None:  # else the process has gone
                type_ = NO_ANSWER if answer is None else ANSWER
                link.write(encode(type_, frame.number, "", answer or b""))
        else:
            question = self._questions.get(frame.number)
            if question is not None:
                question.answer(sender, frame.data if frame.type == ANSWER else None)

    def _call_handler(self, sender: str, frame: Frame) -> bytes | None:
        """Return what the handler of the frame's kind returns; None without a handler, or if it fails."""
        handler = self._handlers.get(frame.kind)
        if handler is None:
            return None
        try:
            answer = handler(sender, frame.data)
            if answer is not None:
                encode(ANSWER, 0, "", answer)
        except Exception:
            logger.exception("the bus's handler of %r failed", frame.kind)
            return None
        return answer
