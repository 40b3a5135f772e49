"""What `bench.micro` counts the instructions of: operations of the codec, and whole turns of a loop.

Before and after each, the process calls getpgid(2), which nothing else here does: that is where valgrind is told to
begin a new count. Names and numbers of messages go to standard output.
"""

from __future__ import annotations

import gc
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gows
from gows.commands.echo import Echo
from gows.protocol.connection import TEXT, Connection, ConnectionConfig, Role
from gows.protocol.frames import encode_frame
from gows.protocol.masking import mask
from gows.protocol.utf8 import is_utf8
from gows.reactor import Loop
from gows.session.context import MAX_PORTION

Operation = Callable[[], object]

KEY = b"\x1e\xc4\x03\x99"
HOLES = [1 << power for power in range(16, 8, -1)]
SPACERS = 1000, 41_000, 81_000
TEXT_32 = "x" * 32
KANA_1K = ("あいうえお" * 70)[:341].encode()
BINARY_16K = bytes(range(256)) * 64
HEAD = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def masked(payload: bytes, opcode: int = TEXT) -> bytes:
    """A frame as clients send it."""
    return encode_frame(opcode, payload, key=KEY)


def split(data: bytes, size: int) -> list[bytes]:
    """Pieces of so many bytes, the last one of what is left."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def receiving(*reads: bytes) -> Operation:
    """A server's connection is given these bytes, read by read; what it makes of them is thrown away."""
    connection = Connection(ConnectionConfig(Role.SERVER, portion=MAX_PORTION))
    buffers = [bytearray(read) for read in reads]

    def receive() -> None:
        for buffer in buffers:
            events: list[tuple[int, object]] = []
            connection.receive(buffer, len(buffer), events)

    return receive


def receiving_one(read: bytes) -> Operation:
    """The same by the short way."""
    connection = Connection(ConnectionConfig(Role.SERVER, portion=MAX_PORTION))
    buffer = bytearray(read)

    def receive() -> None:
        if connection.receive_one(buffer, 0, len(buffer)) is None:
            raise AssertionError("the short way was not taken")

    return receive


@contextmanager
def echoing(messages: int, size: int) -> Iterator[Operation]:
    """A loop with one connection, whose callbacks run in it: the peer sends, one turn answers, the peer reads."""
    theirs, ours = socket.socketpair()
    read = masked(b"x" * size) * messages
    answer = bytearray(len(read))
    with Loop(workers=0) as loop, theirs:
        gows.accept((ours, HEAD), loop=loop).serve(Echo())
        while loop.run_once(0):
            pass
        assert theirs.recv(4096).startswith(b"HTTP/1.1 101")

        def echo() -> None:
            theirs.send(read)
            loop.run_once(0)
            theirs.recv_into(answer)

        for _ in range(3):
            echo()
        assert answer.count(b"x" * size) == messages
        yield echo


@contextmanager
def visited() -> Iterator[Operation]:
    """A server whose callbacks run in its loop: a guest connects, is upgraded by a route, and leaves without a word."""
    with Loop(workers=0) as loop:
        server = gows.Server(loop=loop)
        server.add_route("/", lambda request: gows.accept(request).serve(Echo()))
        listener = server.add_listener(("127.0.0.1", 0))
        address = listener.address
        assert isinstance(address, tuple)

        def visit() -> None:
            with socket.create_connection(address) as guest:
                guest.send(HEAD)
                while not select.select([guest], [], [], 0)[0]:
                    loop.run_once(0)
                guest.recv(4096)
            while loop.live_streams:
                loop.run_once(0)

        yield visit
        server.drop_listener(listener)


@contextmanager
def operations() -> Iterator[dict[str, tuple[Operation, int]]]:
    """By name: what to call, and how many messages one call is."""
    server, client = (Connection(ConnectionConfig(role, portion=MAX_PORTION)) for role in (Role.SERVER, Role.CLIENT))
    pieces = masked(BINARY_16K, 2)
    text = TEXT_32.encode()
    with echoing(1, 32) as echo_one, echoing(16, 32) as echo_many, visited() as visit:
        yield {
            "receive a text of 32 B": (receiving_one(masked(text)), 1),
            "receive 16 texts of 32 B in a read": (receiving(masked(text) * 16), 16),
            "receive a text of 1 KiB, no ASCII": (receiving(masked(KANA_1K)), 1),
            "receive 16 KiB in a read": (receiving(pieces), 1),
            "receive 16 KiB in 4 reads": (receiving(*split(pieces, 4200)), 1),
            "receive a text of 32 B in 2 fragments": (
                receiving(encode_frame(TEXT, text[:16], fin=False, key=KEY) + encode_frame(0, text[16:], key=KEY)),
                1,
            ),
            "receive a ping": (receiving(masked(b"12345678", 9)), 1),
            "send a str of 32 B": (lambda: server.encode_text(TEXT_32), 1),
            "send 32 B": (lambda: server.encode_message(TEXT, text), 1),
            "send 16 KiB": (lambda: server.encode_message(2, BINARY_16K), 1),
            "send 32 B, masked": (lambda: client.encode_message(TEXT, text), 1),
            "mask 16 KiB": (lambda: mask(BINARY_16K, KEY), 1),
            "check 1 KiB of UTF-8": (lambda: is_utf8(KANA_1K), 1),
            "a turn that echoes 32 B": (echo_one, 1),
            "a turn that echoes 16 of 32 B": (echo_many, 16),
            "a connection, upgraded and lost": (visit, 1),
        }


def fill_holes() -> list[bytes]:
    """Take what is free between the heap's blocks: what is allocated while the result is held lies behind them all.

    Whether a block that grows is copied, and how long the allocator searches, depends on the holes that came before:
    on the length of a path, or on whether modules were imported from source. Blocks of 512 B or less are pymalloc's.
    """
    return [bytes(size) for size in HOLES for _ in range(64)]


def run(warm_up: int = 50, times: int = 200) -> None:
    """Run them all, between marks: each a few times, with the heap's end elsewhere each time, since a block there may
    grow in place or be given back to the system again and again. Who reads the counts takes the smallest."""
    held = []
    with operations() as known:
        gc.collect()
        gc.disable()
        for name, (operation, messages) in known.items():
            for spacer in SPACERS:
                held.append([*fill_holes(), bytes(spacer)])
                for _ in range(warm_up):
                    operation()
                os.getpgid(0)
                for _ in range(times):
                    operation()
                os.getpgid(0)
                print(f"{times * messages}\t{name}", flush=True)


if __name__ == "__main__":
    run()
