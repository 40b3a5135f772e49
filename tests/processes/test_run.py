"""gows.run, with real processes: they share a port, are replaced when they die, and end in order."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gows
from gows.reactor import Loop
from tests.support.raw import RawPeer
from tests.support.waiting import wait_until
from tests.support.wire import TEXT, frame, request
from tests.support.worker_site import APP, SECONDS, Program, Visitors, alive, echoes, farewell, freeze

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc, and for a port that is balanced")

Start = Callable[..., Program]
slow = pytest.mark.slow


# ---------------------------------------------------------------------- one port, several processes


@slow
def test_processes_share_a_free_port_and_code_for_one_stays_right(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=3')
    everybody = program.everybody(3)
    assert sorted(who.pid for who in everybody.values()) == sorted(program.worker_pids())
    assert {who.name for who in everybody.values()} == {"0.0", "1.0", "2.0"}
    peers = [peer for found in program.peers(2, 3).values() for peer in found]
    peers[0].send(frame(TEXT, "all of you"))
    assert {peer.read_text() for peer in peers} == {"all of you"}
    assert program.get("/count") == str(len(peers))
    for peer in peers:
        peer.close()
    assert program.end() == 0
    assert "over" in program.process.stdout.read()  # type: ignore[union-attr]
    program.wait_refused()


@slow
def test_a_unix_domain_socket(start: Start, tmp_path: Any) -> None:
    path = tmp_path / "sock"
    program = start(f'"unix:{path}", processes=3, mode=0o600')
    assert program.address == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    # who is woken is the kernel's choice; on a busy machine the shares are very unequal, but nobody is left out
    assert {program.who().slot for _ in range(200)} == {0, 1, 2}
    os.kill(program.who().pid, signal.SIGKILL)
    program.everybody(3)
    assert program.end() == 0
    assert not path.exists()


@slow
def test_several_addresses_and_a_socket_that_listens_already(start: Start, tmp_path: Any) -> None:
    path = tmp_path / "sock"
    before = "import socket\nlistening = socket.create_server(('127.0.0.1', 0))"
    program = start(f'[listening, "unix:{path}"], processes=2', before=before)
    program.everybody()
    program.address = str(path)
    program.everybody()
    assert program.end() == 0


@slow
def test_health_is_answered_before_the_routes_and_beside_workers_that_are_stuck(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=1')
    assert program.get("/else") == "caught"
    peers = program.peers(8, 1)[0]
    for peer in peers:
        peer.send(frame(TEXT, "block"))
    assert (program.get("/-/live"), program.get("/-/ready")) == ("live\n", "ready\n")


@slow
def test_workers_may_open_what_the_hard_limit_allows(start: Start) -> None:
    program = start(before="import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))")
    assert program.get("/descriptors") == "300 300"


@slow
def test_what_a_worker_begins_with_is_set_aside_from_collections(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=1')
    assert int(program.get("/aside")) > 5000


# ---------------------------------------------------------------------- a worker dies


@slow
def test_a_worker_that_is_killed_under_load_is_missed_by_its_own_clients_only(start: Start) -> None:
    program = start()
    everybody = program.everybody()
    peers = program.peers(4)
    with Visitors(program.address) as visitors:
        visitors.wait(50)
        os.kill(everybody[0].pid, signal.SIGKILL)
        for peer in peers[0]:
            assert peer.drain() in ("FIN", "RST")
        program.wait_log(r"worker 0\.1 .* is ready")
        visitors.wait(50)
        assert all(echoes(peer) for peer in peers[1])
    assert set(visitors.faults) <= {"no answer", "ConnectionResetError"}, "the port was closed for a moment"
    assert sum(visitors.faults.values()) <= 2, "others than those whom it was just answering"
    again = program.everybody()
    assert again[0].generation == 1
    assert again[1].pid == everybody[1].pid
    wait_until(lambda: not os.path.exists(f"/proc/{everybody[0].pid}"), what=lambda: "it is a zombie")
    assert "ended by SIGKILL" in program.log
    assert program.end() == 0


@slow
def test_who_waits_in_the_queue_of_a_worker_that_dies_is_served_by_its_successor(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=1')
    worker = program.who()
    freeze(worker.pid)
    with RawPeer(program.address) as peer:
        peer.send(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        os.kill(worker.pid, signal.SIGKILL)
        assert b" 0.1 " in peer.read_answer()[1]


BREAKABLE = APP + "\nif os.path.exists(os.path.join(os.path.dirname(__file__), 'broken')): 1 / 0"


@slow
def test_others_accept_for_a_worker_that_does_not_come_back(start: Start, tmp_path: Any) -> None:
    program = start(app=BREAKABLE)
    everybody = program.everybody()
    (tmp_path / "broken").touch()
    os.kill(everybody[1].pid, signal.SIGKILL)
    program.wait_log(r"worker 1\.\d .* failed\nTraceback", 2)
    assert {program.who().slot for _ in range(40)} == {0}
    assert "division by zero" in program.log
    (tmp_path / "broken").unlink()
    assert program.everybody()[1].generation >= 3
    assert program.end() == 0


@slow
def test_a_worker_that_ends_by_itself_is_replaced(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=1')
    os.kill(program.who().pid, signal.SIGTERM)
    program.everybody(1, generation=1)
    peer = program.peers(1, 1)[0][0]
    peer.send(frame(TEXT, "stop"))
    farewell(peer, 1001)
    program.everybody(1, generation=2)
    assert program.end() == 0


NO_FORK = """
import errno, os
fork = os.fork
def checked_fork():
    if os.path.exists(os.path.join(os.path.dirname(__file__), "full")):
        raise OSError(errno.EAGAIN, "no more processes")
    return fork()
