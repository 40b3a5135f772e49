"""The broker of one machine: topics over the bus between the processes of `gows.run`."""

from gows.brokers.local.broker import LocalBroker

__all__ = ["LocalBroker"]
