"""Mistakes that a type checker sees, one a line. It is type-checked, never run."""

from __future__ import annotations

import gows


class Chat(gows.Handler):
    def on_open(self, ws: gows.WebSocket) -> None:
        ws.data = ws.request.query  # it is None once `on_open` has returned
        ws.write_string(b"bytes")
        ws.write_json()
        ws.publish("topic", "data", history="5")
        ws.remote_addr.lower()  # a tuple, mostly


gows.Server(worker=4)
gows.Server(workers="4")
gows.Server(options=gows.ServerOptions(max_body=4))
gows.Server(may_subscribe=lambda ws: True)
gows.AcceptOptions(compress=True)
gows.accept(8080)
gows.Server().listen(b":8080")
gows.Server().listen(":8080", proxy=True)
gows.TopicClient("ws://localhost", time_out=1.0)
gows.connect("ws://localhost", reconnect=True)
gows.run(gows.Server(), ":8080")
