"""Inside: a gows loop that an asyncio loop turns, in its thread.

epoll and kqueue descriptors can be polled themselves. So asyncio watches the poller of the gows loop, and takes one
bounded turn of it when there is something; a timer is set for its next deadline. Between two turns asyncio has its own,
so neither starves the other. There are two ways:

- `enter()`, in a running asyncio loop: the server is one of the things that the program's loop does;
- as a host (`BaseLoop.hand_over`): a gows loop that has a thread of its own meets its first coroutine. The thread then
  runs an asyncio loop around it.

**Coroutines.** A callback that is an `async def` is run at once, as far as it goes. Most end there, and a task for each
would cost more than they do. But libraries ask for the current task (`asyncio.timeout`, anyio), and it must be the same
one before and after the first wait. So there is a *spare* task, which is the current one while a coroutine is begun.
Only if that has to wait does it become the coroutine's task, and the next coroutine gets another spare. So it does if
the one before has left anything in the spare: a context variable, a callback, or a reference to it somewhere.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from asyncio.tasks import _enter_task, _leave_task, _register_task, _unregister_task
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

from gows.errors import LoopClosedError, UsageError
from gows.reactor import BaseLoop
from gows.reactor.hosting import Awaiting
from gows.reactor.loop import HOST_TIME

logger = logging.getLogger("gows")

GRACE = 0.3
"""Seconds that a coroutine has to end once it was cancelled, and the one of on_close that follows."""
SOON = 0.002
"""Seconds by which a timer may be early: it is not set anew for less."""

NewLoop = Callable[[], asyncio.AbstractEventLoop]


def new_loop_of(kind: str) -> NewLoop:
    """Return what makes an asyncio loop of a kind, "asyncio" or "uvloop". Raises ImportError without uvloop."""
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


class Inside:
    """Turns one gows loop in the thread of an asyncio loop, and runs coroutines there."""

    def __init__(self, loop: BaseLoop, new_loop: NewLoop = asyncio.new_event_loop) -> None:
        """`new_loop()` makes the asyncio loop for a gows loop that has a thread of its own. Raises UsageError for one
        whose poller has no descriptor. Any thread."""
        if loop.poller.fileno() is None:
            raise UsageError(
                f"asyncio cannot watch the poller {loop.poller.name!r}, which has no descriptor: "
                "coroutines need epoll or kqueue"
            )
        self.loop = loop
        self.new_loop = new_loop
        self.aloop: asyncio.AbstractEventLoop | None = None
        """The asyncio loop, while it turns this one."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Of the coroutines that wait for something."""
        self.clean = copy_context()
        """The context variables with which each coroutine begins: those of whoever had this loop turned."""
        self._early: list[tuple[Coroutine[Any, Any, Any], Awaiting, str, Any]] = []
        self._spare: _Spare | None = None
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when it is, by asyncio's clock; uvloop does not say
        self._stopped: asyncio.Future[None] | None = None
        self._ending = False  # coroutines are being cancelled, for they had their time
        self._leaving: asyncio.Task[None] | None = None  # a reference to it: asyncio has a weak one
        self._life: AsyncGenerator[None, None] | None = None
        self._own: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------------ being turned

    def enter(self) -> None:
        """Have the running asyncio loop turn the gows loop from now on. Raises UsageError when that runs already, or
        has another host.

        No task waits for the end: when a program ends, asyncio cancels all tasks at once, and meanwhile the gows loop
        has to turn, so that connections are closed in order. But should nobody stop it, it is left when asyncio closes
        its generators, which is the last that it does.
        """
        self.join()
        assert self._stopped is not None
        self._stopped.add_done_callback(self._begin_leaving)
        self._life = self._live()
        _step(self._life.asend(None))

    async def _live(self) -> AsyncGenerator[None, None]:
        """Wait to be closed, with the asyncio loop or before it."""
        try:
            yield
        finally:
            if self.aloop is not None:
                self.leave()

    def _begin_leaving(self, stopped: asyncio.Future[None]) -> None:
        assert self.aloop is not None
        if stopped.exception() is not None:
            logger.error("a turn of the loop failed, and the loop ends", exc_info=stopped.exception())
        self._leaving = self.aloop.create_task(self._leave_in_time(), name="gows: end the loop")

    def join(self) -> None:
        """Have the running asyncio loop turn the gows loop until `leave`, without a task that waits for its end. Raises
        as `enter` does."""
        self.loop.enter()
        self._attach()

    def leave(self) -> None:
        """Turn the gows loop no more; it may be closed then. In the thread of the asyncio loop, unless that is
        closed."""
        self._detach()
        self.loop.leave()

    async def _leave_in_time(self) -> None:
        """Turn the gows loop no more. If it is to be closed, end its connections before."""
        try:
            if self.loop.closing is not None:
                await self.finish(self.loop.closing)
        finally:
            assert self._life is not None
            _step(self._life.aclose())
            self._life = None

    def host(self) -> None:
        """Turn the gows loop until it is stopped, in an asyncio loop of its own. In the thread of the gows loop."""
        if self._own is None:
            self._own = self.new_loop()
        own = self._own
        task = own.create_task(self._until_stopped(), name="gows: turn the loop")
        while True:
            try:
                own.run_until_complete(task)
                return
            except SystemExit:  # of a task that a user's code has made
                if task.done():
                    raise
                logger.exception("a task raised SystemExit, which ends no loop of gows")
            except BaseException:
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        own.run_until_complete(task)
                raise

    async def _until_stopped(self) -> None:
        self._attach()
        try:
            assert self._stopped is not None
            await self._stopped
        finally:
            self._detach()

    def _attach(self) -> None:
        self.aloop = aloop = asyncio.get_running_loop()
        self.clean = copy_context()
        self._stopped = aloop.create_future()
        self.loop.wakeup.call_here(self._turn_soon)
        fd = self.loop.poller.fileno()
        assert fd is not None
        aloop.add_reader(fd, self._turn)
        early, self._early = self._early, []
        for each in early:
            aloop.call_soon(self._begin, *each)
        self._turn_soon()

    def _detach(self) -> None:
        assert self.aloop is not None
        fd = self.loop.poller.fileno()
        if fd is not None and not self.aloop.is_closed():
            self.aloop.remove_reader(fd)
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._soon = self._timer = None
        self.loop.wakeup.call_here(None)
        if self._spare is not None:
            self._spare.end()
            self._spare = None
        self.aloop = None

    def _turn_soon(self) -> None:
        if self._soon is None and self.aloop is not None:
            self._soon = self.aloop.call_soon(self._turn)

    def _turn(self) -> None:
        """Take one turn, and have asyncio call this again when the next is due."""
        aloop = self.aloop
        if aloop is None:
            return
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        try:
            pause = self.loop.turn()
        except Exception as error:  # as of `BaseLoop.run`, which ends with it
            if self._stopped is not None and not self._stopped.done():
                self._stopped.set_exception(error)
            return
        except BaseException:  # Ctrl-C: the asyncio loop may go on, to end what runs in it
            self._turn_soon()
            raise
        if self.loop.stopping:
            if self._stopped is not None and not self._stopped.done():
                self._stopped.set_result(None)
        elif pause == 0.0:
            self._turn_soon()
        elif pause is not None:
            when = aloop.time() + pause
            if self._timer is None or self._due > when + SOON:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer, self._due = aloop.call_at(when, self._timed), when

    def _timed(self) -> None:
        self._timer = None
        self._turn()

    # ------------------------------------------------------------------ coroutines

    def start(self, coro: Coroutine[Any, Any, Any], owner: Awaiting, name: str, value: Any) -> bool:
        """See `hosting.Coroutines.start`."""
        aloop = self.aloop
        if aloop is None:
            if not self.loop.running:
                coro.close()
                raise UsageError("coroutines need a loop that runs, and `run_once` alone turns this one, or nothing")
            self._early.append((coro, owner, name, value))  # it met its first in this turn; its host begins after it
            return False
        spare, self._spare = self._spare, None
        if spare is None:
            spare = _Spare(self, aloop, name)
        task = spare.task
        context = spare.context
        references = getrefcount(task)
        try:
            _enter_task(aloop, task)
        except RuntimeError:  # another task is running: one of the program's has called serve(), for instance
            self._spare = spare
            aloop.call_soon(self._begin, coro, owner, name, value)
            return False
        try:
            waits_for = context.run(coro.send, None)
        except BaseException as error:
            _leave_task(aloop, task)
            if self._spare is None and spare.is_untouched(references, self.clean):
                self._spare = spare
            else:
                spare.end()
            if isinstance(error, StopIteration):
                return True
            raise
        _leave_task(aloop, task)
        spare.become(coro, waits_for, owner, name, value)
        self.tasks.add(task)
        return False

    def _begin(self, coro: Coroutine[Any, Any, Any], owner: Awaiting, name: str, value: Any) -> None:
        """Start a coroutine, and say so to its owner also if it ends at once."""
        try:
            if self.start(coro, owner, name, value):
                owner.coroutine_ended(name, value, None)
        except BaseException as error:
            owner.coroutine_ended(name, value, error)

    def ended(
        self, task: asyncio.Task[None], owner: Awaiting, name: str, value: Any, error: BaseException | None
    ) -> None:
        """Tell the owner of a coroutine that it has ended, in a later turn: the next must not begin within its task."""
        self.tasks.discard(task)
        if self._ending and isinstance(error, asyncio.CancelledError):
            error = None  # that was us
        try:
            self.loop.call_soon(owner.coroutine_ended, name, value, error)
        except LoopClosedError:
            pass

    def waiting(self) -> int:
        """See `hosting.Coroutines.waiting`."""
        return len(self.tasks) + len(self._early)

    async def offload(self, fn: Callable[..., object], *args: object) -> object:
        """See `hosting.Coroutines.offload`. It is not over before the function is, also if it is cancelled: no other
        callback may begin meanwhile."""
        aloop = asyncio.get_running_loop()
        call = _Call(fn, args, aloop.create_future())
        self.loop.pool.submit(call)
        while not call.done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([call.done])
        return call.done.result()

    # ------------------------------------------------------------------ the end

    async def finish(self, seconds: float) -> None:
        """End every connection, and cancel the coroutines that have not ended after so long."""
        self.loop.abort_streams()
        aloop = asyncio.get_running_loop()
        for patience in (seconds, GRACE, GRACE):
            end = aloop.time() + patience
            while True:
                self._turn_soon()  # which tells the owners of tasks; and not amid this one
                with suppress(asyncio.CancelledError):  # it will not take long
                    await asyncio.sleep(0)
                if not (self.tasks or self.loop.pool.busy) or aloop.time() > end:  # a worker may begin one as well
                    break
                with suppress(asyncio.CancelledError):
                    if self.tasks:
                        await asyncio.wait(self.tasks, timeout=0.01)
                    else:
                        await asyncio.sleep(0.001)
            self._ending = True
            for task in self.tasks:
                task.cancel()
        if self.tasks:
            logger.error("%d coroutines go on though they were cancelled: %r", len(self.tasks), self.tasks)
            for task in self.tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is logged already

    def close(self) -> None:
        """See `hosting.Coroutines.close`. In a thread of its own: the caller's may have a running asyncio loop, in
        which no other can run."""
        if self._own is None and not self._early and not self.loop.live_streams:
            return
        thread = threading.Thread(target=self._finish_own, name="gows-finish", daemon=True)
        thread.start()
        thread.join((self.loop.closing or 0.0) + HOST_TIME)

    def _finish_own(self) -> None:
        own = self._own or self.new_loop()

        async def finish() -> None:
            self.loop.take_thread()
            self._attach()
            await self.finish(self.loop.closing or 0.0)
            self._detach()

        try:
            own.run_until_complete(finish())
            own.run_until_complete(own.shutdown_asyncgens())
            own.run_until_complete(own.shutdown_default_executor())
        except Exception:
            logger.exception("the end of an asyncio loop failed")
        finally:
            own.close()


