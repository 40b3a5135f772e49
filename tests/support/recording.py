"""Recorder: a handler that keeps what it was told."""

from __future__ import annotations

import threading

from gows.bytebuffer import ByteBuffer
from gows.codes import Opcode
from gows.session.handler import Handler
from gows.session.websocket import WebSocket


class Recorder(Handler):
    """`calls`: what was called, in order. `opened` and `closed`: set by the callbacks."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.sockets: list[WebSocket] = []
        self.threads: set[str] = set()
        self.opened = threading.Event()
        self.closed = threading.Event()

    def on_open(self, ws: WebSocket) -> None:
        self.calls.append("open")
        self.sockets.append(ws)
        self.threads.add(threading.current_thread().name)
        self.opened.set()

    def on_message(self, ws: WebSocket, opcode: Opcode, buff: ByteBuffer) -> None:
        self.calls.append(buff.get_string() if opcode == Opcode.TEXT else buff.clone_bytes())

    def on_close(self, ws: WebSocket) -> None:
        self.calls.append((ws.close_code, ws.close_reason))
        self.sockets.append(ws)
        self.closed.set()
