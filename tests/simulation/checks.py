"""Checks: every sentence of docs/reference/topics.md, "What is promised", against what a run's subscribers were told.

`PROMISES` says which check stands for which sentence; a test compares its sentences with the page.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from gows.session.fanout import Audience
from gows.topics.names import is_pattern
from tests.simulation.log import Event, Message, Subscriber

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

Check = Callable[["Simulation"], Iterator[str]]

TOLD_WITHIN = 30.0
"""Seconds after a newer message within which a client is told that it missed an older one."""


class Fault(NamedTuple):
    """A promise that was not kept."""

    check: str
    text: str


def _messages(subscriber: Subscriber) -> list[Event]:
    return [event for event in subscriber.events if event.kind == "message"]


def once(simulation: Simulation) -> Iterator[str]:
    """A subscriber gets a message once, and only what was published to what it subscribed to. One that comes back may
    get some again when it was told `lost`."""
    log = simulation.log
    for subscriber in (*log.subscriptions, *log.connections):
        seen: set[str] = set()
        for event in subscriber.events:
            if event.kind == "lost":
                seen.clear()
                continue
            message = log.messages.get(event.id)
            if event.id in seen:
                yield f"{subscriber} got {event.id} ({event.topic}) twice, again {event.at:.3f}"
            elif message is None or message.topic != event.topic:
                yield f"{subscriber} got {event.id} of {event.topic}, which nobody published"
                continue
            elif subscriber.pattern and not subscriber.matches(event.topic):
                yield f"{subscriber} got {event.id} of {event.topic}"
            seen.add(event.id)


def _may_overtake(simulation: Simulation, subscriber: Subscriber, message: Message) -> bool:
    """Whether it takes the place of an older one that waits."""
    policy = subscriber.policy or simulation.scenario.overflow
    return policy == "latest" and message.key is not None


def process_order(simulation: Simulation) -> Iterator[str]:
    """What one process publishes to one topic, or to several that are not kept, arrives in that order (of those that
    are not kept, by one connection)."""
    log = simulation.log
    for subscriber in (*log.subscriptions, *log.connections):
        for kept in (False, True):
            last: dict[str, tuple[int, str]] = {}
            for event in subscriber.events:
                if event.kind == "lost":
                    last.clear()
                    continue
                message = log.messages.get(event.id)
                if message is None or message.kept is not kept or _may_overtake(simulation, subscriber, message):
                    continue
                # by a client: as its connection asked for it, in the process that it had come to
                publisher, seq = (event.via, event.seq) if message.own else (message.publisher, message.seq)
                if kept:
                    publisher += f" to {event.topic}"
                before, id_ = last.get(publisher, (0, ""))
                if seq < before and id_ != event.id:
                    yield f"{subscriber} got {event.id} of {event.topic} after {id_}, {event.at:.3f}"
                last[publisher] = max((before, id_), (seq, event.id))


def one_order(simulation: Simulation) -> Iterator[str]:
    """Those of a topic that is kept come in one order everywhere. Who is told `lost` may hear some again: what comes
    before that, and after, are in order each by itself."""
    log = simulation.log
    orders: dict[str, list[tuple[Subscriber, dict[str, int]]]] = {}
    for subscriber in (*log.subscriptions, *log.connections):
        by_topic: dict[str, dict[str, int]] = {}
        for event in subscriber.events:
            if event.kind == "lost":
                for topic in [topic for topic in by_topic if event.topic in (topic, subscriber.pattern)]:
                    orders.setdefault(topic, []).append((subscriber, by_topic.pop(topic)))
            elif event.kind == "message" and log.messages[event.id].kept:
                places = by_topic.setdefault(event.topic, {})
                places.setdefault(event.id, len(places))
        for topic, places in by_topic.items():
            orders.setdefault(topic, []).append((subscriber, places))
    for topic, found in orders.items():
        for at, (one, places) in enumerate(found):
            for other, theirs in found[at + 1 :]:
                common = [id_ for id_ in places if id_ in theirs]
                for first, second in itertools.pairwise(common):
                    if theirs[first] > theirs[second]:
                        yield f"{topic}: {one} got {first} before {second}, {other} after"
                        break


def all_or_lost(simulation: Simulation) -> Iterator[str]:
    """A client of ours gets every message of a topic that is kept; or it is told `lost`. What one of two processes that
    did not hear each other took in is given up when they meet: who has ended its subscription by then is told nothing.
    After a loss of its connection, a pattern is told with the answer to its request: not who ends it before that. By
    a name it has a position, and hears nothing newer before.
    """
    log = simulation.log
    kept = [message for message in log.messages.values() if message.kept and message.acknowledged is not None]
    for subscriber in log.subscriptions:
        if subscriber.ready is None:
            continue
        got: dict[str, float] = {}
        for event in subscriber.events:
            if event.kind == "message":
                got.setdefault(event.id, event.at)
        for message in kept:
            if (
                message.id in got
                or not subscriber.matches(message.topic)
                or message.began <= subscriber.ready
                or subscriber.name.partition(".")[0] == message.own
            ):
                continue
            newer = min(
                (
                    got[other.id]
                    for other in kept
                    if other.topic == message.topic
                    and other.id in got
                    and message.acknowledged is not None
                    and other.began > message.acknowledged
                ),
                default=math.inf,
            )
            if subscriber.ended is not None and (
                newer == math.inf
                or (
                    message.acknowledged is not None
                    and subscriber.ended < newer + TOLD_WITHIN
                    and (
                        (subscriber.asked and is_pattern(subscriber.pattern.split(".")))
                        or simulation.apart_between(message.began, message.acknowledged)
                    )
                )
            ):
                continue  # it might have come, or `lost`
            told = any(
                event.kind == "lost"
                and event.topic in (message.topic, subscriber.pattern)
                and message.began <= event.at <= newer + TOLD_WITHIN
                for event in subscriber.events
            )
            if not told:
                after = "and nothing later" if newer == math.inf else f"but something later {newer:.3f}"
                yield f"{subscriber} missed {message}, {after}, and was not told"


def recovers(simulation: Simulation) -> Iterator[str]:
    """Where all is kept, and its process lives, a client gets what it missed: by the name of a topic of which it has
    had a message, and whatever happened to its connection."""
    log, scenario = simulation.log, simulation.scenario
    if scenario.servers > 1 or scenario.kept_messages < 1000 or {"kill", "terminate"} & {*scenario.faults}:
        return
    for subscriber in log.subscriptions:
        if subscriber.ready is None or subscriber.ended is not None:
            continue
        got = {event.id for event in _messages(subscriber)}
        first = min((event.at for event in _messages(subscriber)), default=math.inf)  # from then on it has a position
        for message in log.messages.values():
            if (
                message.kept
                and message.topic == subscriber.pattern
                and message.acknowledged is not None
                and message.began > first
                and message.own != subscriber.name.partition(".")[0]
                and message.id not in got
            ):
                yield f"{subscriber} has not got {message}, which was kept all the time"


def _histories(simulation: Simulation, topic: str) -> dict[str, list[str]]:
    """What each process keeps of a topic, by its name: ids of messages."""
    return {
        process.name: [
            json.loads(publication.bare.data)["id"]
            for publication in process.server.publishing.history.latest(topic, 10_000, process.loop.time())
        ]
        for process in simulation.serving.values()
    }


def same_history(simulation: Simulation) -> Iterator[str]:
    """As long as one process lives, they all have the history; one that is new gets it from the others."""
    for topic in simulation.kept_topics:
        found = _histories(simulation, topic)
        if len(set(map(tuple, found.values()))) > 1:
            yield f"the processes keep different messages of {topic}: {found}"


def survives_a_death(simulation: Simulation) -> Iterator[str]:
    """A message that was acknowledged is not lost by the death of one process. (It may be when others do not hear each
    other meanwhile: then a new epoch begins.)"""
    scenario = simulation.scenario
    if scenario.kept_messages < 1000 or {"bus", "freeze", "stall"} & {*scenario.faults} or scenario.preemption:
        return
    for topic in simulation.kept_topics:
        kept = {id_ for ids in _histories(simulation, topic).values() for id_ in ids}
        for message in simulation.log.messages.values():
            if message.topic != topic or message.acknowledged is None or message.id in kept:
                continue
            deaths = [name for at, name in simulation.deaths if at >= message.began]
            if len(deaths) == 1 and simulation.others_at(message.began):
                yield f"{message} is kept by nobody any more, after the death of {deaths[0]} alone"


def newest_by_key(simulation: Simulation) -> Iterator[str]:
    """With "latest", a message with a key takes the place of the one with the same key that still waits; the oldest go
    when there is too much all the same."""
    log = simulation.log
    for connection in log.connections:
        if connection.policy != "latest":
            continue
        last: dict[tuple[str, str], int] = {}
        for event in _messages(connection):
            message = log.messages[event.id]
            if message.key is None or message.own:
                continue
            place = message.publisher, f"{message.topic} {message.key}"
            if message.seq < last.get(place, 0):
                yield f"{connection} got {event.id}, which is older than what it had for {message.key}"
            last[place] = max(last.get(place, 0), message.seq)
        if connection.ended is not None or connection.host not in simulation.serving:
            continue
        if simulation.serving[connection.host].server.overflow.counts["dropped_oldest"]:
            continue  # too much waited, whatever its keys: it may have been that
        publisher = f"{connection.host}/main"  # between processes, what is not kept may be lost
        newest = {
            (message.topic, message.key): message
            for message in log.messages.values()
            if message.key
            and message.publisher == publisher
            and message.error is None
            and message.began > connection.since.get(message.topic, math.inf)
        }
        heard = [(event.at, log.messages[event.id]) for event in _messages(connection)]
        for message in newest.values():
            # Of several publishers, whoever came last to this process has the place of a key.
            if not any(
                other is message
                or (
                    other.publisher != publisher
                    and at >= message.began
                    and (other.topic, other.key) == (message.topic, message.key)
                )
                for at, other in heard
            ):
                yield f"{connection} has not got {message}, the latest for {message.key}"


def turn_share(simulation: Simulation) -> Iterator[str]:
    """Messages are put on the queues 256 a turn (here, so many as the run set)."""
    yield from simulation.turn_faults


def encoded_once(simulation: Simulation) -> Iterator[str]:
    """A message is encoded once for each of the two forms, in each process."""
    yield from simulation.encoding_faults


def subscriptions_end(simulation: Simulation) -> Iterator[str]:
    """Subscriptions end with their connection."""
    for process in simulation.serving.values():
        subscriptions = process.server.subscriptions
        counts = {pattern: count for pattern, count in subscriptions.counts().items() if count}
        alive: dict[str, int] = {}
        for ws in Audience(process.loop, process.server).members():
            for pattern in subscriptions.of(ws):
                alive[pattern] = alive.get(pattern, 0) + 1
        if counts != alive:
            yield f"{process.name} has subscribers {counts}, and connections with {alive}"


# ---------------------------------------------------------------------- what the other sections promise


def presence(simulation: Simulation) -> Iterator[str]:
    """Every process knows the members of all, and so do clients that want to know; whoever has gone is none."""
    serving = list(simulation.serving.values())
    for topic in simulation.rooms:
        there = sum(process.server.subscriptions.counts().get(topic, 0) for process in serving)
        members = {process.name: {member.id for member in process.server.members(topic)} for process in serving}
        for name, found in members.items():
            if len(found) != there:
                yield f"{name} knows of {len(found)} members of {topic}, and there are {there}"
        if len({frozenset(found) for found in members.values()}) > 1:
            yield f"the processes know different members of {topic}: { {k: sorted(v) for k, v in members.items()} }"
        for subscriber in simulation.log.subscriptions:
            if subscriber.wants_members and subscriber.pattern == topic and subscriber.ended is None and serving:
                known = set(members[serving[0].name])
                if subscriber.ready is not None and set(subscriber.members or ()) != known:
                    yield f"{subscriber} sees {sorted(subscriber.members or ())}, and there are {sorted(known)}"


def comes_back(simulation: Simulation) -> Iterator[str]:
    """A client comes back by itself when its connection is lost."""
    for client in simulation.clients:
        if client.topics is None or not client.topics.connected:
            yield f"{client.name} is not connected, though all is well for long"


def answers_come(simulation: Simulation) -> Iterator[str]:
    """Each Future ends: with an answer, or with an error that says that there will be none."""
    for client in simulation.clients:
        for name, future in client.futures:
            if not future.done():
                yield f"{client.name}: {name} never ended"


def nothing_raised(simulation: Simulation) -> Iterator[str]:
    """Nothing fails that nobody expects: no traceback in the log, no thread that ends by an exception."""
    yield from simulation.raised


PROMISES: dict[str, tuple[Check, ...]] = {
    "A subscriber gets a message once, however many of its subscriptions match.": (once,),
    "(A client that comes back by another connection may get one of a topic that is not kept again.)": (once,),
    "What one process publishes to one topic arrives in that order; what it publishes to several that are not kept, "
    "too.": (process_order,),
    "A message of a topic that is kept may overtake one of another topic.": (process_order,),
    "Messages of two processes may arrive here in the one order and there in the other; those of a topic that is kept "
    "come in one order everywhere.": (one_order,),
    "A message is encoded once for each of the two forms, and compressed once for each kind of connection.": (
        encoded_once,
    ),
    "It is put on the queues 256 a turn, so a topic of 19,000 does not hold up others. `join` and `leave` have 64 a "
    "turn of their own, where those of a topic that come together count as one for each 8 KiB.": (turn_share,),
    "Those of a topic come in their order, but messages of the topic may overtake them.": (presence,),
    "A connection that does not read is treated by its `overflow`.": (newest_by_key, process_order, all_or_lost),
    'With `"latest"`, a message with a `key` takes the place of the one with the same key that still waits: the right '
    "thing for prices, positions, counters.": (newest_by_key,),
    "(Of a topic that is kept, clients of gows.v1 get each message, in order, so there a key replaces nothing for "
    "them.)": (all_or_lost, process_order),
    "A client of gows.v1 that missed messages since it was too slow for them is told `lost` for each of those topics, "
    "as soon as it has read what waited (for each of its subscriptions, if there are more than 64), or is closed with "
    '1013 (`overflow="close"`).': (all_or_lost,),
    "Of topics that are kept our clients then get what they missed.": (recovers,),
    "Other connections are told nothing.": (nothing_raised,),  # a plain client here raises for what is no message
    "Of a topic that is kept, a client of ours gets every message once and in order, over losses of its connection, "
    "the death of processes, and those of a Redis that does not forget; or it is told `lost`, and may then hear some "
    "again.": (
        all_or_lost,
        once,
        process_order,
        one_order,
    ),
    "A message that was acknowledged is not lost by the death of one process, if others were there that answered.": (
        survives_a_death,
        all_or_lost,
    ),
    "Two processes that live and do not hear each other both go on: one that starts waits a second for the others to "
    "answer, and no kernel cuts a connection between two on one machine.": (same_history, all_or_lost),
    "What one of them took in alone is given up when they meet: who is subscribed then is told `lost`, but not when "
    "that process dies before.": (same_history, all_or_lost),  # a thread of the bus rests, or the fault is "bus"
    "Subscriptions end with their connection.": (subscriptions_end, presence),
}
"""By sentence of the page: what looks whether it is kept. Not simulated: Redis."""


AT_REST: tuple[Check, ...] = (
    once,
    process_order,
    one_order,
    all_or_lost,
    recovers,
    same_history,
    survives_a_death,
    newest_by_key,
    turn_share,
    encoded_once,
    subscriptions_end,
    presence,
    comes_back,
)
"""When all has been well for a while."""
AT_THE_END: tuple[Check, ...] = (subscriptions_end, presence, answers_come, nothing_raised)
"""When all clients were closed."""


def check(simulation: Simulation, checks: Iterable[Check]) -> list[Fault]:
    """What these find."""
    return [Fault(look.__name__, text) for look in checks for text in look(simulation)]
