"""Proxies: scripts for a ScriptedServer that answer as asked and carry bytes, and real ones, configured."""

from __future__ import annotations

import hashlib
import os
import pwd
import select
import socket
import ssl
import struct
import subprocess
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.needs import need
from tests.support.processes import Children
from tests.support.scripted import SECONDS, Peer
from tests.support.waiting import wait_until

Goal = tuple[str, int]


@dataclass
class FakeProxy:
    """Carries connections to `upstream`, whatever name it is told; remembers what it was asked.

    `piece`: its answers go out in pieces of so many bytes. `user`: the credentials that it wants.
    """

    upstream: int
    piece: int = 1 << 20
    user: tuple[str, str] | None = None
    asked: list[Goal] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    carried: bytearray = field(default_factory=bytearray)
    """What came from the client."""

    def http(self, peer: Peer) -> None:
        """Play an HTTP proxy."""
        head = peer.read_head()
        self.heads.append(head)
        method, target, version = head.partition("\r\n")[0].split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        host, _, port = target.rpartition(":")
        self.asked.append((host, int(port)))
        if self.user is not None:
            given = head.partition("Proxy-Authorization: Basic ")[2].partition("\r\n")[0]
            if b64decode(given).decode() != ":".join(self.user):
                peer.send("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n")
                peer.wait_end()
                return
        self._send(peer, b"HTTP/1.1 200 Connection established\r\nVia: fake\r\n\r\n")
        self.relay(peer)

    def socks(self, peer: Peer) -> None:
        """Play a SOCKS5 proxy."""
        assert peer.read(1) == b"\x05"
        methods = peer.read(peer.read(1)[0])
        if self.user is None:
            self._send(peer, b"\x05\x00")
        else:
            assert 2 in methods
            self._send(peer, b"\x05\x02")
            assert peer.read(1) == b"\x01"
            given = tuple(peer.read(peer.read(1)[0]).decode() for _ in range(2))
            self._send(peer, bytes((1, given != self.user)))
            if given != self.user:
                peer.wait_end()
                return
        assert peer.read(3) == b"\x05\x01\x00"
        kind = peer.read(1)[0]
        if kind == 3:
            host = peer.read(peer.read(1)[0]).decode()
        else:
            family = socket.AF_INET if kind == 1 else socket.AF_INET6
            host = socket.inet_ntop(family, peer.read(4 if kind == 1 else 16))
        (port,) = struct.unpack("!H", peer.read(2))
        self.asked.append((host, port))
        self._send(peer, b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        self.relay(peer)

    def _send(self, peer: Peer, data: bytes) -> None:
        for at in range(0, len(data), self.piece):
            peer.send(data[at : at + self.piece])

    def relay(self, peer: Peer) -> None:
        """Carry bytes in both directions until one side ends."""
        with socket.create_connection(("127.0.0.1", self.upstream), SECONDS) as server:
            while True:
                ready = [peer.sock] if _pending(peer.sock) else select.select([peer.sock, server], [], [], SECONDS)[0]
                assert ready, "nothing is said, and nobody ends it"
                for sock in ready:
                    other = peer.sock if sock is server else server
                    try:
                        data = sock.recv(65536)
                        other.sendall(data)
                    except (ConnectionError, ssl.SSLError):  # either side may end whenever it likes
                        return
                    if not data:
                        return
                    if sock is not server:
                        self.carried += data


def _pending(sock: socket.socket) -> bool:
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def say(*answers: bytes) -> Callable[[Peer], None]:
    """A script that reads something before each answer; then it waits for the client's end."""

    def script(peer: Peer) -> None:
        for answer in answers:
            peer.sock.recv(65536)
            peer.send(answer)
        peer.wait_end()

    return script


# ---------------------------------------------------------------------- real ones

USER, PASSWORD = "me", "s3cret"
"""The credentials that each of them wants."""


def squid(folder: Path, port: int, certificate: Path | None = None) -> list[str]:
    """Configure Squid: an http proxy; an https one with the file of a `certificate` and its key."""
    digest = hashlib.md5(PASSWORD.encode()).hexdigest()  # one of the forms that its helper reads
    (folder / "passwords").write_text(f"{USER}:{digest}\n")
    folder.chmod(0o777)
    kind = "http_port" if certificate is None else "https_port"
    user = pwd.getpwnam("proxy") if os.getuid() == 0 else pwd.getpwuid(os.getuid())  # it refuses to be root
    (folder / "squid.conf").write_text(
        f"{kind} 127.0.0.1:{port}{'' if certificate is None else f' tls-cert={certificate}'}\n"
        f"auth_param basic program {need('/usr/lib/squid/basic_ncsa_auth')} {folder}/passwords\n"
        "auth_param basic children 1 startup=1\n"
        "acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n"
        "cache deny all\ncache_mem 1 MB\nmemory_pools off\npid_filename none\naccess_log none\n"
        f"cache_log {folder}/log\ncoredump_dir {folder}\n"
        f"cache_effective_user {user.pw_name}\nvisible_hostname squid.test\n"
        "workers 1\nshutdown_lifetime 0 seconds\nmax_filedescriptors 256\nnetdb_filename none\n"
    )
    return [need("squid", "/usr/sbin/squid"), "-N", "-n", f"gows{port}", "-f", str(folder / "squid.conf")]


def tinyproxy(folder: Path, port: int) -> list[str]:
    """Configure tinyproxy: an http proxy."""
    (folder / "tinyproxy.conf").write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 30\nMaxClients 20\nBasicAuth {USER} {PASSWORD}\nLogLevel Error\n"
        f'LogFile "{folder}/log"\n'
    )
    return [need("tinyproxy"), "-d", "-c", str(folder / "tinyproxy.conf")]


def microsocks(folder: Path, port: int) -> list[str]:
    """Configure microsocks: a SOCKS5 proxy."""
    return [need("microsocks"), "-i", "127.0.0.1", "-p", str(port), "-u", USER, "-P", PASSWORD]


def dante(folder: Path, port: int) -> list[str]:
    """Configure Dante: a SOCKS5 proxy that lets in whoever comes."""
    (folder / "danted.conf").write_text(
        f"errorlog: {folder}/log\ninternal: 127.0.0.1 port = {port}\nexternal: lo\n"
        "clientmethod: none\nsocksmethod: none\n"
        "client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }\nsocks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }\n"
    )
    return [need("danted", "/usr/sbin/danted"), "-f", str(folder / "danted.conf"), "-N", "1"]


def start_proxy(children: Children, command: list[str], folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a proxy, and wait until it accepts."""
    said = folder / "said"
    with said.open("wb") as output:
        child = children.start(command, stdout=output, stderr=output)

    def accepts() -> bool:
        assert child.poll() is None, said.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            return False
        return True

    wait_until(accepts, 20.0, said.read_text)
    return child
