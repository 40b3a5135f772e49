"""The loop: its turns, its threads, its beginning and its end."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gows.errors import LoopClosedError, UsageError
from gows.reactor import Loop, live_loops, make_poller
from tests.support.fakes import World
from tests.support.reactor_bench import Peer, tcp_pair
from tests.support.recorder import Acceptor, Recorder, echo
from tests.support.waiting import turn_until, wait_until

# ---------------------------------------------------------------------- jobs


def test_jobs_run_in_order_in_the_next_turn(loop: Loop) -> None:
    log: list[int] = []
    for number in range(5):
        loop.call_soon(log.append, number)
    assert log == []
    loop.run_once(0)
    assert log == [0, 1, 2, 3, 4]


def test_a_job_that_adds_itself_cannot_hold_the_turn(loop: Loop) -> None:
    log: list[int] = []

    def again() -> None:
        log.append(len(log))
        loop.call_soon(again)

    loop.call_soon(again)
    for turns in range(1, 4):
        loop.run_once(10)  # does not sleep: there is work
        assert len(log) == turns


def test_a_job_that_raises_is_logged_and_the_others_run(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    log: list[int] = []
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(log.append, 1)
    loop.run_once(0)
    assert log == [1]
    assert "ZeroDivisionError" in caplog.text


def test_a_job_from_another_thread_ends_the_sleep(loop: Loop) -> None:
    log: list[int] = []
    loop.run_once(0)
    thread = threading.Thread(target=loop.call_soon, args=(log.append, 1))
    threading.Timer(0.01, thread.start).start()
    turn_until(loop, lambda: log)
    thread.join()


def test_run_soon_runs_now_in_the_loop_and_later_elsewhere(loop: Loop) -> None:
    log: list[str] = []
    loop.run_once(0)
    loop.run_soon(log.append, "here")
    assert log == ["here"]
    thread = threading.Thread(target=loop.run_soon, args=(log.append, "elsewhere"))
    thread.start()
    thread.join()
    assert log == ["here"]
    loop.run_once(0)
    assert log == ["here", "elsewhere"]


def test_a_thousand_jobs_wake_a_sleeping_loop_once(world: World) -> None:
    loop = world.loop()
    wakeup = loop.wakeup
    wakeup.arm()  # as if asleep
    log: list[int] = []
    for number in range(1000):
        loop.call_soon(log.append, number)
    assert wakeup.wakes == 1  # type: ignore[attr-defined]
    world.run_for(0)
    assert len(log) == 1000


def test_jobs_of_many_threads_all_run(poller_name: str) -> None:
    """The race between falling asleep and being woken, many times over."""
    with Loop(poller=poller_name) as loop:
        loop.start()
        counts = [0] * 8

        def add(number: int) -> None:
            counts[number] += 1

        def feed(number: int) -> None:
            for _ in range(500):
                loop.call_soon(add, number)

        threads = [threading.Thread(target=feed, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: counts == [500] * 8)


def test_one_job_at_a_time_is_never_overslept(poller_name: str) -> None:
    with Loop(poller=poller_name) as loop:
        loop.start()
        for _ in range(300):
            done = threading.Event()
            loop.call_soon(done.set)
            assert done.wait(5)


# ---------------------------------------------------------------------- timers


def test_a_timer_fires_once_and_not_early(world: World) -> None:
    loop = world.loop()
    start = world.clock()
    times: list[float] = []
    timer = loop.call_later(1.5, lambda: times.append(world.clock() - start))
    world.run_for(10)
    assert len(times) == 1
    assert 1.5 <= times[0] <= 1.7
    assert not timer.active


def test_a_cancelled_timer_does_not_fire(world: World) -> None:
    loop = world.loop()
    log: list[int] = []
    timer = loop.call_later(1, log.append, 1)
    world.run_for(0.5)
    timer.cancel()
    world.run_for(10)
    assert log == []
    assert loop.active_timers == 0


def test_a_timer_from_another_thread(loop: Loop) -> None:
    log: list[int] = []
    loop.run_once(0)
    thread = threading.Thread(target=loop.call_later, args=(0.01, log.append, 1))
    thread.start()
    thread.join()
    turn_until(loop, lambda: log)


def test_a_timer_that_raises_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    loop = world.loop()
    log: list[int] = []
    loop.call_later(1, lambda: 1 / 0)
    loop.call_later(1, log.append, 1)
    world.run_for(2)
    assert log == [1]
    assert "ZeroDivisionError" in caplog.text


def test_a_loop_with_nothing_due_sleeps_for_ever(world: World) -> None:
    loop = world.loop()
    loop.call_later(100, lambda: None).cancel()
    world.run_for(200)
    assert world._pollers[0].patience is None


def test_a_sleep_ends_when_the_next_thing_is_due(world: World) -> None:
    loop = world.loop()
    loop.call_later(7, lambda: None)
    world.turn()
    world.turn()
    patience = world._pollers[0].patience
    assert patience is not None
    assert 6.9 <= patience <= 7.2
    assert loop.run_once(3) == 0
    assert world._pollers[0].patience == 3
    world.run_for(8)


# ---------------------------------------------------------------------- turns


def test_a_turn_handles_a_bounded_batch(world: World) -> None:
    loop = world.loop(max_events=10)
    recorders = [Recorder() for _ in range(30)]
    peers = []
    for recorder in recorders:
        one, other = world.network.pair()
        loop.adopt(one, recorder)  # type: ignore[arg-type]
        peers.append(other)
    world.run_for(0)
    for peer in peers:
        peer.send(b"x")
    for turn in (1, 2, 3):
        assert loop.run_once(0) == 10
        assert sum(len(recorder.data) for recorder in recorders) == 10 * turn


def test_a_flood_does_not_starve_the_others(world: World) -> None:
    """One peer sends without end; the others are answered in the very next turn."""
    loop = world.loop(read_buffer_size=4096)
    flood, calm = Recorder(), Recorder()
    one, flooding = world.network.pair()
    loop.adopt(one, flood)  # type: ignore[arg-type]
    one, calm_peer = world.network.pair()
    calm.stream = loop.adopt(one, calm)  # type: ignore[arg-type]
    echo(calm)
    world.run_for(0)
    peer = Peer(calm_peer)
    flooding.send(bytes(65536))
    for turn in range(1, 11):
        peer.send(b"?")
        loop.run_once(0)
        peer.read()
        assert peer.data == b"?" * turn
        assert len(flood.data) == 4096 * turn
    flooding.close()
    peer.close()


def test_a_silent_flag_of_the_poller_for_a_closed_number_is_ignored(loop: Loop) -> None:
    """An event for a descriptor whose owner went away in the same batch."""
    one, other = socket.socketpair()
    loop.run_once(0)
    loop.poller.register(one.fileno(), 1)
    loop.place(one.fileno(), loop.wakeup)
    loop.displace(one.fileno())
    other.send(b"x")
    assert loop.run_once(0) == 1
    loop.poller.unregister(one.fileno())
    one.close()
    other.close()


# ---------------------------------------------------------------------- running and ending


def test_run_in_this_thread_until_stopped(loop: Loop) -> None:
    log: list[bool] = []

    def end() -> None:
        log.append(loop.in_loop())
        log.append(loop.running)
        assert loop.stop() is False, "it cannot wait for itself"

    loop.call_soon(end)
    loop.run()
    assert log == [True, True]
    assert not loop.running
    loop.call_soon(loop.stop)
    loop.run()  # and again


def test_start_and_stop_from_outside(poller_name: str) -> None:
    with Loop(poller=poller_name) as loop:
        for _ in range(3):
            loop.start()
            assert loop.running
            assert not loop.in_loop()
            assert loop.stop() is True
            assert not loop.running
        assert loop.stop() is True


def test_running_twice_is_refused(loop: Loop) -> None:
    loop.start()
    with pytest.raises(UsageError, match="running already"):
        loop.run()
    with pytest.raises(UsageError, match="running already"):
        loop.start()


def test_no_thread_to_start_in(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="new thread"):
            loop.start()
        assert not loop.running
    loop.start()


def test_close_from_its_own_thread_is_refused(loop: Loop) -> None:
    errors: list[Exception] = []

    def end() -> None:
        try:
            loop.close()
        except UsageError as error:
            errors.append(error)
        loop.stop()

    loop.call_soon(end)
    loop.run()
    assert "stop()" in str(errors[0])


def test_close_does_not_wait_for_ever(loop: Loop) -> None:
    """The loop's thread is stuck in a callback that should not have blocked."""
    entered, go_on = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        go_on.wait(10)

    loop.start()
    loop.call_soon(block)
    assert entered.wait(5)
    with pytest.raises(TimeoutError, match="did not end its turn"):
        loop.close(timeout=0.01)
    go_on.set()


