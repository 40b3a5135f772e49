"""Streams: the same outcome over every selector, on real TCP and in memory. What takes seconds is in
test_stream_times.py."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from typing import Any

import pytest

from gows.reactor import Stream
from gows.reactor.stream import JOIN_SIZE, drop_sent, join_small
from tests.support.fakes.lock import MeddlingLock
from tests.support.reactor_bench import Bench, Peer
from tests.support.recorder import Recorder

BIG = bytes(range(256)) * 4096  # 1 MiB: more than any socket buffer of these tests


# ---------------------------------------------------------------------- reading


def test_bytes_come_in(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    peer.send(b"hello")
    bench.until(lambda: recorder.data == b"hello")
    assert recorder.calls == ["data_received"]
    assert stream.silent_for() == 0.0


def test_a_turn_reads_once_and_the_next_goes_on(bench: Bench) -> None:
    """However much has come, the others get their turn too."""
    bench.loop.scratch = bytearray(1000)
    recorder = Recorder()
    _, peer = bench.connect(recorder)
    sizes: list[int] = []
    recorder.on("data_received", lambda: sizes.append(len(recorder.data)))
    peer.send(b"x" * 2500)
    bench.until(lambda: len(recorder.data) == 2500)
    assert sizes == [1000, 2000, 2500]


def test_end_of_file_is_told_once_and_writing_goes_on(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    peer.send(b"question")
    peer.end()
    bench.until(lambda: "eof_received" in recorder.calls)
    bench.settle()
    stream.write(b"answer")
    bench.until(peer.got(b"answer"))
    assert recorder.calls == ["data_received", "eof_received"]
    assert recorder.data == b"question"


def test_a_paused_stream_gets_nothing_until_it_is_resumed(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.pause_reading()
    stream.pause_reading()
    peer.send(b"one")
    bench.settle()
    peer.send(b"two")
    bench.settle()
    assert recorder.calls == []
    stream.resume_reading()
    stream.resume_reading()
    bench.until(lambda: recorder.data == b"onetwo")


def test_pause_within_data_received_holds_at_once(bench: Bench) -> None:
    bench.loop.scratch = bytearray(4)
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    recorder.on("data_received", stream.pause_reading)
    peer.send(b"12345678")
    bench.settle()
    assert recorder.data == b"1234"
    stream.resume_reading()
    bench.until(lambda: recorder.data == b"12345678")


def test_pause_and_resume_between_two_reads_change_nothing(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    bench.settle()
    stream.pause_reading()
    stream.resume_reading()
    peer.send(b"x")
    bench.until(lambda: recorder.data == b"x")


def test_end_of_file_waits_while_paused(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.pause_reading()
    peer.send(b"x")
    peer.end()
    bench.settle()
    assert recorder.calls == []
    stream.resume_reading()
    bench.until(lambda: "eof_received" in recorder.calls)
    assert recorder.data == b"x"


def test_another_thread_may_resume_while_the_loop_stops_watching(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    bench.settle()
    lock = stream.lock = MeddlingLock()
    stream.pause_reading()
    lock.before = stream.resume_reading  # the loop has found it paused, and goes on to the lock
    peer.send(b"x")
    bench.settle()
    lock.before = None
    bench.until(lambda: recorder.data == b"x")


def test_a_paused_stream_does_not_keep_the_loop_busy(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.pause_reading()
    peer.send(b"x")
    bench.settle()
    assert bench.loop.run_once(0) == 0


# ---------------------------------------------------------------------- writing


def test_small_writes_go_out_together(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    bench.settle()
    for part in (b"a", b"", b"b", b"c"):
        stream.write(part)
    assert stream.queued == 3
    assert not peer.read()
    bench.loop.run_once(0)
    assert stream.queued == 0
    peer.read()
    assert peer.data == b"abc"


def test_flush_sends_now(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    bench.settle()
    stream.flush()
    stream.write(b"now")
    stream.flush()
    peer.read()
    assert peer.data == b"now"


def test_a_corked_stream_only_queues(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    stream.cork()
    stream.write(b"one ")
    bench.settle()
    stream.write(b"two")
    bench.settle()
    assert not peer.read()
    stream.uncork()
    stream.uncork()
    peer.read()
    assert peer.data == b"one two"
    stream.write(b"!")
    bench.until(peer.got(b"one two!"))


def test_uncorked_for_the_end_of_the_turn(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    bench.settle()
    with stream.lock:
        stream.cork_locked()
        stream.uncork_later_locked()
        stream.cork_locked()
        stream.write_locked(b"later")
        stream.uncork_later_locked()
    assert not peer.read()
    bench.until(peer.got(b"later"))
    with stream.lock:
        stream.cork_locked()
        stream.write_locked(b" now")
        stream.uncork_locked()
    peer.read()
    assert peer.data == b"later now"


def test_written_before_and_corked_then(bench: Bench) -> None:
    """The turn's end leaves a corked stream alone, though it was marked to be flushed."""
    stream, peer = bench.connect(Recorder())
    stream.write(b"one ")
    stream.cork()
    bench.settle()
    assert not peer.read()
    stream.flush()
    peer.read()
    assert peer.data == b"one "
    stream.uncork()


