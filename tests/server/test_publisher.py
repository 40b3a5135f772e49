"""Publishing: what comes amid a call of the server's, by a finaliser, a signal handler or a logging handler."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from typing import Any

import pytest

from gows import QueueFullError, Server
from gows.brokers.base import Envelope
from gows.topics.publication import Publication
from tests.support.stage import MakeStage, Stage

pytestmark = pytest.mark.timeout(20)


def amid(stage: Stage, monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    """Have `call` made once, amid the next publication, as a finaliser would be."""
    broker = stage.server.broker
    publish = broker.publish

    def wrapped(envelope: Any, own: Any, done: Any) -> bool:
        monkeypatch.setattr(broker, "publish", publish)
        call()
        return publish(envelope, own, done)

    monkeypatch.setattr(broker, "publish", wrapped)


def test_who_publishes_amid_a_publication_comes_after_it(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    handler.ws.subscribe("a")
    done: list[Any] = []
    server = stage.server

    def finaliser() -> None:
        server.publish("a", "2", done=done.append)
        server.broadcast("3")
        assert done == []

    amid(stage, monkeypatch, finaliser)
    server.publish("a", "1", done=lambda error: done.append("first"))
    assert done == [None, "first"]
    assert [guest.text() for _ in range(3)] == ["1", "2", "3"]


def test_a_signal_handler_may_broadcast(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    handler.ws.subscribe("a")
    before = signal.signal(signal.SIGUSR1, lambda number, frame: stage.server.broadcast("2"))
    try:
        amid(stage, monkeypatch, lambda: signal.raise_signal(signal.SIGUSR1))
        stage.server.publish("a", "1")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [guest.text() for _ in range(2)] == ["1", "2"]


def test_what_cannot_be_sent_later_is_told(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage()
    guest, handler = stage.guest()
    handler.ws.subscribe("a")
    server = stage.server
    told: list[Any] = []
    monkeypatch.setattr("gows.session.fanout.MAX_WAITING", 1000)

    def finaliser() -> None:
        server.publish("a", "x" * 600, done=told.append)  # there is room now, and not when its turn comes
        server.publish("a", "x" * 600)
        server.fanout.waiting = 2000
        with pytest.raises(QueueFullError):
            server.publish("a", "x")
        server.fanout.waiting = 0

    amid(stage, monkeypatch, finaliser)
    server.publish("a", "x" * 600)
    assert [type(error) for error in told] == [QueueFullError]
    assert stage.log.take() == ["a message to the topic a is lost: 600 bytes of messages to many wait already"]
    assert guest.text() == "x" * 600


def test_a_logging_handler_may_publish(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged of a message that came from elsewhere is logged with no lock held."""
    stage = make_stage()
    guest, handler = stage.guest()
    handler.ws.subscribe("a")
    handler.ws.subscribe("log")
    publishing = stage.server.publishing
    monkeypatch.setattr("gows.session.fanout.MAX_WAITING", 1000)

    class Publisher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert not publishing.lock.held()
            stage.server.fanout.waiting = 0
            stage.server.publish("log", record.getMessage())

    listener = Publisher()
    logging.getLogger("gows").addHandler(listener)
    try:
        stage.server.fanout.waiting = 1000
        publishing.receive(Envelope(Publication("a", "x" * 600)))
    finally:
        logging.getLogger("gows").removeHandler(listener)
    assert guest.text().startswith("a message to the topic a is lost here")
    stage.log.take()


@pytest.mark.slow
def test_finalisers_publish_wherever_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gows.debug.check_order", lambda lock: None)  # what interrupts a thread cannot observe it
    server = Server(workers=0)
    server.start("127.0.0.1:0")

    class Room:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            try:
                server.publish("rooms.gone", {"room": 1})
                server.broadcast("gone")
            except QueueFullError:
                pass

    def work() -> None:
        for number in range(1000):
            Room()
            try:
                server.publish("a.b", {"n": number, "x": [1, [3]]})
                server.broadcast("x")
            except QueueFullError:
                pass

    before = gc.get_threshold()
    gc.set_threshold(7, 2, 2)
    try:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(15)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        gc.set_threshold(*before)
        gc.collect()  # rooms that were left: once the server is stopped, a broadcast raises
        server.stop()
