"""The broker of several machines: topics over a Redis, or a Valkey, that all of them use."""

from gows.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
