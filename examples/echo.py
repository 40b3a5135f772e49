"""An echo server and the page to try it with.

    python examples/echo.py [ADDRESS]        # "127.0.0.1:8080" unless given

Open the address it prints and type: every line comes back. `gows connect ws://127.0.0.1:8080/echo` does the same in a
terminal. Ctrl-C ends it, with a close frame to everybody who is connected.
"""

from __future__ import annotations

import sys

import gows

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Echo</title>
<form><input id="line" autofocus autocomplete="off" placeholder="Say something"></form>
<pre id="log"></pre>
<script>
  const socket = new WebSocket(`ws://${location.host}/echo`);
  socket.onmessage = (event) => document.getElementById("log").append(event.data + "\\n");
  document.forms[0].onsubmit = (event) => { event.preventDefault(); socket.send(line.value); line.value = ""; };
</script>"""

server = gows.Server()


class Echo(gows.Handler):
    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        ws.write_message(opcode, buff)  # `buff` is lent until this method returns


@server.route("/")
def page(request: gows.Request) -> gows.Response:
    return gows.Response.html(PAGE)


@server.route("/echo")
def echo(request: gows.Request) -> None:
    gows.accept(request).serve(Echo())


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    bound = server.listen(address)
    if isinstance(bound, tuple):  # else it is the path of a Unix-domain socket
        print(f"open http://{bound[0]}:{bound[1]}/", flush=True)
    server.listen_and_serve()


if __name__ == "__main__":
    main(*sys.argv[1:2])
