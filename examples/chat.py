"""A chat room for everybody who opens the page.

    python examples/chat.py [ADDRESS]        # "127.0.0.1:8080" unless given

Open the address it prints in two tabs, and talk.
`gows demo` is the same with rooms, names, a list of who is here, what was said before, reconnection, and a page for
phones, over several processes and servers: gows/commands/demo.py.
"""

from __future__ import annotations

import sys

import gows

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Chat</title>
<form><input id="text" autofocus autocomplete="off" placeholder="Write a message"></form>
<pre id="log"></pre>
<script>
  const socket = new WebSocket(`ws://${location.host}/chat`);
  socket.onmessage = (event) => document.getElementById("log").append(event.data + "\\n");
  document.forms[0].onsubmit = (event) => { event.preventDefault(); socket.send(text.value); text.value = ""; };
</script>"""

room: set[gows.WebSocket] = set()


def tell_all(line: str) -> None:
    for ws in list(room):  # a copy, for others come and go meanwhile
        try:
            ws.write_string(line)  # queues, and never waits
        except gows.ConnectionClosedError:
            pass  # it has just gone; its on_close comes
        except gows.QueueFullError:
            ws.close_handshake(gows.CloseCode.TRY_AGAIN_LATER, "too slow")


class Guest(gows.Handler):
    def on_open(self, ws: gows.WebSocket) -> None:
        room.add(ws)
        tell_all(f"somebody came: {len(room)} here")

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        if opcode == gows.Opcode.TEXT:
            tell_all(buff.get_string())

    def on_close(self, ws: gows.WebSocket) -> None:
        room.discard(ws)
        tell_all(f"somebody left: {len(room)} here")


server = gows.Server()


@server.route("/")
def page(request: gows.Request) -> gows.Response:
    return gows.Response.html(PAGE)


@server.route("/chat")
def chat(request: gows.Request) -> None:
    gows.accept(request).serve(Guest())


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    bound = server.listen(address)
    if isinstance(bound, tuple):  # else it is the path of a Unix-domain socket
        print(f"open http://{bound[0]}:{bound[1]}/", flush=True)
    server.listen_and_serve()


if __name__ == "__main__":
    main(*sys.argv[1:2])
