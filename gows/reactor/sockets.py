"""SocketLayer: every call by which a socket of the reactor comes into being.

Connections are `kernel.Socket` objects, in plain Python `socket.SocketType`, the C type under `socket.socket`: half the
memory, no attribute dictionary, and not tracked by the garbage collector. A stand-in with the same methods may be given
to a Loop, see `tests/support/fakes`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
import sys
import termios
from typing import Any, NamedTuple

from gows.reactor.address import Address
from gows.reactor.interfaces import Sock
from gows.reactor.kernel import Socket
from gows.reactor.wakeup import Wakeup

_NODELAY_INHERITED = (
    sys.platform == "linux"
)  # an accepted socket has its listener's TCP_NODELAY (elsewhere it is not promised)

_OUTQ: int | None = None
"""The ioctl(2) that tells how much a send buffer holds: SIOCOUTQ, whose number is TIOCOUTQ's, or FIONWRITE."""
if sys.platform == "linux":
    _OUTQ = termios.TIOCOUTQ
elif sys.platform.startswith("freebsd"):
    _OUTQ = 0x40046677
_SO_NWRITE = 0x1024  # getsockopt(2) of macOS
_BYTES_ACKED = 120 if sys.platform == "linux" else None
"""Where tcpi_bytes_acked lies in struct tcp_info (linux/tcp.h)."""

_NOTSENT_LOWAT = {"linux": 25, "darwin": 0x201}.get(sys.platform)  # TCP_NOTSENT_LOWAT
FRESH = 4096
"""Unsent bytes that a kernel is given at most for a connection on which nothing old is to be sent. A peer that keeps up
has what was sent at once, so it costs such a one nothing."""


class Target(NamedTuple):
    """One socket address that a name resolved to."""

    family: int
    sockaddr: Any


