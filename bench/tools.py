"""What the benchmarks need beside gows: programs in C, and other libraries in an environment of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "bench" / "native"
PEERS = ROOT / "bench" / "peers"
BUILT = ROOT / "build"
PEERS_VENV = ROOT / ".venv-peers"

PROGRAMS = {
    "wsload": ("wsload.c", ["-lm"]),
    "wsload-tls": ("wsload.c", ["-DTLS", "-lm", "-lssl", "-lcrypto"]),
    "floor": ("floor.c", ["-lcrypto"]),
    "httpload": ("httpload.c", ["-lm"]),
    "hold": ("hold.c", []),
}
"""The C programs: wsload (messages; also over TLS), httpload (requests), hold (very many connections), and floor (a
bare epoll echo server)."""

NODE_MODULES = PEERS_VENV / "node" / "node_modules"

PEER_PACKAGES = (
    "uvloop",
    "websockets",
    "picows",
    "aiohttp",
    "tornado",
    "socketify",
    "granian",
    "uvicorn",
    "httptools",
    "hypercorn",
    "gunicorn",
    "fastapi",
    "python-socketio",
    "simple-websocket",
    "werkzeug",
)


class Unavailable(Exception):
    """A tool that cannot be had here; says why."""


def build(name: str) -> Path:
    """The C program `name`, compiled if it is older than its source. Raises Unavailable."""
    file, libraries = PROGRAMS[name]
    source, program = NATIVE / file, BUILT / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise Unavailable("there is no C compiler")
        BUILT.mkdir(exist_ok=True)
        command = [compiler, "-O2", "-o", str(program), str(source), *libraries]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise Unavailable(f"{name} does not compile: {done.stderr.strip().splitlines()[0]}")
    return program


def peers_python() -> Path:
    """The interpreter that has the other libraries; the environment is made at first use. Raises Unavailable."""
    python = PEERS_VENV / "bin" / "python"
    listed = PEERS_VENV / "packages"
    wanted = "\n".join(PEER_PACKAGES)
    if not listed.exists() or listed.read_text() != wanted:
        print(f"installing {', '.join(PEER_PACKAGES)} into {PEERS_VENV.name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(PEERS_VENV)], check=True, timeout=120)
        for package in PEER_PACKAGES:  # one by one, for some may not be there for this Python
            command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", package]
            if subprocess.run(command, timeout=300, check=False).returncode:
                print(f"{package} cannot be installed; it is left out", file=sys.stderr)
        listed.write_text(wanted)
    return python


def node() -> str:
    """Node, with its `ws` package under NODE_MODULES; that is installed at first use. Raises Unavailable."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        raise Unavailable("there is no Node with npm")
    if not (NODE_MODULES / "ws").exists():
        folder = NODE_MODULES.parent
        folder.mkdir(parents=True, exist_ok=True)
        print(f"installing ws into {folder.relative_to(ROOT)}", file=sys.stderr)
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "ws"]
        done = subprocess.run(command, cwd=folder, timeout=300, check=False)
        if done.returncode:
            raise Unavailable("npm cannot install ws")
    return program
