"""Remote: the connections of a server in other processes, as RemoteConnections, and the messages behind them.

On the bus there are `broadcast` and `act` (something is to be done with one connection), both a header of
JSON, a line feed, and the message; and questions: `connections`, `count`, `address`, `topics` and `subscribers`. A
connection goes by a number, made of its descriptor and of how many connections had that descriptor before: so the
number of one that has ended never means another.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any
from weakref import ref

from gows.bus.bus import Bus
from gows.codes import CloseCode, Opcode
from gows.errors import GowsError, LoopClosedError, QueueFullError
from gows.jsontext import to_json_text
from gows.keys import pack_key, unpack_key
from gows.protocol.connection import to_bytes
from gows.protocol.frames import MAX_CONTROL, encode_close_body
from gows.protocol.prepared import PreparedMessage
from gows.reactor import Loop, Stream
from gows.reactor.address import SocketAddress
from gows.reactor.waits import inner_lock
from gows.server.publisher import Publisher
from gows.session.fanout import Audience, Fanout
from gows.session.websocket import Data, WebSocket
from gows.topics.subscriptions import Subscriptions

logger = logging.getLogger("gows")

ASK_TIMEOUT = 1.0
"""Seconds that the other processes have to answer."""

_DESCRIPTOR_BITS = 24


def pack(header: dict[str, Any], data: bytes) -> bytes:
    """Return a header and a message as they travel on the bus."""
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + data


def unpack(packet: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the message that `pack` packed."""
    header, _, data = packet.partition(b"\n")
    return json.loads(header), data


class RemoteConnection:
    """A connection of this server in another of its processes, as `server.connections` lists it.

    It has the part of a WebSocket's methods that needs no answer. They may be called from any thread, never block, and
    raise nothing when the connection has ended meanwhile, or is too slow for the message: that is known over there.
    """

    __slots__ = ("_address", "_bus", "_closed", "group", "number", "process", "subprotocol")

    def __init__(self, bus: Bus, process: str, number: int, subprotocol: str | None, group: str) -> None:
        if not isinstance(bus, Bus):
            raise TypeError("a RemoteConnection comes from Server.connections")
        self._bus = bus
        self._address: SocketAddress | None = None
        self._closed = False
        self.process = process
        """The name of its process."""
        self.number = number
        """Its number there."""
        self.subprotocol = subprotocol
        """The subprotocol agreed on, or None."""
        self.group = group
        """The label of its AcceptOptions."""

    @property
    def remote_addr(self) -> SocketAddress | None:
        """Return the peer's address, as `WebSocket.remote_addr`; None once the connection has ended. The first time it
        asks the other process, which takes a fraction of a millisecond, and a second at most."""
        if self._address is None:
            answer = self._bus.ask("address", b"%d" % self.number, ASK_TIMEOUT, to=self.process)
            address = json.loads(answer.get(self.process, b"null"))
            self._address = tuple(address) if isinstance(address, list) else address
        return self._address

    @property
    def closed(self) -> bool:
        """Return whether it was closed here, or its process is gone. It may have ended in another way."""
        return self._closed or self.process not in self._bus.peers

    def write_message(self, opcode: Opcode | int, data: Data, compress: bool = True, key: Hashable = None) -> None:
        """Send one message, as `WebSocket.write_message`: TEXT, BINARY, PING or PONG.

        Raises ValueError as that does, and for more than 16 MiB; TypeError for a `key` that is no str, number, bytes,
        or tuple of these."""
        if opcode == Opcode.PING:
            self.write_ping(data)
        elif opcode == Opcode.PONG:
            self.write_pong(data)
        elif opcode == Opcode.TEXT or opcode == Opcode.BINARY:
            message = PreparedMessage(opcode, to_bytes(data), compress)
            header = {"do": "write", "opcode": message.opcode, "compress": compress}
            if key is not None:
                header["key"] = pack_key(key)
            self._act(header, message.data)
        else:
            raise ValueError(f"a message is TEXT, BINARY, PING or PONG, not {opcode!r}; close with close_handshake()")

    def write_string(self, text: str, compress: bool = True, key: Hashable = None) -> None:
        """Send a text message. `key`: as for `WebSocket.write_string`."""
        if not isinstance(text, str):
            raise TypeError(f"write_string takes a str, not {type(text).__name__}; write_text takes UTF-8 as bytes")
        self.write_message(Opcode.TEXT, text.encode(), compress, key)

    def write_text(self, data: Data, compress: bool = True, key: Hashable = None) -> None:
        """Send a text message that is UTF-8 already."""
        self.write_message(Opcode.TEXT, data, compress, key)

    def write_binary(self, data: Data, compress: bool = True, key: Hashable = None) -> None:
        """Send a binary message."""
        self.write_message(Opcode.BINARY, data, compress, key)

    def write_json(self, value: object, compress: bool = True, key: Hashable = None) -> None:
        """Send `value` as JSON in a text message."""
        self.write_string(to_json_text(value), compress, key)

    def write_ping(self, data: Data = b"") -> None:
        """Send a ping of at most 125 bytes."""
        self._control("ping", data)

    def write_pong(self, data: Data = b"") -> None:
        """Send an unasked pong of at most 125 bytes."""
        self._control("pong", data)

    def _control(self, kind: str, data: Data) -> None:
        payload = to_bytes(data)
        if len(payload) > MAX_CONTROL:
            raise ValueError(f"a control frame has at most {MAX_CONTROL} bytes, not {len(payload)}")
        self._act({"do": kind}, payload)

    def close_handshake(self, code: int = CloseCode.NORMAL_CLOSURE, text: str = "") -> None:
        """Close it in order. Raises InvalidCloseCodeError as `WebSocket.close_handshake`."""
        encode_close_body(code, text)
        self._closed = True
        self._act({"do": "close", "code": int(code), "text": text})

    def close(self) -> None:
        """End it at once."""
        self._closed = True
        self._act({"do": "end"})

    def _act(self, header: dict[str, Any], data: bytes = b"") -> None:
        self._bus.send("act", pack({"to": self.number, **header}, data), to=self.process)

    def __repr__(self) -> str:
        return f"<RemoteConnection {self.number} in {self.process}>"


