"""Many threads on the same streams, beside a running loop: whatever happens, the rules hold."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable
from functools import partial

import pytest

from gows.reactor import Loop, Stream
from tests.support.fakes import World
from tests.support.reactor_bench import Peer, tcp_pair
from tests.support.recorder import Acceptor, Recorder, echo
from tests.support.waiting import wait_until


def torment(streams: list[Stream], seed: int) -> None:
    """Everything that any thread may do, in any order."""
    chance = random.Random(seed)
    for _ in range(200):
        stream = chance.choice(streams)
        action = chance.randrange(12)
        if action < 5:
            stream.write(b"x" * chance.choice([1, 100, 30_000]))
        elif action == 5:
            stream.flush()
        elif action == 6:
            stream.cork()
        elif action == 7:
            stream.uncork()
        elif action == 8:
            stream.pause_reading()
        elif action == 9:
            stream.resume_reading()
        elif action == 10 and chance.random() < 0.1:
            ends: list[Callable[[], object]] = [stream.close, stream.abort, stream.shutdown_write]
            chance.choice(ends)()
        else:
            assert stream.queued >= 0
            assert stream.stalled_for() >= 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_each_stream_ends_once_and_nothing_is_left(poller_name: str, seed: int) -> None:
    with Loop(poller=poller_name, workers=0) as loop:
        loop.start()
        recorders, streams, peers = [], [], []
        for _ in range(8):
            one, other = tcp_pair()
            recorder = Recorder()
            recorder.stream = loop.adopt(one, recorder)
            recorders.append(recorder)
            streams.append(recorder.stream)
            peers.append(Peer(other))
        threads = [threading.Thread(target=torment, args=(streams, seed * 10 + number)) for number in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for peer in peers:
                peer.read(100_000)
                if not peer.eof and not peer.reset:
                    with contextlib.suppress(ConnectionError):
                        peer.send(b"y")
        for thread in threads:
            thread.join()
        for stream in streams:
            stream.close()

        def over() -> bool:
            for peer in peers:
                if peer.sock.fileno() >= 0:
                    peer.read()
                    if peer.eof or peer.reset:
                        peer.close()
            return all(recorder.lost for recorder in recorders)

        wait_until(over)
        assert all(recorder.calls.count("connection_lost") == 1 for recorder in recorders)
        assert all(stream.queued == 0 for stream in streams)
        for peer in peers:
            peer.close()


def test_bytes_of_several_threads_arrive_whole_while_reading_stops_and_goes(poller_name: str) -> None:
    with Loop(poller=poller_name, workers=0) as loop:
        loop.start()
        one, other = tcp_pair(buffer_size=8192)
        other.setblocking(True)
        other.settimeout(10)
        recorder = Recorder()
        stream = loop.adopt(one, recorder)

        def write(number: int) -> None:
            for _ in range(100):
                stream.cork()
                stream.write(bytes([number]) * 1000)
                stream.uncork()

        def stop_and_go() -> None:
            for _ in range(200):
                stream.pause_reading()
                stream.resume_reading()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        threads.append(threading.Thread(target=stop_and_go))
        threads.append(threading.Thread(target=other.sendall, args=(b"z" * 300_000,)))
        for thread in threads:
            thread.start()
        received = bytearray()
        while len(received) < 4 * 100 * 1000:
            received += other.recv(65536)
        for thread in threads:
            thread.join()
        assert all(len(set(received[i : i + 1000])) == 1 for i in range(0, len(received), 1000))
        wait_until(lambda: len(recorder.data) == 300_000)
        other.close()


@pytest.mark.slow
def test_two_hundred_conversations_with_latency() -> None:
    """In virtual time: connect, talk, half-close, hear the rest, close; each complete and told once of everything."""
    world = World(latency=0.05, buffer_size=4096)
    server, client_loop = world.loop(max_events=64), world.loop(max_events=64)
    acceptor = Acceptor(echo)
    server.listen("10.0.0.1:80", acceptor)
    chance = random.Random(1)
    clients = []
    for number in range(200):
        client = Recorder()
        client.stream = client_loop.connect("10.0.0.1:80", client)
        client.on("eof_received", client.stream.close)
        message = b"%d " % number * chance.randrange(1, 500)
        client.stream.write(message)
        client.stream.shutdown_write()
        clients.append((client, message))
    world.run_until(lambda: all(client.lost for client, _ in clients))
    world.run_for(1)
    for client, message in clients:
        assert client.data == message
        assert client.error is None
        assert [call for call in client.calls if call not in ("blocked", "drained")] == [
            "connected",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
    assert len(acceptor.recorders) == 200
    assert all(recorder.lost and recorder.error is None for recorder in acceptor.recorders)
    world.close()


def test_starting_and_stopping_while_others_come() -> None:
    acceptor = Acceptor(echo)
    for _ in range(5):
        with Loop(workers=0) as loop:
            listener = loop.listen("127.0.0.1:0", acceptor)
            loop.start()
            assert isinstance(listener.address, tuple)
            address = listener.address
            stop = threading.Event()

            def come(address: tuple[str, int] = address, stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    try:
                        with socket.create_connection(address, timeout=1) as client:
                            client.sendall(b"x")
                            client.recv(1)
                    except OSError:
                        return

            threads = [threading.Thread(target=come) for _ in range(3)]
            for thread in threads:
                thread.start()
            came = len(acceptor.recorders)
            wait_until(partial(acceptor.has, came + 11))
            loop.close()
            stop.set()
            for thread in threads:
                thread.join()
    assert all(recorder.lost for recorder in acceptor.recorders)