class _Spare(Coroutine[Any, Any, None]):
    """What a task runs that waits for a coroutine to be its own, and then that coroutine.

    A generator would not do: if its task is cancelled before its first step, none of it runs. A task that has waited
    for a coroutine is not registered any more, so that `asyncio.all_tasks()` does not know it.
    """

    __slots__ = (
        "_coro",
        "_inside",
        "_name",
        "_owner",
        "_ran_in",
        "_registered",
        "_value",
        "_waits_for",
        "_wanted",
        "context",
        "task",
    )

    def __init__(self, inside: Inside, aloop: asyncio.AbstractEventLoop, name: str) -> None:
        self._inside = inside
        self._coro: Coroutine[Any, Any, Any] | None = None
        self._waits_for: Any = None
        self._owner: Awaiting | None = None
        self._name = name
        self._value: Any = None
        self._wanted: asyncio.Future[None] | None = None
        self._registered = True
        self.context = inside.clean.copy()
        """What the coroutine runs in."""
        self.task: asyncio.Task[None]
        if sys.version_info >= (3, 11):
            self.task = asyncio.Task(self, loop=aloop, name=name, context=self.context)
            self._ran_in: Context | None = None
        else:  # the task has a copy
            self.task = asyncio.Task(self, loop=aloop, name=name)
            self._ran_in = self.context

    def is_untouched(self, references: int, clean: Context) -> bool:
        """Return whether a coroutine that has ended in the task has left nothing there, so that another can have it. As
        `references` to the task there were so many."""
        task = self.task
        if self._registered:
            self._registered = False
            _unregister_task(task)
        return (
            getrefcount(task) == references + 1  # `task` here
            and self.context == clean
            and not getweakrefcount(task)
            and task._callbacks is None
            and not _is_cancelled(task)
        )

    def become(self, coro: Coroutine[Any, Any, Any], waits_for: object, owner: Awaiting, name: str, value: Any) -> None:
        """Go on with a coroutine that was begun and waits for something."""
        self._coro, self._waits_for = coro, waits_for
        self._owner, self._value = owner, value
        if self._name != name:
            self._name = name
            self.task.set_name(name)
        if not self._registered:
            self._registered = True
            _register_task(self.task)
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def end(self) -> None:
        """Let the task go."""
        task = self.task
        del self.task  # or each would refer to the other
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # if the asyncio loop ends before its next step
        if not task.get_loop().is_closed():
            task.cancel()

    # ------------------------------------------------------------------ what a task calls

    def send(self, value: None) -> Any:
        """Take the next step."""
        if self._coro is None:
            if self._wanted is not None:
                raise StopIteration
            self._wanted = self.task.get_loop().create_future()
            self._wanted._asyncio_future_blocking = True  # as awaiting it would
            return self._wanted
        if self._waits_for is not _NOTHING:
            waits_for, self._waits_for = self._waits_for, _NOTHING
            return waits_for
        return self._step(self._coro.send, value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Raise an error where the coroutine waits: the task was cancelled, or what it waits for failed."""
        error = kind if value is None else value
        if isinstance(error, type):
            error = error()
        if self._coro is None:
            raise error
        self._waits_for = _NOTHING
        return self._step(self._coro.throw, error)

    def close(self) -> None:
        """Close the coroutine: the asyncio loop was closed, and nobody is there any more."""
        if self._coro is not None:
            self._coro.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("only its task awaits it")

    def _step(self, step: Callable[..., Any], value: object) -> Any:
        assert self._owner is not None
        failed: BaseException | None = None
        try:
            return step(value) if self._ran_in is None else self._ran_in.run(step, value)
        except StopIteration:
            pass
        except BaseException as error:
            failed = error
        try:
            self._inside.ended(self.task, self._owner, self._name, self._value, failed)
            if isinstance(failed, asyncio.CancelledError):
                raise failed
            raise StopIteration
        finally:  # nobody should have to wait for the garbage collector
            del self.task
            self._coro = self._owner = self._value = failed = None


_NOTHING = object()


def _step(awaitable: Awaitable[None]) -> None:
    """Take the only step of what does not wait."""
    try:
        awaitable.__await__().send(None)
    except StopIteration:
        pass


def _is_cancelled(task: asyncio.Task[None]) -> bool:
    """Return whether the task of a coroutine that has ended cannot be another's: it was to be cancelled."""
    if sys.version_info >= (3, 11):
        return task.cancelling() > 0 or task.done()
    return bool(task._must_cancel) or task.done() or (task._fut_waiter is not None and task._fut_waiter.cancelled())


class _Call:
    """A task for a worker: calls a plain callback for a coroutine that waits for it."""

    __slots__ = ("_args", "_fn", "done")

    def __init__(self, fn: Callable[..., object], args: tuple[object, ...], done: asyncio.Future[object]) -> None:
        self._fn = fn
        self._args = args
        self.done = done

    def run(self) -> None:
        """Call it, and hand over what comes of it."""
        result: object = None
        failed: BaseException | None = None
        try:
            result = self._fn(*self._args)
        except BaseException as error:
            failed = error
        try:
            self.done.get_loop().call_soon_threadsafe(self._tell, result, failed)
        except RuntimeError:  # the asyncio loop was closed
            pass

    def _tell(self, result: object, failed: BaseException | None) -> None:
        if self.done.done():
            return
        if failed is None:
            self.done.set_result(result)
        elif isinstance(failed, StopIteration):  # which a future cannot carry
            self.done.set_exception(RuntimeError(f"the callback raised {failed!r}"))
        else:
            self.done.set_exception(failed)

    def stalled(self) -> None:
        """Do nothing: nothing of it waits to be sent."""
