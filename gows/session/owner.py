"""Owner: what the sessions of accepted connections need from their server, which is of a layer above.

`gows.Server` fulfils it. Sessions that a client made have no owner.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

from gows.session.overflow import Overflow
from gows.session.traffic import Traffic

Member = TypeVar("Member", contravariant=True)
"""The class of the connections, WebSocket."""


class Subscribed(Protocol[Member]):
    """Who has subscribed to what."""

    def of(self, ws: Member) -> tuple[str, ...]:
        """Return the topics of a connection, in the order in which it subscribed."""

    def check_publish(self, ws: Member, topic: str) -> None:
        """Raise NotAllowedError unless a connection may publish to a topic."""


class Publishes(Protocol[Member]):
    """What subscribes connections to topics. Any thread."""

    @property
    def subscriptions(self) -> Subscribed[Member]:
        """Who has subscribed to what."""

    def subscribe(self, ws: Member, topic: str) -> bool:
        """Subscribe a connection to a topic. False: it was subscribed already."""

    def unsubscribe(self, ws: Member, topic: str) -> bool:
        """End a subscription. False: there was none."""


@runtime_checkable
class Owner(Protocol[Member]):
    """A server, as the sessions of its connections see it."""

    @property
    def overflow(self) -> Overflow:
        """What its connections have too much of."""

    @property
    def traffic(self) -> Traffic:
        """What its connections have sent and received."""

    @property
    def publishing(self) -> Publishes[Member]:
        """What subscribes its connections to topics."""

    def publish(
        self,
        topic: str,
        data: Any,
        opcode: int | None = None,
        *,
        exclude: Member | None = None,
        key: str | int | None = None,
        ttl: float | None = None,
        history: Any = None,
        compress: bool = True,
        done: Any = None,
    ) -> None:
        """Publish a message to a topic for everybody but the connection `exclude`."""
