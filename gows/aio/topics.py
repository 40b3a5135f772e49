"""TopicClient in asyncio: the topics of a gows server, by the same machinery as `gows.TopicClient`."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any
from weakref import WeakSet

from gows.aio.client import Arguments, attempt, prepare_tls
from gows.aio.mailbox import Mailbox, Reading, TopicMessage
from gows.aio.shared import SharedLoop, shared_loop
from gows.bytebuffer import ByteBuffer
from gows.client.cookies import Cookies
from gows.client.proxy import ProxyRule
from gows.client.reconnect import ReconnectingClient
from gows.client.request import ClientRequest, HeaderRule, Url, changes, check_functions, make_request
from gows.client.retry import Reconnect
from gows.client.subscription import TopicSubscription
from gows.client.topics import ANSWER_SECONDS, TopicReceiver
from gows.client.topics import TopicClient as BlockingTopicClient
from gows.codes import TOPIC_SUBPROTOCOL, Opcode
from gows.errors import ConnectionClosedError, GowsError, LoopClosedError, TopicError, UsageError
from gows.options import AcceptOptions, default_options
from gows.session.websocket import WebSocket

Told = Callable[[Any], object]
"""A function of the user's, or an `async def`."""


class _Topics(BlockingTopicClient):
    """The machinery, on connections that are made in asyncio."""

    def __init__(self) -> None:
        self._init_state()  # and no more: the rest of that `__init__` waits
        self.over = asyncio.get_running_loop().create_future()
        self.reading = Reading()

    async def begin(self, make: Callable[[], ClientRequest], fresh: bool, policy: Reconnect) -> None:
        """Make the first attempt. `make()` makes the request of an attempt, for each of them if it may change
        (`fresh`). Raises what fails; nothing is left then."""
        request, handler = make(), _Receiver(self, self.reading)
        client = ReconnectingClient(request, handler, policy, make if fresh else None)
        self._follow(client)
        try:
            await attempt(request, handler, client.make)
            self.check_speaks()
        except BaseException:
            self.close()
            raise

    async def end_connection(self) -> None:
        """Close, and wait until the connection has ended. Cancelled, it ends that at once."""
        client = self._client
        ws = client.halt()
        self.close()
        try:
            await asyncio.shield(self.over)
            if ws is not None:
                await ws.wait_closed()
        except asyncio.CancelledError:
            if ws is not None:
                ws.close()
            raise

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Call `fn()` in the loop's thread. Any thread. Raises LoopClosedError, RuntimeError."""
        self._client.loop.call_soon(fn)

    def _ended(self) -> None:
        super()._ended()
        if not self.over.done():
            self.over.set_result(None)

    async def room(self) -> None:
        """Wait until more may be sent, if there is a connection."""
        ws = self._ws
        if ws is not None and ws.buffered > ws.context.high_water:
            try:
                await ws.drain()
            except ConnectionClosedError:
                pass

    async def until_done(self, answer: Future[Any]) -> None:
        """Wait until a server has answered."""
        if answer.done():
            return
        done = asyncio.get_running_loop().create_future()

        def wake(_: Future[Any]) -> None:
            if not done.done():
                done.set_result(None)

        answer.add_done_callback(wake)
        with self.reading.waiting():
            await done


class _Receiver(TopicReceiver):
    """Stops the reading when a mailbox is full."""

    __slots__ = ("_reading",)

    def __init__(self, topics: _Topics, reading: Reading) -> None:
        super().__init__(topics)
        self._reading = reading

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> Coroutine[Any, Any, None] | None:
        super().on_message(ws, opcode, buff)
        return self._reading.pause() if self._reading.pauses else None


