"""Brokers: how a publication reaches the other processes of a server, and those of other machines."""

from gows.brokers.base import Broker, Done, Envelope, Hub

__all__ = ["Broker", "Done", "Envelope", "Hub"]
