"""A module imports only from layers below its own, and in its folder only from files that the folder's `__init__` lists
before it (the table of docs/explanation/design.md).

Every import statement counts: inside functions, and under TYPE_CHECKING too, for a type that points upward is a design
that points upward.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gows"

# Layer by layer, from the ground up; each layer is a list of units. The modules of one unit may import each other, two
# units of one layer may not. A name stands for a module, or for a package and all that is in it.
LAYERS: list[list[list[str]]] = [
    [
        [
            "gows.variant",
            "gows.codes",
            "gows.printable",
            "gows.errors",
            "gows.jsontext",
            "gows.keys",
            "gows.bufferpool",
            "gows.bytebuffer",
            "gows.options",
            "gows.debug",
        ]
    ],
    [["gows.protocol"], ["gows.http1"], ["gows.reactor"]],
    [["gows.session"]],
    [["gows.http"], ["gows.client"], ["gows.bus"], ["gows.topics"]],
    [["gows.brokers"]],
    [["gows.server"]],
    [["gows.aio"], ["gows.asgi"]],
    [["gows.processes"]],
    [["gows"]],
    [["gows.__main__", "gows.commands"]],
]

SIDEWAYS = {("gows.protocol.handshake", "gows.http1")}
"""The opening handshake of a WebSocket is an HTTP request and its answer (RFC 6455 section 4)."""

# The facade, `gows/__init__.py`: `import gows` in a module below would close a circle over everything.
FACADE = "gows"

# The protocol core takes bytes and returns bytes: no descriptor, no clock. (A lock it may have.)
SANS_IO = ("gows.protocol", "gows.http1")
NOT_IN_PROTOCOL = {"asyncio", "select", "selectors", "signal", "socket", "ssl", "subprocess", "time"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def place(module: str) -> tuple[int, list[str]] | None:
    """The layer and the unit of `module`."""
    for number, units in enumerate(LAYERS):
        for unit in units:
            for name in unit:
                if module == name or (name != FACADE and module.startswith(name + ".")):
                    return number, unit
    return None


Orders = dict[str, list[str]]


def listed(docstring: str) -> list[str]:
    """The files that a folder's `__init__` lists in its docstring, from the ground up: `name  what it is`."""
    return re.findall(r"^(\w+) {2,}\S", docstring, re.MULTILINE)