def test_after_close_everything_is_refused(loop: Loop) -> None:
    loop.close()
    loop.close()
    one, other = socket.socketpair()
    for call in (
        loop.run,
        loop.start,
        loop.run_once,
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.listen(":0", print),
        lambda: loop.connect("127.0.0.1:1", Recorder()),
        lambda: loop.adopt(one, Recorder()),
    ):
        with pytest.raises(LoopClosedError):
            call()
    assert one.fileno() > 0, "a socket that was refused stays the caller's"
    loop.run_soon(print)  # of no use, but harmless
    assert loop.stop() is True
    one.close()
    other.close()


def test_close_ends_everything(loop: Loop) -> None:
    acceptor = Acceptor()
    listener = loop.listen("127.0.0.1:0", acceptor)
    assert isinstance(listener.address, tuple)
    client = socket.create_connection(listener.address)
    outgoing, adopted = Recorder(), Recorder()
    loop.connect(listener.address, outgoing)
    turn_until(loop, lambda: len(acceptor.recorders) == 2 and outgoing.calls)
    one, other = socket.socketpair()
    loop.adopt(one, adopted)  # not even taken in yet
    connecting = Recorder()
    loop.connect("192.0.2.1:9", connecting)
    loop.call_later(1000, print)
    loop.close()
    for recorder in (*acceptor.recorders, outgoing, adopted, connecting):
        assert recorder.calls[-1] == "connection_lost"
    assert loop.live_streams == 0
    assert loop.active_timers == 0
    with pytest.raises(OSError, match=r"refused|reset"):
        socket.create_connection(listener.address, timeout=1)
    client.close()
    other.close()


