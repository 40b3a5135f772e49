"""`gows serve` as a program: every way to say what, where and how; every error; every end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from gows.commands.serving.reloader import starter
from tests.support.needs import need_module
from tests.support.serve_program import SECONDS, ServeProgram, environment, fetch, write_apps
from tests.support.waiting import wait_until

Start = Callable[..., ServeProgram]

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the program with these arguments, on a free port unless they say otherwise."""
    programs: list[ServeProgram] = []

    def begin(*arguments: str, **options: Any) -> ServeProgram:
        elsewhere = {"--port", "--unix", "--fd", "--no-port"} & {*arguments}
        where = () if elsewhere else ("--port", "0")
        programs.append(ServeProgram(tmp_path, *(each for each in arguments if each != "--no-port"), *where, **options))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


def join(port: int, path: str = "/ws") -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}{path}", proxy=None, ping_interval=None)


def complaint(folder: Path, *arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit status and what it says of a program that cannot serve."""
    write_apps(folder)
    done = subprocess.run(
        [sys.executable, "-m", "gows", "serve", *arguments],
        cwd=folder,
        env=environment() | (environ or {}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


# ---------------------------------------------------------------------- what is served


@pytest.mark.parametrize(
    ("arguments", "answer", "kind"),
    [
        (["wsgi_app:app"], "wsgi http 127.0.0.1", "a WSGI application"),
        (["wsgi_app:app", "--interface", "wsgi"], "wsgi http 127.0.0.1", "a WSGI application"),
        (["wsgi_app:make", "--factory"], "wsgi http 127.0.0.1", "a WSGI application"),
        (["asgi_app:app"], "asgi http 127.0.0.1  /", "an ASGI application"),
        (["asgi_app:app", "--interface", "asgi"], "asgi http 127.0.0.1  /", "an ASGI application"),
        (["asgi_app:app", "--root-path", "/api"], "asgi http 127.0.0.1 /api /api/", "an ASGI application"),
        (["asgi_app:make", "--factory", "--processes", "2"], "asgi http 127.0.0.1  /", "an ASGI application"),
        (["asgi_app:app", "--reload"], "asgi http 127.0.0.1  /", "an ASGI application"),
        (["server_app:server"], "first", "a gows.Server"),
        (["server_app:server", "--interface", "gows", "--processes", "2"], "first", "a gows.Server"),
        (["wsgi_app:make", "--factory", "--processes", "1"], "wsgi http 127.0.0.1", "a WSGI application"),
    ],
    ids=" ".join,
)
def test_an_application_is_served(start: Start, arguments: list[str], answer: str, kind: str) -> None:
    program = start(*arguments)
    assert program.get().rpartition(" ")[0] == answer
    program.says(f"{arguments[0]} is {kind}")
    assert fetch(program.port(), "/-/ready")
    assert program.end() == 0


def test_an_application_in_another_folder(start: Start, tmp_path: Path) -> None:
    (tmp_path / "src" / "site").mkdir(parents=True)
    (tmp_path / "src" / "site" / "__init__.py").write_text("")
    (tmp_path / "src" / "site" / "main.py").write_text(
        "class apps:\n    from wsgi_app import app\n    app = staticmethod(app)\n"
    )
    (tmp_path / "src" / "pack").mkdir()
    (tmp_path / "src" / "pack" / "main.py").write_text(
        "from wsgi_app import app\nclass Apps: pass\napps = Apps()\napps.app = app\n"
    )
    write_apps(tmp_path / "src")
    assert start("pack.main:apps.app", "--app-dir", "src").get().startswith("wsgi ")


# ---------------------------------------------------------------------- where


def test_a_port_that_was_said(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = start("wsgi_app:app", "--host", "localhost", "--port", str(port))
    assert program.port() == port
    assert program.get().startswith("wsgi")


@pytest.mark.parametrize("more", [[], ["--processes", "2"], ["--reload"]], ids=" ".join)
def test_a_unix_socket(start: Start, tmp_path: Path, more: list[str]) -> None:
    program = start("wsgi_app:app", "--unix", "app.sock", "--unix-mode", "600", *more)
    program.says("serving at unix:")
    path = tmp_path / "app.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS)
        sock.connect(str(path))
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert program.end() == 0
    assert not path.exists()


@pytest.mark.parametrize("listening", [True, False], ids=["listening", "bound"])
@pytest.mark.parametrize("more", [[], ["--processes", "2"], ["--reload"]], ids=" ".join)
def test_a_socket_that_is_inherited(start: Start, listening: bool, more: list[str]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if listening:
            sock.listen()
        port = sock.getsockname()[1]
        number = str(sock.fileno())
        program = start("wsgi_app:app", "--fd", number, *more, pass_fds=[sock.fileno()])
        assert program.port() == port
    assert fetch(port).startswith("wsgi http")


@pytest.mark.parametrize("application", ["wsgi_app:app", "server_app:server"])
@pytest.mark.parametrize("more", [[], ["--processes", "1"], ["--reload"]], ids=" ".join)
def test_over_tls(start: Start, tmp_path: Path, application: str, more: list[str]) -> None:
    authority = need_module("trustme").CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    program = start(application, "--certificate", "cert.pem", "--key", "key.pem", *more)
    port = program.port()
    assert "https://" in program.says("serving at")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with urllib.request.urlopen(f"https://127.0.0.1:{port}/", context=context, timeout=SECONDS) as answer:
        assert answer.read().startswith((b"wsgi https", b"first"))


def test_a_trusted_proxy_names_its_client(start: Start) -> None:
    program = start("wsgi_app:app", "--trusted-proxies", "10.0.0.0/8,127.0.0.1")
    assert fetch(program.port(), X_Forwarded_For="192.0.2.7", X_Forwarded_Proto="https").startswith(
        "wsgi https 192.0.2.7 "
    )
    wait_until(lambda: any('192.0.2.7 "GET / HTTP/1.1" 200' in line for line in program.out), SECONDS)
    assert fetch(start("wsgi_app:app").port(), X_Forwarded_For="192.0.2.7").startswith("wsgi http 127.0.0.1 ")


# ---------------------------------------------------------------------- how


def test_several_processes_are_replaced_at_sighup(start: Start) -> None:
    program = start("server_app:server", "--processes", "2", "--drain", "0.2")
    port = program.port()
    before = {fetch(port).split()[1] for _ in range(40)}
    assert len(before) == 2
    (program.folder / "server_app.py").write_text(
        (program.folder / "server_app.py").read_text().replace("first", "new")
    )
    program.process.send_signal(signal.SIGHUP)
    program.says("all workers were replaced")
    after = {tuple(fetch(port).split()) for _ in range(40)}
    assert {version for version, _ in after} == {"new"}
    assert not before & {pid for _, pid in after}
    assert program.end() == 0


def test_one_process_is_the_command_itself(start: Start) -> None:
    program = start("wsgi_app:app")
    assert program.get().split()[-1] == str(program.process.pid)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop", "auto"])
def test_whose_asyncio_loop_runs_coroutines(start: Start, kind: str) -> None:
    need_module("uvloop")
    program = start("server_app:server", "--loop", kind)
    with join(program.port(), "/loop") as ws:
        ws.send("which?")
        assert str(ws.recv(SECONDS)).split(".")[0] == ("uvloop" if kind == "auto" else kind)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_websockets_of_an_asgi_application(start: Start, kind: str) -> None:
    program = start("asgi_app:app", "--loop", kind, "--max-message-size", "10", "--compression")
    with join(program.port()) as ws:
        assert [each.name for each in ws.protocol.extensions] == ["permessage-deflate"]
        ws.send("hello")
        module, _, text = str(ws.recv(SECONDS)).partition(" ")
        assert (module.split(".")[0], text) == (kind, "hello")
        ws.send("x" * 11)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(SECONDS)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert program.end() == 0


def test_variables_of_a_file_are_set_before_the_import(start: Start, tmp_path: Path) -> None:
    (tmp_path / "env_app.py").write_text(
        "import os\nGREETING = os.environ['GREETING'] + os.environ['HOME']\n"
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [GREETING.encode()]\n"
    )
    (tmp_path / "site.env").write_text("# a comment\nexport GREETING='hello from ' # another\nHOME=/nowhere\n")
    program = start("env_app:app", "--env-file", "site.env", environ={"HOME": "/here"})
    assert program.get() == "hello from /here"


def test_connections_are_limited(start: Start) -> None:
    program = start("server_app:server", "--max-connections", "1")
    port = program.port()
    with join(port), pytest.raises(urllib.error.HTTPError, match="503"):
        fetch(port)


def test_bodies_are_limited(start: Start) -> None:
    port = start("wsgi_app:app", "--max-body-size", "10").port()
    for size, status in ((10, 200), (11, 413)):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=bytes(size))
        if status == 200:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                assert answer.status == status
        else:
            with pytest.raises(urllib.error.HTTPError, match=str(status)):
                urllib.request.urlopen(request, timeout=SECONDS)


def test_a_connection_is_kept_for_so_long(start: Start) -> None:
    port = start("wsgi_app:app", "--keep-alive", "0.2").port()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while more := sock.recv(4096):
            received += more
        assert b"Connection: close" not in received


def test_the_environment_says_what_the_command_line_does_not(start: Start) -> None:
    variables = {"GOWS_APP": "wsgi_app:make", "GOWS_FACTORY": "1", "GOWS_PORT": "99999", "GOWS_ACCESS_LOG": "off"}
    program = start("--port", "0", environ=variables)
    assert program.get().startswith("wsgi")
    assert program.end() == 0
    assert program.out == []


# ---------------------------------------------------------------------- the log


def test_a_line_for_each_answer_without_the_query(start: Start) -> None:
    program = start("server_app:server")
    fetch(program.port(), "/?token=secret")
    assert program.end() == 0
    (line,) = program.out
    assert re.search(r'INFO 127\.0\.0\.1:\d+ "GET / HTTP/1\.1" 200 \d+ \d+\.\dms$', line)
    assert "secret" not in "".join(program.errors)


def test_no_line_for_each_answer(start: Start) -> None:
    program = start("wsgi_app:app", "--no-access-log")
    program.get()
    assert program.end() == 0
    assert program.out == []


def test_the_level_of_the_log(start: Start) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        program = start("wsgi_app:app", "--log-level", "warning", "--fd", str(sock.fileno()), pass_fds=[sock.fileno()])
        fetch(sock.getsockname()[1])
    assert program.end() == 0
    assert (program.out, program.errors) == ([], [])


CONFIGURATION = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"ours": {"format": "OURS %(name)s %(message)s"}},
    "handlers": {"ours": {"class": "logging.StreamHandler", "formatter": "ours"}},
    "root": {"level": "INFO", "handlers": ["ours"]},
}
INI = """
[loggers]
keys=root
[handlers]
keys=ours
[formatters]
keys=ours
[logger_root]
level=INFO
handlers=ours
[handler_ours]
class=StreamHandler
formatter=ours
[formatter_ours]
format=OURS %(name)s %(message)s
"""


@pytest.mark.parametrize("name", ["log.json", "log.yaml", "log.ini"])
def test_logging_is_configured_by_a_file(start: Start, tmp_path: Path, name: str) -> None:
    text = INI if name.endswith("ini") else json.dumps(CONFIGURATION)  # which is YAML, too
    (tmp_path / name).write_text(text)
    program = start("wsgi_app:app", "--log-config", name)
    assert program.says("serving at").startswith("OURS gows serving at")
    program.get()
    program.says("OURS gows.access 127.0.0.1:")
    assert program.end() == 0
    assert program.out == []


def test_nobody_reads_the_lines_of_answers(tmp_path: Path) -> None:
    write_apps(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "gows", "serve", "wsgi_app:app", "--port", "0"],
        cwd=tmp_path,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert process.stderr is not None
    try:
        lines = [process.stderr.readline() for _ in range(2)]
        found = int(lines[-1].rpartition(":")[2].partition(";")[0])
        for _ in range(3):
            assert fetch(found).startswith("wsgi")
    finally:
        process.terminate()
        _, rest = process.communicate(timeout=SECONDS)
    assert (process.returncode, rest) == (0, "")


# ---------------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [[], ["--processes", "2"], ["--reload"]], ids=" ".join)
def test_a_signal_ends_it_in_order(start: Start, number: signal.Signals, more: list[str]) -> None:
    program = start("server_app:server", *more, start_new_session=True)
    with join(program.port()) as ws:
        ws.send("hello")
        assert ws.recv(SECONDS) == "hello"
        program.interrupt(number)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(SECONDS)
    assert program.end(None) == 0
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == (1012 if "--reload" in more else 1001)
    assert program.count("Traceback") == 0


def test_websockets_are_drained(start: Start) -> None:
    program = start("server_app:server", "--drain", "0.3", "--timeout", "2")
    with join(program.port()) as ws:
        program.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(SECONDS)
    assert program.end(None) == 0
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_it_is_not_ready_for_a_while(start: Start) -> None:
    program = start("wsgi_app:app", "--not-ready", "30", start_new_session=True)
    port = program.port()
    program.interrupt(signal.SIGTERM)

    def not_ready() -> bool:
        try:
            fetch(port, "/-/ready")
        except urllib.error.HTTPError as error:
            return error.code == 503
        return False

    wait_until(not_ready, SECONDS)
    assert fetch(port).startswith("wsgi")
    time.sleep(0.35)  # a signal that comes sooner is taken for the same
    assert program.end(signal.SIGINT) == 130


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    program = start("server_app:server", "--timeout", "60")
    with join(program.port()) as ws:
        ws.send("block")
        program.process.send_signal(signal.SIGINT)
        wait_until(lambda: refused(program.port()), SECONDS)
        time.sleep(0.35)  # as above
        assert program.end(signal.SIGINT) == 130
    assert program.count("Traceback") == 0


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), SECONDS).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("more", [[], ["--reload"]], ids=" ".join)
def test_ctrl_c_during_the_import(start: Start, tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "slow_app.py").write_text(
        "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    program = start("slow_app:app", *more, start_new_session=True)
    program.says("importing")
    program.interrupt()
    assert program.end(None) == (0 if more else 130)
    assert program.count("Traceback") == 0


# ---------------------------------------------------------------------- the lifespan of an ASGI application


@pytest.mark.parametrize("more", [[], ["--processes", "1"], ["--reload"], ["--lifespan", "on"]], ids=" ".join)
def test_an_application_starts_and_ends(start: Start, more: list[str]) -> None:
    program = start("asgi_app:start", *more)
    assert program.get().startswith("asgi")
    assert program.end() == 0
    assert (program.count("starting"), program.count("ending")) == (1, 1)


def test_a_lifespan_that_is_not_wanted(start: Start) -> None:
    program = start("asgi_app:start", "--lifespan", "off")
    assert program.get().startswith("asgi")
    assert program.end() == 0
    assert program.count("starting") == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["asgi_app:fail"], 3, "gows serve: the application could not start: no database"),
        (["asgi_app:raise", "--lifespan", "on"], 3, "gows serve: the application could not start: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_application_that_cannot_start(tmp_path: Path, arguments: list[str], status: int, words: str) -> None:
    found, errors = complaint(tmp_path, *arguments, "--port", "0")
    assert found == status
    assert errors.splitlines()[-1].startswith(words)
    if "raise" in arguments[0]:
        assert "asgi_app.py" in errors
        assert "LookupError: no database" in errors


def test_an_application_that_cannot_start_waits_for_the_next_change(start: Start) -> None:
    program = start("asgi_app:fail", "--reload")
    program.says("the worker has ended with status 3; it is started again after the next change")
    change(program, '"wait", "raise", "fail"', '"raise"', "asgi_app.py")
    change(program, "def make():", "fail = app\ndef make():", "asgi_app.py")
    assert program.get().startswith("asgi")


@pytest.mark.parametrize("more", [[], ["--reload"]], ids=" ".join)
@pytest.mark.parametrize("name", ["wait", "linger"])
def test_ctrl_c_while_an_application_starts_or_ends(start: Start, name: str, more: list[str]) -> None:
    limits = [] if more else ["--timeout", "0.5"]
    program = start(f"asgi_app:{name}", *limits, *more, start_new_session=True)
    program.says("starting" if name == "wait" else "serving at")
    begun = time.monotonic()
    program.interrupt()
    assert program.end(None) == 0
    assert time.monotonic() - begun < 8.0


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere:app"], 1, "cannot import 'nowhere': there is no module 'nowhere' in /"),
        (["wsgi_app.inner:app"], 1, "cannot import 'wsgi_app.inner': there is no module 'wsgi_app.inner'"),
        (["wsgi_app"], 1, "an application is MODULE:NAME, such as wsgi_app:app, not 'wsgi_app'"),
        (["wsgi_app.py:app"], 1, "'wsgi_app.py' is a file, and an application is in a module: wsgi_app:app"),
        (["wsgi_app:ap"], 1, "'wsgi_app' was imported, but has no 'ap'; did you mean 'app'?"),
        (["wsgi_app:os"], 1, "wsgi_app:os is no application: it is a module, os, not a gows.Server, nor can"),
        (["wsgi_app:make"], 1, "wsgi_app:make takes no arguments: if it is a function that makes the application,"),
        (["wsgi_app:app", "--factory"], 1, "--factory: wsgi_app:app() failed: TypeError: app() missing 2 required"),
        (["wsgi_app:app", "--interface", "gows"], 1, "wsgi_app:app is an object of type function, and --interface"),
        (["server_app:server", "--interface", "wsgi"], 1, "server_app:server is an object of type Server, and --inter"),
        (["server_app:server", "--workers", "2"], 2, "server_app:server is a gows.Server, which has settings of its"),
        (["wsgi_app:app", "--root-path", "/x"], 2, "--root-path is for ASGI applications, and wsgi_app:app is a WSGI"),
        (["wsgi_app:app", "--trusted-proxies", "all"], 2, "'all' is no network: "),
        (
            ["wsgi_app:app", "--certificate", "/nowhere.pem"],
            2,
            "cannot use the certificate and key in /nowhere.pem: No",
        ),
        (
            ["wsgi_app:app", "--certificate", "/n.pem", "--processes", "2"],
            2,
            "cannot use the certificate and key in /n",
        ),
        (["wsgi_app:app", "--key", "/nowhere.pem"], 2, "--key needs --certificate"),
        (["wsgi_app:app", "--fd", "99"], 2, "--fd: descriptor 99 cannot be used: Bad file descriptor"),
        (["wsgi_app:app", "--fd", "0"], 2, "--fd: descriptor 0 is no socket"),
        (["wsgi_app:app", "--env-file", "nowhere"], 1, "--env-file: nowhere cannot be used: No such file or directory"),
        (["wsgi_app:app", "--log-config", "nowhere"], 2, "--log-config: nowhere cannot be used: No such file"),
        (["wsgi_app:app", "--log-config", "wsgi_app.py"], 2, "--log-config: wsgi_app.py cannot be used: "),
        (["wsgi_app:app", "--unix", "/no/such/folder/x"], 1, "cannot listen at unix:/no/such/folder/x: No such file"),
        (["nowhere:app", "--reload"], 1, "cannot import 'nowhere': there is no module 'nowhere' in /"),
        (["nowhere:app", "--processes", "2"], 1, "cannot import 'nowhere': there is no module 'nowhere' in /"),
        (["wsgi_app:app", "--reload", "--reload-dir", "nowhere"], 2, "--reload-dir: "),
        ([], 2, "which application? Say MODULE:NAME, such as main:app"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said(tmp_path: Path, arguments: list[str], status: int, words: str) -> None:
    found, errors = complaint(tmp_path, *arguments)
    assert found == status
    assert errors.splitlines()[-1].startswith(f"gows serve: {words}"), errors
    if "failed" not in words:
        assert "Traceback" not in errors


@pytest.mark.parametrize("more", [[], ["--processes", "2"], ["--reload"]], ids=" ".join)
def test_a_port_that_is_taken(tmp_path: Path, more: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, errors = complaint(tmp_path, "wsgi_app:app", "--port", str(port), *more)
    assert status == 1
    assert errors.splitlines()[-1] == f"gows serve: cannot listen at 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("import gows_is_not_this\n", "it imports 'gows_is_not_this', which is not installed"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def (\n", "SyntaxError: invalid syntax"),
    ],
)
def test_an_import_that_fails_is_shown_from_the_first_line_of_the_application(
    tmp_path: Path, text: str, last: str
) -> None:
    (tmp_path / "broken.py").write_text(text)
    status, errors = complaint(tmp_path, "broken:app")
    assert status == 1
    assert errors.splitlines()[-1].startswith(f"gows serve: cannot import 'broken': {last}")
    assert "broken.py" in errors
    assert "importlib" not in errors
    assert "commands" not in errors


def test_no_worker_can_import_it(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    status, errors = complaint(tmp_path, "broken:app", "--processes", "2", "--port", "0")
    assert status == 1
    assert errors.count("cannot import 'broken': ZeroDivisionError") == 1


# ---------------------------------------------------------------------- --reload


def change(program: ServeProgram, before: str, after: str, name: str = "server_app.py") -> None:
    path = program.folder / name
    path.write_text(path.read_text().replace(before, after))


@pytest.fixture(params=["told", "looking"])
def watching(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a program that is told of changes by the system, or has to look itself."""
    if request.param == "told":
        need_module("watchfiles")
        return {}
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "watchfiles.py").write_text("raise ImportError('it is not here')\n")
    return {"PYTHONPATH": f"{tmp_path / 'without'}{os.pathsep}{environment()['PYTHONPATH']}"}