class Remote:
    """Sends messages of a server to its other processes, and answers theirs."""

    def __init__(
        self, bus: Bus, loop: Loop, owner: object, fanout: Fanout, subscriptions: Subscriptions, publisher: Publisher
    ) -> None:
        self.bus = bus
        self._loop = loop
        self._owner = owner
        self._fanout = fanout
        self._subscriptions = subscriptions
        self._everybody = Audience(loop, owner)
        self._numbers = Numbers(loop)
        publisher.join(bus.name, self._numbers.find)
        bus.handle("broadcast", self._broadcast)
        bus.handle("topics", self._topics)
        bus.handle("subscribers", self._subscribers)
        bus.handle("act", self._act)
        bus.handle("connections", self._connections)
        bus.handle("count", self._count)
        bus.handle("address", self._address)

    def broadcast(self, message: PreparedMessage, group: str | None, exclude: object) -> None:
        """Have the other processes send `message` to their connections. Any thread. ValueError for more than 16 MiB."""
        header = self._header(message, exclude)
        header["group"] = group
        self.bus.send("broadcast", pack(header, message.data))

    def _header(self, message: PreparedMessage, exclude: object) -> dict[str, Any]:
        header: dict[str, Any] = {"opcode": message.opcode, "compress": message.compress}
        if message.key is not None:
            header["key"] = pack_key(message.key)
        if isinstance(exclude, RemoteConnection):  # others than its process do not know the number
            header["exclude"] = [exclude.process, exclude.number]
        return header

    def topics(self) -> dict[str, int]:
        """Return by topic or pattern how many connections of the other processes have subscribed to it. Waits a second
        at most."""
        counts: Counter[str] = Counter()
        for answer in self.bus.ask("topics", timeout=ASK_TIMEOUT).values():
            counts.update(json.loads(answer))
        return dict(counts)

    def subscribers(self, topic: str) -> int:
        """Return how many connections of other processes get what is published to `topic`. Waits a second at most."""
        answers = self.bus.ask("subscribers", topic.encode(), ASK_TIMEOUT)
        return sum(int(answer) for answer in answers.values())

    def connections(self) -> list[RemoteConnection]:
        """Return the open WebSockets of the other processes. Waits a second at most."""
        return [
            RemoteConnection(self.bus, process, number, subprotocol, group)
            for process, answer in sorted(self.bus.ask("connections", timeout=ASK_TIMEOUT).items())
            for subprotocol, group, numbers in json.loads(answer)
            for number in numbers
        ]

    def count(self) -> int:
        """Return how many open WebSockets the other processes have. Waits a second at most."""
        return sum(int(answer) for answer in self.bus.ask("count", timeout=ASK_TIMEOUT).values())

    # ------------------------------------------------------------------ bus thread

    def _broadcast(self, sender: str, packet: bytes) -> None:
        header, data = unpack(packet)
        message = PreparedMessage(header["opcode"], data, header["compress"], unpack_key(header.get("key")))
        everybody = Audience(self._loop, self._owner, header["group"])
        self._send(sender, header, partial(self._fanout.send, message, everybody))

    def _send(self, sender: str, header: dict[str, Any], send: Callable[[WebSocket | None], object]) -> None:
        """Send what another process sends to many, but not to the connection of ours that the header excludes."""
        process, number = header.get("exclude", ("", 0))
        exclude = self._numbers.find(number) if process == self.bus.name else None
        try:
            send(exclude)
        except LoopClosedError:  # this server has stopped
            pass
        except QueueFullError as error:
            logger.error("a message of process %s to many is lost here: %s", sender, error)

    def _topics(self, sender: str, packet: bytes) -> bytes:
        return json.dumps(self._subscriptions.counts(), separators=(",", ":")).encode()

    def _subscribers(self, sender: str, packet: bytes) -> bytes:
        return b"%d" % self._subscriptions.count(packet.decode())

    def _act(self, sender: str, packet: bytes) -> None:
        header, data = unpack(packet)
        ws = self._numbers.find(header["to"])
        if ws is None:
            return
        try:
            if header["do"] == "write":
                key = unpack_key(header.get("key"))
                ws.send_prepared(PreparedMessage(header["opcode"], data, header["compress"], key))
            elif header["do"] == "ping":
                ws.write_ping(data)
            elif header["do"] == "pong":
                ws.write_pong(data)
            elif header["do"] == "close":
                ws.close_handshake(header["code"], header["text"])
            else:
                ws.close()
        except GowsError as error:  # it has just ended
            logger.debug("%r: %s", ws, error)

    def _connections(self, sender: str, packet: bytes) -> bytes:
        """Return a list for each kind of connection: its subprotocol, its group, the numbers."""
        found: dict[tuple[str | None, str], list[int]] = {}
        for fd, ws in enumerate(self._everybody):
            if ws is not None and not ws.closed:
                found.setdefault((ws.subprotocol, ws.group), []).append(self._numbers.give(fd, ws))
        return json.dumps([[*kind, numbers] for kind, numbers in found.items()], separators=(",", ":")).encode()

    def _count(self, sender: str, packet: bytes) -> bytes:
        return b"%d" % len(self._everybody.members())

    def _address(self, sender: str, packet: bytes) -> bytes:
        ws = self._numbers.find(int(packet))
        return json.dumps(None if ws is None else ws.remote_addr).encode()