class SocketLayer:
    """Makes the sockets of the operating system."""

    def make_wakeup(self) -> Wakeup:
        """Return what ends a loop's sleep."""
        return Wakeup()

    def take_reserve(self) -> int:
        """Return a descriptor to give up when there are no others left; -1 when there is none even now."""
        try:
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1

    def drop_reserve(self, fd: int) -> None:
        """Close the descriptor that `take_reserve` returned."""
        if fd >= 0:
            os.close(fd)

    def descriptor_limit(self) -> int:
        """Return how many descriptors this process may have open."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return sys.maxsize if soft == resource.RLIM_INFINITY else soft

    def resolve(self, address: Address) -> list[Target]:
        """Return the socket addresses of `address`, best first. May block on a name server. Raises OSError
        (socket.gaierror)."""
        if address.path is not None:
            return [Target(socket.AF_UNIX, address.path)]
        found = socket.getaddrinfo(address.host or "localhost", address.port, type=socket.SOCK_STREAM)
        return [Target(family, sockaddr) for family, _, _, _, sockaddr in found]

    def is_numeric(self, address: Address) -> bool:
        """Return whether `resolve` needs no name server."""
        if address.path is not None:
            return True
        try:
            socket.getaddrinfo(address.host, address.port, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, ValueError):  # ValueError: `resolve` will say what is wrong with the name
            return False
        return True

    def dial(self, target: Target) -> tuple[Sock, int]:
        """Begin to connect. Returns the socket and connect(2)'s errno: 0 for done, EINPROGRESS for begun. Raises
        OSError."""
        sock = _prepared(Socket(target.family, socket.SOCK_STREAM), nodelay=True)
        try:
            return sock, sock.connect_ex(target.sockaddr)
        except BaseException:
            sock.close()
            raise

    def adopt(self, sock: socket.SocketType) -> Sock:
        """Take over a connected socket; `sock` itself is detached and of no more use."""
        family, kind, proto = int(sock.family), int(sock.type), sock.proto
        return _prepared(Socket(family, kind, proto, sock.detach()), nodelay=True)

    def adopt_listener(self, sock: socket.SocketType) -> Sock:
        """Take over a listening socket; `sock` itself is detached and of no more use. Raises ValueError for one that
        does not listen."""
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"this socket does not listen: {sock!r}")
        family, kind, proto = int(sock.family), int(sock.type), sock.proto
        taken = socket.SocketType(family, kind, proto, sock.detach())
        taken.setblocking(False)
        return taken

    def accept(self, listener: Sock) -> Sock:
        """Return a connection that waits at `listener`. Raises BlockingIOError when there is none, OSError as
        accept(2)."""
        # socket.accept() of the C type: that of socket.socket would make two more objects and system calls a
        # connection
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        try:
            sock = Socket(listener.family, socket.SOCK_STREAM, 0, fd)
        except OSError:
            os.close(fd)
            raise
        return _prepared(sock, nodelay=not _NODELAY_INHERITED)

    def stop_listening(self, listener: Sock) -> None:
        """Close a port that no other process is to accept from, though one may have a copy of the socket: a child that
        was forked for something else."""
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:  # ENOTCONN on systems other than Linux, where there is no such way
            pass

    def held(self, sock: Sock) -> int:
        """Return how many sent bytes the kernel still holds, since the peer's host has not taken them; 0 where it does
        not tell. Any thread."""
        try:
            if _OUTQ is not None:
                return int.from_bytes(fcntl.ioctl(sock.fileno(), _OUTQ, bytes(4)), sys.byteorder)
            if sys.platform == "darwin":
                return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        except (OSError, ValueError):  # it was closed just now
            pass
        return 0

    def acknowledged(self, sock: Sock) -> int:
        """Return a count that grows as the peer's host takes what was sent: of bytes, or where there is no such, the
        negative of what is held. Loop thread."""
        if _BYTES_ACKED is not None and sock.family != socket.AF_UNIX:
            try:
                info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
                if len(info) == _BYTES_ACKED + 8:  # an older kernel's is shorter
                    return int.from_bytes(info[_BYTES_ACKED:], sys.byteorder)
            except (OSError, ValueError):
                pass
        return -self.held(sock)

    def limit_sending(self, sock: Sock, size: int | None, *, fresh: bool) -> None:
        """Have the kernel hold at most `size` bytes that the peer has not taken (SO_SNDBUF; it rounds and doubles as it
        sees fit); None: as many as it likes. `fresh`: take no more while FRESH bytes were not even sent. Any thread."""
        try:
            if size is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            if fresh and sock.family == socket.AF_UNIX:  # what is sent is received: the buffers are one
                if size is None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * FRESH)
            elif fresh and _NOTSENT_LOWAT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, FRESH)
        except OSError:  # the peer's RST came first, or a system that does not know it
            pass

    def listen(
        self, address: Address, *, backlog: int = 4096, reuse_port: bool = False, mode: int | None = None
    ) -> list[Sock]:
        """Bind and listen at `address`: one socket, or one for each address of a name. Raises OSError that names the
        address."""
        try:
            if address.path is not None:
                return [_listen_unix(address.path, backlog, mode)]
            return _listen_tcp(address, backlog, reuse_port)
        except OSError as error:
            raise type(error)(error.errno, f"cannot listen at {address}: {error.strerror or error}") from error


def _new_socket(family: int) -> socket.SocketType:
    sock = socket.SocketType(family, socket.SOCK_STREAM)
    try:
        return _prepared(sock, nodelay=True)
    except BaseException:
        sock.close()
        raise


def _prepared(sock: Socket, *, nodelay: bool) -> Socket:
    sock.setblocking(False)
    if nodelay and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _listen_tcp(address: Address, backlog: int, reuse_port: bool) -> list[Sock]:
    """Return the sockets that listen at an address. Every interface: one dual-stack IPv6 socket, or IPv4 where there is
    no IPv6. A name: each of its addresses that is ours."""
    if not address.host:
        try:
            if socket.has_dualstack_ipv6():
                return [_bind_tcp(socket.AF_INET6, ("::", address.port), backlog, reuse_port, v6only=False)]
        except OSError as error:
            if error.errno not in (
                errno.EADDRNOTAVAIL,
                errno.EAFNOSUPPORT,
            ):  # compiled in, but switched off on this machine
                raise
        return [_bind_tcp(socket.AF_INET, ("0.0.0.0", address.port), backlog, reuse_port)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    socks: list[Sock] = []
    port = address.port
    failure: OSError | None = None
    for family, _, _, _, sockaddr in found:
        try:
            sock = _bind_tcp(family, (sockaddr[0], port, *sockaddr[2:]), backlog, reuse_port)
        except OSError as error:
            failure = error
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # an address that this machine does not have
                continue
            for open_sock in socks:
                open_sock.close()
            raise
        socks.append(sock)
        port = port or sock.getsockname()[1]  # port 0: the first takes a free one, the others take the same
    if not socks:
        raise failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")
    return socks


def _bind_tcp(family: int, sockaddr: Any, backlog: int, reuse_port: bool, *, v6only: bool = True) -> socket.SocketType:
    sock = _new_socket(family)
    try:
        if os.name == "posix":  # elsewhere SO_REUSEADDR would let another process steal the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        sock.bind(sockaddr)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(path: str, backlog: int, mode: int | None) -> socket.SocketType:
    """Bind at `path`. The file that a dead process left there is replaced, that of a living one is not."""
    remove_stale(path)
    sock = _new_socket(socket.AF_UNIX)
    try:
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    try:
        if mode is not None:
            os.chmod(path, mode)  # before listen(): until then nobody can connect
        sock.listen(backlog)
    except BaseException:
        sock.close()
        os.unlink(path)
        raise
    return sock


def remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens at; anything else that stands there is left for bind(2) to refuse."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
