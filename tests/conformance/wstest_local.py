"""wstest with every port it opens bound to 127.0.0.1: by itself it listens on all interfaces. Runs in its Python 2.7.

.conformance/venv/bin/python wstest_local.py -m fuzzingserver -u 0 -s SPEC.json
"""

from autobahntestsuite.wstest import run
from twisted.internet import posixbase

listen = posixbase.PosixReactorBase.listenTCP


def listen_on_loopback(self, port, factory, backlog=50, interface=""):
    return listen(self, port, factory, backlog, interface or "127.0.0.1")


posixbase.PosixReactorBase.listenTCP = listen_on_loopback
run()
