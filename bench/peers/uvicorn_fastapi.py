"""FastAPI under uvicorn, on uvloop, httptools and websockets."""

import uvicorn
from _fastapi import app
from _settings import CERTIFICATE, DEFLATE, PORT

uvicorn.run(
    app,
    host="127.0.0.1",
    port=PORT,
    backlog=4096,
    log_level="error",
    ws_per_message_deflate=DEFLATE,
    ws_ping_interval=None,
    ssl_certfile=CERTIFICATE,
    ssl_keyfile=CERTIFICATE,
)
