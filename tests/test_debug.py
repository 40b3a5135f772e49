"""GOWS_DEBUG: each rule on threads and locks is checked, and nothing is when it is off."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gows.brokers.lock import PublishLock
from gows.debug import DEBUG, LOCK_ORDER, check_owned, check_unlocked, checked_lock, held_locks
from gows.reactor import Loop, Stream, WorkerPool
from gows.reactor.workers import run_task, stepping_aside
from tests.support.recorder import Recorder

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "gows").rglob("*.py"))


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(workers=0) as loop:
        yield loop


@pytest.fixture
def stream(loop: Loop) -> Iterator[Stream]:
    ours, theirs = socket.socketpair()
    with theirs:
        yield loop.adopt(ours, Recorder())


def in_a_thread(call: Callable[[], object]) -> BaseException | None:
    """Call it in another thread; what it raised."""
    found: list[BaseException | None] = [None]

    def run() -> None:
        try:
            call()
        except BaseException as error:
            found[0] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return found[0]


def test_the_suite_runs_with_the_checks() -> None:
    assert DEBUG


def test_a_thread_knows_which_locks_it_holds() -> None:
    one, other = checked_lock(threading.RLock, "publish"), checked_lock(threading.RLock, "lost")
    assert held_locks() == []
    with one, other:
        with one:
            assert held_locks() == ["publish", "lost"]
        assert held_locks() == ["publish", "lost"]
        assert in_a_thread(lambda: check_unlocked("wait")) is None, "the other thread holds none"
    assert held_locks() == []
    one.acquire()
    other.acquire()
    one.release()
    assert held_locks() == ["lost"]
    other.release()
    assert held_locks() == []


def test_a_lock_that_was_not_to_be_had_is_not_held() -> None:
    lock = checked_lock(threading.RLock, "bus")

    def other() -> None:
        assert not lock.acquire(blocking=False)
        assert held_locks() == []

    with lock:
        assert in_a_thread(other) is None


def test_whoever_does_not_own_a_lock_cannot_release_it() -> None:
    lock = checked_lock(threading.RLock, "bus")
    with lock:
        assert isinstance(in_a_thread(lock.release), RuntimeError)
        assert held_locks() == ["bus"]


def test_the_lock_is_to_be_owned() -> None:
    lock = checked_lock(threading.RLock, "bus")
    with lock:
        check_owned(lock)
        assert isinstance(in_a_thread(lambda: check_owned(lock)), AssertionError)
    with pytest.raises(AssertionError, match=r"^MainThread must hold 'bus' here$"):
        check_owned(lock)
    plain = threading.Lock()
    with plain:
        check_owned(plain)
    with pytest.raises(AssertionError, match="must hold"):
        check_owned(plain)
    publish = PublishLock()
    with publish:
        check_owned(publish)
    with pytest.raises(AssertionError, match="must hold 'publish'"):
        check_owned(publish)


def test_locks_are_taken_in_order() -> None:
    outer, inner = checked_lock(threading.RLock, "publish"), checked_lock(threading.RLock, "stream")
    with outer, inner, outer:
        pass
    with inner:
        with pytest.raises(
            AssertionError, match=r"^MainThread holds stream and is about to take publish, which comes before it$"
        ):
            outer.acquire()
        assert outer.acquire(blocking=False), "whoever does not wait may take any"
        outer.release()
        with pytest.raises(AssertionError, match="holds stream and is about to take stream"):
            checked_lock(threading.RLock, "stream").acquire()
    assert held_locks() == []


def test_every_lock_has_its_place_in_the_order() -> None:
    with pytest.raises(KeyError):
        checked_lock(threading.RLock, "a lock that is not known")
    text = (ROOT / "docs" / "explanation" / "design.md").read_text("utf-8")
    section = text.partition("\n## Threads and locks\n")[2].partition("\n## ")[0]
    written: dict[str, list[str]] = {}
    for number, names in re.findall(r"^\| (\d+) \| ([\w ,]+) \|", section, re.MULTILINE):
        written.setdefault(number, []).extend(names.split(", "))
    assert [tuple(names) for names in written.values()] == list(LOCK_ORDER)


def test_no_lock_is_to_be_held() -> None:
    check_unlocked("wait")
    with (
        checked_lock(threading.RLock, "bus"),
        pytest.raises(AssertionError, match=r"^MainThread holds bus and is about to wait$"),
    ):
        check_unlocked("wait")


@pytest.mark.parametrize(
    "call",
    [
        lambda stream: stream.write_locked(b"x"),
        lambda stream: stream.flush_locked(),
        lambda stream: stream.cork_locked(),
        lambda stream: stream.uncork_locked(),
        lambda stream: stream.uncork_later_locked(),
        lambda stream: stream.owe_drained_locked(),
    ],
)
def test_what_needs_the_lock_of_a_stream_says_so(stream: Stream, call: Callable[[Stream], object]) -> None:
    with pytest.raises(AssertionError, match="must hold 'stream'"):
        call(stream)
    with stream.lock:
        call(stream)
        stream.write_locked(b"x")
    stream.uncork()


def test_what_belongs_to_the_loop_is_refused_elsewhere() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Loop(workers=0) as loop:
        stream = loop.adopt(ours, Recorder())
        loop.run_once(0)
        stream.set_deadline(5.0)
        loop.start()
        ready = threading.Event()
        loop.call_soon(ready.set)
        assert ready.wait(10)
        with pytest.raises(AssertionError, match="MainThread is not the thread of the loop"):
            stream.set_deadline(5.0)
        with pytest.raises(AssertionError, match="MainThread is not the thread of the loop"):
            stream.on_readable(bytearray(1), 0)


def test_nobody_waits_with_a_lock(loop: Loop, stream: Stream) -> None:
    pool = WorkerPool(lambda: None, 1)
    with stream.lock:
        with pytest.raises(AssertionError, match="holds stream and is about to wait for events"):
            loop.run_once(0)
        with pytest.raises(AssertionError, match="wait for the workers"):
            pool.stop(1.0)
        with pytest.raises(AssertionError, match="wait for somebody outside"), stepping_aside():
            pass

    def stop() -> None:
        with stream.lock:
            loop.stop()

    assert "wait for the end of the loop's turn" in str(in_a_thread(stop))


def test_nothing_of_others_is_called_with_a_lock(loop: Loop, stream: Stream) -> None:
    class Idle:
        def run(self) -> None:
            """Nothing."""

        def stalled(self) -> None:
            """Nothing."""

    listener = loop.listen(("127.0.0.1", 0), lambda stream: None)
    loop.run_once(0)
    with stream.lock:
        with pytest.raises(AssertionError, match="run a task"):
            run_task(Idle())
        with pytest.raises(AssertionError, match="call on_accept"):
            listener._admit(stream)
        loop.call_soon(print)
        with pytest.raises(AssertionError, match="call a job"):
            loop._run_jobs()


def test_it_is_off_by_default() -> None:
    program = """
