"""WebSockets in a Flask application: its routes, its session and its login work for them as for pages.

    python examples/flask_app.py [ADDRESS]        # "127.0.0.1:8080" unless given; needs `pip install flask`

Open the address it prints in two tabs, say who you are, and talk. The application is served by gows itself. It also
runs unchanged, WebSockets and all, where the server hands out its socket:

    flask --app examples/flask_app run
    gunicorn --chdir examples --threads 4 flask_app:app
"""

from __future__ import annotations

import secrets
import sys
from typing import Any

import flask

import gows

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Flask</title>
{% if not user %}<form method="post" action="/login"><input name="user" placeholder="Who are you?" autofocus></form>
{% else %}<form id="talk"><input id="line" placeholder="Say something, {{ user }}" autofocus autocomplete="off"></form>
<pre id="log"></pre>
<script>
  const socket = new WebSocket(`ws://${location.host}/talk`);
  socket.onmessage = (event) => document.getElementById("log").append(event.data + "\\n");
  talk.onsubmit = (event) => { event.preventDefault(); socket.send(line.value); line.value = ""; };
</script>{% endif %}"""

app = flask.Flask(__name__)
app.secret_key = secrets.token_bytes(32)
members: set[gows.WebSocket] = set()


class Member(gows.Handler):
    def __init__(self, name: str) -> None:
        self.name = name

    def on_open(self, ws: gows.WebSocket) -> None:
        members.add(ws)

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        for member in list(members):
            try:
                member.write_string(f"{self.name}: {buff.get_string()}")
            except (gows.ConnectionClosedError, gows.QueueFullError):
                pass  # it has just gone, or does not read

    def on_close(self, ws: gows.WebSocket) -> None:
        members.discard(ws)


@app.get("/")
def page() -> str:
    return flask.render_template_string(PAGE, user=flask.session.get("user"))


@app.post("/login")
def login() -> Any:
    flask.session["user"] = flask.request.form["user"]
    return flask.redirect("/")


@app.route("/talk", websocket=True)  # websocket=True: Flask sends upgrades here, and nothing else
def talk() -> Any:
    if "user" not in flask.session:
        flask.abort(401)
    gows.accept(flask.request.environ).serve(Member(flask.session["user"]))
    return ""  # nobody reads it: the connection is a WebSocket now


@app.errorhandler(gows.HandshakeError)
def refused(error: gows.HandshakeError) -> Any:
    return error.reason, error.status, list(error.headers)


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    server = gows.Server(wsgi=app)
    bound = server.listen(address)
    if isinstance(bound, tuple):  # else it is the path of a Unix-domain socket
        print(f"open http://{bound[0]}:{bound[1]}/", flush=True)
    server.listen_and_serve()


if __name__ == "__main__":
    main(*sys.argv[1:2])
