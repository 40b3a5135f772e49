"""examples/tls.py: the server, and the client that trusts it."""

from __future__ import annotations

import runpy
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import trustme

from gows import ConnectError
from gows.reactor import shared_loop
from tests.support.processes import ROOT
from tests.support.warming import start_all_workers

PROGRAM = ROOT / "examples" / "tls.py"


@pytest.fixture
def pems(tmp_path: Path) -> tuple[str, str, str]:
    """Files: the authority, the certificate, its key."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    paths = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
    authority.cert_pem.write_to_path(str(paths[0]))
    certificate.cert_chain_pems[0].write_to_path(str(paths[1]))
    certificate.private_key_pem.write_to_path(str(paths[2]))
    return str(paths[0]), str(paths[1]), str(paths[2])


def test_page_and_echo(pems: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    authority, cert, key = pems
    example = runpy.run_path(str(PROGRAM))
    server = example["make_server"](cert, key)
    port = server.listen("127.0.0.1:0")[1]
    server.start()
    start_all_workers(server.loop, 4)
    try:
        trusting = ssl.create_default_context(cafile=authority)
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/", timeout=10, context=trusting) as page:
            assert page.read() == b"<p>This page came encrypted."
        example["ask"](authority, f"wss://127.0.0.1:{port}/echo")
        assert capsys.readouterr().out == "nobody on the way can read this\n"
        with pytest.raises(ConnectError, match=r"self-signed certificate|unable to get local issuer"):
            example["gows"].connect(f"wss://127.0.0.1:{port}/echo")
    finally:
        shared_loop().close()
        server.stop()


@pytest.mark.slow
def test_as_a_program(pems: tuple[str, str, str]) -> None:
    authority, cert, key = pems
    command = [sys.executable, str(PROGRAM)]
    environment = {"PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(
        [*command, "serve", cert, key, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    assert program.stdout is not None
    with program, program.stdout as output:
        url = output.readline().split()[1].replace("https", "wss") + "echo"
        asked = subprocess.run(
            [*command, "ask", authority, url], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=30
        )
        assert (asked.stdout, asked.stderr) == ("nobody on the way can read this\n", "")
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 0