def test_a_descriptor_that_was_closed_behind_our_back(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    """Not ours to mend, but the stream has to end, and the loop has to live."""
    if loop.poller.name == "select":
        pytest.skip("select(2) fails as a whole then")
    one, other = socket.socketpair()
    recorder = Recorder()
    stream = loop.adopt(one, recorder)
    loop.run_once(0)
    assert stream.sock is not None
    os.close(stream.sock.fileno())
    stream.abort()
    for _ in range(3):
        loop.run_once(0)
    assert recorder.calls == ["connection_lost"]
    other.close()


def test_close_leaves_no_descriptor(poller_name: str) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    before = descriptors()
    for _ in range(3):
        with Loop(poller=poller_name) as loop:
            loop.listen(":0", print)
            loop.listen("127.0.0.1:0", print).close()
            loop.start()
            one, other = tcp_pair()
            loop.adopt(one, Recorder())
            other.close()
    assert descriptors() == before


def test_an_observer_may_still_use_the_loop_while_it_closes(loop: Loop) -> None:
    log: list[int] = []
    recorder = Recorder().on("connection_lost", lambda: loop.call_soon(log.append, 1))
    one, other = socket.socketpair()
    loop.adopt(one, recorder)
    loop.run_once(0)
    loop.close()
    assert log == [1]
    other.close()


def test_a_loop_is_freed_without_the_collector(poller_name: str) -> None:
    loop = Loop(poller=poller_name)
    assert loop in live_loops()
    loop.close()
    assert loop not in live_loops()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="workers"):
        Loop(workers=-1)
    with pytest.raises(ValueError, match="read_buffer_size"):
        Loop(read_buffer_size=0)
    with pytest.raises(ValueError, match="no selector"):
        Loop(poller="none")