class TopicClient:
    """A connection that subscribes and publishes, and comes back by itself when it is lost: `gows.TopicClient` in
    asyncio.

        async with gows.aio.TopicClient("ws://localhost:8080/live") as client:
            await client.publish("room.1", "hello")
            async for data, topic in client.subscribe("room.*"):
                print(topic, data)

    For the tasks of the asyncio loop in which it is entered. Leaving the block waits for the answers that are still to
    come, as long as they do come, unless it raised; then the client closes.
    """

    def __init__(
        self,
        url: Url,
        *,
        reconnect: Reconnect | None = None,
        options: AcceptOptions | None = None,
        headers: HeaderRule | None = None,
        cookies: Cookies | None = None,
        origin: str | None = None,
        compression: bool | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = 10.0,
        proxy: ProxyRule = True,
        redirects: int = 0,
    ) -> None:
        """Take the arguments of `gows.TopicClient`; entering connects.

        `url`, `headers` and `cookies` may be plain functions, which are called in the asyncio loop's thread and must
        not block. The first attempt must succeed, and raises as `gows.connect` does, and ConnectError when the server
        does not speak gows.v1.
        """
        check_functions(url=url, headers=headers, cookies=cookies)
        self._url = url
        self._headers = headers
        self._cookies = cookies
        self._policy = reconnect or Reconnect()
        self._arguments = Arguments(
            options=options,
            subprotocols=[TOPIC_SUBPROTOCOL],
            origin=origin,
            compression=compression,
            ssl_context=ssl_context,
            timeout=timeout,
            proxy=proxy,
            redirects=redirects,
        )
        self._topics: _Topics | None = None
        self._shared: SharedLoop | None = None
        self._mailboxes: WeakSet[Mailbox] = WeakSet()

    async def __aenter__(self) -> TopicClient:
        if self._topics is not None:
            raise UsageError("a TopicClient is entered once")
        shared = shared_loop()
        shared.hold()
        try:
            await prepare_tls(self._url, self._arguments)
            make = partial(
                make_request,
                self._url,
                shared.loop,
                headers=self._headers,
                cookies=self._cookies,
                **self._arguments,
            )
            topics = _Topics()
            await topics.begin(make, changes(self._url, self._headers, self._cookies), self._policy)
        except BaseException:
            shared.release()
            raise
        self._topics, self._shared = topics, shared
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._wait_for_answers()
        finally:
            await self.close()

    async def _wait_for_answers(self) -> None:
        topics = self._entered()
        waiting = {asyncio.wrap_future(answer) for answer in topics.asked()}
        with topics.reading.waiting():
            while waiting:
                done, waiting = await asyncio.wait(waiting, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for answer in done:
                    if not answer.cancelled():
                        answer.exception()  # who asked gets to know it
                if not done:
                    return

    async def close(self) -> None:
        """Unsubscribe from all, connect no more, and wait until the connection has ended. Iterations end with what has
        come. Cancelled while it waits, it ends the connection at once. Idempotent."""
        for mailbox in list(self._mailboxes):
            mailbox.end()
        shared, self._shared = self._shared, None
        if shared is not None:
            try:
                await self._entered().end_connection()
            finally:
                shared.release()

    def _entered(self) -> _Topics:
        if self._topics is None:
            raise UsageError("a TopicClient connects when it is entered: async with TopicClient(url) as client")
        return self._topics

    # ------------------------------------------------------------------ facts

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        return self._topics is not None and self._topics.connected

    @property
    def stopped(self) -> bool:
        """Whether it is over: closed, or given up (`Reconnect.retry_if`, `attempts`)."""
        return self._topics is not None and self._topics.stopped

    @property
    def error(self) -> GowsError | None:
        """What failed last: an attempt, or the connection. None before anything did."""
        return None if self._topics is None else self._topics.error

    # ------------------------------------------------------------------ topics

    def subscribe(
        self, pattern: str, *, history: int | None = None, lost: Told | None = None, present: Told | None = None
    ) -> AsyncSubscription:
        """Subscribe to a topic, or to those a pattern stands for; returns at once. Iterate over what it returns, or
        enter it before (`async with`), which waits for the server's answer.

        `history`: how many of the messages that the server keeps come first. `lost(topic)`: messages may have been
        missed, by us or by the server. `present(members)`: who is in the topic, by id, now and whenever that changes.
        Both may be `async def`; they are called by the iteration, in the order of the messages.
        """
        topics = self._entered()
        limit = (self._arguments["options"] or default_options()).inbox_messages
        mailbox = Mailbox(limit, topics.reading)
        subscription = topics.subscribe(
            pattern,
            mailbox.put,
            partial(mailbox.note, lost) if lost is not None else None,
            present=partial(mailbox.note, present) if present is not None else None,
            history=history,
            refused=mailbox.end,
        )
        self._mailboxes.add(mailbox)
        return AsyncSubscription(topics, subscription, mailbox, lost)

    async def publish(self, topic: str, data: object, *, key: str | None = None, ttl: float | None = None) -> None:
        """Publish what JSON can write, and return when the server has answered. Raises TopicError when it refuses, with
        the code "closed" when there is no connection, or it is lost before the answer. Cancelled, it does not wait for
        the answer; the message may have been sent."""
        topics = self._entered()
        await topics.room()
        answer = topics.publish(topic, data, key=key, ttl=ttl)
        try:
            await topics.until_done(answer)
        except asyncio.CancelledError:
            answer.cancel()
            raise
        answer.result(0)


class AsyncSubscription:
    """A subscription of a `gows.aio.TopicClient`: iterate over its messages, each `(data, topic)`. One task at a time.

    Up to `AcceptOptions.inbox_messages` messages wait until they are taken. When there are more, the connection is not
    read from, unless a task waits for something else of the same client. If 10,000 wait thereby, the oldest are
    dropped, and `lost` is called.

    It ends with `end()`, with the client, or when nobody refers to it any more, as after `break` in
    `async for … in client.subscribe(…)`.
    """

    __slots__ = ("_lost", "_mailbox", "_subscription", "_topics")

    def __init__(self, topics: _Topics, subscription: TopicSubscription, mailbox: Mailbox, lost: Told | None) -> None:
        if not isinstance(mailbox, Mailbox):
            raise TypeError("an AsyncSubscription is made by TopicClient.subscribe")
        self._topics = topics
        self._subscription = subscription
        self._mailbox = mailbox
        self._lost = lost
        subscription.ready.add_done_callback(partial(_answered, mailbox))

    @property
    def pattern(self) -> str:
        """What was subscribed to."""
        return self._subscription.pattern

    async def ready(self) -> None:
        """Wait until the server has answered. Raises TopicError when it refuses."""
        await self._topics.until_done(self._subscription.ready)
        self._subscription.ready.result(0)

    async def __aenter__(self) -> AsyncSubscription:
        try:
            await self.ready()
        except BaseException:
            self.end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def __aiter__(self) -> AsyncSubscription:
        return self

    async def __anext__(self) -> TopicMessage:
        """Return the next message. Raises TopicError when the server refuses the subscription, now or later, or when
        the client gave up, and what `lost` and `present` raise."""
        while True:
            item = await self._mailbox.get()
            for topic in self._mailbox.dropped():
                if self._lost is not None:
                    await _call(self._lost, topic)
            if item is None:
                raise StopAsyncIteration
            if isinstance(item, TopicMessage):
                return item
            await _call(*item)

    def end(self) -> None:
        """Receive no more: what was not taken is dropped. Idempotent."""
        self._mailbox.end(drop=True)
        self._subscription.end()

    def __del__(self) -> None:
        """End a subscription that nobody iterates over any more. Any thread."""
        mailbox: Mailbox | None = getattr(self, "_mailbox", None)
        if mailbox is not None:
            _end_soon(self._topics, mailbox, self._subscription)


def _answered(mailbox: Mailbox, answer: Future[None]) -> None:
    """End a mailbox if the server refuses the subscription."""
    error = answer.exception(0)
    if isinstance(error, TopicError):
        mailbox.end(error)


async def _call(fn: Told, argument: Any) -> None:
    result = fn(argument)
    if inspect.isawaitable(result):
        await result


def _end_soon(topics: _Topics, mailbox: Mailbox, subscription: TopicSubscription) -> None:
    def end() -> None:
        mailbox.end(drop=True)
        subscription.end()

    try:
        topics.call_soon(end)
    except (LoopClosedError, RuntimeError):  # asyncio's was closed
        pass
