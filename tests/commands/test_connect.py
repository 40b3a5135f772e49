"""`gows connect`: piped and in a terminal, and how it ends."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from gows.__main__ import main
from gows.bytebuffer import ByteBuffer
from gows.codes import Opcode
from gows.commands.connect import Talk
from gows.commands.screen import Screen
from tests.support.processes import ROOT
from tests.support.proxies import FakeProxy
from tests.support.scripted import Peer, ScriptedServer, close_frame, frame
from tests.support.waiting import wait_until

COMMAND = [sys.executable, "-m", "gows", "connect"]


def echo(peer: Peer) -> None:
    """Send back what comes, up to the close."""
    peer.accept()
    opcode = 0
    while opcode != 8:
        opcode, body = peer.read_frame()
        peer.send(frame(10 if opcode == 9 else opcode, body))


class Keyboard:
    """Standard input of this process, for a command that runs in it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._before = os.dup(0)
        os.dup2(self._read, 0)

    def type(self, text: str | bytes) -> None:
        os.write(self._write, text.encode() if isinstance(text, str) else text)

    def end(self) -> None:
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def close(self) -> None:
        self.end()
        os.dup2(self._before, 0)
        os.close(self._before)
        os.close(self._read)


@pytest.fixture
def keyboard() -> Iterator[Keyboard]:
    keyboard = Keyboard()
    yield keyboard
    keyboard.close()


def talk(url: str, *arguments: str) -> int:
    return main(["connect", "--wait", "0.1", *arguments, url])


# ---------------------------------------------------------------------- piped


def test_each_line_is_sent_and_each_reply_is_printed(keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
    keyboard.type("hello\ngrüß\r\n//slash\n/binary 00ff 41\n/binary " + "ab" * 40 + "\nlast, without an end")
    keyboard.end()
    with ScriptedServer(echo) as server:
        assert talk(server.url) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "< hello",
        "< grüß",
        "< /slash",
        "< binary, 3 bytes: 00 ff 41",
        "< binary, 40 bytes: " + " ".join(["ab"] * 32) + " …",
        "< last, without an end",
    ]
    assert printed.err.splitlines() == [f"connected to {server.url}", "closed with 1000 normal closure"]


def test_what_cannot_be_sent_is_said_and_the_rest_goes_on(
    keyboard: Keyboard, capsys: pytest.CaptureFixture[str]
) -> None:
    keyboard.type(b"\xff\n/binary xyz\n/close abc\n/close 1006\n/help\nfine\n")
    keyboard.end()
    with ScriptedServer(echo) as server:
        assert talk(server.url) == 0
    printed = capsys.readouterr()
    assert printed.out == "< fine\n"
    lines = printed.err.splitlines()[1:-1]
    assert lines[0] == "that line is not UTF-8; send it with /binary"
    assert lines[1].startswith("not sent: non-hexadecimal number")
    assert lines[2] == "not sent: 'abc' is no close code"
    assert lines[3].startswith("not sent: ")
    assert lines[4].startswith("there is no /help; ")


