"""Servers of ASGI applications in every way of running one: in a thread, inside a running asyncio loop, and uvloop."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gows import Server
from tests.support.addresses import tcp
from tests.support.servers import LOCAL

try:
    import uvloop
except ImportError:  # tests.test_needs says where it has to be
    uvloop = None  # type: ignore[assignment]

Message = dict[str, Any]
SECONDS = 10.0


@contextmanager
def in_thread(app: Any, timeout: float = 5.0, **settings: Any) -> Iterator[Server]:
    """`Server.start`."""
    server = Server(asgi=app, **settings)
    try:
        server.start(LOCAL)
        yield server
    finally:
        server.stop(timeout)


def inside(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., Any]:
    """Return what serves with `Server.serve`, inside a loop that runs in another thread than the test."""

    @contextmanager
    def serve(app: Any, timeout: float = 5.0, **settings: Any) -> Iterator[Server]:
        began: queue.SimpleQueue[Any] = queue.SimpleQueue()
        end: list[Callable[[], object]] = []
        failed: list[BaseException] = []
        server = Server(asgi=app, **settings)

        async def main() -> None:
            over = asyncio.Event()
            loop = asyncio.get_running_loop()
            end.append(lambda: loop.call_soon_threadsafe(over.set))
            try:
                async with server.serve(LOCAL, timeout=timeout):
                    began.put(None)
                    await over.wait()
            finally:
                left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

        def run() -> None:
            loop = new_loop()
            loop.set_debug(True)
            try:
                loop.run_until_complete(main())
            except BaseException as error:
                failed.append(error)
                began.put(error)
            finally:
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            if began.get(timeout=SECONDS) is None:
                yield server
        finally:
            with suppress(RuntimeError):  # it was closed, for it could not begin
                end[0]()
            thread.join(SECONDS + timeout)
            server.stop()  # if it was not even entered
        assert not thread.is_alive()
        if failed:
            raise failed[0]

    return serve


WAYS: dict[str, Callable[..., Any]] = {"thread": in_thread, "asyncio": inside(asyncio.new_event_loop)}
if uvloop is not None and sys.version_info >= (3, 11):
    WAYS["uvloop"] = inside(uvloop.new_event_loop)


def address_of(server: Server) -> tuple[str, int]:
    """Where it listens."""
    return tcp(server.addresses[0])


class Notes(queue.SimpleQueue[Any]):
    """What an application has seen, for a test in another thread."""

    def next(self) -> Any:
        """Return the next, which must come."""
        return self.get(timeout=SECONDS)
