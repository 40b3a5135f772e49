"""What streams do as time goes by: in virtual time, so that minutes take no time and nothing depends on the machine."""

from __future__ import annotations

import pytest

from gows.reactor import WRITE, Loop, Stream
from tests.support.fakes import World
from tests.support.reactor_bench import Peer
from tests.support.recorder import Recorder

BIG = bytes(1 << 20)


def connect(world: World, loop: Loop, recorder: Recorder) -> tuple[Stream, Peer]:
    one, other = world.network.pair()
    stream = recorder.stream = loop.adopt(one, recorder)  # type: ignore[arg-type]
    world.run_for(0)
    return stream, Peer(other)


def test_a_deadline_comes_once_and_not_early(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    start = world.clock()
    stream.set_deadline(3.21)
    world.run_until(lambda: recorder.calls)
    assert 3.21 <= world.clock() - start <= 3.41
    world.run_for(60)
    assert recorder.calls == ["deadline_reached"]
    peer.close()


def test_a_deadline_that_is_called_off(world: World) -> None:
    recorder = Recorder()
    stream, _ = connect(world, world.loop(), recorder)
    stream.set_deadline(3)
    stream.set_deadline(None)
    world.run_for(60)
    assert recorder.calls == []


def test_a_deadline_that_is_moved(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    start = world.clock()
    for seconds in (5, 50, 2, 20, 10):
        stream.set_deadline(seconds)
    world.run_until(lambda: recorder.calls)
    assert 10 <= world.clock() - start <= 10.2
    peer.close()


def test_a_deadline_that_is_set_again_when_it_comes(world: World) -> None:
    recorder = Recorder()
    loop = world.loop()
    stream, peer = connect(world, loop, recorder)
    times: list[float] = []

    def again() -> None:
        times.append(world.clock())
        stream.set_deadline(30)

    recorder.on("deadline_reached", again)
    stream.set_deadline(30)
    start = world.clock()
    world.run_for(3600)
    assert len(times) in (119, 120)
    assert all(30 <= later - earlier <= 30.2 for earlier, later in zip([start, *times], times, strict=False))
    peer.close()


def test_a_deadline_of_no_time_does_not_spin(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    recorder.on("deadline_reached", lambda: stream.set_deadline(0))
    stream.set_deadline(0)
    world.run_for(1)
    assert 9 <= len(recorder.calls) <= 11
    peer.close()


def test_an_early_deadline_of_a_stream_that_is_gone_is_not_its_successors(world: World) -> None:
    loop = world.loop()
    first, second = Recorder(), Recorder()
    stream, peer = connect(world, loop, first)
    stream.set_deadline(5)
    assert stream.sock is not None
    number = stream.sock.fileno()
    stream.abort()
    world.run_until(lambda: first.lost)
    peer.close()
    successor, peer = connect(world, loop, second)
    assert successor.sock is not None
    assert successor.sock.fileno() == number
    successor.set_deadline(20)
    world.run_for(19)
    assert second.calls == []
    world.run_until(lambda: second.calls)
    peer.close()


def test_a_deadline_set_before_the_stream_is_taken_in(world: World) -> None:
    recorder = Recorder()
    loop = world.loop()
    one, other = world.network.pair()
    stream = loop.adopt(one, recorder)  # type: ignore[arg-type]
    stream.set_deadline(2)
    world.run_until(lambda: recorder.calls)
    assert recorder.calls == ["deadline_reached"]
    other.close()


def test_raising_at_a_deadline(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    recorder.on("deadline_reached", lambda: 1 / 0)
    stream.set_deadline(1)
    world.run_until(lambda: recorder.lost)
    assert isinstance(recorder.error, ZeroDivisionError)
    peer.close()


def test_silence_is_counted_from_the_last_byte(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    world.run_for(10)
    assert 9.9 <= stream.silent_for() <= 10.1
    peer.send(b"x")
    world.run_for(3)
    assert 2.9 <= stream.silent_for() <= 3.1
    peer.close()


def test_a_queue_stalls_while_the_peer_takes_nothing(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    world.run_for(100)
    stream.cork()
    stream.write(BIG)
    world.run_for(5)
    assert stream.stalled_for() == 0.0, "it is not the peer that it waits for"
    stream.uncork()
    world.run_for(0)
    assert stream.stalled_for() == 0.0
    world.run_for(7)
    assert 6.9 <= stream.stalled_for() <= 7.1
    peer.read(1000)
    world.run_for(0)
    assert stream.stalled_for() <= 0.1, "a little is progress"
    world.run_for(4)
    assert 3.9 <= stream.stalled_for() <= 4.1
    world.run_until(peer.got(BIG))
    assert stream.stalled_for() == 0.0


def test_over_the_mark_while_blocked_and_sent_in_one_go_is_drained(world: World) -> None:
    """Somebody was refused meanwhile, and waits to hear that he may go on."""
    recorder = Recorder(high_water=100, low_water=0)
    stream, peer = connect(world, world.loop(), recorder)
    stream.write(bytes(65536))
    world.run_for(0)
    stream.write(bytes(50))
    world.run_for(0)
    assert recorder.calls == ["blocked"]
    stream.write(bytes(100))
    peer.read()
    world.run_for(0)
    assert stream.queued == 0
    assert recorder.calls == ["blocked", "drained"]


def test_a_false_alarm_is_no_progress(world: World) -> None:
    recorder = Recorder()
    stream, _ = connect(world, world.loop(), recorder)
    stream.write(BIG)
    world.run_for(5)
    stream.on_event(WRITE, bytearray(10), 0)
    assert stream.stalled_for() >= 4.8


def test_close_gives_up_on_a_peer_that_takes_nothing(world: World) -> None:
    recorder = Recorder()
    loop = world.loop()
    stream, peer = connect(world, loop, recorder)
    stream.write(BIG)
    stream.close()
    start = world.clock()
    world.run_until(lambda: recorder.lost)
    assert 5.0 <= world.clock() - start <= 5.2
    assert isinstance(recorder.error, TimeoutError)
    assert peer.was_reset()
    assert recorder.calls == ["connection_lost"]


@pytest.mark.parametrize("buffer_size", [1000, 65536, 1 << 21], ids=["queue", "both", "kernel"])
def test_close_waits_for_a_peer_that_takes_steadily(buffer_size: int) -> None:
    """However long that takes, and wherever the rest lies; the peer may say something meanwhile."""
    world = World(buffer_size=buffer_size, wakes_at=0.3)
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    stream.write(BIG)
    stream.close()
    while len(peer.data) < len(BIG):
        peer.sock.send(b"x")
        for _ in range(20):
            peer.read(1000)
            world.run_for(0)
        assert not peer.reset, f"after {len(peer.data)} bytes"
        world.run_for(1)
    world.run_until(peer.finished)
    assert peer.data == BIG
    peer.close()
    world.run_until(lambda: recorder.lost)
    assert recorder.error is None
    world.close()


@pytest.mark.parametrize("buffer_size", [65536, 1 << 21], ids=["queue", "kernel"])
def test_close_gives_up_on_a_peer_that_takes_a_byte_now_and_then(buffer_size: int) -> None:
    world = World(buffer_size=buffer_size)
    recorder = Recorder()
    loop = world.loop()
    stream, peer = connect(world, loop, recorder)
    stream.write(BIG)
    stream.close()
    start = world.clock()
    while not recorder.lost:
        peer.read(100)
        world.run_for(0.5)
        assert world.clock() < start + 6
    assert isinstance(recorder.error, TimeoutError) == (buffer_size < len(BIG))
    peer.close()
    world.close()


def test_looks_at_the_kernels_buffer_are_forgotten(world: World) -> None:
    recorder = Recorder()
    loop = world.loop()
    stream, peer = connect(world, loop, recorder)
    stream.write(BIG)
    world.run_for(5)
    loop.progress.look(stream)
    stream.close()
    world.run_until(lambda: recorder.lost)
    assert loop.progress.last(stream) is None
    loop.progress.forget(stream)
    peer.close()


def test_the_kernel_takes_no_more_for_long_while_the_peer_reads_on() -> None:
    """As Linux does, which says that there is room when a third is free."""
    world = World(buffer_size=65536, wakes_at=0.3)
    loop = world.loop()
    stream, peer = connect(world, loop, Recorder())
    stream.write(BIG)
    world.run_for(1)
    loop.progress.look(stream)
    assert stream.stalled_for() >= 0.9, "there was nothing to compare with yet"
    peer.read(1000)
    world.run_for(1)
    loop.progress.look(stream)
    assert stream.stalled_for() == 0.0
    world.run_for(3)
    loop.progress.look(stream)
    assert 2.9 <= stream.stalled_for() <= 3.1
    peer.close()
    world.close()


def test_close_does_not_wait_for_ever_for_the_peers_end(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    stream.write(b"goodbye")
    stream.close()
    start = world.clock()
    world.run_until(lambda: recorder.lost)
    assert 2.0 <= world.clock() - start <= 2.2
    assert recorder.error is None
    assert peer.finished()
    assert peer.data == b"goodbye"


def test_a_deadline_of_the_observers_does_not_prolong_the_close(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    stream.set_deadline(1000)
    stream.close()
    stream.set_deadline(1000)
    world.run_until(lambda: recorder.lost, limit=3)
    peer.close()


def test_a_deadline_from_before_the_close_does_not_cut_it_short(world: World) -> None:
    """Another thread closes in the very turn in which the observer's deadline comes."""
    recorder = Recorder()
    loop = world.loop()
    stream, peer = connect(world, loop, recorder)
    stream.set_deadline(1)
    world.clock.advance(1.05)
    loop.call_soon(lambda: None)
    stream.write(b"goodbye")
    stream.close()
    world.clock.advance(0.5)
    world.run_until(peer.finished)
    assert peer.data == b"goodbye"
    peer.close()
    world.run_until(lambda: recorder.lost)
    assert recorder.calls == ["connection_lost"]


def test_the_peers_end_does_not_prolong_a_close(world: World) -> None:
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    stream.write(BIG)
    stream.close()
    start = world.clock()
    world.run_for(4)
    peer.end()
    world.run_until(lambda: recorder.lost)
    assert 5.0 <= world.clock() - start <= 5.3
    assert isinstance(recorder.error, TimeoutError)


def test_a_peer_behind_a_dead_line(world: World) -> None:
    """Nothing arrives and nobody is told: the observer's deadline ends it."""
    recorder = Recorder()
    stream, peer = connect(world, world.loop(), recorder)
    peer.sock.partition()
    recorder.on("deadline_reached", stream.abort)
    stream.write(b"ping")
    stream.set_deadline(20)
    world.run_until(lambda: recorder.lost)
    assert recorder.calls == ["deadline_reached", "connection_lost"]
    peer.close()


def test_thousands_of_deadlines_at_one_tick_are_spread_over_turns(world: World) -> None:
    loop = world.loop()
    recorders = []
    peers = []
    for _ in range(2000):
        recorder = Recorder()
        one, other = world.network.pair()
        recorder.stream = loop.adopt(one, recorder)  # type: ignore[arg-type]
        recorders.append(recorder)
        peers.append(other)
    world.run_for(0)
    for recorder in recorders:
        assert recorder.stream is not None
        recorder.stream.set_deadline(1)
    world.clock.advance(1.1)
    per_turn = []
    while not all(recorder.calls for recorder in recorders):
        before = sum(len(recorder.calls) for recorder in recorders)
        world.turn()
        per_turn.append(sum(len(recorder.calls) for recorder in recorders) - before)
    assert per_turn == [512, 512, 512, 464]
