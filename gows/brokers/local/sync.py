"""KeptSync: have what other processes have of the topics: where they stand, and what is missing here. The
rules: see `topics`."""

from __future__ import annotations

import json
import struct
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from gows.brokers.base import Envelope
from gows.brokers.local.core import LAG_LIMIT, KeptCore, Message
from gows.brokers.local.state import NO_BALLOT, Ballot, Fetch, Origin, Request, Topic
from gows.debug import DEBUG, check_owned
from gows.topics.history import Entry
from gows.topics.publication import Position

BEAT = 2.0
"""Seconds between two comparisons of positions."""
CHUNK = 256 << 10
"""Bytes of entries that are sent at once, or one entry."""
PAGE = 1000
"""Topics on one page of a digest."""
WINDOW = 4
"""Topics that are fetched from one process at a time."""

_LENGTHS = struct.Struct("!II")


class KeptSync(KeptCore):
    """Compares topics with other processes, and fetches what is missing here."""

    @abstractmethod
    def _follow_home(self, topic: Topic, ballot: Ballot, *, settled: bool) -> None:
        """Take another process for the home, or for the one that is about to become it."""

    @abstractmethod
    def _claim(self, topic: Topic, requests: Iterable[Request], since: float | None = None) -> None:
        """Claim a topic: ask all others where it stands, to become its home."""

    @abstractmethod
    def _become_home(self, topic: Topic) -> None:
        """Become the home of a topic that is claimed, and of which nothing is missing here."""

    # ------------------------------------------------------------------ where topics stand

    def _send_digest(self, peer: str) -> None:
        """Tell a process where all topics stand, page by page."""
        self._pages[peer] = iter(list(self._topics))
        self._send_page(peer)

    def _send_page(self, peer: str) -> None:
        """Send a process the next page of our digest, if there is one."""
        names = self._pages.get(peer)
        if names is not None:
            page = list(islice(names, PAGE))
            if len(page) < PAGE:
                del self._pages[peer]
            message = {"do": "digest", "topics": self._standings(page), "more": len(page) == PAGE}
            self._send(peer, {**message, "at": self._peers.now(), "in": sorted(self.up - self._lagging)})

    def on_peer_missed(self, name: str) -> None:
        """Send a digest to a process that did not read, and missed something."""
        if name in self.up:
            self._send_digest(name)

    def _on_digest(self, sender: str, message: Message) -> None:
        self._compare(sender, message["topics"])
        if message["more"]:
            self._send(sender, {"do": "next"})
        else:
            self._greeting.discard(sender)
            self._note_count(sender, message)
            self._check_synced()

    def _note_count(self, home: str, message: Message) -> None:
        """Note whether a process waits for this one before it delivers a message."""
        if self._peers.now() - message["at"] <= LAG_LIMIT and self.name in message["in"]:
            self._unsure.discard(home)
        else:
            self._unsure.add(home)

    def _compare(self, sender: str, standings: list[Any]) -> None:
        """Fetch what another process has, and we do not."""
        for name, epoch, offset, accepted, promised in standings:
            topic = self._topic(name)
            ballot = Ballot(*promised)
            if ballot > topic.promised and ballot.name != self.name:
                self._follow_home(topic, ballot, settled=True)
            self._report_gap(topic)
            if topic.active or (topic.position is None and self._forgot):  # there is no room for all topics here
                continue
            if is_newer(Ballot(*accepted), Position(epoch, offset), topic.last_ballot, topic.last):
                self._want(topic, sender)
        self._answer_followers()

    def _beat(self) -> None:
        """Send where topics stand that changed, and which processes count, by a timer."""
        if self._closed or not self.up:
            self._beating = False
            return
        self._later(BEAT, self._beat)
        self._older, self._recent = self._recent, {}
        changed, self._changed = sorted(self._changed), set()
        beat = {"do": "beat", "at": self._peers.now(), "in": sorted(self.up - self._lagging)}
        for page in parts(changed, PAGE) if changed else iter([[]]):
            self._send(None, {**beat, "topics": self._standings(page)})
        for name in sorted(self._gaps):
            self._look_at_gap(name)

    def _on_beat(self, sender: str, message: Message) -> None:
        if "at" in message:
            self._note_count(sender, message)
        self._compare(sender, message["topics"])

    # ------------------------------------------------------------------ fetching

    def _want(self, topic: Topic, peer: str) -> None:
        """Fetch from a process what it has of a topic, and this one does not."""
        if peer not in self.up:  # it is gone, and this is the last that came of it
            topic.behind = True
            return
        fetch = self._fetches.get(topic.name)
        if fetch is not None:
            if fetch.peer != peer and peer not in fetch.then:
                fetch.then.append(peer)
            return
        self._fetch(topic, peer, [])

    def _fetch(self, topic: Topic, peer: str, then: list[str]) -> None:
        """Fetch from a process, and then from those in `then`, which may have more."""
        self._fetches[topic.name] = Fetch(peer, then)
        self._fetch_queues.setdefault(peer, deque()).append(topic.name)
        self._check_synced()
        self._arm()
        self._pump(peer)

    def _pump(self, peer: str) -> None:
        """Ask a process for the next topics that wait."""
        queue = self._fetch_queues.get(peer)
        while queue and self._asked.get(peer, 0) < WINDOW:
            name = queue.popleft()
            fetch = self._fetches.get(name)
            if fetch is not None and fetch.peer == peer and not fetch.asked_at:
                self._asked.setdefault(peer, 0)
                self._asked[peer] += 1
                self._ask(self._topic(name), fetch)

    def _ask(self, topic: Topic, fetch: Fetch) -> None:
        fetch.asked_at = self._peers.now()
        message = {"do": "fetch", "topic": topic.name, "position": topic.position, "accepted": topic.accepted}
        self._send(fetch.peer, message)

    def _on_fetch(self, sender: str, message: Message) -> None:
        topic = self._topics.get(message["topic"])
        last = None if topic is None else topic.last
        asked, accepted = read_position(message["position"]), Ballot(*message["accepted"])
        if topic is None or last is None or not is_newer(topic.last_ballot, last, accepted, asked):
            self._send(sender, {"do": "entries", "topic": message["topic"], "last": None})  # nothing that it has not
            return
        now, history = self._events.now(), self._events.history
        kept = history.position(topic.name)
        entries = [] if kept is None or kept != topic.position else history.entries(topic.name, 0, now)
        for item in topic.tail:
            envelope = item.envelope
            assert envelope.keep is not None
            until = now + (envelope.keep.seconds or 0.0)
            entries.append(Entry(item.position.offset, envelope.publication, until, envelope.keep, envelope.origin))
        start = entries[0].offset - 1 if entries else last.offset
        reset = True
        if asked is not None and asked.epoch == last.epoch and start <= asked.offset <= last.offset:
            skip = asked.offset - start
            ballot = entries[skip - 1].origin.ballot if skip else accepted
            if ballot == accepted:
                start, entries, reset = asked.offset, entries[skip:], False
        chunk: list[bytes] = []
        size = 0
        end, ballot = start, topic.last_ballot
        for entry in entries:
            packed = self._pack(entry, now)
            if chunk and size + len(packed) > CHUNK:
                break
            chunk.append(packed)
            size += len(packed)
            end = entry.offset
        answer = {
            "do": "entries",
            "topic": topic.name,
            "epoch": last.epoch,
            "start": start,
            "reset": reset,
            "last": last.offset,
            "more": end < last.offset,
            "accepted": topic.last_ballot,
            "promised": topic.promised if topic.settled else NO_BALLOT,
            "seen": topic.seen,
            "before": history.before(topic.name),
            "sure": topic.active or (self._is_sure(topic) and topic.accepted.name not in self.up),
        }
        self._send(sender, answer, b"".join(chunk))

    def _pack(self, entry: Entry, now: float) -> bytes:
        """Return an entry as it travels."""
        origin = entry.origin
        expires = entry.publication.bare.expires
        envelope = Envelope(
            entry.publication, entry.keep, None if expires == float("inf") else expires - now, origin.exclude
        )
        age = 0.0 if entry.keep.seconds is None else entry.keep.seconds - (entry.until - now)
        head = json.dumps([origin.ballot, origin.publisher, origin.number, age]).encode()
        body = envelope.pack()
        return b"".join((_LENGTHS.pack(len(head), len(body)), head, body))

    def _on_entries(self, sender: str, message: Message, body: bytes) -> None:
        topic = self._topics.get(message["topic"])
        fetch = self._fetches.get(message["topic"])
        if topic is None or fetch is None or fetch.peer != sender or not fetch.asked_at:
            return
        more = False
        if message["last"] is not None:
            has = Ballot(*message["accepted"]), Position(message["epoch"], message["last"])
            if not topic.active and is_newer(*has, topic.accepted, topic.position):
                more = self._take(topic, fetch, message, body)
        if more:
            self._ask(topic, fetch)
        else:
            if message["last"] is not None:
                topic.behind = False
                topic.sound = message["sure"] or topic.accepted.name in self.up  # else nobody would see its end
            self._fetched(topic, fetch)

    def _take(self, topic: Topic, fetch: Fetch, message: Message, body: bytes) -> bool:
        """Keep a chunk of entries. Returns whether there is more."""
        if DEBUG:
            check_owned(self._events.lock)
        last, start = topic.position, Position(message["epoch"], message["start"])
        if message["reset"] or last is None or last.epoch != start.epoch or last.offset < start.offset:
            fetch.fill = last is None
            gives_up = self._gives_up(topic, start, message["before"])
            self._reset(topic, start, lost=last is not None)
            if gives_up:
                self._gaps[topic.name] = ""
            self._events.history.before(topic.name).update(message["before"])
            fetch.seen = dict(topic.seen)  # those are not delivered twice
            topic.accepted = NO_BALLOT
            topic.seen.clear()
        now = self._events.now()
        skipped = False
        for head, packed in _unpack(body):
            number, name = head[0]
            origin_ballot, publisher, sequence, age = Ballot(number, name), head[1], head[2], head[3]
            envelope = Envelope.unpack(packed, now)
            position = envelope.publication.position
            assert position is not None
            assert topic.position is not None
            if position.offset == topic.position.offset + 1:
                origin = Origin(origin_ballot, publisher, sequence, envelope.exclude)
                fill = fetch.fill or sequence <= fetch.seen.get(publisher, 0)
                if skipped and not fill:
                    self._events.report_lost_locked(topic.name, topic.position)
                skipped = fill and not fetch.fill
                self._append(topic, envelope, origin, age=age, fill=fill)
        if skipped:
            self._events.report_lost_locked(topic.name, topic.position)
        for publisher, sequence in message["seen"].items():
            topic.has_seen(publisher, sequence)
        promised = Ballot(*message["promised"])
        if promised > topic.promised and promised.name != self.name:
            self._follow_home(topic, promised, settled=True)
        assert topic.position is not None
        if not message["more"] and topic.position.offset == message["last"]:
            topic.accepted = Ballot(*message["accepted"])
        return bool(message["more"])

    def _fetched(self, topic: Topic, fetch: Fetch, *, failed: bool = False) -> None:
        """End a fetch: this process has what the other had, or it failed."""
        if DEBUG:
            check_owned(self._events.lock)
        del self._fetches[topic.name]
        if fetch.fill and self._events.has_subscribers(topic.name):  # what they have not seen of that, nobody knows
            self._events.report_lost_locked(topic.name, topic.position)
        if fetch.asked_at and fetch.peer in self._asked:
            self._asked[fetch.peer] -= 1
        self._pump(fetch.peer)
        then = [peer for peer in fetch.then if peer in self.up]
        if topic.claim is not None and topic.claim.fetching:
            if failed:
                self._claim(topic, topic.claim.requests, topic.claim.since)
            else:
                self._become_home(topic)
        else:
            self._report_gap(topic)
            if then:
                self._fetch(topic, then[0], then[1:])
            else:
                self._ack(topic)
        self._check_synced()

    def _drop_fetches(self, peer: str) -> None:
        """End the fetches from a process that is gone."""
        self._fetch_queues.pop(peer, None)
        self._asked.pop(peer, None)
        dropped = [name for name, fetch in self._fetches.items() if fetch.peer == peer]
        for name in dropped:
            topic = self._topic(name)
            topic.behind = True
            self._fetched(topic, self._fetches[name], failed=True)
        if dropped and self.up:  # others may know it, too
            self._send(None, {"do": "again"})

    # ------------------------------------------------------------------ what is given up

    def _gives_up(self, topic: Topic, start: Position, before: dict[str, int]) -> bool:
        """Return whether a history that begins at `start`, after the epochs `before`, replaces messages that it does
        not contain, and this process is to say so: their home is this one, or is gone."""
        last, home = topic.position, topic.accepted.name
        if last is None or not last.offset or home in self.up:
            return False
        if home == self.name:
            return True
        if last.epoch == start.epoch:
            return last.offset > start.offset
        return before.get(last.epoch, 0) < last.offset

    def _report_gap(self, topic: Topic) -> None:
        """Tell the home of a topic that messages were given up which its subscribers may have missed."""
        home = topic.promised.name
        if (
            self._gaps.get(topic.name, home) != home
            and home in self.up
            and self._send(home, {"do": "gap", "topic": topic.name})
        ):
            self._gaps[topic.name] = home

    def _look_at_gap(self, name: str) -> None:
        """Become the home of a topic that has none, so that all subscribers are told what was given up."""
        topic = self._topics.get(name)
        if topic is None or topic.position is None:
            self._gaps.pop(name, None)
        elif topic.promised.name in self.up:
            self._report_gap(topic)
        elif topic.claim is None and name not in self._fetches:
            self._claim(topic, [])


def read_position(value: list[Any] | None) -> Position | None:
    """Return a position as it travels; None: there is none."""
    return None if value is None else Position(*value)


def is_newer(accepted: Ballot, position: Position | None, than: Ballot, its: Position | None) -> bool:
    """Return whether a process with `accepted` and `position` has more than one with `than` and `its`."""
    if position is None or its is None:
        return its is None and position is not None
    return (accepted, position.offset) > (than, its.offset)


def _unpack(body: bytes) -> Iterator[tuple[list[Any], bytes]]:
    """Yield the entries of a chunk, as `_pack` made them."""
    at = 0
    while at < len(body):
        head, size = _LENGTHS.unpack_from(body, at)
        at += _LENGTHS.size
        yield json.loads(body[at : at + head]), body[at + head : at + head + size]
        at += head + size


def parts(names: list[str], size: int) -> Iterator[list[str]]:
    """Return a list in parts of a size."""
    return (names[at : at + size] for at in range(0, len(names), size))
