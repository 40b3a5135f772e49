"""Brokers: how a publication reaches the other processes of a server, and those of other machines."""

from gows.brokers.base import Broker, BrokerEvents, Done, Envelope

__all__ = ["Broker", "BrokerEvents", "Done", "Envelope"]