os.fork = checked_fork
"""


@slow
def test_a_system_without_room_for_a_process_is_asked_again(start: Start, tmp_path: Any) -> None:
    program = start(before=NO_FORK)
    everybody = program.everybody()
    (tmp_path / "full").touch()
    program.send_signal(signal.SIGHUP)
    program.wait_log("the rolling restart is given up")
    os.kill(everybody[1].pid, signal.SIGKILL)
    program.wait_log(r"worker 1\.\d cannot be started: .*no more processes", 2)
    assert program.who().slot == 0
    (tmp_path / "full").unlink()
    program.everybody()
    assert program.end() == 0


@slow
def test_a_system_without_room_for_any_process(start: Start, tmp_path: Any) -> None:
    (tmp_path / "full").touch()
    program = start(before=NO_FORK, wait=False)
    assert program.end(None) == 1
    assert program.log.count("no more processes") == 1


# ---------------------------------------------------------------------- a rolling restart


@slow
def test_sighup_loads_new_code_and_the_port_is_always_open(start: Start, tmp_path: Any) -> None:
    program = start()
    peers = program.peers(2)
    (tmp_path / "app.py").write_text(APP.replace("VERSION = 1", "VERSION = 2"))
    with Visitors(program.address) as visitors:
        visitors.wait(20)
        os.killpg(program.process.pid, signal.SIGHUP)  # workers that hear of it, too, do nothing about it
        for found in peers.values():
            for peer in found:
                farewell(peer, 1012)
        program.wait_log("all workers were replaced")
        visitors.wait(20)
    assert not visitors.faults
    assert {who.version for who in program.everybody().values()} == {"2"}
    order = [line for line in program.log.splitlines() if "is ready" in line or "ended" in line]
    names = [line.partition("worker ")[2].partition(" ")[0] for line in order]
    assert names[2:] == ["0.1", "0.0", "1.1", "1.0"], "each is there before the one it follows has gone"
    assert program.end() == 0


@slow
def test_a_successor_that_fails_leaves_the_predecessor_in_its_place(start: Start, tmp_path: Any) -> None:
    program = start(app=BREAKABLE)
    before = program.everybody()
    peers = program.peers(1)
    (tmp_path / "broken").touch()
    program.send_signal(signal.SIGHUP)
    program.wait_log("the rolling restart is given up")
    assert {who.pid for who in program.everybody().values()} == {who.pid for who in before.values()}
    for found in peers.values():
        for peer in found:
            assert echoes(peer)
            peer.close()
    (tmp_path / "broken").unlink()
    program.send_signal(signal.SIGHUP)
    program.wait_log("all workers were replaced")
    assert program.end() == 0


@slow
def test_sighup_starts_a_worker_at_once_that_waits_for_its_next_try(start: Start, tmp_path: Any) -> None:
    program = start(app=BREAKABLE, before="import gows.processes.supervisor as s\ns.FIRST_BACK_OFF = 60")
    before = program.everybody()
    (tmp_path / "broken").touch()
    os.kill(before[1].pid, signal.SIGKILL)
    program.wait_log(r"worker 1\.1 .* failed")
    (tmp_path / "broken").unlink()
    program.send_signal(signal.SIGHUP)
    program.wait_log("all workers were replaced")
    assert {who.name for who in program.everybody(generation=1).values()} == {"0.1", "1.2"}
    assert program.end() == 0


# ---------------------------------------------------------------------- the end


@slow
@pytest.mark.parametrize(("drain", "code"), [("None", 1001), ("0.5", 1012)])
def test_sigterm_drains(start: Start, drain: str, code: int) -> None:
    program = start(f'"127.0.0.1:0", processes=2, drain={drain}')
    peers = program.peers(2)
    program.send_signal(signal.SIGTERM)
    for found in peers.values():
        for peer in found:
            farewell(peer, code)
    assert program.end(None) == 0


@slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_counts_once(start: Start, number: signal.Signals) -> None:
    program = start('"127.0.0.1:0", processes=2, drain=0.5')
    peers = program.peers(2)
    os.killpg(program.process.pid, number)
    for found in peers.values():
        for peer in found:
            farewell(peer, 1012)
    assert program.end(None) == 0
    assert "ERROR" not in program.log


@slow
def test_a_second_signal_ends_all_at_once(start: Start) -> None:
    program = start(
        '"127.0.0.1:0", processes=2, timeout=60', before="import gows.processes.supervisor as s\ns.SECOND_SIGNAL = 0.0"
    )
    for found in program.peers(1).values():
        found[0].send(frame(TEXT, "block"))
    program.send_signal(signal.SIGTERM)
    program.wait_refused()
    assert program.end() != 0
    assert "KeyboardInterrupt" in program.log


@slow
def test_not_ready_is_said_before_the_port_is_closed(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=1, not_ready=1.5')
    peer = program.peers(1, 1)[0][0]
    program.send_signal(signal.SIGTERM)
    wait_until(lambda: program.ask("/-/ready") == (503, "draining\n"), SECONDS)
    assert program.get("/-/live") == "live\n"
    assert echoes(peer)
    farewell(peer, 1001)
    assert program.end(None) == 0


@slow
def test_who_waits_in_a_queue_is_served_before_the_end(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=1, drain=0.5')
    worker = program.who()
    freeze(worker.pid)
    with RawPeer(program.address) as peer:
        peer.send(b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        program.send_signal(signal.SIGTERM)
        program.wait_log("the workers end")
        os.kill(worker.pid, signal.SIGCONT)
        # whether it is told that the end has begun depends on which of the threads was first to go on
        assert peer.read_answer()[0].status in {200, 503}
    assert program.end(None) == 0


@slow
def test_a_worker_that_does_not_end_is_killed(start: Start) -> None:
    program = start(
        '"127.0.0.1:0", processes=2, timeout=0.2',
        app=APP + "\nimport atexit\natexit.register(time.sleep, 60)",
        before="import gows.processes.worker as w\nw.GRACE = w.RETIREMENT = 0.2",
    )
    assert program.end() == 0
    assert "did not end in time, and is killed" in program.log
    assert "ended by SIGKILL" in program.log


@slow
def test_workers_end_when_their_supervisor_is_killed(start: Start) -> None:
    program = start()
    workers = program.worker_pids()
    peers = program.peers(2)
    program.process.kill()
    for found in peers.values():
        for peer in found:
            farewell(peer, 1001)
    wait_until(lambda: not any(map(alive, workers)), SECONDS)
    program.wait_refused()
    assert program.log.count("has lost its supervisor") == 2
    assert os.listdir(program.folder / "tmp") == []


@slow
def test_each_process_leaves_what_it_has_registered_itself(start: Start) -> None:
    # in one piece: what two processes print at once may be mixed
    leaving = "import atexit, os\natexit.register(os.write, 1, b'left {}\\n')"
    program = start(app=APP + "\n" + leaving.format("a worker"), before=leaving.format("the supervisor"))
    assert program.end() == 0
    assert program.process.stdout is not None
    said = program.process.stdout.read().splitlines()
    assert Counter(said) == {"left a worker": 2, "left the supervisor": 1, "over": 1}


LAST_WORDS = (
    "import os\nos.chdir(os.path.dirname(__file__))\n"
    + APP
    + """
