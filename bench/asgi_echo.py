"""An ASGI application of the peers, served by gows inside an asyncio loop.

python -m bench.asgi_echo PORT [--fastapi] [--compression] [--certificate FILE] [--uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from collections.abc import Coroutine
from importlib import import_module
from typing import Any

import gows
from bench.tools import PEERS
from gows.processes.interpreter import dedicate


async def serve(port: int, fastapi: bool, compression: bool, certificate: str | None) -> None:
    """Serve until the process ends."""
    sys.path.insert(0, str(PEERS))  # whose programs are not a package
    app = import_module("_fastapi" if fastapi else "_asgi").app
    context: ssl.SSLContext | None = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    options = gows.AcceptOptions(compression=compression, min_compress_size=1)
    server = gows.Server(asgi=app, options=options, ssl_context=context)
    async with server.serve(("127.0.0.1", port)):
        print(f"serving on {server.addresses[0]}", flush=True)
        await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> None:
    """Serve on a port of 127.0.0.1."""
    parser = argparse.ArgumentParser(prog="python -m bench.asgi_echo", description=__doc__.partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--fastapi", action="store_true", help="one made with FastAPI; default: a bare one")
    parser.add_argument("--compression", action="store_true", help="negotiate permessage-deflate")
    parser.add_argument("--certificate", metavar="FILE", help="serve over TLS, with the certificate and key in it")
    parser.add_argument("--uvloop", action="store_true", help="inside uvloop; default: asyncio's own loop")
    chosen = parser.parse_args(arguments)
    dedicate()
    coroutine: Coroutine[Any, Any, None] = serve(chosen.port, chosen.fastapi, chosen.compression, chosen.certificate)
    if chosen.uvloop:
        import uvloop

        uvloop.run(coroutine)
    else:
        asyncio.run(coroutine)


if __name__ == "__main__":
    main()
