"""KeptHome: numbers topics, and becomes the process that does, or hears which one it is; the rules: see `topics`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from gows.brokers.base import Envelope
from gows.brokers.local.core import LAG_LIMIT, Message
from gows.brokers.local.state import Answer, Ballot, Claim, Origin, Request, Topic, Unconfirmed
from gows.brokers.local.sync import PAGE, KeptSync, is_newer, read_position
from gows.debug import DEBUG, check_owned
from gows.topics.publication import Position

RETRY = 0.05
"""Seconds until a process is asked again that does not know yet that another one has died."""


class KeptHome(KeptSync):
    """Numbers the topics of which this process is the home."""

    @abstractmethod
    def _look_for_home(self, topic: str, round_: int) -> None:
        """Find the home of a topic anew: the process that our messages were sent to is not it."""

    @abstractmethod
    def _finish(self, topic: str, number: int, error: Exception | None) -> None:
        """End a publication of ours: it is acknowledged, or has failed."""

    # ------------------------------------------------------------------ numbering

    def _requested(self, request: Request, topic: Topic) -> None:
        """Give a message its number, or refer its publisher to the home of the topic."""
        elsewhere = topic.promised.name != self.name and topic.promised.name in self.up
        if elsewhere or not topic.follows(request):
            self._refer(topic, request)
        elif topic.active:
            self._record(topic, request)
        elif topic.claim is not None:
            topic.claim.add(request)
        else:
            self._claim(topic, [request])

    def _refer(self, topic: Topic, request: Request) -> None:
        """Tell a publisher that another process is the home."""
        if request.sender == self.name:
            self._look_for_home(topic.name, request.round)
        else:
            message = {"do": "moved", "topic": topic.name, "home": topic.promised, "round": request.round}
            self._send(request.sender, message)

    def _record(self, topic: Topic, request: Request) -> None:
        """Give a message a position, and send it to all."""
        before = topic.seen.get(request.publisher, 0)
        if request.number <= before:
            if not any(item.request[1:3] == request[1:3] for item in topic.tail):  # else it is confirmed with that
                self._confirmed(request, topic.name)
            return
        last = topic.last
        assert last is not None
        position = Position(last.epoch, last.offset + 1)
        now = self._peers.now()
        message: Message = {
            "do": "record",
            "topic": topic.name,
            "n": topic.promised.number,
            "at": now,
            "position": position,
            "after": topic.last_ballot,
            "id": [request.publisher, request.number],
            "born": request.born,
        }
        topic.has_seen(request.publisher, request.number)
        request.envelope.publication.position = position
        origin = Origin(topic.promised, request.publisher, request.number, request.envelope.exclude)
        topic.tail.append(Unconfirmed(request.envelope._replace(origin=origin), request, before, now))
        if self.up:
            self._send(None, message, request.body)
            self._changed.add(topic.name)
        if self._others_count():
            self._tails.add(topic.name)
            self._arm()
        else:
            self._confirm(topic)

    def _others_count(self) -> bool:
        """Return whether another process must have a message before it is acknowledged."""
        return not self.up <= self._lagging

    def _confirm(self, topic: Topic, upto: int | None = None) -> None:
        """Deliver and acknowledge messages up to an offset: another process has them, so no single death loses them."""
        tail = topic.tail
        while tail and (upto is None or tail[0].position.offset <= upto):
            item = tail.popleft()
            topic.position = item.position
            topic.accepted = topic.promised
            self._events.receive(item.envelope)
            self._confirmed(item.request, topic.name)
        if not tail:
            self._tails.discard(topic.name)
            if self._events.history.position(topic.name) is None:
                self._forgotten(topic.name)
        self._answer_followers()

    def _confirmed(self, request: Request, topic: str) -> None:
        """Acknowledge a message to its publisher."""
        if request.sender == self.name:
            self._finish(topic, request.number, None)
        else:
            self._dones.setdefault(request.sender, []).append((topic, request.number))
            self._flush_soon()

    def _follow_home(self, topic: Topic, ballot: Ballot, *, settled: bool) -> None:
        """Take another process for the home, or for the one that is about to become it."""
        requests = topic.take_back()
        if topic.claim is not None:
            requests += topic.claim.requests
            topic.claim = None
        self._tails.discard(topic.name)
        self._claims.discard(topic.name)
        topic.active = False
        topic.promised = ballot
        topic.settled = settled
        for request in requests:
            self._refer(topic, request)

    # ------------------------------------------------------------------ hearing the home, and the others

    def _on_record(self, sender: str, message: Message, body: bytes) -> None:
        topic = self._topic(message["topic"])
        ballot = Ballot(message["n"], sender)
        self._note_lag(sender, message["at"])
        if ballot < topic.promised:
            self._send(sender, {"do": "stale", "topic": topic.name, "promised": topic.promised})
            epoch = message["position"][0]
            if topic.position is not None and epoch not in (topic.position.epoch, topic.foreign):
                topic.foreign = epoch
                self._diverged(topic)
            return
        if ballot > topic.promised:
            self._follow_home(topic, ballot, settled=True)
        topic.settled = True
        self._recent.setdefault(sender, set()).add(topic.name)
        where, last = Position(*message["position"]), topic.position
        if topic.name in self._fetches:
            self._want(topic, sender)  # it comes with that, or after it
            return
        if last is not None and last.epoch == where.epoch and topic.accepted == ballot and where.offset <= last.offset:
            self._ack(topic)  # it came with what we fetched
            return
        if where.offset == 1 and (last is None or last.epoch != where.epoch):
            lost = last is not None or topic.behind or self._forgot or self._uncertain
            gives_up = self._gives_up(topic, where, {})
            self._reset(topic, Position(where.epoch, 0), lost=lost)
            topic.behind = False
            if gives_up:
                self._gaps[topic.name] = ""
        elif last is None and self._forgot:  # there was no room for it: it is not fetched again and again
            self._reset(topic, Position(where.epoch, where.offset - 1), lost=True)
        elif (
            last is None
            or last.epoch != where.epoch
            or last.offset + 1 != where.offset
            or topic.accepted != Ballot(*message["after"])
        ):
            self._want(topic, sender)
            return
        age = max(0.0, self._peers.now() - message["born"])
        envelope = Envelope.unpack(body, self._events.now(), age)
        envelope.publication.position = where
        publisher, number = message["id"]
        self._append(topic, envelope, Origin(ballot, publisher, number, envelope.exclude))
        if self._gaps:
            self._report_gap(topic)
        self._ack(topic)
        self._answer_followers()

    def _on_stale(self, sender: str, message: Message) -> None:
        topic = self._topics.get(message["topic"])
        promised = Ballot(*message["promised"])
        if topic is not None and topic.active and promised > topic.promised:
            requests = topic.take_back()
            self._tails.discard(topic.name)
            topic.promised = promised
            self._claim(topic, requests)  # or hear who the home is

    def _on_ack(self, sender: str, message: Message) -> None:
        now = self._acked_at[sender] = self._peers.now()
        if now - message["at"] < LAG_LIMIT:
            self._lagging.discard(sender)
        for name, number, epoch, offset in message["topics"]:
            topic = self._topics.get(name)
            if topic is None or not topic.active or not topic.tail or topic.promised.number != number:
                continue
            if topic.tail[0].position.epoch == epoch:
                self._confirm(topic, offset)

    def _on_gap(self, sender: str, message: Message) -> None:
        self._diverged(self._topic(message["topic"]))

    def _diverged(self, topic: Topic) -> None:
        """Have another epoch begun: another process numbered the topic as well, and its messages are given up. Its
        positions mean something else here, or what had them is lost."""
        if topic.active:
            self._renew([topic])
        else:  # who is the home, or becomes it, does so
            self._gaps[topic.name] = ""
            self._report_gap(topic)

    def _doubt(self) -> None:
        """Begin other epochs where needed: a process is gone that was there without us, or has not said what it had. It
        may have numbered topics by itself, and nobody else knows of it."""
        self._uncertain = True
        active: list[Topic] = []
        for topic in self._topics.values():
            if topic.active:
                active.append(topic)
            elif topic.promised.name not in self.up:
                topic.behind = True
        for at in range(0, len(active), PAGE):
            self._renew(active[at : at + PAGE])

    def _renew(self, topics: list[Topic]) -> None:
        """Begin another epoch of topics of which this process is the home, and tell all."""
        taken = []
        for topic in topics:
            taken.append(topic.take_back())
            self._tails.discard(topic.name)
            topic.promised = Ballot(topic.promised.number + 1, self.name)
            self._begin_epoch(topic)
        self._send(None, {"do": "beat", "topics": self._standings([topic.name for topic in topics])})
        for topic, requests in zip(topics, taken, strict=True):
            for request in requests:
                self._record(topic, request)

    # ------------------------------------------------------------------ becoming the home

    def _claim(self, topic: Topic, requests: Iterable[Request], since: float | None = None) -> None:
        """Claim a topic: ask all others where it stands, to become its home."""
        topic.promised = Ballot(topic.promised.number + 1, self.name)
        topic.settled = topic.active = False
        topic.claim = Claim(self.up, requests, self._peers.now() if since is None else since)
        self._claims.add(topic.name)
        if self.up:
            self._send(None, self._claim_message(topic))
            self._arm()
        self._look_at_claim(topic)

    def _claim_message(self, topic: Topic) -> Message:
        return {"do": "claim", "topic": topic.name, "n": topic.promised.number}

    def _claiming(self) -> list[Topic]:
        """Return the topics that this process claims."""
        topics = (self._topics[name] for name in sorted(self._claims))
        return [topic for topic in topics if topic.claim is not None and not topic.claim.fetching]

    def _on_claim(self, sender: str, message: Message) -> None:
        topic = self._topic(message["topic"])
        ballot = Ballot(message["n"], sender)
        home = topic.promised.name
        elsewhere = topic.settled and home not in ("", sender, self.name) and home in self.up
        if topic.active or elsewhere or ballot <= topic.promised:
            home_known = topic.active or elsewhere
            answer = {"do": "refuse", "promised": topic.promised, "home": home_known}
        else:
            self._follow_home(topic, ballot, settled=False)
            answer = {"do": "promise", "accepted": topic.accepted, "position": topic.position}
            answer.update(sure=self._is_sure(topic), peers=sorted(self.up))
            if topic.name in self._gaps:
                answer["gap"] = True
                self._gaps[topic.name] = sender
        self._send(sender, {**answer, "topic": topic.name, "n": message["n"]})

    def _claimed(self, message: Message) -> Topic | None:
        """Return the topic of an answer to a claim, if that still waits for it."""
        topic = self._topics.get(message["topic"])
        if topic is None or topic.claim is None or topic.claim.fetching or topic.promised.number != message["n"]:
            return None
        return topic

    def _on_promise(self, sender: str, message: Message) -> None:
        topic = self._claimed(message)
        if topic is not None:
            claim = topic.claim
            assert claim is not None
            claim.answers[sender] = Answer(
                Ballot(*message["accepted"]), read_position(message["position"]), message["sure"]
            )
            if message.get("gap"):
                self._gaps.setdefault(topic.name, "")
            claim.waiting.discard(sender)
            claim.unseen |= set(message["peers"]) - self.up - {self.name} - self._gone.keys()
            self._look_at_claim(topic)

    def _on_refuse(self, sender: str, message: Message) -> None:
        topic = self._claimed(message)
        if topic is None:
            return
        promised = Ballot(*message["promised"])
        if message["home"] and promised.name in self.up:
            self._follow_home(topic, promised, settled=True)
        elif message["home"]:  # it will hear of its death as well
            self._later(RETRY, self._claim_again, topic.name, message["n"], sender)
        else:
            self._later(RETRY * 0.2, self._claim_higher, topic.name, message["n"], promised.number)

    def _claim_again(self, name: str, number: int, peer: str) -> None:
        topic = self._claimed({"topic": name, "n": number})
        if topic is not None and peer in self.up:
            self._send(peer, self._claim_message(topic))

    def _claim_higher(self, name: str, number: int, least: int) -> None:
        topic = self._claimed({"topic": name, "n": number})
        if topic is not None:
            assert topic.claim is not None
            topic.promised = Ballot(max(least, number), self.name)
            self._claim(topic, topic.claim.requests, topic.claim.since)

    def _look_at_claim(self, topic: Topic, *, out_of_time: bool = False) -> None:
        """Become the home of a topic, if all have answered."""
        claim = topic.claim
        assert claim is not None
        if not self._open or claim.fetching or ((claim.waiting or claim.unseen) and not out_of_time):
            return
        candidates = {self.name: Answer(topic.accepted, topic.position, self._is_sure(topic)), **claim.answers}
        best = self.name
        for name, answer in candidates.items():
            if is_newer(answer.accepted, answer.position, candidates[best].accepted, candidates[best].position):
                best = name
        accepted, position, _ = candidates[best]
        sure = any(answer.sure for answer in candidates.values() if answer.accepted.name == accepted.name)
        if position is None:
            known = all(answer.sure for answer in candidates.values()) and not claim.waiting and not claim.unseen
            lost = self._gaps.pop(topic.name, None) is not None or self._forgot or self._uncertain or not known
            self._reset(topic, Position(self._events.history.new_epoch(), 0), lost=lost)
            topic.accepted = topic.promised
            self._become_home(topic)
            return
        claim.is_sure = sure and not claim.waiting and not claim.unseen
        if best != self.name:
            claim.fetching = True
            self._want(topic, best)
        else:
            self._become_home(topic)

    def _begin_epoch(self, topic: Topic) -> None:
        """Go on in another epoch, with what is kept of the one before: something may be missing."""
        if DEBUG:
            check_owned(self._events.lock)
        assert topic.position is not None
        self._gaps.pop(topic.name, None)
        topic.accepted = topic.promised
        topic.position = Position(self._events.history.new_epoch(), topic.position.offset)
        self._events.history.rename(
            topic.name, topic.position.epoch, lambda entry: entry.origin._replace(ballot=topic.promised)
        )
        self._events.report_lost_locked(topic.name, topic.position)

    def _become_home(self, topic: Topic) -> None:
        claim = topic.claim
        assert claim is not None
        topic.claim = None
        self._claims.discard(topic.name)
        topic.active = topic.settled = True
        if not claim.is_sure or topic.name in self._gaps:
            self._begin_epoch(topic)
        topic.behind = False
        topic.sound = True
        last = topic.last
        for request in claim.requests:
            self._record(topic, request)
        if topic.last == last and last is not None and last.offset:  # no message tells the others where it stands
            self._send(None, {"do": "beat", "topics": self._standings([topic.name])})

    def open(self) -> None:
        """Allow this process to become the home of topics: by now it knows the others."""
        self._open = True
        for topic in self._claiming():
            self._look_at_claim(topic)
