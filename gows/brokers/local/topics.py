"""KeptTopics: the topics of which a history is kept, over the processes of one machine.

One process at a time, the topic's *home*, gives the positions. It sends each message to all others, which keep it as
well, and acknowledges it, and lets its own subscribers have it, once one other process has it: then the death of one
process loses nothing. Which process is the home is settled for a *term* (a Ballot, which travels with each message);
nothing of a lower term is taken. A process that is to become the home, since the one before is gone or there was none,
claims the topic: it asks all others where they stand, fetches what it lacks, and goes on with the same epoch; or, where
something may be missing that nobody has any more, begins another one, of which all subscribers are told (`lost`).

A publisher numbers its messages. When the home changes it sends what was not acknowledged again; the numbers are kept
with the history, so the new home knows what it has already.

Processes that do not hear each other may both number a topic. When they meet, the higher term counts. A process that
then gives up messages that are nowhere else, its own or those of a home that is gone, says so to the home (`gap`), or
to the one that claims the topic (in its `promise`); if there is neither, it claims the topic itself after a while. A
new epoch begins, and all subscribers are told `lost`.

Nothing in here waits, has a thread, or looks at a clock of its own: the bus's callbacks and timers drive it.
The publish lock guards every call. What is sent, each a header of JSON, a line feed, and a body:

| `do` | from, to | |
|---|---|---|
| `post` | publisher, home | number this |
| `moved` | any, publisher | another one is the home |
| `record` | home, all | this has this position |
| `stale` | any, home | there is a higher term |
| `ack` | any, home | so far we have it |
| `done` | home, publisher | these are confirmed |
| `claim`, `promise`, `refuse` | new home, all, and back | who is the home, and where the topic stands |
| `digest`, `next` | any, newcomer, and back | where all topics stand, page by page |
| `again` | any, all | send the digest again |
| `fetch`, `entries` | any, any, and back | what comes after a position, chunk by chunk |
| `beat` | home, all | every two seconds: where those topics stand that changed, and who counts |
| `gap` | any, home | two numbered by themselves, and what one of them did is given up |
| `bye` | any, all | we leave in order |
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

import gows.bus.wire
from gows.brokers.base import Done, Envelope
from gows.brokers.local.core import Message
from gows.brokers.local.home import RETRY, KeptHome
from gows.brokers.local.state import Ballot, Outbox, Post, Request
from gows.brokers.local.sync import BEAT, PAGE, parts
from gows.errors import BrokerError, QueueFullError

PUBLISH_TIMEOUT = 5.0
"""Seconds after which a message that is not acknowledged counts as unknown."""
ACK_TIMEOUT = 1.0
"""Seconds after which the home goes on without processes that do not confirm."""
CLAIM_TIMEOUT = 2.0
"""Seconds that the others have to say where a topic stands; then it begins anew."""
FETCH_TIMEOUT = 5.0
"""Seconds that one chunk may take."""
MAX_WAITING = 16 << 20
"""Bytes of publications that may wait to be acknowledged."""
ROOM = 16 << 10
"""Bytes that the header of an entry has at most, beside its topic's name."""