def orders() -> Orders:
    """By folder, its files in their order. Folders are named like modules."""
    found = {"gows": [name.removeprefix("gows.") for name in LAYERS[0][0]]}
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module != FACADE:
            found[module] = listed(ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
    return {folder: files for folder, files in found.items() if files}


ORDERS = orders()

TYPE_ONLY = {
    ("gows.session.handler", "gows.session.websocket"),
    ("gows.session.websocket", "gows.http.request"),
}
"""Imports for types alone that point upward: a handler's callbacks get the WebSocket, and it calls them; users read
`ws.request`, at which a session does not look."""


def out_of_order(module: str, target: str, orders: Orders) -> bool:
    """Return whether `module` imports something of its own folder that is not listed before it."""
    ours, theirs = module.split("."), target.split(".")
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[shared] == theirs[shared]:
        shared += 1
    folder = orders.get(".".join(ours[:shared]))
    if folder is None or shared == len(ours):  # a folder's `__init__` comes last
        return False
    if shared == len(theirs):  # from the `__init__` of its own folder
        return shared > 1
    if ours[shared] not in folder or theirs[shared] not in folder:
        return False  # of other layers, or missing in the list, which is a test of its own
    return folder.index(theirs[shared]) > folder.index(ours[shared])


def place_name(module: str) -> str:
    """The package of layer 1 and above that `module` is in."""
    return ".".join(module.split(".")[:2])


def absolute(module: str, path: Path, node: ast.ImportFrom) -> str:
    """The module an import statement names, relative ones resolved."""
    if node.level == 0:
        return node.module or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def imports(module: str, path: Path, source: str, modules: dict[str, Path]) -> list[tuple[int, str]]:
    """Each import of `source`: its line, and the module it reaches."""
    found = []
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            target = absolute(module, path, node)
            for alias in node.names:
                inner = f"{target}.{alias.name}"
                found.append((node.lineno, inner if inner in modules else target))
    return found


def lines_for_types(source: str) -> set[int]:
    """The lines that only a type checker sees."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                found.update(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return found


def trespasses(module: str, path: Path, source: str, modules: dict[str, Path], orders: Orders) -> list[str]:
    """What `module` imports and may not."""
    here = place(module)
    if here is None:
        return [f"{module}: in no layer; give it one in tests/test_layers.py and docs/explanation/design.md"]
    wrong = []
    typing_only = lines_for_types(source)
    for line, target in imports(module, path, source, modules):
        root = target.partition(".")[0]
        if module.startswith(SANS_IO) and root in NOT_IN_PROTOCOL:
            wrong.append(f"{module}:{line} imports {target}, but the protocol core does no I/O and has no clock")
        if root != "gows":
            continue
        there = place(target)
        if there is None:
            wrong.append(f"{module}:{line} imports {target}, which is in no layer")
        elif (module, target) in TYPE_ONLY and line in typing_only:
            continue
        elif out_of_order(module, target, orders):
            wrong.append(f"{module}:{line} imports {target}, which its folder does not list before it")
        elif there[1] is here[1] or there[0] < here[0] or (module, place_name(target)) in SIDEWAYS:
            continue
        else:
            wrong.append(f"{module}:{line} (layer {here[0]}) imports {target} (layer {there[0]})")
    return wrong


def test_there_are_modules_to_check() -> None:
    assert {"gows", "gows.codes", "gows.protocol", "gows.reactor"} <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_below(module: str) -> None:
    path = MODULES[module]
    assert trespasses(module, path, path.read_text("utf-8"), MODULES, ORDERS) == []


@pytest.mark.parametrize("folder", ORDERS)
def test_the_list_of_a_folder_is_whole(folder: str) -> None:
    there = {module.rpartition(".")[2] for module in MODULES if module.rpartition(".")[0] == folder}
    if folder == "gows":
        there = {module.rpartition(".")[2] for module, path in MODULES.items() if place(module) == (0, LAYERS[0][0])}
    assert sorted(ORDERS[folder]) == sorted(there)


def test_the_table_in_the_design_is_this_one() -> None:
    rows = re.findall(
        r"^\| (\d) \|([^|]*)\|", (ROOT / "docs" / "explanation" / "design.md").read_text("utf-8"), re.MULTILINE
    )
    written = {(int(layer), name.rstrip("/")) for layer, cell in rows for name in re.findall(r"`([\w/]+)`", cell)}
    enforced = {
        (number, name.removeprefix("gows.")) for number, units in enumerate(LAYERS) for unit in units for name in unit
    }
    assert written == enforced


REFUSED = {
    "upward": ("gows.codes", "import gows.server.server"),
    "upward from": ("gows.protocol.frames", "from gows.session.session import Session"),
    "upward, a name that is a module": ("gows.reactor.loop", "from gows import server"),
    "upward in a function": ("gows.session.session", "def f():\n    from gows.server.server import Server"),
    "upward for a type": ("gows.session.session", "if TYPE_CHECKING:\n    from gows.server.server import Server"),
    "upward, relative": ("gows.protocol.frames", "from ..session.session import Session"),
    "protocol to reactor": ("gows.protocol.frames", "from gows.reactor import loop"),
    "reactor to protocol": ("gows.reactor.stream", "from ..protocol import frames"),
    "client to http": ("gows.client", "import gows.http"),
    "the facade from below": ("gows.session.session", "import gows"),
    "the facade's names from below": ("gows.session.session", "from gows import Server"),
    "a socket in the protocol": ("gows.protocol.frames", "import socket"),
    "a clock in the protocol": ("gows.protocol.frames", "from time import monotonic"),
    "the command line from the facade": ("gows", "from gows.commands import echo"),
    "from an unknown module": ("gows.codes", "import gows.utils"),
    "an unknown module": ("gows.utils", ""),
    "later in the folder": ("gows.reactor.poller", "from gows.reactor.loop import Loop"),
    "later in the folder, for a type": ("gows.reactor.poller", "if TYPE_CHECKING:\n    from .loop import Loop"),
    "a type of the pair, but at run time": ("gows.session.handler", "from gows.session.websocket import WebSocket"),
    "a type of a layer above, but at run time": ("gows.session.websocket", "from gows.http.request import Request"),
    "the folder's __init__ from within": ("gows.reactor.loop", "from gows.reactor import Poller"),
}

ALLOWED = {
    "downward": ("gows.server.server", "from gows.http import router"),
    "in the unit": ("gows.session.session", "from gows.session.handler import Handler"),
    "in the package": ("gows.protocol.connection", "from .frames import encode_frame"),
    "the pair of types": ("gows.session.handler", "if TYPE_CHECKING:\n    from .websocket import WebSocket"),
    "a type of a layer above": (
        "gows.session.websocket",
        "if TYPE_CHECKING:\n    from gows.http.request import Request",
    ),
    "earlier in the folder": ("gows.reactor.loop", "from gows.reactor.poller import Poller"),
    "others": ("gows.reactor.loop", "import socket, time, threading"),
    "the facade from the command line": ("gows.__main__", "import gows\nfrom gows import Server"),
    "the facade from a subcommand": ("gows.commands.check", "import gows"),
    "all from the facade": ("gows", "from gows.server.server import Server"),
}


def check(module: str, source: str) -> list[str]:
    known = dict.fromkeys(
        ["gows.server.server", "gows.reactor.loop", "gows.protocol.frames", "gows.session.session"], PACKAGE
    )
    file = PACKAGE / "__init__.py" if module == FACADE else PACKAGE / "some.py"
    return trespasses(
        module,
        file,
        source,
        known,
        {"gows.reactor": ["poller", "loop"], "gows.session": ["handler", "session", "websocket"]},
    )


@pytest.mark.parametrize(("module", "source"), REFUSED.values(), ids=REFUSED.keys())
def test_a_trespass_is_seen(module: str, source: str) -> None:
    assert len(check(module, source)) == 1


@pytest.mark.parametrize(("module", "source"), ALLOWED.values(), ids=ALLOWED.keys())
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert check(module, source) == []
