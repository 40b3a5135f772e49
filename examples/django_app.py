"""WebSockets in a Django view, in one file. In a project of yours only the view and the middleware are new.

    python examples/django_app.py [ADDRESS]        # "127.0.0.1:8080" unless given; needs `pip install django`

Open the address it prints: the page counts how many have it open. The application is served by gows itself. It also
runs unchanged under gunicorn: `gunicorn --chdir examples --threads 4 django_app:app`.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

import gows

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Django</title>
<p><b id="count">?</b> have this page open.</p>
<script>
  new WebSocket(`ws://${location.host}/count`).onmessage = (event) => { count.textContent = event.data; };
</script>"""


class Viewer(gows.Handler):
    """One open page. Everybody hears when the number changes."""

    viewers: set[gows.WebSocket] = set()  # noqa: RUF012 - shared by all, on purpose
    lock = threading.Lock()

    def on_open(self, ws: gows.WebSocket) -> None:
        with self.lock:
            self.viewers.add(ws)
            self.tell()

    def on_close(self, ws: gows.WebSocket) -> None:
        with self.lock:
            self.viewers.discard(ws)
            self.tell()

    def tell(self) -> None:
        for ws in self.viewers:
            try:
                ws.write_json(len(self.viewers))
            except (gows.ConnectionClosedError, gows.QueueFullError):
                pass  # it has just gone, or does not read


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(PAGE)


def count(request: HttpRequest) -> HttpResponse:
    gows.accept(request.META).serve(Viewer())
    return HttpResponse()  # nobody reads it: the connection is a WebSocket now


class RefusedUpgrades:
    """Middleware: a refused handshake becomes the answer that it asks for, instead of a 500."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, gows.HandshakeError):
            return HttpResponse(error.reason, status=error.status, headers=dict(error.headers))
        return None


urlpatterns = [path("", page), path("count", count)]

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_hex(),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=[f"{__name__}.RefusedUpgrades"],
    LOGGING_CONFIG=None,
)
django.setup()
app = WSGIHandler()


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    server = gows.Server(wsgi=app)
    bound = server.listen(address)
    if isinstance(bound, tuple):  # else it is the path of a Unix-domain socket
        print(f"open http://{bound[0]}:{bound[1]}/", flush=True)
    server.listen_and_serve()


if __name__ == "__main__":
    main(*sys.argv[1:2])
