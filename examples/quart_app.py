"""A Quart application: pages, a WebSocket, a stream, a task in the background, a beginning and an end.

    python examples/quart_app.py [ADDRESS]        # "127.0.0.1:8080" unless given; needs `pip install quart`

It knows nothing of gows, and any ASGI server serves it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, abort, jsonify, request, websocket
from quart.typing import ResponseReturnValue

import gows

app = Quart(__name__)
done: list[str] = []


@app.before_serving
async def begin() -> None:
    app.config["STARTED"] = "Quart"


@app.after_serving
async def end() -> None:
    done.clear()


@app.get("/")
async def page() -> ResponseReturnValue:
    return f"hello from {app.config['STARTED']}", {"Content-Type": "text/plain"}


@app.post("/upper")
async def upper() -> ResponseReturnValue:
    return str(await request.get_data(as_text=True)).upper(), {"Content-Type": "text/plain"}


@app.get("/count")
async def count() -> Any:
    upto = int(request.args.get("upto", 3))

    async def lines() -> AsyncIterator[bytes]:
        for number in range(upto):
            yield b"%d\n" % number

    return lines(), {"Content-Type": "text/plain"}


async def note(what: str) -> None:
    """Do what is to be done later."""
    done.append(what)


@app.post("/later")
async def later() -> ResponseReturnValue:
    what = request.args["what"]
    app.add_background_task(note, what)
    return {"accepted": what}, 202


@app.get("/done")
def see_done() -> ResponseReturnValue:  # a plain function: Quart calls it in a thread
    return jsonify(done)


@app.websocket("/talk")
async def talk() -> ResponseReturnValue | None:
    name = websocket.args.get("name")
    if not name:
        abort(401)
    await websocket.accept(subprotocol="chat" if "chat" in websocket.requested_subprotocols else None)
    while (text := str(await websocket.receive())) != "bye":
        await websocket.send(f"{name}: {text}")
    await websocket.close(4000, "bye, " + name)
    return None


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    server = gows.Server(asgi=app)
    server.listen_and_serve(address, ready=lambda: print(f"serving on {server.addresses[0]}", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:2])