import atexit, concurrent.futures, logging, logging.handlers, multiprocessing
kept = logging.handlers.MemoryHandler(100, target=logging.FileHandler("last.log"))
logging.getLogger("app").addHandler(kept)
executor = concurrent.futures.ThreadPoolExecutor(1)
workers = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))

def save(what):
    time.sleep(SLEEP)
    open(what, "w").close()

def last():
    logging.getLogger("app").warning("the last word")
    save("atexit")

class Saving(gows.Handler):
    def on_close(self, ws):
        executor.submit(save, "executor")
        threading.Thread(target=save, args=["thread"]).start()
        workers.submit(os.mkdir, "process")

atexit.register(last)

@server.route("/save")
def saving(request):
    gows.accept(request, headers={"X-Who": server.bus.name}).serve(Saving())
"""
)


@slow
def test_a_worker_ends_as_python_does(start: Start, tmp_path: Path) -> None:
    """What its callbacks have given to threads and executors is done, and logging is shut down."""
    program = start('"127.0.0.1:0", processes=1', app=LAST_WORDS.replace("SLEEP", "0.2"))
    with RawPeer(program.address) as peer:
        assert peer.ask(request("/save")).status == 101
        program.send_signal(signal.SIGTERM)
        farewell(peer, 1001)
    assert program.end(None) == 0
    for name in ("executor", "thread", "process", "atexit"):
        assert (tmp_path / name).exists(), (name, program.log)
    assert (tmp_path / "last.log").read_text() == "the last word\n"
    assert "killed" not in program.log


HELPED = (
    APP
    + """
