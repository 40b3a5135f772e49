"""Health: the two pages that load balancers and supervisors of processes ask for."""

from __future__ import annotations

from gows.errors import HttpError
from gows.http.request import Request
from gows.http.response import Response

LIVE = "/-/live"
"""200 as long as the loop turns: who gets no answer should restart the process."""
READY = "/-/ready"
"""200 when new connections are welcome, 503 once the end has begun: send them elsewhere."""
HEALTH_PATHS = frozenset({LIVE, READY})

_HEADERS = (("Cache-Control", "no-store"),)


def health_answer(request: Request, *, ready: bool) -> Response:
    """Return the answer to a request for one of HEALTH_PATHS. Raises HttpError (405) for other methods than GET and
    HEAD."""
    if request.method not in ("GET", "HEAD"):
        raise HttpError(405, f"{request.method} is not allowed here", (("Allow", "GET, HEAD"),))
    if request.path == READY and not ready:
        return Response.text("draining\n", 503, _HEADERS)
    return Response.text("ready\n" if request.path == READY else "live\n", 200, _HEADERS)