def test_a_poller_of_ones_own() -> None:
    poller = make_poller("poll")
    with Loop(poller=poller) as loop:
        assert loop.poller is poller


def test_an_idle_stream_holds_no_container(loop: Loop) -> None:
    one, other = socket.socketpair()
    stream = loop.adopt(one, Recorder())
    stream.write(b"x")
    turn_until(loop, lambda: not stream.queued)
    slots = {name: getattr(stream, name) for name in type(stream).__slots__}
    assert len(slots) <= 10
    assert not hasattr(stream, "__dict__")
    assert not any(isinstance(value, (list, dict, set, bytearray)) for value in slots.values()), slots
    other.close()


SIGNAL_PROGRAM = r"""
import os, signal, sys
from gows.reactor import Loop
loop = Loop()
if sys.argv[1] == "stop":
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
loop.call_soon(os.write, 1, b"ready\n")
try:
    loop.run()
except KeyboardInterrupt:
    print("interrupted")
print("over", loop.running)
loop.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "number", "output"),
    [("stop", signal.SIGTERM, "over False\n"), ("default", signal.SIGINT, "interrupted\nover False\n")],
)
def test_signals_end_a_sleeping_loop(how: str, number: int, output: str) -> None:
    program = subprocess.Popen([sys.executable, "-c", SIGNAL_PROGRAM, how], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(number)
        assert program.communicate(timeout=10)[0] == output
        assert program.returncode == 0
    finally:
        program.kill()
        program.communicate()


# ---------------------------------------------------------------------- Ctrl-C amid a turn


@pytest.mark.parametrize("where", ["in the loop", "in the observer"])
def test_what_a_signal_handler_raises_amid_the_end_of_a_stream_leaves_no_half_of_it(where: str) -> None:
    patch = pytest.MonkeyPatch()  # one of its own, for the fixture's has to last until the end of the test
    loop = Loop(workers=0)
    one, other = tcp_pair()
    recorder = Recorder()
    stream = loop.adopt(one, recorder)
    loop.run_once(0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if where == "in the loop":
        patch.setattr(Loop, "connection_over", interrupt)
    else:
        recorder.on("connection_lost", interrupt)
    stream.abort()
    with pytest.raises(KeyboardInterrupt):
        loop.run_once(0)
    patch.undo()
    loop.close()
    assert recorder.calls == ["connection_lost"]
    assert stream.sock is not None
    assert stream.sock.fileno() == -1
    assert loop.live_streams == 0
    other.close()


def test_a_worker_does_not_close_its_own_loop() -> None:
    outcomes: queue.SimpleQueue[object] = queue.SimpleQueue()

    class Closes:
        def __init__(self, loop: Loop) -> None:
            self.loop = loop

        def run(self) -> None:
            try:
                self.loop.close()
                outcomes.put(None)
            except UsageError as error:
                outcomes.put(error)

        def stalled(self) -> None: ...

    with Loop(workers=1) as one, Loop(workers=1) as other:
        one.start()
        one.pool.submit(Closes(one))
        assert isinstance(outcomes.get(timeout=5), UsageError)
        one.pool.submit(Closes(other))  # that of somebody else it may
        assert outcomes.get(timeout=5) is None
        assert one.running