import socket, threading
from gows.debug import DEBUG, checked_lock
from gows.reactor import Loop, Observer
from gows.reactor.lock import Lock
assert not DEBUG
assert type(checked_lock(threading.RLock, "bus")) is type(threading.RLock())
with Loop(workers=0) as loop:
    stream = loop.adopt(socket.socketpair()[0], Observer)
    assert type(stream.lock) is type(Lock())
    stream.write_locked(b"x")
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOWS_DEBUG"}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True, timeout=50)


# ---------------------------------------------------------------------- names


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """All functions, but for methods of protocols, which have no code."""
    protocols = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and is_protocol(node)]
    abstract = {id(each) for node in protocols for each in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and id(node) not in abstract:
            yield node


def is_protocol(node: ast.ClassDef) -> bool:
    return any("Protocol" in ast.unparse(base) for base in node.bases)


def own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions in it, which are called at other times."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def takes_lock(function: ast.FunctionDef) -> bool:
    """Whether it takes a lock somewhere in it."""
    nodes = list(own_nodes(function))
    calls = {node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    return bool(calls & {"acquire", "enter"}) or any(
        ast.unparse(item.context_expr).endswith("lock")
        for node in nodes
        if isinstance(node, ast.With)
        for item in node.items
    )


def checks_lock(function: ast.FunctionDef) -> bool:
    """Whether it checks under DEBUG that a lock is held, before it does anything."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    first = ast.unparse(body[0]) if body else ""
    return re.match(r"if DEBUG:\n    check_owned\([\w.]+\)(\n|$)", first) is not None


def is_abstract(function: ast.FunctionDef) -> bool:
    """Whether all it does is to raise NotImplementedError."""
    return ast.unparse(function.body[-1]) == "raise NotImplementedError"


def faults(source: str) -> list[str]:
    """What is not as the names promise: the lock is held in what is called `..._locked`, and checked there."""
    wrong = []
    for function in functions(ast.parse(source)):
        locked = function.name.endswith("_locked")
        called = [node.func for node in own_nodes(function) if isinstance(node, ast.Call)]
        calls = [each.attr for each in called if isinstance(each, ast.Attribute) and each.attr.endswith("_locked")]
        if locked and not checks_lock(function) and not is_abstract(function):
            wrong.append(f"{function.name} does not check that the lock is held")
        if calls and not locked and not takes_lock(function) and not checks_lock(function):
            wrong.append(f"{function.name} calls {calls[0]}, and neither takes nor checks a lock")
        if not locked and re.search(r"Lock held|lock of its stream is held", ast.get_docstring(function) or ""):
            wrong.append(f"{function.name} needs the lock, and its name does not say so")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_say_what_needs_the_lock(path: Path) -> None:
    assert faults(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f_locked(self):\n    pass", "f_locked does not check that the lock is held"),
        (
            "def f_locked(self):\n    g()\n    if DEBUG:\n        check_owned(self.lock)",
            "f_locked does not check that the lock is held",
        ),
        ("def f(self):\n    self.g_locked()", "f calls g_locked, and neither takes nor checks a lock"),
        ('def f(self):\n    """Do it. Lock held."""', "f needs the lock, and its name does not say so"),
    ],
)
def test_such_faults_are_found(source: str, fault: str) -> None:
    assert faults(source) == [fault]


def test_the_way_it_should_be_is_no_fault() -> None:
    checked = "def f_locked(self):\n    '''Do it.'''\n    if DEBUG:\n        check_owned(self.lock)\n"
    assert faults(checked) == []
    assert faults("def f(self):\n    with self.lock:\n        self.g_locked()") == []
    assert faults("def f(self):\n    if DEBUG:\n        check_owned(self.lock)\n    self.g_locked()") == []
    assert faults("class F(Protocol):\n    def f_locked(self):\n        pass") == []
    assert faults("def f_locked(self):\n    raise NotImplementedError") == []
