"""Clients behind Squid, tinyproxy, microsocks and Dante."""

from __future__ import annotations

import random
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from gows import Proxy, ProxyError, connect
from gows.reactor.transports import Loop
from tests.support.addresses import free_port
from tests.support.processes import Children
from tests.support.proxies import PASSWORD, USER, dante, microsocks, squid, start_proxy, tinyproxy
from tests.support.scripted import Peer, ScriptedServer

pytestmark = pytest.mark.slow  # they take their time to start, Squid two seconds

AUTHORITY = trustme.CA()

Started = Callable[[str], int]


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    """The port of a proxy, which is started when it is first asked for."""
    ports: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as made, Children() as children:
        Path(made).chmod(0o755)  # Squid is somebody else

        def start(name: str) -> int:
            if name not in ports:
                folder = Path(made) / name.replace(" ", "_")
                folder.mkdir(exist_ok=True)
                port = free_port()
                if name == "squid under TLS":
                    certificate = folder / "certificate.pem"
                    AUTHORITY.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
                    certificate.chmod(0o644)
                    command = squid(folder, port, certificate)
                else:
                    command = {"squid": squid, "tinyproxy": tinyproxy, "microsocks": microsocks, "dante": dante}[name](
                        folder, port
                    )
                start_proxy(children, command, folder, port)
                ports[name] = port
            return ports[name]

        yield start


PROXIES = {
    "squid": "http",
    "squid under TLS": "https",
    "tinyproxy": "http",
    "microsocks": "socks5h",
    "dante": "socks5",
}


@pytest.fixture(scope="module")
def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def echo(peer: Peer) -> None:
    """Send back what comes, up to the close."""
    peer.accept()
    opcode = 0
    while opcode != 8:
        opcode, body = peer.read_frame()
        size = len(body)
        length = bytes((size,)) if size < 126 else b"\x7f" + size.to_bytes(8, "big")
        peer.send(bytes((0x80 | opcode,)) + length + body)


def server(secure: bool) -> ScriptedServer:
    if not secure:
        return ScriptedServer(echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    return ScriptedServer(echo, ssl_context=context)


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("name", PROXIES)
def test_a_conversation(name: str, secure: bool, started: Started, trusting: ssl.SSLContext, loop: Loop) -> None:
    port = started(name)
    scheme = PROXIES[name]
    proxy = Proxy(f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}", trusting if scheme == "https" else None)
    with server(secure) as listening:
        url = f"{'wss' if secure else 'ws'}://localhost:{listening.port}/"
        with connect(url, proxy=proxy, ssl_context=trusting if secure else None, loop=loop) as ws:
            assert ws.remote_addr == ("127.0.0.1", port)
            for size in (5, 1_000_000):
                data = random.Random(size).randbytes(size)
                ws.write_message(2, data)
                assert ws.recv(20) == data


@pytest.mark.parametrize("name", [name for name in PROXIES if name != "dante"])
def test_credentials_that_are_refused(name: str, started: Started, trusting: ssl.SSLContext, loop: Loop) -> None:
    port = started(name)
    scheme = PROXIES[name]
    for credentials in ("", f"{USER}:wrong@"):
        proxy = Proxy(f"{scheme}://{credentials}127.0.0.1:{port}", trusting if scheme == "https" else None)
        with pytest.raises(ProxyError) as refused:
            connect(f"ws://localhost:{free_port()}/", proxy=proxy, loop=loop)
        assert not refused.value.temporary
        assert refused.value.status in ((407, 401) if scheme.startswith("http") else (0xFF, 1, 2))


@pytest.mark.parametrize("name", PROXIES)
def test_a_server_that_is_not_there(name: str, started: Started, trusting: ssl.SSLContext, loop: Loop) -> None:
    port = started(name)
    scheme = PROXIES[name]
    proxy = Proxy(f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}", trusting if scheme == "https" else None)
    with pytest.raises(ProxyError, match="refused to connect to") as refused:
        connect(f"ws://localhost:{free_port()}/", proxy=proxy, loop=loop)
    assert refused.value.temporary
    assert refused.value.status in ((500, 502, 503) if scheme.startswith("http") else (1, 4, 5))
