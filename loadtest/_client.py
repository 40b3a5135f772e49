"""The WebSocket user that the user classes build on: websocket-client in a Locust user, with its events.

Everything that happens is told to Locust as a request: `connect`, what the classes measure, and, as failures, what
should not have happened: `closed` for a connection that the server ended, with its close code.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import websocket
from locust import User
from locust.env import Environment

IP_BIND_ADDRESS_NO_PORT = 24
"""Linux, ip(7): choose the port at connect(2), so that a port may serve for several servers."""

PATIENCE = 60.0
"""Seconds until a connection, or an answer, is given up."""


class Closed(Exception):
    """The server has ended the connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}" + (f": {reason}" if reason else ""))
        self.code = code


class WebSocketUser(User):
    """Holds one connection, and opens it again when it was lost."""

    abstract = True
    host = "ws://127.0.0.1:9001"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.ws: websocket.WebSocket | None = None

    @property
    def options(self) -> Any:
        """The parsed command line, ours included."""
        return self.environment.parsed_options

    def path(self) -> str:
        """The path to connect to."""
        path: str = self.options.path
        return path

    # ------------------------------------------------------------------ the connection

    def connected(self) -> bool:
        """Connect if that is not done. What fails is reported, and tried again after a while: False."""
        if self.ws is not None:
            return True
        began = time.perf_counter()
        try:
            self.ws = open_websocket(self.host + self.path(), self.options)
        except Exception as error:  # refused, timed out, no descriptor left, no 101
            self.report("connect", began, exception=error)
            self.sleep(random.uniform(0.5, 5.0))
            return False
        self.report("connect", began)
        return True

    def send(self, text: str) -> bool:
        """Send a message; False when the connection is gone, which is reported."""
        assert self.ws is not None
        try:
            self.ws.send(text)
        except Exception as error:
            self.lost(error)
            return False
        return True

    def receive(self, seconds: float) -> str | bytes | None:
        """The next message, pings answered meanwhile; None when none came in that time, or the connection is gone,
        which is reported."""
        assert self.ws is not None
        end = time.perf_counter() + seconds
        try:
            while (left := end - time.perf_counter()) > 0:
                self.ws.settimeout(left)
                opcode, frame = self.ws.recv_data_frame()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    data = frame.data
                    code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
                    raise Closed(code, data[2:].decode(errors="replace"))
                if opcode in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
                    payload = frame.data
                    return payload.decode() if opcode == websocket.ABNF.OPCODE_TEXT else bytes(payload)
        except websocket.WebSocketTimeoutException:
            pass
        except Exception as error:
            self.lost(error)
        return None

    def listen(self, seconds: float) -> None:
        """Stay connected for so long: pings are answered, messages thrown away, a lost connection is noticed."""
        end = time.perf_counter() + seconds
        while self.ws is not None and (left := end - time.perf_counter()) > 0:
            self.receive(left)

    def lost(self, error: Exception) -> None:
        """The connection is gone, and we did not close it. It counts as a failure."""
        if isinstance(error, websocket.WebSocketConnectionClosedException):
            error = Closed(1006, "")
        self.abandon()
        self.report("closed", time.perf_counter(), exception=error)
        self.sleep(random.uniform(0.5, 5.0))  # or all of them would come back in the same moment

    def close(self) -> None:
        """Say goodbye, and do not wait for the answer."""
        if self.ws is not None:
            try:
                self.ws.send_close(1000)
            except Exception:
                pass  # it was lost, and nobody is interested any more
            self.abandon()

    def abandon(self) -> None:
        """Forget the connection."""
        ws, self.ws = self.ws, None
        if ws is not None:
            ws.shutdown()

    def on_stop(self) -> None:
        """The end of this user."""
        self.close()

    # ------------------------------------------------------------------ Locust

    def sleep(self, seconds: float) -> None:
        """Wait, while others go on."""
        time.sleep(seconds)  # gevent's: Locust has patched it

    def report(self, name: str, began: float, *, size: int = 0, exception: Exception | None = None) -> None:
        """Tell Locust what has happened since `began` (perf_counter)."""
        self.report_time(name, (time.perf_counter() - began) * 1000, size=size, exception=exception)

    def report_time(self, name: str, milliseconds: float, *, size: int = 0, exception: Exception | None = None) -> None:
        """The same with a time that was measured otherwise."""
        self.environment.events.request.fire(
            request_type="WS",
            name=name,
            response_time=milliseconds,
            response_length=size,
            exception=exception,
            context={},
        )


def open_websocket(url: str, options: Any) -> websocket.WebSocket:
    """Connect and upgrade. Raises what websocket-client and the socket raise."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"--host must be ws://host:port or wss://host:port, not {url!r}")
    sock = None
    if parts.scheme == "ws" and options.source_addresses and is_loopback(parts.hostname):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source_address(options.source_addresses), 0))
            sock.settimeout(PATIENCE)
            sock.connect((parts.hostname, parts.port or 80))
        except BaseException:
            sock.close()
            raise
    return websocket.create_connection(
        url, timeout=PATIENCE, socket=sock, enable_multithread=False, skip_utf8_validation=True
    )


def is_loopback(host: str) -> bool:
    """Whether we may choose among the addresses of 127.0.0.0/8 to connect from."""
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def source_address(count: int) -> str:
    """One of `count` addresses, 127.1.0.1 and on: each has some 28,000 ports, so that they suffice for all."""
    return str(ipaddress.IPv4Address("127.1.0.1") + random.randrange(count))
