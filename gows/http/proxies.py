"""Proxies: who talks to a proxy that passes requests on, as far as the proxy is believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gows.errors import HttpError
from gows.http1.forwarded import Hop, forwarded, x_forwarded_for, x_forwarded_host, x_forwarded_proto
from gows.http1.head import is_host
from gows.http1.headers import Headers
from gows.reactor.networks import NetworkLike, Networks, PeerAddress

FIELDS = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded")


MAX_HOPS = 100
"""Proxies of ours that a request may come by; who may pass on a field of 16 KiB could name 1,700."""


class Client(NamedTuple):
    """Who sent a request, and what it asked the outermost proxy for; None where nobody told."""

    address: PeerAddress
    scheme: str | None = None
    host: str | None = None


class Proxies:
    """The proxies that are believed, and the header fields in which they tell. Any thread."""

    __slots__ = ("fields", "networks")

    def __init__(self, networks: Iterable[NetworkLike], fields: Iterable[str]) -> None:
        """Read the networks of the proxies. Raises ValueError, TypeError.

        Only `fields` are looked at, in any letter case: a proxy passes on what it does not know, so any other was
        perhaps written by the client. `Forwarded` says everything itself, and goes with no other.
        """
        self.networks = Networks(networks)
        if self.networks.everybody:
            raise ValueError("trusted_proxies has everybody in it, who would be believed whatever they say")
        if isinstance(fields, str):
            raise TypeError("forwarded_fields must be a sequence of strings, not one string")
        self.fields = frozenset(name.lower() for name in fields)
        if not self.fields <= set(FIELDS):
            raise ValueError(f"forwarded_fields must be of {', '.join(FIELDS)}, not {', '.join(sorted(self.fields))}")
        if "forwarded" in self.fields and len(self.fields) > 1:
            raise ValueError("Forwarded goes with no other of forwarded_fields: they might contradict each other")

    def trusts(self, peer: PeerAddress) -> bool:
        """Return whether `peer` is one of them."""
        return peer in self.networks

    def client(self, peer: PeerAddress, headers: Headers) -> Client:
        """Return who sent a request that came from `peer`: the first that is no proxy of ours, from the right. Where a
        proxy does not tell, it is the proxy itself.

        Raises HttpError (400) when a proxy of ours wrote, or passed on, what cannot be read.
        """
        if not self.trusts(peer):
            return Client(peer)
        scheme = host = None
        for number, hop in enumerate(self._hops(headers)):
            if number >= MAX_HOPS:
                raise HttpError(400, f"forwarded by more than {MAX_HOPS} proxies")
            scheme, host = hop.scheme or scheme, hop.host or host  # each nearer to the client knows better
            address = hop.address
            if address is None:
                break
            peer = address
            if not self.trusts(peer):
                break
        if "x-forwarded-proto" in self.fields:
            scheme = x_forwarded_proto(headers)
        if "x-forwarded-host" in self.fields:
            host = x_forwarded_host(headers)
        if host is not None and not is_host(host):
            raise HttpError(400, "a forwarded host cannot be read")
        return Client(peer, scheme, host)

    def _hops(self, headers: Headers) -> Iterator[Hop]:
        if "forwarded" in self.fields:
            return iter(forwarded(headers))
        if "x-forwarded-for" in self.fields:
            return x_forwarded_for(headers)
        return iter(())
