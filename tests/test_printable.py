"""What others said, in logs and on terminals."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

import gows
from gows.client.opening import closed_error
from gows.client.url import parse_url
from gows.errors import HandshakeError, HttpError
from gows.printable import printable, show_address, show_path, show_url
from tests.support.addresses import free_port, tcp
from tests.support.processes import ROOT
from tests.support.waiting import wait_until


def test_what_can_be_seen_stays() -> None:
    for text in ("", "héllo 漢字 🙂 \\", "non\u00a0breaking\u3000wide", "שלום", 'quo"te'):
        assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x07\x7f\x85", "\\x07\\x7f\\x85"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066\u2069\u200e\u061c", "\\u2066\\u2069\\u200e\\u061c"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_acts_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(f"a{text}") == f"a{shown}"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("::1", 80), "[::1]:80"),
        (("192.0.2.1", 0), "192.0.2.1"),
        (("fe80::1%eth0\n", 1), "[fe80::1%eth0\\n]:1"),
        ("/run/a\n\x1b.sock", "unix:/run/a\\n\\x1b.sock"),
        ("\udcff", "unix:\\udcff"),
        ("", "unix"),
        (None, "-"),
    ],
)
def test_addresses(address: Any, shown: str) -> None:
    assert show_address(address) == shown


def test_paths() -> None:
    assert show_path("/a/b?token=secret") == "/a/b"
    assert show_path('/" 200 5\n') == "/\\x22 200 5\\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://a/b", "ws://a/b"),
        ("wss://user:pa:ss@a:1/b?token=secret&x", "wss://***@a:1/b?token=***&***"),
        ("ws://a?secret", "ws://a?***"),
        ("ws://a/x@y?a=b=c", "ws://a/x@y?a=***"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert show_url(url) == shown


def test_an_error_about_a_url_does_not_tell_its_secrets() -> None:
    unreadable, hidden = "the URL cannot be read", r"\*\*\*"
    for wrong, shown in (
        ("ws://user:hidden@[::1/?t=hidden", unreadable),
        ("ws://[::1/?t=hidden", hidden),
        ("x://user:hidden@a/?t=hidden", hidden),
        ("ws://a:0/?t=hidden#x", hidden),
    ):
        with pytest.raises(ValueError, match=shown) as raised:
            parse_url(wrong)
        assert "hidden" not in str(raised.value)


def test_errors_of_what_a_server_says_are_one_line() -> None:
    assert str(HandshakeError(403, "no\n\x1b[2J")) == "403 no\\n\\x1b[2J"
    assert HttpError(400, "a\nb").reason == "a\nb", "as it was said"

    class Closed:
        close_code, close_reason = 4000, "bye\nERROR forged"

    error = closed_error(Closed())  # type: ignore[arg-type]
    assert str(error) == "the connection is closed: 4000 bye\\nERROR forged"
    assert error.reason == "bye\nERROR forged"


def test_nothing_of_a_peers_makes_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    admission = gows.Admission(trusted_proxies=["127.0.0.1"], proxy_protocol="v2")
    server = gows.Server(admission=admission, workers=1)

    @server.route("/")
    def view(request: gows.Request) -> str:
        raise RuntimeError("a fault")

    port = tcp(server.listen("127.0.0.1:0"))[1]
    server.start()
    try:
        for path in (b'/tmp/x\n1.2.3.4 "GET /admin HTTP/1.1" 200 5\n\x1b[2J', b"/tmp/\xff"):
            with socket.create_connection(("127.0.0.1", port), 5.0) as sock:
                unix = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8" + path.ljust(108, b"\0") + bytes(108)
                sock.sendall(unix + b"GET /?token=secret HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                while sock.recv(4096):
                    pass
        with socket.create_connection(("127.0.0.1", port), 5.0) as sock, suppress(ConnectionResetError):
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while sock.recv(4096):
                pass
    finally:
        server.stop()
    lines = [record.getMessage() for record in caplog.records]
    access = [record.getMessage().rsplit(" ", 2)[0] for record in caplog.records if record.name == "gows.access"]
    assert access == [
        'unix:/tmp/x\\n1.2.3.4 \\x22GET /admin HTTP/1.1\\x22 200 5\\n\\x1b[2J "GET / HTTP/1.1" 500',
        'unix:/tmp/\\udcff "GET / HTTP/1.1" 500',
    ]
    assert any("was cut off" in line and line.startswith("127.0.0.1:") for line in lines)
    for line in lines:
        assert line.isprintable()
        assert "secret" not in line
        line.encode()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["check"], ["--help"], ["connect", "--help"]], ids=" ".join)
def test_nobody_reads_what_a_command_prints(arguments: list[str]) -> None:
    """As in `gows check | true`."""
    with subprocess.Popen(
        [sys.executable, "-m", "gows", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(20) in (0, 1)  # argparse takes no notice


@pytest.mark.slow
@pytest.mark.parametrize("command", ["echo", "demo"])
def test_a_server_goes_on_when_nobody_reads_what_it_prints(command: str) -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "gows", command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        wait_until(lambda: answers(port), 20.0)
        child.terminate()
        assert (child.stderr.read(), child.wait(20)) == (b"", 0)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5.0) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return bool(sock.recv(100))
    except OSError:
        return False
