"""An application in a server: what comes to it, and what does not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import gows
from gows import UsageError
from gows.reactor import Loop
from tests.asgi.conftest import MakeSite
from tests.support.asgi_site import AsgiSite, answer, get


def test_it_answers_what_no_route_does(serve: MakeSite) -> None:
    site = serve(answer(b"of the application"), health=True, workers=1)
    site.server.add_route("/route", lambda request: "of the route", ("GET", "POST"))
    with site:
        assert site.fetch(get("/")).body == b"of the application"
        assert site.fetch(get("/route")).body == b"of the route"
        assert site.fetch(get("/route", method="POST", body=b"x" * 100_000)).body == b"of the route"
        assert site.fetch(get("/route", method="PUT")).status == 405
        assert site.fetch(get("/-/live")).body == b"live\n"


def test_an_object_that_is_awaited(serve: MakeSite) -> None:
    class Endpoint:
        def __init__(self, scope: Any, receive: Any, send: Any) -> None:
            self.call = answer(b"of an object")(scope, receive, send)

        def __await__(self) -> Any:
            return self.call.__await__()

    with serve(Endpoint) as site:
        assert site.fetch(get()).body == b"of an object"


def test_what_cannot_be_awaited(serve: MakeSite) -> None:
    def app(scope: Any, receive: Any, send: Any) -> Any:
        return [b"of WSGI"]

    with serve(app) as site:
        assert site.fetch(get()).status == 500
        assert site.faults.messages == ["GET /: the ASGI application failed"]
        assert "must be an `async def`" in str(site.faults.errors[0])
        site.faults.take()


def test_a_loop_that_can_run_no_coroutines() -> None:
    with Loop(poller="select", workers=0) as loop, pytest.raises(UsageError, match="coroutines need epoll or kqueue"):
        gows.Server(asgi=answer(b""), loop=loop)


@pytest.mark.slow
def test_without_one_asyncio_is_not_imported() -> None:
    program = "import sys, gows; gows.Server().stop(); assert not {'asyncio', 'gows.asgi.http'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_scope_of_a_connection() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await answer(b"")(scope, receive, send)

    admission = gows.Admission(trusted_proxies=["127.0.0.0/8"])
    with AsgiSite(app, admission=admission, root_path="/api", lifespan="off") as site:
        address = site.server.addresses[0]
        site.fetch(get("/x", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"))
    (scope,) = scopes
    assert scope["client"] == ("192.0.2.7", 0)
    assert scope["server"] == address
    assert scope["scheme"] == "https"
    assert (scope["path"], scope["root_path"]) == ("/api/x", "/api")
