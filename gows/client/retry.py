"""Reconnect: whether to try again after a failure, and when.

A server that restarts loses all its clients in one moment; if they all came back in one moment they would knock it over
again. So every delay is random over its whole range ("full jitter"), the ranges grow with each failure, and what the
server says is heeded: Retry-After on 429 and 503, and the close codes 1012 and 1013.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from gows.codes import CloseCode
from gows.errors import ConnectError, ConnectionClosedError, GowsError, HandshakeError, ProxyError
from gows.http1.dates import parse_date
from gows.options import check_answer, check_plain_function, check_seconds

logger = logging.getLogger("gows")

RESTART_DELAY = (5.0, 30.0)
"""Seconds after 1012 (service restart) or 1013 (try again later): the registry of close codes asks for 5 to 30,
randomized."""
MAX_RETRY_AFTER = 3600.0
"""Seconds; a Retry-After beyond an hour counts as an hour."""

TOO_FAST = " a second"
"""The end of the reason with which a server of ours closes (1008) a client that is over its rate; it says what 429
does."""

_TEMPORARY = frozenset({408, 425, 429})
_FINAL_CODES = frozenset({CloseCode.POLICY_VIOLATION, *(4000 + status for status in range(400, 500))}) - frozenset(
    4000 + status for status in _TEMPORARY
)


def is_temporary(error: GowsError) -> bool:
    """Return whether trying again may help. The default of `Reconnect.retry_if`.

    Yes: the connection was lost or closed by the server, the server could not be reached, or it, or the proxy on the
    way, refused with 408, 425, 429 or 5xx. No: any other refusal (401, 403, 404, 407, a redirect), an answer that is
    not a valid 101, and the close codes that say the same of a connection that was up: 1008 (but when it was too fast
    for a server of ours), and 4400 to 4499 (4401: not authorized, and so on), but 4408, 4425 and 4429.
    """
    if isinstance(error, HandshakeError):
        return error.status >= 500 or error.status in _TEMPORARY
    if isinstance(error, ConnectionClosedError) and error.code in _FINAL_CODES:
        return error.code == CloseCode.POLICY_VIOLATION and error.reason.endswith(TOO_FAST)
    if isinstance(error, ProxyError):
        return error.temporary
    return isinstance(error, (ConnectError, ConnectionClosedError))


@dataclass(frozen=True)
class Reconnect:
    """How a client comes back. Times are seconds. The delay after n failures in a row is random between 0 and
    `min(maximum, initial * factor ** n)`."""

    initial: float = 0.5
    """Range of the delay after the loss of a connection that was up for `stable` seconds."""
    maximum: float = 30.0
    """Largest range."""
    factor: float = 2.0
    """Growth of the range with each failure."""
    jitter: float = 1.0
    """Random part of the delay: 1 all of it, 0 none (for tests only: clients without jitter come back in step)."""
    stable: float = 10.0
    """A connection that was up for so long makes the failures before it forgotten."""
    attempts: int | None = None
    """Give up after so many failures in a row; None: never."""
    retry_if: Callable[[GowsError], bool] = is_temporary
    """Whether to try again after a ConnectError, a HandshakeError, or a ConnectionClosedError (which has the close
    code). Called on a worker."""

    def __post_init__(self) -> None:
        for name in ("initial", "maximum", "stable"):
            check_seconds(name, getattr(self, name), optional=False)
        for name in ("factor", "jitter"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number, not {type(value).__name__}")
        if not self.factor >= 1:
            raise ValueError(f"factor must be 1 or more, not {self.factor}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, not {self.jitter}")
        if self.attempts is not None:
            if not isinstance(self.attempts, int) or isinstance(self.attempts, bool):
                raise TypeError(f"attempts must be an int or None, not {type(self.attempts).__name__}")
            if self.attempts < 1:
                raise ValueError(f"attempts must be 1 or more, or None, not {self.attempts}")
        check_plain_function("retry_if", self.retry_if)

    def delay(self, failures: int, error: GowsError | None = None) -> float:
        """Return the seconds to wait after `failures` failures in a row (0: a stable connection was lost), the last of
        which was `error`."""
        try:
            limit = min(self.maximum, self.initial * self.factor**failures)
        except OverflowError:
            limit = self.maximum
        delay = limit - random.uniform(0.0, limit * self.jitter)
        if isinstance(error, HandshakeError):
            return retry_after(error) + delay
        if isinstance(error, ConnectionClosedError) and error.code in (
            CloseCode.SERVICE_RESTART,
            CloseCode.TRY_AGAIN_LATER,
        ):
            high = min(self.maximum, RESTART_DELAY[1])
            low = min(high / 2, RESTART_DELAY[0])  # random with a small maximum, too
            return max(delay, random.uniform(low, high))
        return delay


class Failures:
    """The failures in a row of one client, and what its policy makes of them."""

    __slots__ = ("_count", "_policy")

    def __init__(self, policy: Reconnect) -> None:
        self._policy = policy
        self._count = 0

    def add(self) -> None:
        """Count an attempt that failed."""
        self._count += 1

    def lost(self, seconds: float) -> None:
        """Count the end of a connection that was up for so long."""
        self._count = 0 if seconds >= self._policy.stable else self._count + 1

    def may_retry(self, error: GowsError) -> bool:
        """Return whether to try again after `error`. Calls the user's `retry_if`, so without a lock."""
        policy = self._policy
        if policy.attempts is not None and self._count >= policy.attempts:
            return False
        try:
            return check_answer("retry_if", policy.retry_if(error))
        except Exception:
            logger.exception("retry_if raised; not connecting again")
            return False

    def delay(self, error: GowsError) -> float:
        """Return the seconds until the next attempt."""
        return self._policy.delay(self._count, error)


def retry_after(error: HandshakeError) -> float:
    """Return the seconds that Retry-After asks for (RFC 9110 §10.2.3: a number, or a date); 0.0 without it, or when it
    is malformed."""
    value = {name.lower(): value for name, value in error.headers}.get("retry-after", "")
    if value.isdecimal():
        return min(MAX_RETRY_AFTER, float(value))
    date = parse_date(value)
    return 0.0 if date is None else min(MAX_RETRY_AFTER, max(0.0, date - time.time()))