import multiprocessing

@server.route("/help")
def helping(request):
    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    helper.start()
    return str(helper.pid)
"""
)


@slow
def test_a_worker_ends_the_daemons_of_multiprocessing(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=1', app=HELPED)
    helper = int(program.ask("/help")[1])
    assert alive(helper)
    assert program.end() == 0
    assert "killed" not in program.log
    wait_until(lambda: not alive(helper), SECONDS)


@slow
def test_threads_that_never_end_are_left_behind(start: Start, tmp_path: Path) -> None:
    app = LAST_WORDS.replace("    time.sleep(SLEEP)", "    what == 'atexit' or time.sleep(60)")
    program = start(
        '"127.0.0.1:0", processes=1, timeout=0.2', app=app, before="import gows.processes.worker as w\nw.GRACE = 3.5"
    )
    with RawPeer(program.address) as peer:
        assert peer.ask(request("/save")).status == 101
        program.send_signal(signal.SIGTERM)
        farewell(peer, 1001)
    assert program.end(None) == 0
    assert "they are left behind" in program.log
    assert (tmp_path / "atexit").exists()
    assert (tmp_path / "last.log").read_text() == "the last word\n"
    assert "killed" not in program.log


# ---------------------------------------------------------------------- it cannot start


SIGTERM_AT_THE_END = """
import os, signal
leave = os._exit
def told(status):
    os.kill(os.getpid(), signal.SIGTERM)
    leave(status)
