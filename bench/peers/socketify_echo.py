"""An echo server with socketify (uWebSockets)."""

from _settings import CERTIFICATE, DEFLATE, PORT
from socketify import App, AppListenOptions, AppOptions, CompressOptions

SETTINGS = {
    "compression": CompressOptions.SHARED_COMPRESSOR if DEFLATE else CompressOptions.DISABLED,
    "max_payload_length": 16 * 1024 * 1024,
    "idle_timeout": 0,
}

app = App(AppOptions(key_file_name=CERTIFICATE, cert_file_name=CERTIFICATE) if CERTIFICATE else None)
app.ws(
    "/broadcast",
    {
        **SETTINGS,
        "open": lambda ws: ws.subscribe("everybody"),
        "message": lambda ws, message, opcode: app.publish("everybody", message, opcode),
    },
)
app.ws("/*", {**SETTINGS, "message": lambda ws, message, opcode: ws.send(message, opcode, DEFLATE)})
app.listen(AppListenOptions(port=PORT, host="127.0.0.1"), lambda config: None)
app.run()