def test_control_characters_of_the_server_do_not_reach_the_terminal(
    keyboard: Keyboard, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(peer: Peer) -> None:
        text = "\x1b[2J\x9b1m two\nlines\ttab\rback\x00 \u202eround\u2066 \u200b\u2028\ufeff"
        peer.accept(behind=frame(1, text.encode()) + close_frame(4000, "\x1b[A\u202e"))
        peer.wait_end()

    with ScriptedServer(script) as server:
        assert talk(server.url) == 1
    printed = capsys.readouterr()
    hidden = "\\u202eround\\u2066 \\u200b\\u2028\\ufeff"
    assert printed.out == "< \\x1b[2J\\x9b1m two\\nlines\\ttab\\rback\\x00 " + hidden + "\n"
    assert printed.err.splitlines()[1] == "gows connect: closed with 4000: \\x1b[A\\u202e"


def test_a_ping_is_answered_with_its_time(keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
    def script(peer: Peer) -> None:
        peer.accept(behind=frame(10, b"not asked for"))
        opcode, body = peer.read_frame()
        assert opcode == 9
        peer.send(frame(10, body))
        peer.send(frame(*peer.read_frame()))

    keyboard.type("/ping\n")
    keyboard.end()
    with ScriptedServer(script) as server:
        assert talk(server.url) == 0
    assert re.search(r"^pong after \d+\.\d ms$", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("/close", struct.pack("!H", 1000)),
        ("/close 4000", struct.pack("!H", 4000)),
        ("/close 4000 good bye", struct.pack("!H", 4000) + b"good bye"),
        ("/quit", struct.pack("!H", 1000)),
    ],
)
def test_closing_as_the_user_says(command: str, body: bytes, keyboard: Keyboard) -> None:
    frames = []

    def script(peer: Peer) -> None:
        peer.accept()
        frames.append(peer.read_frame())
        peer.send(frame(*frames[0]))

    keyboard.type(f"{command}\nthis is not sent any more\n")
    with ScriptedServer(script) as server:
        assert talk(server.url) == 0
    assert frames == [(8, body)]


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (close_frame(1000, "done"), 0, "closed with 1000 normal closure: done"),
        (close_frame(1001), 0, "closed with 1001 going away"),
        (frame(8), 0, "closed with 1005 no close rcvd"),
        (close_frame(1011, "oops"), 1, "gows connect: closed with 1011 internal error: oops"),
        (close_frame(4999), 1, "gows connect: closed with 4999"),
        (b"", 1, "gows connect: closed with 1006 abnormal closure"),
    ],
)
def test_the_exit_status_tells_how_the_server_ended_it(
    end: bytes, status: int, said: str, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(peer: Peer) -> None:
        peer.accept(behind=end)
        if end:
            peer.read_frame()

    with ScriptedServer(script) as server:
        assert talk(server.url) == status
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_server_that_does_not_answer_the_close(
    keyboard: Keyboard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.wait_end()

    monkeypatch.setattr("gows.commands.connect.CLOSE_TIMEOUT", 0.1)
    keyboard.end()
    with ScriptedServer(script) as server:
        assert talk(server.url) == 1
    assert "closed with 1006" in capsys.readouterr().err


def test_replies_are_waited_for_until_there_are_no_more(keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.read_frame()
        for number in range(5):
            peer.send(frame(1, b"%d" % number))
            peer.sock.settimeout(0.1)
            with pytest.raises(TimeoutError):  # no close comes in between
                peer.sock.recv(1)
        peer.sock.settimeout(10)
        peer.send(frame(*peer.read_frame()))

    keyboard.type("go\n")
    keyboard.end()
    with ScriptedServer(script) as server:
        assert main(["connect", "--wait", "0.5", server.url]) == 0
    assert capsys.readouterr().out.splitlines() == [f"< {number}" for number in range(5)]


def test_a_server_that_reads_slowly_loses_nothing(keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = 400
    received = []
    stalled = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        assert stalled.wait(10)
        opcode = 1
        while opcode != 8:
            opcode, body = peer.read_frame()
            received.append(len(body))
        peer.send(frame(opcode, body))

    def type_it() -> None:
        for _ in range(lines):
            keyboard.type("x" * 30_000 + "\n")
        keyboard.end()

    def watch() -> None:
        from gows.reactor import live_loops  # the command's own loop

        wait_until(lambda: any(s and getattr(s, "queued", 0) > 262144 for loop in live_loops() for s in loop.streams))
        stalled.set()

    threads = [threading.Thread(target=target) for target in (type_it, watch)]
    for thread in threads:
        thread.start()
    with ScriptedServer(script) as server:
        assert talk(server.url) == 0
    for thread in threads:
        thread.join(10)
    assert received == [30_000] * lines + [2]


# ---------------------------------------------------------------------- what is asked for


def test_the_request(keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
    heads = []

    def script(peer: Peer) -> None:
        heads.append(peer.accept("Sec-WebSocket-Protocol: b"))
        peer.send(frame(*peer.read_frame()))

    keyboard.end()
    with ScriptedServer(script) as server:
        arguments = ["--header", "X-One: 1", "--header", "X-Two:2", "--subprotocol", "a", "--subprotocol", "b"]
        assert talk(server.url, *arguments, "--origin", "https://example.com") == 0
        assert talk(server.url, "--subprotocol", "b", "--no-compression") == 0
    lines = heads[0].split("\r\n")
    assert "X-One: 1" in lines
    assert "X-Two: 2" in lines
    assert "Sec-WebSocket-Protocol: a, b" in lines
    assert "Origin: https://example.com" in lines
    assert "permessage-deflate" in heads[0]
    assert "permessage-deflate" not in heads[1]
    assert f"connected to {server.url}, subprotocol b" in capsys.readouterr().err


def test_pings_are_sent_as_asked(keyboard: Keyboard) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        opcode, body = peer.read_frame()
        assert (opcode, body) == (9, b"")
        peer.send(close_frame(1000))
        peer.read_frame()

    with ScriptedServer(script) as server:
        assert talk(server.url, "--ping-interval", "0.1") == 0


@pytest.mark.parametrize("arguments", [[], ["--ping-interval", "0"]])
def test_pings_may_be_left_out(arguments: list[str], keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard.end()
    intervals = []
    made = sys.modules["gows.commands.connect"].AcceptOptions

    def noted(**settings: object) -> object:
        intervals.append(settings["ping_interval"])
        return made(**settings)

    monkeypatch.setattr("gows.commands.connect.AcceptOptions", noted)
    with ScriptedServer(echo) as server:
        assert talk(server.url, *arguments) == 0
    assert intervals == [None if arguments else 30.0]


def test_the_way_through_a_proxy(
    keyboard: Keyboard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard.end()
    with ScriptedServer(echo) as server:
        fake = FakeProxy(server.port)
        with ScriptedServer(fake.http) as listening:
            proxy = f"http://me:secret@127.0.0.1:{listening.port}"
            assert talk("ws://server.test/", "--proxy", proxy) == 0
            monkeypatch.setenv("ALL_PROXY", proxy)
            assert talk("ws://server.test/") == 0
            assert talk("ws://server.test/", "--no-proxy") == 1
    assert fake.asked == [("server.test", 80)] * 2
    printed = capsys.readouterr().err
    assert "cannot connect to server.test:80" in printed
    assert "secret" not in printed
    with pytest.raises(SystemExit):
        talk("ws://server.test/", "--no-proxy", "--proxy", proxy)
    assert "not allowed with" in capsys.readouterr().err


def test_redirects_are_followed_as_asked(keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
    keyboard.end()
    with ScriptedServer(echo) as server:

        def script(peer: Peer) -> None:
            peer.read_head()
            peer.send(f"HTTP/1.1 307 Elsewhere\r\nLocation: {server.url}\r\nContent-Length: 0\r\n\r\n")
            peer.wait_end()

        with ScriptedServer(script) as first:
            assert talk(first.url, "--redirects", "1") == 0
            assert talk(first.url) == 1
            assert f"redirects to {server.url}, and redirects are not followed" in capsys.readouterr().err
            assert talk(first.url, "--redirects", "99") == 1
            assert "redirects must be from 0 to 20" in capsys.readouterr().err


# ---------------------------------------------------------------------- no connection


def refuse(peer: Peer) -> None:
    peer.read_head()
    peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 11\r\n\r\nnot\x1b[2J you")


def test_failures_are_one_line(keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(refuse) as server:
        assert talk(server.url) == 1
    place = f"127.0.0.1:{server.port}"
    assert capsys.readouterr().err == (f"gows connect: 403 {place} refused the upgrade: Forbidden: not\\x1b[2J you\n")
    assert talk(f"ws://127.0.0.1:{server.port}/") == 1
    assert capsys.readouterr().err == f"gows connect: cannot connect to {place}: [Errno 111] Connection refused\n"
    assert talk("http://example.com/") == 1
    assert capsys.readouterr().err.startswith("gows connect: 'http://example.com/' must begin with ws://")
    assert talk("ws://example.com/", "--header", "nothing") == 1
    assert capsys.readouterr().err == "gows connect: --header takes 'NAME: VALUE', not 'nothing'\n"


def test_insecure_connects_and_warns(keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("example.com").configure_cert(context)
    keyboard.type("hello\n")
    keyboard.end()
    with ScriptedServer(echo, ssl_context=context) as server:
        assert talk(server.url, "--insecure") == 0
    printed = capsys.readouterr()
    assert printed.out == "< hello\n"
    assert printed.err.startswith("warning: --insecure: anybody on the way can read")

    with pytest.raises(ssl.SSLError), ScriptedServer(echo, ssl_context=context) as server:
        assert talk(server.url) == 1
    assert capsys.readouterr().err.endswith("(--insecure connects all the same)\n")


# ---------------------------------------------------------------------- in a terminal


def test_in_a_terminal_long_messages_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    for interactive in (True, False):
        talk = Talk(Screen(interactive))
        talk.on_message(None, Opcode.TEXT, ByteBuffer.of(b"x" * 5000))  # type: ignore[arg-type]
        talk.release()
    assert capsys.readouterr().out.splitlines() == [f"< {'x' * 4096}… (5000 characters)", f"< {'x' * 5000}"]


# ---------------------------------------------------------------------- processes of their own


def test_a_pipeline(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        done = subprocess.run(
            [*COMMAND, "--wait", "0.2", server.url],
            input="a\nb\n",
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=30,
        )
    assert (done.returncode, done.stdout) == (0, "< a\n< b\n")


def test_a_reader_that_leaves() -> None:
    """As in `gows connect URL | head -1`."""

    def script(peer: Peer) -> None:
        peer.accept()
        try:
            while True:
                peer.send(frame(1, b"x" * 100))
        except OSError:
            pass

    with ScriptedServer(script) as server:
        child = subprocess.Popen(
            [*COMMAND, server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "< " + "x" * 100 + "\n"
        child.stdout.close()
        assert child.wait(20) == 1
        assert child.stderr is not None
        assert child.stderr.read() == f"connected to {server.url}\n"
        child.stderr.close()
        assert child.stdin is not None
        child.stdin.close()


class Terminal:
    """`gows connect` in a terminal of its own."""

    def __init__(self, url: str, *arguments: str, term: str = "xterm") -> None:
        self._fd, theirs = pty.openpty()
        self.shown = ""
        self.child = subprocess.Popen(
            [*COMMAND, *arguments, url],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            env={**os.environ, "TERM": term, "COLUMNS": "80", "LINES": "24", "GOWS_DEBUG": "0"},
            preexec_fn=self._take_terminal,
        )
        os.close(theirs)

    @staticmethod
    def _take_terminal() -> None:
        """Make it the controlling terminal, so that Ctrl-C is a signal."""
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, wanted: str) -> None:
        """Read on until `wanted` was shown."""
        end = time.monotonic() + 20
        while wanted not in self.shown:
            left = end - time.monotonic()
            assert left > 0, f"{wanted!r} is not in {self.shown!r}"
            if select.select([self._fd], [], [], left)[0]:
                self.shown += os.read(self._fd, 65536).decode()

    def end(self) -> int:
        """The exit status."""
        try:
            while data := os.read(self._fd, 65536):
                self.shown += data.decode()
        except OSError:  # EIO: the other end is closed
            pass
        os.close(self._fd)
        return self.child.wait(20)


@pytest.mark.slow
def test_in_a_terminal_what_comes_is_shown_above_the_line_being_typed() -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.accept()
        assert peer.read_frame() == (1, b"hello")
        peer.send(frame(1, b"hello yourself"))
        assert go_on.wait(10)
        peer.send(frame(1, b"in between"))
        assert peer.read_frame() == (1, b"half a line")
        peer.send(frame(*peer.read_frame()))

    with ScriptedServer(script) as server:
        terminal = Terminal(server.url)
        terminal.expect("> ")
        terminal.type("hello\n")
        terminal.expect("< hello yourself")
        terminal.type("half")
        terminal.expect("half")
        go_on.set()
        terminal.expect("\x1b7\r\n\x1b[1A\x1b[1L\r< in between\x1b8\x1b[1B")
        terminal.type(" a line\n")
        terminal.expect(" a line\r\n> ")
        terminal.type("\x04")
        assert terminal.end() == 0, terminal.shown
        assert terminal.shown.endswith("closed with 1000 normal closure\r\n")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["\x03", "\x04", "/quit\n"], ids=["Ctrl-C", "Ctrl-D", "quit"])
def test_ways_out_of_a_terminal(key: str) -> None:
    closes = []

    def script(peer: Peer) -> None:
        peer.accept()
        closes.append(peer.read_frame())
        peer.send(frame(*closes[0]))

    with ScriptedServer(script) as server:
        terminal = Terminal(server.url)
        terminal.expect("> ")
        terminal.type(key)
        assert terminal.end() == 0, terminal.shown
    assert closes == [(8, struct.pack("!H", 1000))]


@pytest.mark.slow
def test_a_terminal_is_left_when_the_server_closes() -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(frame(1, b"long " * 20))
        peer.send(close_frame(1008, "go"))
        peer.read_frame()

    with ScriptedServer(script) as server:
        terminal = Terminal(server.url)
        assert terminal.end() == 1, terminal.shown
    assert "< long long" in terminal.shown
    assert "gows connect: closed with 1008 policy violation: go\r\n" in terminal.shown


@pytest.mark.slow
def test_a_dumb_terminal_gets_plain_lines() -> None:
    with ScriptedServer(echo) as server:
        terminal = Terminal(server.url, "--wait", "0.1", term="dumb")
        terminal.expect("connected")
        terminal.type("hello\n")
        terminal.expect("< hello")
        terminal.type("\x04")
        assert terminal.end() == 0, terminal.shown
    assert "\x1b" not in terminal.shown


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait_for_the_server() -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        assert peer.read_frame()[0] == 8
        asked.set()
        peer.wait_end()

    asked = threading.Event()
    with ScriptedServer(script) as server:
        terminal = Terminal(server.url)
        terminal.expect("> ")
        terminal.type("\x03")
        assert asked.wait(10), terminal.shown
        terminal.child.send_signal(signal.SIGINT)
        assert terminal.end() == 130, terminal.shown