class Numbers:
    """Gives numbers to connections of a loop, and finds those that have one. Any thread."""

    def __init__(self, loop: Loop) -> None:
        self._lock = inner_lock("connection numbers")  # a finaliser or a signal handler may come amid it, and publish
        self._loop = loop
        self._known: list[ref[WebSocket] | None] = []  # by descriptor: who was seen there last
        self._seen: list[int] = []  # … and how many before

    def give(self, fd: int, ws: WebSocket) -> int:
        """Return the number of `ws`, which has this descriptor."""
        with self._lock:
            known, seen = self._known, self._seen
            if fd >= len(known):
                more = fd + 64 - len(known)
                known.extend([None] * more)
                seen.extend([0] * more)
            last = known[fd]
            if last is None or last() is not ws:
                known[fd] = ref(ws)
                seen[fd] += 1
            return seen[fd] << _DESCRIPTOR_BITS | fd

    def find(self, number: int) -> WebSocket | None:
        """Return the connection with a number; None: it has ended."""
        fd = number & (1 << _DESCRIPTOR_BITS) - 1
        with self._lock:
            if fd >= len(self._known) or self._seen[fd] != number >> _DESCRIPTOR_BITS:
                return None
            last = self._known[fd]
        ws = None if last is None else last()
        stream = None if ws is None else self._loop.streams[fd]
        return ws if isinstance(stream, Stream) and stream.observer is ws else None
