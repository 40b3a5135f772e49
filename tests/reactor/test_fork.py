"""Forked children: what the parent ends is over, whether or not a child still runs, and a child ends nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

PARENT = """
import gc, os, socket, sys
import gows

class Echo(gows.Handler):
    def on_message(self, ws, opcode, buff):
        ws.write_message(opcode, buff)

server = gows.Server(workers=WORKERS)
server.add_route("/ws", lambda request: gows.accept(request).serve(Echo()))
server.add_route("/page", lambda request: "hello")
port = server.listen("127.0.0.1:0")[1]
server.start()
loop = gows.reactor.Loop()
loop.start()
ws = gows.connect(f"ws://127.0.0.1:{port}/ws", loop=loop)
kept = socket.create_connection(("127.0.0.1", port), 10)
kept.sendall(b"GET /page HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
answer = b""
while not answer.endswith(b"hello"):
    answer += kept.recv(65536)
go_on, end = os.pipe()
child = os.fork()
if child == 0:
    os.close(end)
    if DO == "stop":
        server.stop()
        loop.close()
        del ws, server, loop
        gc.collect()
    left = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    os.read(go_on, 1)  # until the parent is over
    os._exit(0 if len(left) <= 8 else 1)
kept.setblocking(True)
ws.write_string("one")
assert ws.recv(10) == "one"
with socket.create_connection(("127.0.0.1", port), 10) as another:
    another.sendall(b"GET /page HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
    answer = b""
    while data := another.recv(65536):
        answer += data
    assert answer.endswith(b"hello"), answer
server.stop(20)
assert kept.recv(65536) == b""
try:
    ws.recv(10)
except gows.ConnectionClosedError as error:
    assert error.code == 1001, error
try:
    socket.create_connection(("127.0.0.1", port), 2).close()
except ConnectionRefusedError:
    pass
else:
    raise SystemExit("the port is still open")
loop.close()
os.close(end)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("workers", "do"), [(0, "sleep"), (2, "stop")])
def test_a_child_keeps_nothing_alive_and_ends_nothing(workers: int, do: str) -> None:
    script = PARENT.replace("DO", repr(do)).replace("WORKERS", str(workers))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    done = subprocess.run(command, cwd=ROOT, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


BEFORE = """
import gc, os, socket, sys
import gows

server = gows.Server(workers=0)
server.add_route("/page", lambda request: "hello")
port = server.listen("127.0.0.1:0")[1]
path = sys.argv[1] + "/socket"
server.listen("unix:" + path)
go_on, end = os.pipe()
ready, told = os.pipe()
child = os.fork()
if child == 0:
    os.close(end)
    if DO == "stop":
        server.stop()
    elif DO == "del":
        del server
        gc.collect()
    os.write(told, b"x")
    os.read(go_on, 1)
    os._exit(0)
os.read(ready, 1)
assert os.path.exists(path)
server.start()
for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, path)):
    with socket.socket(family) as peer:
        peer.settimeout(10)
        peer.connect(address)
        peer.sendall(b"GET /page HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        answer = b""
        while data := peer.recv(65536):
            answer += data
        assert answer.endswith(b"hello"), answer
server.stop(20)
try:
    socket.create_connection(("127.0.0.1", port), 2).close()
except ConnectionRefusedError:
    pass
else:
    raise SystemExit("the port is still open")
assert not os.path.exists(path)
os.close(end)
os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a port is closed for all copies there only")
@pytest.mark.parametrize("do", ["sleep", "stop", "del"])
def test_a_child_that_was_forked_before_the_start(do: str, tmp_path: Path) -> None:
    """A helper process, made when the port is bound and before it is served."""
    script = BEFORE.replace("DO", repr(do))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
