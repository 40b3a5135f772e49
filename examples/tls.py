"""TLS on both sides: a server at wss:// and https://, and a client that trusts its certificate.

    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem
    python examples/tls.py serve cert.pem key.pem [ADDRESS]         # "127.0.0.1:8443" unless given
    python examples/tls.py ask cert.pem wss://127.0.0.1:8443/echo

A certificate of a public authority needs no `ask cert.pem`: `gows.connect` trusts what the system trusts.
"""

from __future__ import annotations

import ssl
import sys

import gows


class Echo(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff)


def make_server(cert: str, key: str) -> gows.Server:
    """A server all of whose connections are encrypted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = gows.Server(ssl_context=context)

    @server.route("/")
    def page(request: gows.Request) -> str:
        return "<p>This page came encrypted."

    @server.route("/echo")
    def echo(request: gows.Request) -> None:
        gows.accept(request).serve(Echo())

    return server


def serve(cert: str, key: str, address: str = "127.0.0.1:8443") -> None:
    """Serve until Ctrl-C."""
    server = make_server(cert, key)
    bound = server.listen(address)
    if isinstance(bound, tuple):  # else it is the path of a Unix-domain socket
        print(f"open https://{bound[0]}:{bound[1]}/", flush=True)
    server.listen_and_serve()


def ask(cert: str, url: str) -> None:
    """Send one message to the server that has this certificate."""
    with gows.connect(url, ssl_context=ssl.create_default_context(cafile=cert)) as ws:
        ws.write_string("nobody on the way can read this")
        print(ws.recv(timeout=5))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or [""]
    if command == "serve" and 2 <= len(arguments) <= 3:
        serve(*arguments)
    elif command == "ask" and len(arguments) == 2:
        ask(*arguments)
    else:
        sys.exit(__doc__)