def test_a_change_starts_it_anew_with_open_websockets(start: Start, watching: dict[str, str]) -> None:
    program = start("server_app:server", "--reload", environ=watching)
    port = program.port()
    assert fetch(port).startswith("first ")
    with ExitStack() as end:
        clients = [end.enter_context(join(port)) for _ in range(20)]
        silent = end.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
        silent.sendall(  # and never answers the close
            b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert silent.recv(4096).startswith(b"HTTP/1.1 101")
        begun = time.monotonic()
        change(program, '"first"', '"the second"')
        program.says("server_app.py changed: starting anew")
        while not fetch(port).startswith("the second "):  # no request is refused, nor cut off
            assert time.monotonic() - begun < SECONDS
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(SECONDS)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
    assert program.end() == 0


def test_a_broken_import_waits_for_the_next_change(start: Start, watching: dict[str, str]) -> None:
    program = start("server_app:server", "--reload", environ=watching)
    port = program.port()
    for number in (1, 2):
        change(program, "import gows\n", "import gows\n1 / 0\n")
        program.says("it is started again after the next change", number)
        assert "ZeroDivisionError" in program.says("gows serve: cannot import 'server_app'", number)
        change(program, "import gows\n1 / 0\n", "import gows\n\n")
        program.says("serving at", number + 1)
        assert fetch(port).startswith("first ")
    assert program.end() == 0


def test_an_import_that_is_broken_from_the_beginning(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (\n")
    program = start("broken:app", "--reload")
    program.says("the worker has ended with status 1; it is started again after the next change")
    (tmp_path / "broken.py").write_text("from wsgi_app import app\n")
    assert program.get().startswith("wsgi ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_the_import_is_broken(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "broken.py").write_text("def (\n")
    program = start("broken:app", "--reload", start_new_session=True)
    program.says("it is started again after the next change")
    program.interrupt(number)
    assert program.end(None) == 0


STUCK = """
import gows, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = gows.Server()
{more}
"""


@pytest.mark.parametrize(
    "more",
    [
        "print('importing', file=__import__('sys').stderr, flush=True)\nwhile True: time.sleep(1)",
        "def leave():\n    while True: time.sleep(1)\n__import__('atexit').register(leave)",
    ],
    ids=["in its import", "at its end"],
)
def test_a_worker_that_does_not_end_is_killed(start: Start, tmp_path: Path, more: str) -> None:
    (tmp_path / "stuck.py").write_text(STUCK.format(more=more))
    program = start("stuck:server", "--reload")
    program.says("importing" if "importing" in more else "serving at")
    begun = time.monotonic()
    (tmp_path / "stuck.py").write_text("from server_app import server\n")
    program.says("the worker did not end within 1.2 s, and is killed")
    program.says("serving at", 1 if "importing" in more else 2)
    assert time.monotonic() - begun < 6.0
    assert program.get().startswith("first ")
    assert program.end() == 0


def test_a_callback_that_blocks_holds_nothing_up(start: Start) -> None:
    program = start("server_app:server", "--reload")
    port = program.port()
    with join(port) as ws:
        ws.send("block")
        ws.send("more")
        change(program, "first", "second")
        program.says("serving at", 2)
    assert fetch(port).startswith("second ")
    assert program.end() == 0


def test_ctrl_c_does_not_meet_a_worker_that_imports_us() -> None:
    look = "import os, signal, sys; os.write({}, str(signal.SIGINT in signal.pthread_sigmask(0, [])).encode())"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    reading, writing = os.pipe()
    with os.fdopen(reading) as output:
        worker = starter([sys.executable, "-c", look.format(writing)], [writing])()
        os.close(writing)
        assert output.read() == "True"
        assert worker.wait(SECONDS) == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_only_the_supervisor_is_interrupted(start: Start) -> None:
    program = start("server_app:server", "--reload")
    program.port()
    assert program.end(signal.SIGINT) == 0


def test_a_killed_supervisor_leaves_nobody_behind(start: Start) -> None:
    program = start("server_app:server", "--reload")
    port = program.port()
    with join(port):
        assert program.end(signal.SIGKILL) == -signal.SIGKILL  # and its output is closed, which the worker has, too
    assert refused(port)


def test_which_files_are_watched(start: Start, tmp_path: Path) -> None:
    for folder in ("lib", "lib/skipped", "other"):
        (tmp_path / folder).mkdir()
    program = start(
        "wsgi_app:app", "--reload", "--reload-dir", "lib", "--reload-dir", "other",
        "--reload-include", "*.html,*.css", "--reload-exclude", "lib/skipped", "--reload-exclude", "test_*",
    )  # fmt: skip
    program.port()
    for name in ("wsgi_app.py", "lib/notes.txt", "lib/skipped/a.py", "lib/test_a.py", "other/.hidden.py"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
    for number, name in enumerate(("lib/page.html", "other/style.css", "lib/a.py")):
        (tmp_path / name).write_text("\n")
        program.says(f"{name} changed: starting anew")
        program.says("serving at", number + 2)
    assert program.count("starting anew") == 3
    (tmp_path / "lib" / "a.py").unlink()
    program.says("lib/a.py changed", 2)
    assert program.end() == 0
