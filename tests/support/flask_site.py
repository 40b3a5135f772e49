"""A Flask application with a bit of everything, and WebSockets in two of its views: `tests.support.flask_site:app`.

Werkzeug's router sends an upgrade only to a view that says `websocket=True`, and nothing else to it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import flask

import gows

PIECE = 8192

app = flask.Flask(__name__, static_folder=None)
app.secret_key = "only for tests"


class Echo(gows.Handler):
    """Answers with what it got, and the name it was made for in front."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_open(self, ws: gows.WebSocket) -> None:
        assert ws.request is not None
        ws.write_string(f"welcome {self.name} to {ws.request.path}")

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        if buff.clone_bytes() == b"close":
            ws.close()
        elif opcode == gows.Opcode.TEXT:
            ws.write_string(f"{self.name}: {buff.get_string()}")
        else:
            ws.write_binary(buff)


@app.errorhandler(gows.HandshakeError)
def refused(error: gows.HandshakeError) -> Any:
    return error.reason, error.status, list(error.headers)


@app.route("/ws/<name>", websocket=True)
def echo(name: str) -> str:
    gows.accept(flask.request.environ).serve(Echo(name))
    return "nobody reads this"


@app.route("/chat", websocket=True)
def chat() -> str:
    """As somebody who has logged in: session, subprotocol, compression, a header of the 101."""
    user = flask.session.get("user")
    if user is None:
        flask.abort(401)
    options = gows.AcceptOptions(subprotocols=["chat.v1"], compression=True, min_compress_size=0)
    ws = gows.accept(flask.request.environ, options, headers={"X-User": user})
    ws.serve(Echo(user))
    return ""


@app.route("/")
def home() -> str:
    return "<h1>Hallo, Wörld</h1>"


@app.route("/digest", methods=["POST"])
def digest() -> dict[str, Any]:
    body = flask.request.get_data()
    return {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "type": flask.request.content_type}


@app.route("/upload", methods=["POST"])
def upload() -> dict[str, Any]:
    file = flask.request.files["file"]
    content = file.read()
    return {"name": file.filename, "sha256": hashlib.sha256(content).hexdigest(), "note": flask.request.form["note"]}


@app.route("/stream/<int:size>")
def stream(size: int) -> Any:
    """`size` bytes in pieces; with `?length=1` announced, with `?break=1` cut short by an exception."""

    def pieces() -> Iterator[bytes]:
        left = size
        while left:
            if flask.request.args.get("break") and left <= size // 2:
                raise RuntimeError("in the middle")
            yield bytes(min(PIECE, left))
            left -= min(PIECE, left)

    response = flask.Response(flask.stream_with_context(pieces()), mimetype="application/octet-stream")
    if flask.request.args.get("length"):
        response.content_length = size
    return response


@app.route("/file/<path:name>")
def file(name: str) -> Any:
    return flask.send_from_directory(os.environ["GOWS_TEST_FILES"], name)


@app.route("/login", methods=["GET", "POST"])
def login() -> Any:
    flask.session["user"] = flask.request.values["user"]
    response = flask.redirect(flask.url_for("me"))
    response.set_cookie("theme", "dark", httponly=True)
    return response


@app.route("/me")
def me() -> dict[str, Any]:
    return {"user": flask.session.get("user"), "theme": flask.request.cookies.get("theme")}


@app.route("/gone")
def gone() -> Any:
    return "", 204


@app.route("/broken")
def broken() -> str:
    raise RuntimeError("a bug")


@app.route("/environ")
def environ() -> dict[str, str]:
    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "HTTP_X_TEST")
    return {name: flask.request.environ.get(name, "") for name in names} | {"base_url": flask.request.base_url}
