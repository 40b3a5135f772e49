"""What clients leave behind: no descriptor, stream, timer or thread, however they end."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from gows import GowsError, Handler, Reconnect, Server, TopicClient, accept, connect
from gows.reactor import Loop
from tests.support.topic_server import topic_server
from tests.support.waiting import wait_until


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Site:
    def __init__(self, server: Server, loop: Loop) -> None:
        self.url = f"ws://127.0.0.1:{server.addresses[0][1]}"
        self.loop = loop
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.closed_port = unused.getsockname()[1]

    def refused(self) -> None:
        connect(f"ws://127.0.0.1:{self.closed_port}/", loop=self.loop)

    def not_found(self) -> None:
        connect(self.url + "/none", loop=self.loop)

    def no_tls(self) -> None:
        connect(self.url.replace("ws", "wss", 1) + "/", loop=self.loop, timeout=5)

    def wrong_settings(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with pytest.raises(ValueError, match="ssl_context"):
            connect("wss://127.0.0.1/", ssl_context=context, loop=self.loop)

    def closed(self) -> None:
        with connect(self.url + "/echo", loop=self.loop):
            pass

    def dropped(self) -> None:
        connect(self.url + "/echo", loop=self.loop).close()

    def connecting(self) -> None:
        client = connect(self.url + "/echo", Handler(), reconnect=True, wait=False, loop=self.loop)
        client.stop()
        assert client.wait(5)

    def waiting(self) -> None:
        client = connect(
            self.url + "/none", Handler(), reconnect=Reconnect(retry_if=always), wait=False, loop=self.loop
        )
        wait_until(lambda: client.error is not None)
        client.stop()
        assert client.wait(5)

    def up(self) -> None:
        client = connect(self.url + "/echo", Handler(), reconnect=True, loop=self.loop)
        client.stop()
        assert client.wait(5)

    def given_up(self) -> None:
        client = connect(self.url + "/none", Handler(), reconnect=True, wait=False, loop=self.loop)
        assert client.wait(5)

    def topics(self) -> None:
        with TopicClient(self.url + "/live", loop=self.loop) as client:
            client.subscribe("a", print)
            client.publish("a", 1)
        assert client._client.wait(5)

    def no_topics(self) -> None:
        TopicClient(self.url + "/echo", loop=self.loop)


def always(error: GowsError) -> bool:
    return True


WAYS: list[Callable[[Site], Any]] = [way for name, way in vars(Site).items() if not name.startswith("_")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_clients_leave_nothing_behind(loop: Loop) -> None:
    with topic_server() as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        server.add_route("/echo", lambda request: accept(request).serve(Handler()))
        site = Site(server, loop)

        def all_of_them() -> None:
            for way in WAYS:
                try:
                    way(site)
                except GowsError:
                    pass
            wait_until(lambda: loop.live_streams == 0 and server.connection_count() == 0)

        all_of_them()  # the workers' threads, and what is made once
        opened, threads = descriptors(), threading.active_count()
        for _ in range(3):
            all_of_them()
        wait_until(lambda: descriptors() <= opened, what=lambda: f"{opened} descriptors, now {descriptors()}")
        assert threading.active_count() <= threads + 2  # workers are started when they are first needed
        wait_until(lambda: loop.active_timers == 0)