@pytest.mark.parametrize("pieces", [1, 7, 100, 5000])
def test_more_than_the_kernel_takes_arrives_whole_and_in_order(bench: Bench, pieces: int) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    size = -(-len(BIG) // pieces)
    for start in range(0, len(BIG), size):
        stream.write(BIG[start : start + size])
    assert stream.queued == len(BIG)
    bench.settle()
    assert 0 < stream.queued < len(BIG)
    assert "blocked" in recorder.calls
    bench.until(peer.got(BIG))
    bench.settle()
    assert stream.queued == 0
    assert bench.loop.run_once(0) == 0, "WRITE is not watched for any more"


def test_small_and_big_pieces_mixed(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    sent = b""
    for number, size in enumerate([10, 40000, 3, 100, 200000, 32768, 5, 65536, 1] * 3):
        piece = bytes([number]) * size
        stream.write(piece)
        sent += piece
    bench.until(peer.got(sent))
    assert stream.queued == 0


def test_writes_while_blocked_wait_behind(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    stream.write(BIG)
    bench.settle()
    queued = stream.queued
    stream.write(b"tail")
    stream.flush()
    assert stream.queued == queued + 4
    bench.until(peer.got(BIG + b"tail"))


def test_drained_is_told_once_for_each_time_over_the_mark(bench: Bench) -> None:
    recorder = Recorder(high_water=100_000, low_water=20_000)
    stream, peer = bench.connect(recorder)
    queued_then: list[int] = []
    recorder.on("drained", lambda: queued_then.append(stream.queued))
    for total in (1, 2):
        stream.write(bytes(500_000))
        bench.until(peer.has(500_000 * total))
        bench.settle()
        assert recorder.calls.count("drained") == total
    assert max(queued_then) <= 20_000


def test_what_the_kernel_takes_at_once_was_never_over_the_mark(bench: Bench) -> None:
    recorder = Recorder(high_water=10, low_water=0)
    stream, peer = bench.connect(recorder)
    stream.write(b"0123456789")
    bench.until(peer.got(b"0123456789"))
    bench.settle()
    assert recorder.calls == []


def test_over_the_mark_only_while_it_was_blocked(bench: Bench) -> None:
    """Nothing is sent between two events: what was added in between may all go out with the next."""
    recorder = Recorder(high_water=2_500_000, low_water=0)
    stream, peer = bench.connect(recorder)
    stream.write(BIG)
    bench.settle()
    stream.write(BIG)
    bench.until(peer.got(BIG + BIG))
    bench.settle()
    assert recorder.calls == ["blocked"], "2 MiB were below the mark"
    recorder.high_water = 1_000_000
    stream.write(BIG)
    bench.settle()
    stream.write(BIG)
    bench.until(peer.got(BIG * 4))
    bench.settle()
    assert recorder.calls == ["blocked", "blocked", "drained"]


def test_drained_is_told_when_the_queue_is_lost(bench: Bench) -> None:
    """The peer reads no more, but what it sent is still to be read: whoever waits for room may be who reads it."""
    recorder = Recorder(high_water=1000, low_water=100)
    stream, peer = bench.connect(recorder)
    stream.write(BIG)
    bench.settle()

    class Broken:
        """The socket of `stream`, which cannot send any more."""

        def __init__(self, sock: Any) -> None:
            self._sock = sock

        def send(self, data: object) -> int:
            raise BrokenPipeError

        sendmsg = send

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    stream.sock = Broken(stream.sock)
    bench.until(lambda: (peer.read() or True) and "drained" in recorder.calls)
    assert stream.queued == 0
    peer.send(b"the last")
    bench.until(lambda: recorder.data == b"the last")


def test_what_may_change_is_copied(bench: Bench) -> None:
    """The scratch buffer above all."""
    stream, peer = bench.connect(Recorder())
    changing = bytearray(b"abc")
    stream.write(changing)
    stream.write(memoryview(changing)[:2])
    stream.write(b"")
    changing[:] = b"xyz"
    bench.until(peer.got(b"abcab"))


def test_what_are_no_bytes_is_refused_at_once(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError, match="bytes-like"):
            stream.write(wrong)  # type: ignore[arg-type]
    stream.write(b"fine")
    bench.until(peer.got(b"fine"))


def test_a_queue_that_cannot_be_sent_ends_its_connection_only(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    recorder, other = Recorder(), Recorder()
    stream, _ = bench.connect(recorder)
    _, peer = bench.connect(other)
    with stream.lock:
        stream.write_locked("not bytes")  # type: ignore[arg-type]
    peer.send(b"x")
    bench.until(lambda: recorder.lost and other.data == b"x")
    assert isinstance(recorder.error, (TypeError, AttributeError))
    assert "failed" in caplog.text


def test_an_event_without_anything_behind_it(bench: Bench) -> None:
    """Level-triggered or not, a poller may be wrong (select(2), BUGS)."""
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    bench.settle()
    stream.on_readable(bytearray(10), 1)
    stream.on_event(4, bytearray(10), 1)
    assert recorder.calls == []
    stream.close()
    bench.until(peer.finished)
    stream.on_readable(bytearray(10), 1)
    assert recorder.calls == []


def test_resuming_while_it_ends(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.pause_reading()
    peer.send(b"x")
    bench.settle()
    stream.resume_reading()
    stream.abort()
    bench.until(lambda: recorder.lost)
    assert recorder.calls == ["connection_lost"]
    stream.pause_reading()
    stream.resume_reading()


def test_frames_of_eight_threads_do_not_interleave(real_bench: Bench) -> None:
    bench = real_bench
    stream, peer = bench.connect(Recorder())
    bench.settle()

    def write(number: int) -> None:
        for _ in range(200):
            with stream.lock:
                stream.write_locked(bytes([number]) * 3)
                stream.write_locked(bytes([number]) * 4)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    bench.until(lambda: (peer.read() or True) and len(peer.data) == 8 * 200 * 7)
    for thread in threads:
        thread.join()
    frames = [peer.data[i : i + 7] for i in range(0, len(peer.data), 7)]
    assert all(len(set(frame)) == 1 for frame in frames)


def test_a_write_in_data_received_goes_out_in_the_same_turn(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    recorder.on("data_received", lambda: stream.write(b"answer"))
    bench.settle()
    peer.send(b"question")
    bench.loop.run_once(1)
    peer.read()
    assert peer.data == b"answer"


@pytest.mark.parametrize(("size", "corked", "queued"), [(511, False, 511), (512, False, 0), (512, True, 512)])
def test_a_large_write_in_data_received_goes_out_right_after_it(
    bench: Bench, size: int, corked: bool, queued: int
) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    recorder.on("data_received", lambda: stream.write(b"x" * size))
    bench.settle()
    if corked:
        stream.cork()
    peer.send(b"question")
    stream.on_readable(bench.loop.scratch, bench.loop.ticks)
    assert (bytes(recorder.data), stream.queued) == (b"question", queued)


# ---------------------------------------------------------------------- half-close, close, abort


def test_half_close_follows_what_is_queued_and_reading_goes_on(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.write(BIG)
    stream.shutdown_write()
    stream.shutdown_write()
    stream.write(b"dropped")
    bench.until(peer.finished)
    assert peer.data == BIG
    peer.send(b"still here")
    bench.until(lambda: recorder.data == b"still here")
    assert not stream.closed


def test_half_close_of_an_empty_queue(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    bench.settle()
    stream.shutdown_write()
    bench.until(peer.finished)


def test_close_sends_everything_first(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.write(BIG)
    stream.close()
    stream.close()
    assert stream.closed
    stream.write(b"dropped")
    bench.until(peer.finished)
    assert peer.data == BIG
    peer.close()
    bench.until(lambda: recorder.lost)
    assert [call for call in recorder.calls if call != "blocked"] == ["connection_lost"]
    assert recorder.error is None
    assert (stream.queued, stream.peer_address, stream.local_address) == (0, None, None)
    assert bench.loop.live_streams == 0


def test_close_of_a_corked_stream_sends_what_is_queued(bench: Bench) -> None:
    stream, peer = bench.connect(Recorder())
    stream.cork()
    stream.write(b"last")
    stream.close()
    bench.until(peer.finished)
    assert peer.data == b"last"


def test_close_waits_for_the_peers_end(bench: Bench) -> None:
    """What it still sends would otherwise be answered with RST, which destroys what it has not read yet."""
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.write(b"goodbye")
    stream.close()
    bench.settle()
    peer.send(b"unwanted")
    bench.settle()
    assert not recorder.lost
    bench.until(peer.finished)
    assert peer.data == b"goodbye"
    peer.end()
    bench.until(lambda: recorder.lost)
    assert recorder.calls == ["connection_lost"]
    assert not peer.reset


def test_close_with_bytes_unread_is_no_reset(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.pause_reading()
    peer.send(b"never wanted")
    bench.settle()
    stream.write(b"goodbye")
    stream.close()
    bench.until(peer.finished)
    assert peer.data == b"goodbye"
    peer.close()
    bench.until(lambda: recorder.lost)
    assert recorder.calls == ["connection_lost"]


def test_close_without_lingering_does_not_wait(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.write(b"goodbye")
    stream.close(linger=False)
    bench.until(lambda: recorder.lost)
    bench.until(peer.finished)
    assert peer.data == b"goodbye"


def test_close_after_the_peers_end_does_not_wait(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    recorder.on("eof_received", stream.close)
    peer.end()
    bench.until(lambda: recorder.lost)
    assert recorder.calls == ["eof_received", "connection_lost"]
    assert peer.finished()


def test_close_after_half_close(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.shutdown_write()
    bench.until(peer.finished)
    stream.close()
    bench.settle()
    assert not recorder.lost
    peer.close()
    bench.until(lambda: recorder.lost)


def test_a_peer_that_talks_on_after_our_end_is_cut_off(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.close()
    bench.until(peer.finished)

    def talk() -> bool:
        try:
            peer.send(bytes(65536))
        except OSError:
            pass
        return recorder.lost

    bench.until(talk)
    assert recorder.error is None


def test_abort_drops_the_queue_and_resets(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    bench.settle()
    stream.write(b"never sent")
    error = RuntimeError("why")
    stream.abort(error)
    stream.abort(RuntimeError("too late"))
    assert stream.closed
    assert stream.queued == 0
    bench.until(lambda: recorder.lost)
    assert recorder.error is error
    bench.until(peer.was_reset)
    assert peer.data == b""


def test_abort_overtakes_close(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.write(BIG)
    stream.close()
    stream.abort(ValueError("enough"))
    bench.until(lambda: recorder.lost)
    assert isinstance(recorder.error, ValueError)
    bench.until(peer.was_reset)


def test_everything_after_the_end_is_harmless(bench: Bench) -> None:
    recorder = Recorder()
    stream, _ = bench.connect(recorder)
    bench.settle()
    stream.abort()
    bench.until(lambda: recorder.lost)
    stream.write(b"x")
    stream.flush()
    stream.cork()
    stream.uncork()
    stream.pause_reading()
    stream.resume_reading()
    stream.set_deadline(1.0)
    stream.set_deadline(None)
    stream.shutdown_write()
    stream.close()
    stream.abort()
    bench.settle()
    assert recorder.calls == ["connection_lost"]
    assert (stream.queued, stream.stalled_for(), stream.deadline) == (0, 0.0, 0)


def test_nothing_follows_close_but_the_end(bench: Bench) -> None:
    """Whatever was on its way to the observer already."""
    recorder = Recorder(high_water=10, low_water=5)
    stream, peer = bench.connect(recorder)
    bench.settle()
    peer.send(b"data")
    peer.end()
    stream.write(BIG)
    stream.flush()  # owes blocked()
    stream.set_deadline(0.1)
    stream.close()
    bench.until(lambda: (peer.read() or True) and recorder.lost)
    assert recorder.calls == ["connection_lost"]


def test_the_addresses_are_known_until_the_end(bench: Bench) -> None:
    recorder = Recorder()
    stream, _ = bench.connect(recorder)
    seen: list[Any] = []
    recorder.on("connection_lost", lambda: seen.extend([stream.local_address, stream.peer_address]))
    addresses = [stream.local_address, stream.peer_address]
    assert all(isinstance(address, tuple) and len(address) == 2 for address in addresses)
    stream.abort()
    bench.until(lambda: recorder.lost)
    assert seen == addresses


def test_the_stream_lets_go_of_its_owner(bench: Bench) -> None:
    recorder = Recorder()
    stream, _ = bench.connect(recorder)
    bench.settle()
    gone = weakref.ref(recorder)
    stream.abort()
    bench.until(lambda: stream.sock is not None and stream.sock.fileno() < 0)
    del recorder
    assert gone() is None


# ---------------------------------------------------------------------- faults


def test_reset_while_idle(bench: Bench) -> None:
    recorder = Recorder()
    _, peer = bench.connect(recorder)
    bench.settle()
    peer.abort()
    bench.until(lambda: recorder.lost)
    assert recorder.calls == ["connection_lost"]
    assert isinstance(recorder.error, ConnectionResetError)


def test_reset_while_the_queue_is_blocked(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.write(BIG)
    bench.settle()
    peer.abort()
    bench.until(lambda: recorder.lost)
    assert isinstance(recorder.error, ConnectionError)
    assert stream.queued == 0


def test_reset_while_blocked_and_paused(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.pause_reading()
    stream.write(BIG)
    bench.settle()
    peer.send(b"x")
    bench.settle()
    peer.abort()
    bench.until(lambda: recorder.lost)
    assert isinstance(recorder.error, ConnectionError)


def test_reset_while_paused_is_found_by_the_next_write(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.pause_reading()
    peer.send(b"x")
    bench.settle()
    peer.abort()
    bench.settle()
    stream.write(b"y")
    bench.until(lambda: recorder.lost)
    assert isinstance(recorder.error, ConnectionError)


def test_reset_while_closing(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.write(BIG)
    stream.close()
    bench.settle()
    peer.abort()
    bench.until(lambda: recorder.lost)
    assert isinstance(recorder.error, ConnectionError), "something was lost"


def test_a_last_send_that_fails_says_why(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    bench.settle()
    stream.pause_reading()
    peer.send(b"x")
    bench.settle()  # nothing is watched for any more: it is the send that finds out
    peer.abort()
    stream.cork()
    stream.write(b"goodbye")
    stream.close()
    bench.until(lambda: recorder.lost)
    assert isinstance(recorder.error, ConnectionError)


def test_reset_while_lingering(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.write(b"goodbye")
    stream.close()
    bench.until(peer.finished)
    peer.abort()
    bench.until(lambda: recorder.lost)
    assert recorder.error is None, "everything had been delivered"


def test_reset_after_half_close(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    stream.shutdown_write()
    bench.until(peer.finished)
    peer.abort()
    bench.until(lambda: recorder.lost)
    assert isinstance(recorder.error, ConnectionResetError)


def test_reset_before_half_close(bench: Bench) -> None:
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    bench.settle()
    stream.pause_reading()
    peer.abort()
    stream.shutdown_write()
    stream.close()
    bench.until(lambda: recorder.lost)


def test_what_the_peer_said_before_it_left_is_still_heard(bench: Bench) -> None:
    """It closes with our bytes unread, so that our next send fails; its last words wait in our buffer."""
    recorder = Recorder()
    stream, peer = bench.connect(recorder)
    bench.settle()
    peer.send(b"last words")
    peer.close()
    stream.write(b"to nobody")
    stream.flush()
    stream.write(b"to nobody")
    stream.flush()
    stream.write(b"to nobody")
    stream.flush()
    bench.until(lambda: "data_received" in recorder.calls or recorder.lost)
    recorder.on("eof_received", stream.close)
    bench.until(lambda: recorder.lost)
    assert recorder.data == b"last words"


def test_an_observer_that_raises_loses_its_connection_and_nobody_else_does(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Recorder(), Recorder()
    stream, peer = bench.connect(bad)
    _, other = bench.connect(good)
    bad.on("data_received", lambda: 1 / 0)
    peer.send(b"x")
    other.send(b"x")
    bench.until(lambda: bad.lost and good.data == b"x")
    assert isinstance(bad.error, ZeroDivisionError)
    assert stream.closed
    assert "ZeroDivisionError" in caplog.text
    assert not good.lost


@pytest.mark.parametrize("call", ["eof_received", "blocked", "drained", "connection_lost"])
def test_raising_in_other_calls(bench: Bench, caplog: pytest.LogCaptureFixture, call: str) -> None:
    recorder = Recorder(high_water=10, low_water=0)
    recorder.on(call, lambda: 1 / 0)
    stream, peer = bench.connect(recorder)
    stream.write(BIG)
    if call == "eof_received":
        peer.end()
    bench.until(lambda: (peer.read() or True) and (recorder.lost or len(peer.data) == len(BIG)))
    bench.settle()
    if call == "connection_lost":
        stream.abort()
    bench.until(lambda: recorder.lost)
    assert "ZeroDivisionError" in caplog.text
    assert bench.loop.live_streams == 0


def abort(recorder: Recorder) -> None:
    assert recorder.stream is not None
    recorder.stream.abort()


def all_have(size: int, recorders: list[tuple[Recorder, Peer]]) -> bool:
    return all(len(recorder.data) == size for recorder, _ in recorders)


def test_closed_by_another_event_of_the_same_batch(bench: Bench) -> None:
    """A fired event is looked at again: the stream was aborted by an observer that came first."""
    recorders = [Recorder(), Recorder()]
    ends: list[Peer] = []
    for number, recorder in enumerate(recorders):
        recorder.stream, peer = bench.connect(recorder)
        ends.append(peer)
        other = recorders[1 - number]
        recorder.on("data_received", partial(abort, other))
    bench.settle()
    for peer in ends:
        peer.send(b"x")
    bench.until(lambda: any(recorder.lost for recorder in recorders))
    first, second = sorted(recorders, key=lambda recorder: recorder.lost)
    assert (first.calls, second.calls) == (["data_received"], ["connection_lost"])


def test_many_connections_come_and_go_on_the_same_numbers(bench: Bench) -> None:
    """Every stream is told of its own bytes only, though descriptors are reused all the time."""
    for round_number in range(20):
        recorders: list[tuple[Recorder, Peer]] = []
        for number in range(5):
            recorder = Recorder()
            recorder.stream, peer = bench.connect(recorder)
            peer.send(bytes([round_number, number]))
            recorders.append((recorder, peer))
        bench.until(partial(all_have, 2, recorders))
        for number, (recorder, peer) in enumerate(recorders):
            assert recorder.data == bytes([round_number, number])
            assert recorder.stream is not None
            if number % 2:
                recorder.stream.abort()
            else:
                peer.close()
                recorder.stream.close()
        bench.until(lambda: bench.loop.live_streams == 0)


# ---------------------------------------------------------------------- the queue


def test_joining_stops_at_big_pieces_and_at_the_limit() -> None:
    big = bytes(40000)
    for queue, lengths in [
        ([b"a", b"b"], [2]),
        ([b"a", big, b"b"], [1, 40000, 1]),
        ([big, b"a", b"b"], [40000, 1, 1]),
        ([bytes(1000)] * 100, [66000] + [1000] * 34),
        ([b"a"], [1]),
    ]:
        pieces: list[bytes | memoryview] = list(queue)
        join_small(pieces)
        assert [len(piece) for piece in pieces] == lengths
        assert b"".join(pieces) == b"".join(queue)
    assert JOIN_SIZE <= 66000 < JOIN_SIZE + 1000


@pytest.mark.parametrize("sent", [0, 1, 2, 3, 4, 5, 6])
def test_dropping_what_was_sent(sent: int) -> None:
    pieces: list[bytes | memoryview] = [b"ab", b"cd", b"ef"]
    drop_sent(pieces, sent)
    assert b"".join(pieces) == b"abcdef"[sent:]


# ---------------------------------------------------------------------- what upper layers know of a stream


def test_a_peer_with_a_name(bench: Bench) -> None:
    streams = [bench.connect(Recorder())[0] for _ in range(2)]
    bench.settle()
    unnamed = streams[1].peer_address
    streams[0].name_peer(("192.0.2.1", 7))
    assert [stream.peer_address for stream in streams] == [("192.0.2.1", 7), unnamed]
    streams[0].name_peer("")
    assert streams[0].peer_address == ""
    for stream in streams:
        stream.abort()
    bench.until(lambda: not bench.loop.live_streams)
    assert streams[0].peer_address is None
    streams[0].name_peer("too late")
    assert bench.loop.peer_names == {}


@pytest.mark.parametrize("end", ["close", "abort", "RST", "loop"])
def test_the_end_of_each_stream_is_told_while_its_descriptor_is_open(bench: Bench, end: str) -> None:
    ended: list[tuple[Stream, int]] = []
    bench.loop.on_end.append(lambda stream: ended.append((stream, stream.sock.fileno() if stream.sock else -1)))
    observer = Recorder()
    stream, peer = bench.connect(observer)
    assert stream.sock is not None
    fd = stream.sock.fileno()
    bench.settle()
    if end == "RST":
        peer.abort()
    elif end == "loop":
        bench.loop.close()
    else:
        getattr(stream, end)()
        peer.close()
    if end != "loop":
        bench.until(lambda: observer.lost)
    assert ended == [(stream, fd)]
