"""Link: one process's connections to a Redis, one for commands and one for what is subscribed to, and the scripts.

It uses redis-py's connections as they are, not its clients: those connect again by themselves, and what was said
meanwhile would be missed without anybody knowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gows.errors import BrokerError

if TYPE_CHECKING:
    from redis.asyncio import Redis

Command = Sequence["str | bytes | int"]

RECORD = """
local epoch, offset, run = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'run'))
local last = redis.call('GET', KEYS[3])
if last and tonumber(last) >= tonumber(ARGV[10]) then return 0 end
if not epoch or run ~= ARGV[1] then
  epoch, offset = ARGV[2], 0
  redis.call('DEL', KEYS[2])
end
offset = offset + 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', offset, 'run', ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], offset .. '-1', 'ms', string.format('%d', now), 'body', ARGV[4])
local age = tonumber(ARGV[6])
if age > 0 then
  for _ = 1, 100 do
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    if not first or first[2][2] + age > now then break end
    redis.call('XDEL', KEYS[2], first[1])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
redis.call('SET', KEYS[3], ARGV[10], 'EX', 3600)
redis.call(ARGV[9], ARGV[8], '\\1' .. ARGV[3] .. ' ' .. epoch .. ' ' .. offset .. '\\n' .. ARGV[4])
return offset
"""
"""Number a message, keep it, and publish it. Keys: where the topic stands, its log, the number of the last message of
this process in this shard. Arguments: the incarnation of the server, an epoch in case a new one begins, the topic, the
message, how many are kept, for how long (ms; 0: for ever), after how long without a message the topic is forgotten
(ms), the channel, PUBLISH or SPUBLISH, and the number of this message, which may have come before."""

READ = """
local epoch, offset, run = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'run'))
if not epoch then return false end
if run ~= ARGV[1] then
  epoch, offset = ARGV[2], 0
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', 0, 'run', ARGV[1])
end
local from = 1
if epoch == ARGV[3] then from = ARGV[4] + 1 end
local entries = {}
if ARGV[5] ~= '0' then entries = redis.call('XRANGE', KEYS[2], from .. '-0', '+') end
local time = redis.call('TIME')
return {epoch, tonumber(offset), time[1] * 1000 + math.floor(time[2] / 1000), entries}
"""
"""Where a topic stands, and what came after a position. Keys: as above, the first two. Arguments: the incarnation, an
epoch in case a new one begins, the epoch and the offset of the position, and 0 for nothing but where it stands."""


class Link:
    """Of one thread, in its event loop. Whatever goes wrong with a connection raises a RedisError or an OSError, and
    ends the link: make another one."""

    def __init__(self, redis: Redis, timeout: float, *, sharded: bool) -> None:
        """Not connected yet."""
        pool: Any = redis.connection_pool
        self._commands: Any = pool.make_connection()
        self._listener: Any = pool.make_connection()
        self._timeout = timeout
        self._subscribe = "SSUBSCRIBE" if sharded else "SUBSCRIBE"
        self._unsubscribe = "SUNSUBSCRIBE" if sharded else "UNSUBSCRIBE"
        self._pending: dict[str, asyncio.Future[None]] = {}  # channels that are to be confirmed
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
            self.incarnation = lines["run_id"]

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once; what was answered to each, which may be a ResponseError."""
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
        """Returns when what is published there from now on is heard; `listen` must be under way."""
        loop = asyncio.get_running_loop()
        waiting = [self._pending.setdefault(channel, loop.create_future()) for channel in channels]
        if waiting:
            await self._listener.send_command(self._subscribe, *channels, check_health=False)
            await asyncio.wait_for(asyncio.gather(*waiting), self._timeout)

    async def unsubscribe(self, channel: str) -> None:
        """Returns at once; something may still come."""
        await self._listener.send_command(self._unsubscribe, channel, check_health=False)

    async def ping(self) -> None:
        """Have something come."""
        await self._listener.send_command("PING", check_health=False)

    async def listen(self) -> tuple[str, bytes] | None:
        """The next message, and its channel; None: something else came."""
        answer = await self._listener.read_response()
        if not isinstance(answer, list) or len(answer) != 3:
            return None  # a pong
        kind, channel, data = answer
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
