"""Topics in asyncio, with a server of ours on real sockets, losses of the connection included."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import gows
from gows import AcceptOptions, Handler, Reconnect, Server, TopicError, accept
from gows.aio import AsyncSubscription, TopicClient, shared
from gows.aio.mailbox import MOST, Mailbox, Reading
from gows.reactor.stream import Stream
from tests.aio.running import CancelledAt, Run, run, until
from tests.support.addresses import tcp
from tests.support.topic_server import topic_server

__all__ = ["run"]  # the fixture

QUICK = Reconnect(initial=0.02, maximum=0.05)


@pytest.fixture
def server() -> Iterator[Server]:
    with topic_server() as server:
        server.add_route("/other", lambda request: accept(request).serve(Handler()))
        yield server


def client_of(server: Server, path: str = "/live", **settings: Any) -> TopicClient:
    return TopicClient(f"ws://127.0.0.1:{tcp(server.addresses[0])[1]}{path}", **{"reconnect": QUICK, **settings})


async def take(subscription: AsyncSubscription, count: int) -> list[Any]:
    return [await asyncio.wait_for(subscription.__anext__(), 10) for _ in range(count)]


def drop_all(server: Server) -> None:
    """Break every connection of a server, without a word."""

    def drop() -> None:
        for stream in server.loop.streams:
            if isinstance(stream, Stream):
                stream.abort()

    server.loop.call_soon(drop)


def test_messages_of_topics(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server) as client, client_of(server) as other:
            async with client.subscribe("news.*") as words, client.subscribe("news.>") as everything:
                assert server.topics() == {"news.*": 1, "news.>": 1}
                assert words.pattern == "news.*"
                server.publish("news.local", {"rain": [1, None, "ä"]})
                await other.publish("news.local", "text", key="k", ttl=60)
                server.publish("news.local.north", b"\x00\xff")
                expected = [({"rain": [1, None, "ä"]}, "news.local"), ("text", "news.local")]
                assert await take(words, 2) == expected
                assert await take(everything, 3) == [*expected, (b"\x00\xff", "news.local.north")]
            await until(lambda: server.topics() == {})
            assert (client.connected, client.stopped, client.error) == (True, False, None)
        assert (client.connected, client.stopped, client.error) == (False, True, None)

    run(main())


def test_an_iteration_subscribes_and_ends_its_subscription(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            got = []

            async def publish() -> None:
                await until(lambda: server.topics() == {"a": 1})
                for n in range(5):
                    server.publish("a", n)

            publishing = asyncio.create_task(publish())
            async for data, topic in client.subscribe("a"):
                got.append((data, topic))
                if data == 3:
                    break
            assert got == [(n, "a") for n in range(4)]
            await publishing
            await until(lambda: server.topics() == {})

    run(main())


def test_history_comes_first(run: Run, server: Server) -> None:
    async def main() -> None:
        for n in range(10):
            server.publish("kept", n)
        async with client_of(server) as client:
            found = await take(client.subscribe("kept", history=4), 4)
            assert found == [(n, "kept") for n in range(6, 10)]

    run(main())


def test_what_is_refused_is_raised(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with pytest.raises(TopicError) as refused:
                await client.publish("secret", 1)
            assert refused.value.code == "not_allowed"
            with pytest.raises(TopicError):
                await client.subscribe("secret").ready()
            with pytest.raises(TopicError):
                await take(client.subscribe("secret"), 1)
            with pytest.raises(TopicError):
                await client.subscribe("secret").__aenter__()
            with pytest.raises(TypeError):
                await client.publish("a", object())

    run(main())


def test_beginnings_that_fail(run: Run, server: Server) -> None:
    async def main() -> None:
        with pytest.raises(gows.ConnectError, match="does not speak"):
            await client_of(server, "/other").__aenter__()
        with pytest.raises(gows.HandshakeError):
            await client_of(server, "/nowhere").__aenter__()
        client = client_of(server)
        with pytest.raises(gows.UsageError, match="entered"):
            client.subscribe("a")
        await client.close()
        async with client:
            with pytest.raises(gows.UsageError, match="once"):
                await client.__aenter__()
        with pytest.raises(TopicError):
            await client.publish("a", 1)

        async def url() -> str:
            return ""

        with pytest.raises(TypeError):
            TopicClient(url)  # type: ignore[arg-type]

    run(main())


def test_presence(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server) as client, client_of(server) as other:
            seen: list[int] = []

            async def present(members: dict[str, Any]) -> None:
                await asyncio.sleep(0)
                seen.append(len(members))

            room = client.subscribe("room", present=present)
            watching = asyncio.create_task(take(room, 1))
            await until(lambda: seen == [1])
            async with other.subscribe("room"):
                await until(lambda: seen[-1] == 2)
            await until(lambda: seen[-1] == 1)
            server.publish("room", "end")
            assert await watching == [("end", "room")]

    run(main())


def test_nothing_kept_is_missed_over_a_loss(run: Run, server: Server) -> None:
    async def main() -> None:
        lost: list[str] = []
        headers = iter(range(100))
        async with (
            client_of(server, headers=lambda: {"X-N": str(next(headers))}) as client,
            client.subscribe("kept") as kept,
            client.subscribe("other.*", lost=lost.append) as other,
        ):
            server.publish("kept", 1)
            assert await take(kept, 1) == [(1, "kept")]
            drop_all(server)
            await until(lambda: not client.connected)
            server.publish("kept", 2)
            await until(lambda: client.connected and server.subscriber_count("kept"))
            server.publish("kept", 3)
            assert await take(kept, 2) == [(2, "kept"), (3, "kept")]
            await until(lambda: server.subscriber_count("other.x"))
            server.publish("other.x", 1)
            assert await take(other, 1) == [(1, "other.x")]
            assert lost == ["other.*"]
        assert next(headers) > 1

    run(main())


def test_a_client_that_gives_up_says_so(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server, reconnect=Reconnect(retry_if=lambda error: False)) as client:
            subscription = client.subscribe("a")
            await subscription.ready()
            drop_all(server)
            with pytest.raises(TopicError) as closed:
                await take(subscription, 1)
            assert closed.value.code == "closed"
            assert client.stopped
            assert isinstance(client.error, gows.ConnectionClosedError)

    run(main())


def test_closing_ends_iterations(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server) as client:

            async def listen() -> list[Any]:
                return [message async for message in client.subscribe("a")]

            task = asyncio.create_task(listen())
            await until(lambda: server.topics() == {"a": 1})
            server.publish("a", 1)
            await client.publish("b", 1)
        assert await task == [(1, "a")]

    run(main())


@pytest.mark.slow
def test_a_slow_iteration_stops_the_reading(run: Run, server: Server) -> None:
    count = 2_000

    async def main() -> None:
        options = AcceptOptions(inbox_messages=10)
        async with client_of(server, options=options) as client, client.subscribe("a") as subscription:
            for n in range(count):
                server.publish("a", n)
                if n % 100 == 0:
                    await asyncio.sleep(0)
            await until(lambda: subscription._mailbox in client._entered().reading.full)
            waits = subscription._mailbox._messages
            assert waits == 10
            got = []
            for n in range(count):
                got += await take(subscription, 1)
                if n % 500 == 0:  # whose answer comes though the mailbox is full
                    await asyncio.wait_for(client.publish("b", n), 10)
            assert got == [(n, "a") for n in range(count)]

    run(main())


def test_a_slow_iteration_does_not_keep_another_waiting(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server, options=AcceptOptions(inbox_messages=2)) as client:
            slow, quick = client.subscribe("slow"), client.subscribe("quick")
            await slow.ready()
            await quick.ready()
            for n in range(100):
                server.publish("slow", n)
            server.publish("quick", 1)
            assert await take(quick, 1) == [(1, "quick")]
            assert await take(slow, 100) == [(n, "slow") for n in range(100)]

    run(main())


def test_a_mailbox_far_too_full_drops_the_oldest() -> None:
    async def main() -> None:
        mailbox = Mailbox(2, Reading())
        mailbox.note(print, "stays")
        for n in range(MOST + 5):
            mailbox.put(n, f"t{n}")
        assert await mailbox.get() == (print, "stays")
        assert mailbox.dropped() == ["t0", "t1", "t2", "t3", "t4"]
        assert mailbox.dropped() == []
        assert await mailbox.get() == (5, "t5")

    asyncio.run(main())


def test_one_task_takes_messages(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            subscription = client.subscribe("a")
            waiting = asyncio.create_task(subscription._mailbox.get())
            await asyncio.sleep(0)
            with pytest.raises(gows.UsageError, match="another task"):
                await asyncio.wait_for(subscription.__anext__(), 10)
            subscription.end()
            assert await waiting is None
            with pytest.raises(StopAsyncIteration):
                await subscription.__anext__()

    run(main())


def test_what_a_function_raises_comes_to_the_iteration(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            room = client.subscribe("room", present=lambda members: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await take(room, 1)

    run(main())


def test_leaving_waits_for_answers(run: Run, server: Server) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            tasks = [asyncio.create_task(client.publish("a", n)) for n in range(100)]
            await asyncio.sleep(0)
        for task in tasks:
            await task

    run(main())


def test_a_client_left_open_ends_with_asyncio(server: Server) -> None:
    client = client_of(server)

    async def main() -> None:
        await client.__aenter__()
        asyncio.create_task(take(client.subscribe("a"), 1))  # noqa: RUF006
        await until(lambda: server.topics() == {"a": 1})

    asyncio.run(main(), debug=True)
    assert client.stopped
    assert shared._loops == {}


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["waiting", "just-come"])
def test_cancelled_anywhere_nothing_is_left(run: Run, server: Server, late: bool) -> None:
    async def everything() -> None:
        async with client_of(server) as client:
            async with client.subscribe("a", history=2) as subscription:
                server.publish("a", 1)
                await take_plainly(subscription)
            await client.publish("b", 2)

    async def take_plainly(subscription: AsyncSubscription) -> None:
        async for _ in subscription:
            return

    async def cancelled(number: int) -> bool:
        return await CancelledAt(everything(), number, late=late)

    async def main() -> None:
        mine = asyncio.get_running_loop()
        number = 0
        while await asyncio.create_task(cancelled(number)):
            await until(lambda: mine not in shared._loops)
            await until(lambda: server.topics() == {})
            assert asyncio.all_tasks() == {asyncio.current_task()}
            number += 1
        assert number > 4

    run(main())
