"""TopicSubscription and Answer: what a TopicClient gives to its user."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from gows.errors import TopicError
from gows.reactor.workers import stepping_aside

Callback = Callable[[Any, str], object]
"""Of the data and the topic of a message: what JSON carries, or bytes."""
Present = Callable[[dict[str, Any]], object]
"""Of the info of everybody in a topic, by id."""


class SubscribingClient(Protocol):
    """A TopicClient, as far as its subscriptions and answers need it."""

    def end(self, subscription: TopicSubscription) -> None:
        """End one of its subscriptions."""

    def refuse_waiting(self, what: str) -> None:
        """Raise UsageError in a thread that must not wait for an answer."""


class Answer(Future[Any]):
    """What a server will have answered. To wait for it in a callback of the same client is refused (UsageError): the
    answer comes by the same connection, after that callback."""

    def __init__(self, client: SubscribingClient) -> None:
        super().__init__()
        self._client = client

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, as every Future does."""
        with self._waiting("result()", timeout):
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception, as every Future does."""
        with self._waiting("exception()", timeout):
            return super().exception(timeout)

    def _waiting(self, what: str, timeout: float | None) -> AbstractContextManager[None]:
        if self.done() or (timeout is not None and timeout <= 0):
            return nullcontext()
        self._client.refuse_waiting(what)
        return stepping_aside()


class TopicSubscription:
    """One of a TopicClient's, as `subscribe` returns it."""

    __slots__ = ("_client", "callback", "history", "lost", "pattern", "present", "ready", "refused")

    def __init__(
        self,
        client: SubscribingClient,
        pattern: str,
        callback: Callback,
        lost: Callable[[str], object] | None,
        present: Present | None,
        history: int | None,
        refused: Callable[[TopicError], object] | None,
    ) -> None:
        if not callable(getattr(client, "refuse_waiting", None)):
            raise TypeError("a TopicSubscription is made by TopicClient.subscribe")
        self._client = client
        self.pattern = pattern
        self.callback = callback
        self.lost = lost
        self.present = present
        self.history = history
        self.refused = refused
        self.ready: Future[None] = Answer(client)
        """Done once the server has answered; its exception is a TopicError when the server refuses, and when the client
        ends before that (`closed`)."""

    def end(self) -> None:
        """Hear no more. Any thread; idempotent."""
        self._client.end(self)
