"""The echo server of uvicorn_echo, and python-socketio in it: the event `publish` goes to a room with all in it."""

from typing import Any

import socketio
import uvicorn
from _asgi import app
from _settings import CERTIFICATE, DEFLATE, PORT

DAY = 24 * 3600  # no pings while it is measured, as with the others

sio = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], ping_interval=DAY, ping_timeout=DAY, monitor_clients=False
)


@sio.event
async def connect(sid: str, _environ: dict[str, Any]) -> None:
    await sio.enter_room(sid, "everybody")


@sio.event
async def publish(_sid: str, data: Any) -> None:
    await sio.emit("news", data, room="everybody")


uvicorn.run(
    socketio.ASGIApp(sio, app),
    host="127.0.0.1",
    port=PORT,
    backlog=4096,
    log_level="error",
    ws_per_message_deflate=DEFLATE,
    ws_ping_interval=None,
    ssl_certfile=CERTIFICATE,
    ssl_keyfile=CERTIFICATE,
)
