"""A Django application with WebSockets in two of its views: `tests.support.django_site:app`."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

import gows
from tests.support.flask_site import Echo

if not settings.configured:
    settings.configure(
        SECRET_KEY="only for tests",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            f"{__name__}.RefusedUpgrades",
        ],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:none?mode=memory"}},
        LOGGING_CONFIG=None,
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,
        USE_TZ=True,
    )
    django.setup()


class RefusedUpgrades:
    """Middleware: a refused handshake becomes the answer that it asks for."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: WSGIRequest) -> HttpResponse:
        answer: HttpResponse = self.get_response(request)
        return answer

    def process_exception(self, request: WSGIRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, gows.HandshakeError):
            return HttpResponse(error.reason, status=error.status, headers=dict(error.headers))
        return None


def echo(request: WSGIRequest, name: str) -> HttpResponse:
    gows.accept(request.environ).serve(Echo(name))
    return HttpResponse()


def chat(request: WSGIRequest) -> HttpResponse:
    """As somebody who has logged in."""
    user = request.session.get("user")
    if user is None:
        return HttpResponse(status=401)
    ws = gows.accept(request.META, gows.AcceptOptions(subprotocols=["chat.v1"]), headers={"X-User": user})
    ws.serve(Echo(user))
    return HttpResponse("nobody reads this")


def home(request: WSGIRequest) -> HttpResponse:
    return HttpResponse("<h1>Hallo, Wörld</h1>")


@csrf_exempt
def digest(request: WSGIRequest) -> JsonResponse:
    return JsonResponse({"size": len(request.body), "sha256": hashlib.sha256(request.body).hexdigest()})


@csrf_exempt
def upload(request: WSGIRequest) -> JsonResponse:
    file = request.FILES["file"]
    digest = hashlib.sha256(b"".join(file.chunks())).hexdigest()
    return JsonResponse({"name": file.name, "sha256": digest, "note": request.POST["note"]})


@csrf_exempt
def login(request: WSGIRequest) -> HttpResponse:
    request.session["user"] = request.POST["user"]
    return HttpResponseRedirect("/me")


def me(request: WSGIRequest) -> JsonResponse:
    return JsonResponse({"user": request.session.get("user")})


def rows(request: WSGIRequest, count: int) -> StreamingHttpResponse:
    """A cursor that is read while the answer goes out; SQLite lets only the thread that opened it do so."""

    def lines() -> Iterator[bytes]:
        connection = sqlite3.connect(":memory:")
        try:
            query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT i FROM n"
            for (number,) in connection.execute(query, (count,)):
                yield b"%07d%s\n" % (number, b"." * 992)
        finally:
            connection.close()

    return StreamingHttpResponse(lines(), content_type="text/plain")


def file(request: WSGIRequest, size: int) -> FileResponse:
    content = tempfile.TemporaryFile()  # noqa: SIM115 - the answer closes it
    content.truncate(size)
    return FileResponse(content, as_attachment=True, filename="größe.bin")


def gone(request: WSGIRequest) -> HttpResponse:
    return HttpResponse(status=204)


def latin(request: WSGIRequest) -> HttpResponse:
    return HttpResponse("x", headers={"X-City": "Köln"})


def broken(request: WSGIRequest) -> HttpResponse:
    raise RuntimeError("a bug")


def pid(request: WSGIRequest) -> HttpResponse:
    return HttpResponse(str(os.getpid()))


urlpatterns = [
    path("", home),
    path("ws/<str:name>", echo),
    path("chat", chat),
    path("digest", digest),
    path("upload", upload),
    path("login", login),
    path("me", me),
    path("rows/<int:count>", rows),
    path("file/<int:size>", file),
    path("gone", gone),
    path("latin", latin),
    path("broken", broken),
    path("pid", pid),
]

app = WSGIHandler()
