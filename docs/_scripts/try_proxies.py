"""Run the recipes of docs/how-to/proxies.md against the proxies of this machine: `python docs/_scripts/try_proxies.py`.

Each proxy runs as a process of its own, on ports of the loopback interface, with its configuration in a temporary
folder. The times of page and recipe are scaled down. Needs nginx (with its stream module), haproxy, caddy and apache2.
`try_proxies.py NAME…` runs some only.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Origin

PAGE = (Path(__file__).resolve().parents[1] / "how-to" / "proxies.md").read_text("utf-8")
CLIENT = "127.0.0.77"
TIMEOUT = 4
APACHE_MODULES = "mpm_event authz_core proxy proxy_http headers alias"


def block(marker: str) -> str:
    """The code behind `<!-- marker -->`."""
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, marker
    return found[1]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def application(app: int, protocol: str, pings: bool) -> str:
    """The program of the page, at another port."""
    text = block("example: behind_proxy").replace(":8080", f":{app}")
    text = text.replace("ping_interval=30", f"ping_interval={1 if pings else None}")
    if protocol:
        text = text.replace('"::1"]', f'"::1"], proxy_protocol="{protocol}"')
    return text


def recipe(name: str, app: int, port: int) -> str:
    """The recipe of the page, at other ports and with shorter times."""
    text = block(f"recipe: {name}").replace("127.0.0.1:8080", f"127.0.0.1:{app}")
    text = re.sub(r"\b75s|(?<=Timeout )75", lambda time: time[0].replace("75", str(TIMEOUT)), text)
    return re.sub(r"listen 80\b|\*:80\b|(?<!\S):80\b", lambda old: old[0].replace("80", str(port)), text).replace(
        "listen ", "listen 127.0.0.1:"
    )


def nginx(text: str, folder: Path, module: str = "http") -> list[str]:
    load = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n" if module == "stream" else ""
    (folder / "nginx.conf").write_text(
        f"{load}daemon off; pid {folder}/pid; error_log /dev/null;\nworker_processes 1; events {{}}\n"
        f"{module} {{ {'access_log off;' if module == 'http' else ''}\n{text}\n}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(text: str, folder: Path) -> list[str]:
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-f", str(folder / "haproxy.cfg"), "-db"]


def caddy(text: str, folder: Path) -> list[str]:
    (folder / "Caddyfile").write_text(f"{{\n    admin off\n}}\n{text}")
    return ["env", f"HOME={folder}", "caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def apache(text: str, folder: Path) -> list[str]:
    port = re.search(r"\*:(\d+)", text)
    assert port is not None
    modules = "".join(f"LoadModule {n}_module /usr/lib/apache2/modules/mod_{n}.so\n" for n in APACHE_MODULES.split())
    (folder / "apache.conf").write_text(
        f"{modules}ServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\nErrorLog /dev/null\n"
        f"DefaultRuntimeDir {folder}\nMutex file:{folder}\nUser www-data\nGroup www-data\n"
        f"Listen 127.0.0.1:{port[1]}\n{text}"
    )
    return ["apache2", "-f", str(folder / "apache.conf"), "-DFOREGROUND"]


PROXIES: dict[str, tuple[Callable[[str, Path], list[str]], str, bool]] = {
    # how it is started; the PROXY protocol it speaks; whether it cuts off quiet connections
    "nginx": (nginx, "", True),
    "nginx_stream": (lambda text, folder: nginx(text, folder, "stream"), "v1", True),
    "haproxy": (haproxy, "", True),
    "haproxy_proxy": (haproxy, "v2", True),
    "caddy": (caddy, "", False),
    "apache": (apache, "", True),
}


def fetch(port: int, path: str) -> tuple[int, str]:
    """Get `path` from the address `CLIENT`."""
    with socket.create_connection(("127.0.0.1", port), 5, source_address=(CLIENT, 0)) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


def quiet(port: int, seconds: float) -> bool:
    """Whether a WebSocket on which nothing is said lives that long."""
    sock = socket.create_connection(("127.0.0.1", port), 5, source_address=(CLIENT, 0))
    with connect(
        f"ws://site.test:{port}/ws", sock=sock, origin=Origin(f"http://site.test:{port}"), ping_interval=None
    ) as ws:
        assert CLIENT in ws.recv(5), "the WebSocket does not know its client's address"
        try:
            ws.recv(seconds)
        except TimeoutError:
            return True
        except ConnectionClosed:
            return False
        raise AssertionError("nobody sent a message")


def wait_for(port: int, path: str = "/whoami") -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            if fetch(port, path)[0] == 200:
                return
        except (OSError, IndexError, ValueError):
            pass
        assert time.monotonic() < deadline, f"nothing answers on port {port}"
        time.sleep(0.1)


def try_one(name: str) -> list[str]:
    """Try a recipe; return what was seen."""
    start, protocol, cuts_off = PROXIES[name]
    seen = []
    for pings in (True, False):
        app, port = free_port(), free_port()
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            folder.chmod(0o755)
            (folder / "app.py").write_text(application(app, protocol, pings))
            running = [subprocess.Popen([sys.executable, str(folder / "app.py")])]
            try:
                running.append(subprocess.Popen(start(recipe(name, app, port), folder)))
                wait_for(port)
                if pings:
                    _, body = fetch(port, "/whoami")
                    assert CLIENT in body, f"the page says {body!r}"
                    seen.append(f"the page sees {body}")
                    if not protocol:
                        assert fetch(port, "/-/ready")[0] == 404, "/-/ is open"
                        with urllib.request.urlopen(f"http://127.0.0.1:{app}/-/ready", timeout=5) as answer:
                            assert answer.status == 200
                        seen.append("/-/ready is 404 through the proxy, 200 behind it")
                    assert quiet(port, 2.5 * TIMEOUT), "a quiet connection was cut off"
                    seen.append(f"a quiet connection lives for {2.5 * TIMEOUT:.0f} s")
                elif cuts_off:
                    assert not quiet(port, 2.5 * TIMEOUT), "the proxy has no timeout"
                    seen.append("without pings it does not")
                else:
                    assert quiet(port, 2.5 * TIMEOUT), "the proxy has a timeout"
                    seen.append("without pings too")
            finally:
                for process in reversed(running):
                    process.terminate()
                for process in running:
                    process.wait(10)
    return seen


def main(names: list[str]) -> int:
    """Try the recipes `names`, or all; return the exit status."""
    status = 0
    for name in names or PROXIES:
        try:
            print(f"{name}: {'; '.join(try_one(name))}", flush=True)
        except (AssertionError, OSError, urllib.error.URLError) as error:
            print(f"{name}: FAILED: {error!r}", flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