os._exit = told
"""
"""A worker that cannot start is told to end when it is about to."""


@slow
@pytest.mark.parametrize(
    ("factory", "app", "said"),
    [
        ('"app:server"', "1 / 0", "ZeroDivisionError"),
        ('"app:nothing"', APP, "no attribute 'nothing'"),
        ('"nowhere:server"', APP, "No module named 'nowhere'"),
        ('"app:who"', APP, "TypeError"),
        ("lambda: 3", APP, "app_factory returned 3, and no gows.Server"),
        ("lambda: made", APP, "made before the worker was forked"),
        ('"app:server"', "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ('"app:server"', "raise SystemExit('not today')", "not today"),
        ('"app:server"', SIGTERM_AT_THE_END + "1 / 0", "ZeroDivisionError"),
    ],
)
def test_an_application_that_cannot_start_is_told_once(start: Start, factory: str, app: str, said: str) -> None:
    program = start('"127.0.0.1:0", processes=3', app=app, factory=factory, before="made = gows.Server()", wait=False)
    assert program.end(None) == 1
    assert said in program.log
    assert program.log.count("ERROR") == 1, program.log
    assert "supervisor.py" not in program.log  # no worker goes on in the program that called run()
    assert "over" not in program.process.stdout.read()  # type: ignore[union-attr]


@slow
def test_a_start_that_takes_for_ever_is_bounded(start: Start) -> None:
    program = start('"127.0.0.1:0", processes=2, start_timeout=0.3', app="import time\ntime.sleep(60)", wait=False)
    assert program.end(None) == 1
    assert "did not become ready in time, and is killed" in program.log
    assert "ended by SIGKILL" in program.log


@slow
def test_it_may_be_ended_while_it_starts(start: Start) -> None:
    program = start(app="import time\nprint('starting\\n', end='', flush=True)\ntime.sleep(60)", wait=False)
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "starting\n"
    assert program.end() == 0
    assert "ERROR" not in program.log


@slow
def test_the_port_of_another_run_is_taken(start: Start, tmp_path: Any) -> None:
    first = start()
    second = tmp_path / "second"
    second.mkdir()
    program = start(f'"127.0.0.1:{first.address[1]}", processes=2', folder=second, wait=False)
    assert program.end(None) == 1
    assert f"cannot listen at 127.0.0.1:{first.address[1]}" in program.log


# ---------------------------------------------------------------------- what cannot be meant


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": "all"}, ValueError),
        ({"processes": True}, ValueError),
        ({"processes": 1.5}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"start_timeout": None}, (ValueError, TypeError)),
        ({"drain": -1}, ValueError),
        ({"app_factory": "app"}, ValueError),
        ({"app_factory": "app:"}, ValueError),
        ({"app_factory": gows}, TypeError),
        ({"address": "8080"}, ValueError),
        ({"address": ["127.0.0.1:0", "8080"]}, ValueError),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        gows.run(**{"app_factory": gows.Server, "address": "127.0.0.1:0", **arguments})


def test_only_in_the_main_thread() -> None:
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            gows.run(gows.Server, "127.0.0.1:0")
        except gows.UsageError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_not_beside_a_loop_that_runs() -> None:
    with Loop(workers=0) as loop:
        loop.start()
        with pytest.raises(gows.UsageError, match="running loop"):
            gows.run(gows.Server, "127.0.0.1:0")
