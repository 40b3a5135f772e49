"""An echo server with granian, one worker. It has no compression."""

import sys
from pathlib import Path

from _settings import CERTIFICATE, DEFLATE, PORT
from granian import Granian
from granian.constants import Interfaces

if __name__ == "__main__":
    if DEFLATE:
        sys.exit("granian has no compression")
    certificate = Path(CERTIFICATE) if CERTIFICATE else None
    Granian(
        "_asgi:app",
        address="127.0.0.1",
        port=PORT,
        interface=Interfaces.ASGI,
        backlog=4096,
        backpressure=65536,
        log_enabled=False,
        ssl_cert=certificate,
        ssl_key=certificate,
        working_dir=Path(__file__).parent,
    ).serve()
