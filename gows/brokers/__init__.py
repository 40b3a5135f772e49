"""Brokers: how a publication reaches the other processes of a server, and those of other machines.

lock   PublishLock: one order for what a process publishes and receives
base   what a broker is, what it calls, and what travels
local  the broker of one machine, over the bus
redis  the broker of several machines, over a Redis
"""

from gows.brokers.base import Broker, BrokerEvents, Done, Envelope

__all__ = ["Broker", "BrokerEvents", "Done", "Envelope"]
