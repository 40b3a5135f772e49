"""Shards: the channels that topics are spread over, and the names of the keys in Redis."""

from __future__ import annotations

from zlib import crc32

from gows.topics.names import is_pattern


class Shards:
    """How topics are spread: each belongs to one shard, which is a channel, and what its keys begin with."""

    def __init__(self, prefix: str, count: int) -> None:
        self.control = f"{prefix}:{{nodes}}"
        """The channel on which processes speak of themselves."""
        self._prefix = prefix
        self._count = count

    def of(self, topic: str) -> int:
        """Return the shard of a topic."""
        return crc32(topic.encode()) % self._count

    def of_pattern(self, pattern: str) -> list[int]:
        """Return the shards in which topics of a pattern may be: all, or that of the one topic."""
        return list(range(self._count)) if is_pattern(pattern.split(".")) else [self.of(pattern)]

    def base(self, shard: int) -> str:
        """Return the channel of a shard, with which its keys begin: in a cluster all are in one place."""
        return f"{self._prefix}:{{{shard}}}"

    def channel(self, topic: str) -> str:
        """Return the channel of a topic."""
        return self.base(self.of(topic))

    def topic_key(self, topic: str) -> str:
        """Return the key under which it stands how far a topic is."""
        return f"{self.channel(topic)}:at:{topic}"

    def log_key(self, topic: str) -> str:
        """Return the key of a topic's log."""
        return f"{self.channel(topic)}:log:{topic}"

    def last_number_key(self, topic: str, process: str) -> str:
        """Return the key of the number of a process's last message in a topic's shard."""
        return f"{self.channel(topic)}:last:{process}"
