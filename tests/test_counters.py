"""Counters: none loses a count to another thread, nor to a signal handler or a finaliser that comes amid its own step.

CPython does anything else (other threads, signal handlers, and since 3.12 finalisers of garbage) only at calls, at the
beginning of functions and at jumps, from 3.10 on. So `self.x += 1` is one step without a lock, and with one it is safe
from its own thread as well: a lock that is re-entrant does not keep out a signal handler. A call between the reading
and the writing makes it two: what was counted meanwhile is overwritten.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import gows
from gows import Opcode
from gows.protocol.prepared import PreparedMessage
from gows.session.traffic import Traffic
from tests.support.stage import Stage

SOURCE = Path(gows.__file__).parent

OWN = {
    "brokers/local/home.py KeptHome._on_promise",
    "client/opening.py Opening",
    "http/connection.py HttpConnection._next_piece",
    "http/outlet.py Spool",
    "http/response.py Response",
    "processes/channel.py Channel",
    "http1/",
    "protocol/",
    "session/heartbeat.py Heartbeat.begin",
    "session/session.py Session._take_rest",
    "session/session.py Session.data_received",
    "session/writer.py MessageWriter.write",
}
"""What only one thread changes at a time, and nothing that may come amid a change is not put off until after it."""


class Steps(ast.NodeVisitor):
    """Collects the changes of numbers that others may come between."""

    def __init__(self, module: str, properties: frozenset[str] = frozenset()) -> None:
        """`properties`: names of attributes that are functions."""
        self.found: list[str] = []
        self._properties = properties
        self._names: list[str] = []
        self._module = module

    def _enter(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _enter

    def _note(self, node: ast.stmt) -> None:
        where = f"{self._module} {'.'.join(self._names)}"
        if not any(where.startswith(own) for own in OWN):
            self.found.append(f"{where}: {ast.unparse(node)}")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """`x.y += f()` reads, calls, and writes."""
        calls = (ast.Call, ast.Await, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.BoolOp)
        if isinstance(node.target, (ast.Attribute, ast.Subscript)) and any(
            isinstance(part, calls) or (isinstance(part, ast.Attribute) and part.attr in self._properties)
            for part in ast.walk(node.value)
        ):
            self._note(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """So does `x[y] = x.get(y, 0) + 1`."""
        target = node.targets[0]
        if (
            isinstance(target, ast.Subscript)
            and isinstance(node.value, ast.BinOp)
            and f"{ast.unparse(target.value)}.get({ast.unparse(target.slice)}" in ast.unparse(node.value)
        ):
            self._note(node)
        self.generic_visit(node)


def is_protocol(node: ast.ClassDef) -> bool:
    """Whether a class only says what others have: a property of it has no code that could run."""
    return any(ast.unparse(base).partition("[")[0] == "Protocol" for base in node.bases)


def steps(*modules: ast.Module, names: Sequence[str] = ("x.py",)) -> list[str]:
    properties = frozenset(
        node.name
        for module in modules
        for owner in ast.walk(module)
        if isinstance(owner, ast.ClassDef) and not is_protocol(owner)
        for node in owner.body
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(each) == "property" for each in node.decorator_list)
    )
    found = []
    for name, module in zip(names, modules, strict=True):
        visitor = Steps(name, properties)
        visitor.visit(module)
        found += visitor.found
    return found


@pytest.mark.slow
def test_nothing_is_called_between_the_reading_and_the_writing_of_a_number() -> None:
    paths = sorted(SOURCE.rglob("*.py"))
    found = steps(
        *(ast.parse(path.read_text()) for path in paths),
        names=[path.relative_to(SOURCE).as_posix() for path in paths],
    )
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "self.x += len(data)",
        "x[y] -= 2 * a.f()",
        "x.y[z] = x.y.get(z, 0) + 1",
        "x.y += sum(a for a in b)",
        "x.y += x.size\nclass X:\n    @property\n    def size(self): pass",
    ],
)
def test_what_is_looked_for_is_found(line: str) -> None:
    assert len(steps(ast.parse(line))) == 1
    assert not steps(ast.parse("x.y += x.size\nclass X(Protocol[T]):\n    @property\n    def size(self): pass"))
    assert not steps(ast.parse("self.x += y.size; x[f(y)] += size; x += len(y); x[y] = x.get(z, 0) + 1"))


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads have their turn as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(count: Callable[[], object], times: int) -> int:
    """Call it in four threads at once; how often in all."""

    def work() -> None:
        for _ in range(times):
            count()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return 4 * times


class Meddling(tuple[None, ...]):
    """Targets that something else is sent to when they are counted."""

    send: Callable[[], object]

    def __len__(self) -> int:
        send, self.send = self.send, int
        send()
        return super().__len__()


def test_a_signal_handler_that_sends_amid_a_send_is_counted() -> None:
    stage = Stage()
    fanout = stage.server.fanout
    message = PreparedMessage(Opcode.TEXT, b"hello")
    targets = Meddling((None, None))
    targets.send = lambda: fanout.send(message, (None,))
    fanout.send(message, targets)
    assert (fanout.owed, fanout.waiting) == (3, 10)
    stage.run_until(lambda: not fanout.busy)
    assert (fanout.owed, fanout.waiting) == (0, 0)
    stage.close()


class Counts:
    """Numbers of each kind that there is."""

    __slots__ = ("number", "of")

    def __init__(self) -> None:
        self.number = 0
        self.of = {"a": 0}


def overwritten(times: int) -> int:
    """How many are lost where there is a call between."""
    counts: dict[str, int] = {}

    def count() -> None:
        counts["a"] = counts.get("a", 0) + 1

    return in_threads(count, times) - counts["a"]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("times", [2000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_a_step_without_a_call_loses_nothing_in_this_python(times: int) -> None:
    counts, traffic, size = Counts(), Traffic(), 3

    def count() -> None:
        counts.number += size
        counts.of["a"] += 1
        traffic.sent += 1
        traffic.ended(1000, "peer")
        traffic.refused(503)

    total = in_threads(count, times)
    assert (counts.number, counts.of, traffic.sent) == (3 * total, {"a": total}, total)
    assert (traffic.endings, traffic.refusals) == ({(1000, "peer"): total}, {503: total})


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_a_step_with_a_call_loses_counts() -> None:
    """Else the tests above show nothing."""
    assert any(overwritten(50_000) for _ in range(20))
