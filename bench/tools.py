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

LIBRARIES = {"wsload": ["-lm"], "floor": ["-lcrypto"], "hold": []}
"""The C programs: wsload (messages), hold (very many connections), floor (a bare epoll echo server)."""

PEER_PACKAGES = ("websockets", "picows", "uvloop", "aiohttp", "tornado", "socketify")


class Unavailable(Exception):
    """A tool that cannot be had here; says why."""


def build(name: str) -> Path:
    """The C program `name`, compiled if it is older than its source. Raises Unavailable."""
    source, program = NATIVE / f"{name}.c", BUILT / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise Unavailable("there is no C compiler")
        BUILT.mkdir(exist_ok=True)
        command = [compiler, "-O2", "-o", str(program), str(source), *LIBRARIES[name]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise Unavailable(f"{name} does not compile: {done.stderr.strip().splitlines()[0]}")
    return program


def peers_python() -> Path:
    """The interpreter that has the other libraries; the environment is made at first use. Raises Unavailable."""
    python = PEERS_VENV / "bin" / "python"
    if not (PEERS_VENV / "complete").exists():
        print(f"installing {', '.join(PEER_PACKAGES)} into {PEERS_VENV.name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(PEERS_VENV)], check=True, timeout=120)
        for package in PEER_PACKAGES:  # one by one, for some may not be there for this Python
            command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", package]
            if subprocess.run(command, timeout=300, check=False).returncode:
                print(f"{package} cannot be installed; it is left out", file=sys.stderr)
        (PEERS_VENV / "complete").touch()
    return python
