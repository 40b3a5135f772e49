"""An echo server with gunicorn's ASGI worker, one of it. It has no compression."""

import os
import sys

from _settings import CERTIFICATE, DEFLATE, PORT

if DEFLATE:
    sys.exit("gunicorn's ASGI worker has no compression")
words = ["--bind", f"127.0.0.1:{PORT}", "--workers", "1", "--worker-class", "asgi", "--log-level", "error"]
words += ["--backlog", "4096", "--worker-connections", "20000", "--keep-alive", "60"]
if CERTIFICATE:
    words += ["--certfile", CERTIFICATE, "--keyfile", CERTIFICATE]
os.chdir(os.path.dirname(os.path.abspath(__file__)))
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *words, "_asgi:app"])
