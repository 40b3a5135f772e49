from __future__ import annotations

import pytest

from gows.client import connect
from gows.options import AcceptOptions
from gows.reactor.loop import Loop
from gows.session import _FULL
from tests.client.recording import Recorder
from tests.client.scripted import Peer, ScriptedServer, frame
from tests.waiting import wait_until


@pytest.mark.slow
def test_a_silent_server_is_pinged_and_given_up_when_it_does_not_answer(loop: Loop) -> None:
    pings = []

    def script(peer: Peer) -> None:
        peer.accept()
        pings.append(peer.read_frame())
        peer.send(frame(10, pings[0][1]))
        pings.append(peer.read_frame())
        peer.wait_end()

    handler = Recorder()
    options = AcceptOptions(ping_interval=0.1, ping_timeout=0.2)
    with ScriptedServer(script) as server:
        connect(server.url, handler, options=options, loop=loop)
        assert handler.closed.wait(10)
    assert [opcode for opcode, _ in pings] == [9, 9]
    assert handler.calls == ["open", (1006, "ping timeout: nothing came from the peer")]


@pytest.mark.slow
def test_a_server_that_is_not_read_from_is_not_taken_for_dead(loop: Loop) -> None:
    """Nothing can come while a full inbox keeps us from reading: neither a pong nor anything else."""
    count = 5000  # more than one read takes

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(b"".join(frame(1, b"%0120d" % number) for number in range(count)))
        opcode = 9
        while opcode == 9:
            opcode, body = peer.read_frame()
        peer.send(frame(8, body))

    options = AcceptOptions(ping_interval=0.1, ping_timeout=0.1, read_timeout=0.3)
    with ScriptedServer(script) as server:
        with connect(server.url, options=options, loop=loop) as ws:
            wait_until(lambda: ws._flags & _FULL)
            begun = loop.now()
            wait_until(lambda: loop.now() > begun + 10)  # far beyond each of these timeouts
            assert [int(ws.recv(10)) for _ in range(count)] == list(range(count))
        assert ws.close_code == 1000
