"""`gows check`: what it prints, and what it advises."""

from __future__ import annotations

import argparse
import re
import resource
import ssl
import zlib
from pathlib import Path

import pytest

from gows.commands import check
from tests.support.needs import need_module

UNLIMITED = resource.RLIM_INFINITY
WIDE = [1024, 65535]


def test_it_names_what_a_newcomer_has_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(argparse.Namespace()) == 0
    shown, _, advice = capsys.readouterr().out.partition("\n\n")
    rows = dict(line.split(maxsplit=1) for line in shown.replace("n q", "n_q").replace("t p", "t_p").splitlines())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert rows.keys() == {
        "gows",
        "python",
        "selector",
        "tls",
        "deflate",
        "descriptors",
        "listen_queue",
        "client_ports",
        "connections",
    }
    assert rows["tls"] == ssl.OPENSSL_VERSION
    assert rows["deflate"] == check.deflate()
    assert rows["descriptors"] == f"soft {check.limit(soft)}, hard {check.limit(hard)}"
    assert rows["selector"] in {"epoll", "kqueue", "poll", "select", "devpoll"}
    assert advice


def test_what_compresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LIBRARY", zlib)
    assert check.deflate() == f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    monkeypatch.setattr(check, "LIBRARY", need_module("zlib_ng.zlib_ng"))
    assert re.fullmatch(r"zlib-ng \d+\.\d+\.\d+", check.deflate())


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 4096, ["ulimit -n 4096", "LimitNOFILE=65536"]),
        (1024, 1 << 20, ["ulimit -n 65536"]),
        (1024, UNLIMITED, ["ulimit -n 65536"]),
        (1024, 1024, ["LimitNOFILE=65536"]),
        (1 << 20, 1 << 20, ["Descriptors suffice"]),
        (UNLIMITED, UNLIMITED, ["Descriptors suffice"]),
    ],
)
def test_descriptors(soft: int, hard: int, expected: list[str]) -> None:
    lines = list(check.advice(soft, hard, [4096], WIDE))
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert part in line


@pytest.mark.parametrize(
    ("somaxconn", "ports", "expected"),
    [
        ([128], WIDE, ["net.core.somaxconn=4096"]),
        ([4096], [32768, 60999], ["net.ipv4.ip_local_port_range='1024 65535'"]),
        ([128], [32768, 60999], ["net.core.somaxconn=4096", "net.ipv4.ip_local_port_range='1024 65535'"]),
        ([], [], []),
        ([4096], WIDE, []),
    ],
)
def test_the_kernel_settings(somaxconn: list[int], ports: list[int], expected: list[str]) -> None:
    lines = list(check.advice(UNLIMITED, UNLIMITED, somaxconn, ports))[1:]
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert part in line


def test_the_estimate_leaves_the_reserve() -> None:
    assert check.connections(1024) == "960"
    assert check.connections(10) == "0"
    assert check.connections(UNLIMITED) == "any number of"


def test_a_limit_is_written_for_people() -> None:
    assert check.limit(1048576) == "1,048,576"
    assert check.limit(UNLIMITED) == "unlimited"


def test_numbers_of_a_kernel_file(tmp_path: Path) -> None:
    file = tmp_path / "range"
    file.write_text("32768\t60999\n")
    assert check.read_numbers(str(file)) == [32768, 60999]
    assert check.read_numbers(str(tmp_path / "missing")) == []
    file.write_text("not numbers")
    assert check.read_numbers(str(file)) == []


def test_plain_python_is_told_from_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOWS_PURE", raising=False)
    monkeypatch.setattr(check, "is_compiled", lambda name: False)
    assert check.engine() == "plain Python"
    monkeypatch.setenv("GOWS_PURE", "1")
    assert check.engine() == "plain Python (GOWS_PURE is set)"
    monkeypatch.setattr(check, "is_compiled", lambda name: name in {"gows.session.session", "gows.http1.head"})
    assert check.engine() == "compiled (2 modules)"


def test_a_module_from_a_shared_library_is_compiled() -> None:
    assert check.is_compiled("httptools.parser.parser")
    assert not check.is_compiled("gows.commands.check")
    assert not check.is_compiled("gows.no_such_module")
