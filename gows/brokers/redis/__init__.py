"""The broker of several machines: topics over a Redis, or a Valkey, that all of them use.

wire        what is read from Redis, checked
shards      channels, and the names of keys
connection  Link: the connections to Redis; the scripts of scripts/*.lua
jobs        what waits for the broker's thread, and how much may
nodes       the other processes
logs        where topics stand in Redis, and what is kept of them
topics      what is known of each topic here, and the channels that are subscribed to
recovery    what is received is delivered, what was missed is looked up
followers   connections that subscribe
worker      the thread: connects, and does the jobs
broker      RedisBroker: what the server calls
"""

from gows.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
