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

BATCH = 256
"""Commands that are sent at once."""

Command = Sequence["str | bytes | int"]

RECORD = """
local epoch, offset, run = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'run'))
local last = redis.call('GET', KEYS[3])
if last and (tonumber(last) or 0) >= tonumber(ARGV[10]) then return 0 end
local known = epoch and #epoch <= 64 and string.match(epoch, '^[%w.-]+$')
  and offset and #offset <= 15 and string.match(offset, '^%d+$')
if not known or run ~= ARGV[1] then
  epoch, offset = ARGV[2], 0
  redis.call('DEL', KEYS[2])
end
offset = offset + 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function add()
  return redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[5], string.format('%d-1', offset),
    'ms', string.format('%d', now), 'body', ARGV[4])
end
local added = add()
if type(added) == 'table' and added.err and string.find(added.err, 'equal or smaller', 1, true) then
  epoch, offset = ARGV[2], 1
  redis.call('DEL', KEYS[2])
  added = add()
end
if type(added) == 'table' and added.err then return added end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', string.format('%d', offset), 'run', ARGV[1])
local age = tonumber(ARGV[6])
if age > 0 then
  for _ = 1, 100 do
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    if not first or (tonumber(first[2][2]) or 0) + age > now then break end
    redis.call('XDEL', KEYS[2], first[1])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
redis.call('SET', KEYS[3], ARGV[10], 'PX', ARGV[11])
local where = string.format(' %s %d', epoch, offset)
redis.call(ARGV[9], ARGV[8], '\\1' .. ARGV[3] .. where .. '\\n' .. ARGV[4])
return offset
"""
"""Number a message, keep it, and publish it. Keys: where the topic stands, its log, the number of the last message of
this process in this shard. Arguments: the incarnation of the server, an epoch in case a new one begins, the topic, the
message, how many are kept, for how long (ms; 0: for ever), after how long without a message the topic is forgotten
(ms), the channel, PUBLISH or SPUBLISH, the number of this message, which may have come before, and for how long that is
remembered (ms). What somebody else put where the topic stands, or at the end of its log, makes a new epoch begin."""

READ = """
local epoch, offset, run = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'run'))
if not epoch or #epoch > 64 or not string.match(epoch, '^[%w.-]+$') then return false end
if not offset or #offset > 15 or not string.match(offset, '^%d+$') then return false end
if run ~= ARGV[1] then
  epoch, offset = ARGV[2], '0'
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', 0, 'run', ARGV[1])
end
local room, most, back = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local from, to = 1, tonumber(offset)
if epoch == ARGV[3] then
  if back then to = math.min(to, tonumber(ARGV[4])) else from = ARGV[4] + 1 end
end
local entries, size, part = {}, 0, 1
local command, at, stop = 'XRANGE', from, to
if back then command, at, stop = 'XREVRANGE', to, from end
local function left() return (back and at >= stop or not back and at <= stop) and #entries < most end
while size < room and left() do
  local found = redis.call(command, KEYS[2], string.format('%d', at), string.format('%d', stop),
    'COUNT', string.format('%d', math.min(part, most - #entries)))
  if #found == 0 then
    if back then at = 0 else at = stop + 1 end
    break
  end
  for _, entry in ipairs(found) do
    entries[#entries + 1] = entry
    for _, field in ipairs(entry[2]) do size = size + #field end
  end
  local id = tonumber(string.match(found[#found][1], '^%d+'))
  if back then at = id - 1 else at = id + 1 end
  part = math.max(1, math.min(64, math.floor((room - size) * #entries / size)))
end
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
return {epoch, offset, now, entries, left() and string.format('%d', at) or false}
"""
"""Where a topic stands, and a portion of its log. Keys: as above, the first two. Arguments: the incarnation, an epoch
in case a new one begins, the epoch and the offset of a position, how many bytes are enough (0: no entries are wanted),
how many entries are, and 1 for the latest until that position, which come first, instead of those after it. The answer:
epoch, offset, the time (ms), the entries, and, if there are more, the offset of the next."""


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
        """Send commands at once; what was answered to each, which may be a ResponseError. Who asks meanwhile waits."""
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
        """Returns when what is published there from now on is heard; `listen` must be under way."""
        loop = asyncio.get_running_loop()
        waiting = [self._pending.setdefault(channel, loop.create_future()) for channel in channels]
        if waiting:
            await self._listener.send_command(self._subscribe, *channels, check_health=False)
            await asyncio.wait_for(asyncio.gather(*waiting), self._timeout)

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        """Returns at once; something may still come."""
        await self._listener.send_command(self._unsubscribe, *channels, check_health=False)

    async def ping(self) -> None:
        """Have something come."""
        await self._listener.send_command("PING", check_health=False)

    async def listen(self) -> tuple[str, bytes] | None:
        """The next message, and its channel; None: something else came."""
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
