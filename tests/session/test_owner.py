"""Owner: what a session needs from its server."""

from __future__ import annotations

import pytest

from gows import AcceptOptions, Server
from gows.protocol.connection import Role
from gows.reactor import Loop
from gows.session.context import context_for
from gows.session.owner import Owner


def test_a_server_is_one() -> None:
    with Loop(workers=0) as loop:
        server = Server(loop=loop)
        assert isinstance(server, Owner)
        context = context_for(loop, AcceptOptions(), Role.SERVER, server)
        assert (context.overflow, context.traffic) == (server.overflow, server.traffic)


def test_what_is_no_server_is_refused() -> None:
    with Loop(workers=0) as loop, pytest.raises(TypeError, match="not str"):
        context_for(loop, AcceptOptions(), Role.SERVER, "a server")
