"""Link: the connections of one process to a Redis, one for commands and one for what is subscribed to; the scripts.

It uses redis-py's connections as they are, not its clients: those connect again by themselves, and what was published
meanwhile would be missed without anybody knowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from gows.errors import BrokerError

if TYPE_CHECKING:
    from redis.asyncio import Redis

BATCH = 256
"""Commands that are sent at once."""

Command = Sequence["str | bytes | int"]


def read_script(name: str) -> str:
    """Return a script of the folder `scripts`, without its comments: it travels with each command."""
    lines = (files("gows.brokers.redis") / "scripts" / name).read_text("ascii").splitlines()
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("--"))


RECORD = read_script("record.lua")
"""Number a message, keep it, and publish it."""
READ = read_script("read.lua")
"""Where a topic stands, and a portion of its log."""


class Link:
    """The two connections. Of one thread, in its event loop. What goes wrong with one raises a RedisError or an
    OSError, and ends the link: make another one."""

    def __init__(self, redis: Redis, timeout: float, *, sharded: bool) -> None:
        """Not connected yet."""
        pool: Any = redis.connection_pool
        self._commands: Any = pool.make_connection()
        self._listener: Any = pool.make_connection()
        self._timeout = timeout
        self._subscribe = "SSUBSCRIBE" if sharded else "SUBSCRIBE"
        self._unsubscribe = "SUNSUBSCRIBE" if sharded else "UNSUBSCRIBE"
        self._pending: dict[str, asyncio.Future[None]] = {}  # channels that are to be confirmed
        self._turn = asyncio.Lock()  # of those who exchange
        self.incarnation = ""
        """Another one, when the server may have lost something that it had acknowledged; "": it never does."""

    async def connect(self) -> None:
        """Connect both, and learn which server this is."""
        await asyncio.wait_for(self._connect(), self._timeout)

    async def _connect(self) -> None:
        from redis.exceptions import ResponseError

        await self._commands.connect()
        await self._listener.connect()
        (info,) = await self._exchange([("INFO", "server")])
        if isinstance(info, Exception):
            raise info
        lines = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        settings = await self._exchange([("CONFIG", "GET", "appendonly"), ("CONFIG", "GET", "appendfsync")])
        values = [None if isinstance(found, ResponseError) else found[1:2] for found in settings]
        if values != [[b"yes"], [b"always"]]:  # or it does not tell
            self.incarnation = lines.get("run_id", "").strip()
            if not self.incarnation:
                raise BrokerError("this Redis does not say its run_id, by which a restart is noticed (INFO server)")

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once. Returns the answer to each, which may be a ResponseError. Others wait meanwhile."""
        async with self._turn:
            return await asyncio.wait_for(self._exchange(commands), self._timeout)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        from redis.exceptions import ReadOnlyError, ResponseError

        connection = self._commands
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ReadOnlyError as error:
                raise BrokerError(f"this Redis is a replica now: {error}") from error
            except ResponseError as error:
                answers.append(error)
        return answers

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Subscribe to channels. Returns when what is published from now on is received; `receive` must be running."""
        loop = asyncio.get_running_loop()
        waiting = [self._pending.setdefault(channel, loop.create_future()) for channel in channels]
        if waiting:
            await self._listener.send_command(self._subscribe, *channels, check_health=False)
            await asyncio.wait_for(asyncio.gather(*waiting), self._timeout)

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Unsubscribe from channels. Returns at once; something may still come."""
        await self._listener.send_command(self._unsubscribe, *channels, check_health=False)

    async def ping(self) -> None:
        """Send a ping, so that something comes."""
        await self._listener.send_command("PING", check_health=False)

    async def receive(self) -> tuple[str, bytes] | None:
        """Return the next message, and its channel; None: something else came."""
        answer = await self._listener.read_response()
        if not isinstance(answer, list) or len(answer) != 3:
            return None  # a pong
        kind, channel, data = answer
        if not isinstance(channel, bytes):
            return None  # the end of all subscriptions
        if kind in (b"message", b"smessage"):
            return channel.decode(), data
        future = self._pending.pop(channel.decode(), None) if kind in (b"subscribe", b"ssubscribe") else None
        if future is not None and not future.done():
            future.set_result(None)
        return None

    async def close(self) -> None:
        """End both connections."""
        for connection in (self._commands, self._listener):
            await connection.disconnect(nowait=True)