class KeptTopics(KeptHome):
    """Publishes to topics that are kept, and handles the messages of other processes."""

    # ------------------------------------------------------------------ publisher

    def publish(self, envelope: Envelope, done: Done) -> bool:
        """Have a message numbered and sent. Returns True if all is done, False if `done` will be called. Raises
        BrokerError, QueueFullError if too much waits, ValueError for what is too large."""
        topic = envelope.publication.topic
        if self._closed:
            raise BrokerError("the bus was closed")
        body = envelope.pack()
        most = gows.bus.wire.MAX_FRAME - ROOM - 24 * len(topic)
        if len(body) > most:
            raise ValueError(f"a message that processes keep has at most {most} bytes with its key, not {len(body)}")
        if self.waiting and self.waiting + len(body) > MAX_WAITING:
            raise QueueFullError(f"{self.waiting} bytes wait to be acknowledged by other processes already")
        outbox = self._outboxes.get(topic)
        if outbox is None:
            outbox = self._outboxes[topic] = Outbox(self._route(topic))
        self._number += 1
        before = next(reversed(outbox.posts), 0)
        post = outbox.posts[self._number] = Post(self._number, envelope, body, done, self._peers.now())
        post.before = before
        size = len(body)
        self.waiting += size
        self._publishing = post
        try:
            self._pass_on(topic, outbox, post)
        finally:
            self._publishing = None
        if post.finished:
            if post.error is not None:
                raise post.error
            return True
        self.settled.clear()
        self._arm()
        return False

    def _route(self, topic: str) -> str:
        """Return the process that is the home of a topic, or should be."""
        known = self._topics.get(topic)
        if known is not None and (known.promised.name in self.up or known.promised.name == self.name):
            return known.promised.name
        return self._home_of(topic, [self.name, *self.up])

    def _pass_on(self, topic: str, outbox: Outbox, post: Post) -> None:
        """Send a publication to the home, or number it here."""
        if outbox.home is None:
            return
        if outbox.home == self.name:
            numbers = self._publisher, post.number, post.before, outbox.round
            self._requested(Request(self.name, *numbers, post.born, post.envelope, post.body), self._topic(topic))
            return
        ids = [self._publisher, post.number, post.before, outbox.round]
        message = {"do": "post", "topic": topic, "id": ids, "born": post.born}
        if not self._send(outbox.home, message, post.body):
            error = BrokerError(f"process {outbox.home}, which numbers the topic {topic}, does not read")
            self._finish(topic, post.number, error)

    def _reroute(self, topic: str) -> None:
        """Send everything of a topic that is not acknowledged to its present home."""
        outbox = self._outboxes.get(topic)
        if outbox is not None and outbox.home is None:
            outbox.home = self._route(topic)
            outbox.round += 1
            before = 0
            for post in list(outbox.posts.values()):
                post.before, before = before, post.number
                self._pass_on(topic, outbox, post)

    def _look_for_home(self, topic: str, round_: int) -> None:
        """Find the home of a topic anew: the process that our messages were sent to is not it."""
        outbox = self._outboxes.get(topic)
        if outbox is not None and outbox.home is not None and outbox.round == round_:
            outbox.home = None
            if outbox.round < 4:
                self._soon(self._reroute, topic)
            else:  # they do not agree yet
                self._later(RETRY, self._reroute, topic)

    def _finish(self, topic: str, number: int, error: Exception | None) -> None:
        """End a publication of ours: it is acknowledged, or has failed."""
        outbox = self._outboxes.get(topic)
        post = None if outbox is None else outbox.posts.pop(number, None)
        if outbox is None or post is None:
            return
        if not outbox.posts:
            del self._outboxes[topic]
            if not self._outboxes:
                self.settled.set()
        size = len(post.body)
        self.waiting -= size
        post.finished = True
        post.error = error
        if post is not self._publishing:
            self._events.lock.after_release(post.done, error)

    def give_up(self) -> None:
        """End all publications that are not acknowledged."""
        for topic, outbox in list(self._outboxes.items()):
            for number in list(outbox.posts):
                self._finish(topic, number, BrokerError("the bus was closed: others may have the message, or not"))

    def leave(self) -> None:
        """Tell all that this process leaves, and take nothing any more."""
        self._flush()
        if self.up:
            self._send(None, {"do": "bye"})
        self._closed = True
        self.give_up()
        self._answer_followers()

    def _on_post(self, sender: str, message: Message, body: bytes) -> None:
        age = max(0.0, self._peers.now() - message["born"])
        envelope = Envelope.unpack(body, self._events.now(), age)
        publisher, number, before, round_ = message["id"]
        request = Request(sender, publisher, number, before, round_, message["born"], envelope, body)
        self._requested(request, self._topic(message["topic"]))

    def _on_moved(self, sender: str, message: Message) -> None:
        name = message["topic"]
        outbox = self._outboxes.get(name)
        if outbox is None or outbox.home != sender or outbox.round != message["round"]:
            return
        topic, promised = self._topic(name), Ballot(*message["home"])
        if promised > topic.promised:
            if promised.name == self.name:  # we were it, and have forgotten that
                topic.promised = promised
            else:
                self._follow_home(topic, promised, settled=False)
        self._look_for_home(name, outbox.round)

    def _on_done(self, sender: str, message: Message) -> None:
        for topic, number in message["topics"]:
            self._finish(topic, number, None)

    # ------------------------------------------------------------------ other processes

    def on_peer_up(self, name: str) -> None:
        """Exchange digests with a process that has come, and claim topics there, too."""
        self.up.add(name)
        self._gone.pop(name, None)
        self._byes.discard(name)
        self._unsure.add(name)  # until it says that it counts us
        self._lagging.discard(name)
        self._acked_at[name] = self._peers.now()
        self._greeting.add(name)
        self._check_synced()
        self._send_digest(name)
        for topic in self._claiming():
            assert topic.claim is not None
            topic.claim.unseen.discard(name)
            topic.claim.waiting.add(name)
            self._send(name, self._claim_message(topic))
        if not self._beating:
            self._beating = True
            self._later(BEAT, self._beat)

    def on_peer_down(self, name: str) -> None:
        """Take back what was under way with a process that is gone, or cut off."""
        if name not in self.up:  # we were stopped while it was there
            self._doubt()
            return
        self.up.discard(name)
        self._gone[name] = self._peers.now(), name in self._byes
        while len(self._gone) > 256:
            del self._gone[next(iter(self._gone))]
        if name in self._greeting:  # it may have had what we have not heard of
            self._greeting.discard(name)
            self._unsure.add(name)
            self._doubt()
        for by_peer in (self._pages, self._acks, self._dones, self._acked_at, self._record_sent_at):
            by_peer.pop(name, None)
        self._lagging.discard(name)
        self._drop_fetches(name)
        changed = self._recent.pop(name, set()) | self._older.pop(name, set())
        if changed and self.up:  # one of us may have heard more of it than others
            for page in parts(sorted(changed), PAGE):
                self._send(None, {"do": "beat", "topics": self._standings(page)})
        for topic in self._claiming():
            assert topic.claim is not None
            topic.claim.waiting.discard(name)
            topic.claim.unseen.discard(name)
            self._look_at_claim(topic)
        if not self._others_count():
            for each in sorted(self._tails):
                self._confirm(self._topics[each])
        for each, outbox in list(self._outboxes.items()):
            if outbox.home == name:
                self._look_for_home(each, outbox.round)
        self._check_synced()

    # ------------------------------------------------------------------ timer

    def _tick(self) -> None:
        self._ticking = False
        if self._closed:
            return
        now = self._peers.now()
        for name in sorted(self._tails):
            topic = self._topics[name]
            if topic.tail and topic.tail[0].sent_at + ACK_TIMEOUT <= now:
                late = {peer for peer in self.up if self._acked_at.get(peer, 0.0) + ACK_TIMEOUT <= now}
                self._lagging |= late
                self._confirm(topic)
        if not self._others_count():
            for name in sorted(self._tails):
                self._confirm(self._topics[name])
        for topic in self._claiming():
            assert topic.claim is not None
            if topic.claim.since + CLAIM_TIMEOUT <= now:
                self._look_at_claim(topic, out_of_time=True)
        for name, fetch in list(self._fetches.items()):
            if fetch.asked_at and fetch.asked_at + FETCH_TIMEOUT <= now and self._fetches.get(name) is fetch:
                topic = self._topic(name)
                if topic.claim is not None and topic.claim.fetching:
                    topic.behind = True
                    self._fetched(topic, fetch, failed=True)
                else:  # the question was lost, or the answer
                    self._ask(topic, fetch)
        for name, outbox in list(self._outboxes.items()):
            for post in list(outbox.posts.values()):
                if post.born + PUBLISH_TIMEOUT > now:
                    break
                self._give_up(name, post.number)
        self._answer_followers()
        if self._tails or self._claims or self._fetches or self._outboxes or self._followers:
            self._arm()

    def _give_up(self, name: str, number: int) -> None:
        """End a publication of ours that was not acknowledged in time."""
        topic = self._topics.get(name)
        if topic is not None and topic.claim is not None:
            kept = [each for each in topic.claim.requests if each[1:3] != (self._publisher, number)]
            topic.claim.requests = deque(kept)  # with what it was the last of: later ones still follow it
        home = self._outboxes[name].home
        error = BrokerError(
            f"the topic {name} is numbered by process {home or 'nobody'}, which has not answered within"
            f" {PUBLISH_TIMEOUT:g} s: it may have the message, or not"
        )
        self._finish(name, number, error)

    # ------------------------------------------------------------------ what comes

    def on_packet(self, sender: str, packet: bytes) -> None:
        """Handle a message of another process."""
        head, _, body = packet.partition(b"\n")
        message = json.loads(head)
        do = message["do"]
        if self._closed:
            return
        if do == "bye":
            self._byes.add(sender)
        elif do == "next":
            self._send_page(sender)
        elif do == "again":
            self._send_digest(sender)
        elif do in _WITH_BODY:
            _WITH_BODY[do](self, sender, message, body)
        else:
            _PLAIN[do](self, sender, message)


_WITH_BODY: dict[str, Callable[[KeptTopics, str, Message, bytes], None]] = {
    "post": KeptTopics._on_post,
    "record": KeptTopics._on_record,
    "entries": KeptTopics._on_entries,
}
_PLAIN: dict[str, Callable[[KeptTopics, str, Message], None]] = {
    "moved": KeptTopics._on_moved,
    "stale": KeptTopics._on_stale,
    "ack": KeptTopics._on_ack,
    "done": KeptTopics._on_done,
    "gap": KeptTopics._on_gap,
    "claim": KeptTopics._on_claim,
    "promise": KeptTopics._on_promise,
    "refuse": KeptTopics._on_refuse,
    "digest": KeptTopics._on_digest,
    "beat": KeptTopics._on_beat,
    "fetch": KeptTopics._on_fetch,
}
