"""Rooms: whoever connects to /room/NAME hears what is said in that room. It shows what a broadcast has to mind.

    python examples/rooms.py [ADDRESS]        # "127.0.0.1:8080" unless given
    gows connect ws://127.0.0.1:8080/room/kitchen

- Writing only queues, so one peer's network never holds up the others.
- A peer that does not read is let go with 1013 (`overflow="close"`) when 64 KiB wait for it, so memory is bounded.
- Handlers of different connections run at once, so what they share has a lock. It is not held while anything waits.
"""

from __future__ import annotations

import sys
import threading

import gows

OPTIONS = gows.AcceptOptions(overflow="close", high_water=65536, low_water=16384, max_message_size=4096)


class Rooms:
    """Who is where."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rooms: dict[str, set[gows.WebSocket]] = {}

    def enter(self, name: str, ws: gows.WebSocket) -> None:
        with self._lock:
            self._rooms.setdefault(name, set()).add(ws)

    def leave(self, name: str, ws: gows.WebSocket) -> None:
        with self._lock:
            members = self._rooms.get(name, set())
            members.discard(ws)
            if not members:
                self._rooms.pop(name, None)

    def say(self, name: str, text: str) -> None:
        with self._lock:
            members = list(self._rooms.get(name, ()))
        for ws in members:
            try:
                ws.write_string(text)
            except gows.ConnectionClosedError:
                pass  # it has just gone, and its on_close comes


class Member(gows.Handler):
    def __init__(self, rooms: Rooms, room: str) -> None:
        self.rooms = rooms
        self.room = room

    def on_open(self, ws: gows.WebSocket) -> None:
        self.rooms.enter(self.room, ws)
        self.rooms.say(self.room, "somebody came in")

    def on_message(self, ws: gows.WebSocket, opcode: gows.Opcode, buff: gows.ByteBuffer) -> None:
        if opcode == gows.Opcode.TEXT:
            self.rooms.say(self.room, buff.get_string())
        else:
            ws.close_handshake(gows.CloseCode.UNSUPPORTED_DATA, "only text here")

    def on_close(self, ws: gows.WebSocket) -> None:
        self.rooms.leave(self.room, ws)
        self.rooms.say(self.room, f"somebody left ({ws.close_code})")


server = gows.Server()
rooms = Rooms()


@server.route("/room/{name}")
def room(request: gows.Request, name: str) -> None:
    gows.accept(request, OPTIONS).serve(Member(rooms, name))


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    bound = server.listen(address)
    if isinstance(bound, tuple):  # else it is the path of a Unix-domain socket
        print(f"rooms at ws://{bound[0]}:{bound[1]}/room/NAME", flush=True)
    server.listen_and_serve()


if __name__ == "__main__":
    main(*sys.argv[1:2])
