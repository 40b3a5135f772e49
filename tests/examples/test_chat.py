"""examples/chat.py: the page, and a talk of two."""

from __future__ import annotations

import runpy
import urllib.request

from websockets.sync.client import connect

from tests.support.processes import ROOT


def test_two_talk() -> None:
    server = runpy.run_path(str(ROOT / "examples" / "chat.py"))["server"]
    port = server.listen("127.0.0.1:0")[1]
    server.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert "<title>Chat</title>" in page.read().decode()
        with connect(f"ws://127.0.0.1:{port}/chat") as ann:
            assert ann.recv(10) == "somebody came: 1 here"
            with connect(f"ws://127.0.0.1:{port}/chat") as ben:
                assert ann.recv(10) == ben.recv(10) == "somebody came: 2 here"
                ben.send("hello")
                assert ann.recv(10) == ben.recv(10) == "hello"
            assert ann.recv(10) == "somebody left: 1 here"
    finally:
        server.stop()
