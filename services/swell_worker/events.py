"""Events: an event in a shard's inbox becomes a message for each of its subscribers there.

    $event --read--> matched --> line --fan_out--> the subscribers' messages are in the inbox, and the mark moves on
                        |                  |
                        |                  +--> the event is acked
                        +-- of each group at home here, one member --> a message in that member's shard

Events of a shard are fanned out in the order of the stream, so an agent hears them in that order. Those that do not fit
into the line are parked, as messages of a slow agent are, so they hold up no other message. What is fanned out may take
the shard's depth to twice its limit: senders are refused before, so events are never stuck behind them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from swell.app import App
from swell.backoff import BUSY, RECONNECT
from swell.bus.broker import Broker
from swell.bus.entry import Entry
from swell.bus.events import FanOut, mark_of
from swell.bus.shard import Inbox, OwnedShard
from swell.clock import SYSTEM
from swell.codec import MAX_BATCH_BYTES, Gathered, MessageBuffer, check_event, decode, encode
from swell.errors import BrokerError, SwellError
from swell.priority import PRIORITIES
from swell.topics import Event, check_topic
from swell.wire import EVENT, GROUP_HEADER, Message, Series, one_body
from swell_worker.executor import Failed
from swell_worker.groups import Groups, Ring
from swell_worker.parking import unpark
from swell_worker.subscribers import Body, Declared, Subscribers, declared_by
from swell_worker.subscriptions import Subscriptions

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: Messages, and bytes, that one call appends: bounds on how long the server is busy with it alone.
MOST_IN_STEP = 4096
MOST_BYTES = 2 << 20
#: Events that wait in a shard's line, and messages that they become; what comes then is parked.
MOST_IN_LINE = 256
MOST_TARGETS = 65_536
#: Who appended the entry of a message that an event became; it has no sequence of its own.
PRODUCER = "event"


class Mark(NamedTuple):
    """How far a shard's events are fanned out: up to and with this event, or with `cursor` this far into it.

    `cursor` is the last (agent, handler) that was given a message, in their order; empty: all were.
    """

    at: tuple[int, int]
    place: int
    cursor: tuple[str, ...] = ()


class Matched(NamedTuple):
    """An event in the line, with those whom it is for, and those of them who could not be sent it: it is too large."""

    entry: Entry
    place: int
    message: Message
    body: bytes
    targets: Sequence[tuple[str, str]]
    groups: Sequence[list[Ring]]
    missed: list[str]


class Line:
    """The events of one inbox.

    Attributes:
        inbox: where they lie.
        shard: whose that is.
        subscribers: who wants them; the same for all inboxes of a shard.
        groups: those that are at home here; the same for all of them.
        others: of a shard's line of normal events, those of its other inboxes, by rank.
        parked: (entry, index) of events that did not fit into the line, oldest first.
        sought: requests to cancel; there are none for events.
    """

    sought: tuple[()] = ()

    def __init__(self, fleet: Fleet, broker: Broker, inbox: Inbox, subscribers: Subscribers, groups: Groups) -> None:
        self.inbox = inbox
        self.shard = inbox.shard
        self.subscribers = subscribers
        self.groups = groups
        self.others: dict[int, Line] = {}
        self.parked: list[tuple[Entry, int]] = []
        self.task: asyncio.Task[None] | None = None
        self._fleet = fleet
        self._broker = broker
        self._line: deque[Matched] = deque()
        self._targets = 0
        self._written = b""
        self._mark = Mark((0, 0), -1)

    def load(self, records: dict[str, bytes]) -> None:
        """Take over what the shard's records say of how far events are fanned out."""
        self._written = records.get(mark_of(self.inbox.name), b"")
        if self._written:
            self._mark = decode(self._written, Mark)

    @property
    def all(self) -> list[Line]:
        """The lines of all inboxes of the shard."""
        return [self, *self.others.values()]

    def of(self, inbox: Inbox) -> Line:
        """The line of one of them."""
        return self if inbox is self.inbox else self.others[inbox.rank]

    @property
    def waiting(self) -> bool:
        """Whether something is to be done."""
        return bool(self._line or self.parked)

    def take(self, entry: Entry, index: int, message: Message) -> None:
        """An event was read."""
        if self.parked or len(self._line) >= MOST_IN_LINE or self._targets >= MOST_TARGETS:
            self.parked.append((entry, index))
            entry.parked += 1
            if entry.left <= entry.parked:
                entry.inbox.quiet(entry)
        else:
            self._match(entry, index, message)

    def put(self, entry: Entry, index: int, series: Series) -> None:
        """An event that was parked was fetched again."""
        self._match(entry, index, series.message(0))

    def found(self, entry: Entry, index: int, series: Series) -> bool:
        """Whether somebody cancelled it: events cannot be."""
        return False

    def _match(self, entry: Entry, index: int, message: Message) -> None:
        """Find whom an event is for; if it is for nobody, or was fanned out by a former owner, it has ended."""
        at = _place(entry)
        if (at, index) < (self._mark.at, self._mark.place):
            entry.ack(index)
            return
        cursor = self._mark.cursor if (at, index) == (self._mark.at, self._mark.place) else None
        if cursor == ():
            entry.ack(index)
            return
        if message.expires_us and SYSTEM.now_us() >= message.expires_us:
            self._fleet.recorder.count("expired", "")
            entry.expire(index)
            return
        try:
            event = _event(message)
            body = Body(event.body)
            matched = self.subscribers.match(event, body)
            groups = [] if event.handler or cursor else self.groups.match(event, body)
        except SwellError as error:
            self._fleet.end_dead(None, entry, index, message, Failed("wrong_body", str(error)))
            return
        raw_body = bytes(one_body(event.body))
        targets = [(agent, handler) for handler, agents in matched.items() for agent in agents]
        if cursor or len(targets) > self._most() or len(targets) * len(raw_body) > MOST_BYTES:
            targets.sort()  # Where it is cut, the mark names the last; so whoever goes on needs the same order.
            if cursor:
                targets = [one for one in targets if one > cursor]
        self._fleet.recorder.count("events")
        if not targets and not groups:
            entry.ack(index)
            return
        self._targets += len(targets)
        self._line.append(Matched(entry, index, message, raw_body, targets, groups, []))

    def _most(self) -> int:
        return max(1, min(MOST_IN_STEP, self._fleet.client.max_depth))

    async def run(self) -> None:
        """Fan out what is in the line, and what is parked, until nothing is or the shard is no longer read by us."""
        while self.shard.reading and self.waiting:
            if not self._line:
                if not await unpark(self._broker, self, self, MOST_IN_LINE):
                    self._fleet.distrust(self.shard)
                    return
                continue
            step = self._step()
            await self._send_to_groups(step)
            if not await self._write(step):
                return

    def _step(self) -> _Step:
        """As many events of the line as one call takes; of a large one the next part."""
        step = _Step(self._written, self._most())
        while self._line and step.add(self._line[0]):
            matched = self._line.popleft()
            self._targets -= len(matched.targets)
            if step.cut:
                left = matched.targets[step.cut :]
                self._targets += len(left)
                self._line.appendleft(matched._replace(targets=left, groups=[]))
                break
        return step

    async def _send_to_groups(self, step: _Step) -> None:
        """Give each group's chosen member its message; once more, if we die before the event is acked."""
        client = self._fleet.client
        messages: list[tuple[str, Gathered]] = []
        for matched in step.matched:
            for rings in matched.groups:
                chosen = await self.groups.choose(client, rings)
                if chosen is None:
                    continue
                headers = {**(matched.message.headers or {}), GROUP_HEADER: rings[0].group}
                (series,) = _series(matched, [chosen], headers)
                if len(series.data) > MAX_BATCH_BYTES:
                    matched.missed.append(chosen[0])
                else:
                    messages.append((client.inbox(chosen[0], PRIORITIES[self.inbox.rank]), series))
        if messages:
            await self._fleet.events.send(messages)

    async def _write(self, step: _Step) -> bool:
        """Append what a step holds, and end its events; returns whether to go on.

        Also while the shard is handed over: what went to groups must not go to them again.
        """
        if step.count:
            change = step.change()
            lease = self.shard.lease._replace(shard=self.inbox.name)
            failures = 0
            while True:
                try:
                    status = await self._broker.fan_out(lease, change, 2 * self._fleet.client.max_depth)
                except BrokerError as error:
                    failures += 1
                    if failures == 1:
                        log.warning("events wait: %s", error, extra={"shard": self.shard.name})
                    await asyncio.sleep(RECONNECT.wait_s(failures))
                    if not self.shard.reading:
                        return False
                    continue
                if status == "ok":
                    break
                if status == "lost":
                    log.info("events are another owner's", extra={"shard": self.shard.name})
                    # Also if the server forgot the mark: else they would wait for ever.
                    self._fleet.distrust(self.shard)
                    return False
                failures += 1
                self._fleet.recorder.count("event_waits")
                await asyncio.sleep(BUSY.wait_s(failures))
                if not self.shard.reading:
                    return False
            self._written = change.after
            self._fleet.recorder.count("event_messages", by=step.count)
        for entry, place, message, *_, missed in step.ended:
            if missed:  # Names of theirs are longer than there is room for.
                reason = f"the event is too large for {len(missed)} whom it was for; one of them is {missed[0][:256]}"
                self._fleet.end_dead(None, entry, place, message, Failed("wrong_body", reason))
            else:
                entry.ack(place)
        return True


class _Step:
    """Events that one call fans out.

    Attributes:
        matched: they; of the last perhaps a part only.
        ended: those that are through with it.
        count: messages that they become.
        cut: how many of the last one's targets are in it, if not all.
    """

    def __init__(self, before: bytes, most: int) -> None:
        self.matched: list[Matched] = []
        self.ended: list[Matched] = []
        self.count = 0
        self.cut = 0
        self._before = before
        self._most = most
        self._bytes = 0
        self._batches: list[tuple[int, bytes]] = []
        self._buffer = MessageBuffer()
        self._after = before

    def add(self, matched: Matched) -> bool:
        """Put an event in, or what fits of it; False if the step is full."""
        targets = matched.targets
        fits = len(targets)
        if self.count + fits > self._most or self._bytes + fits * len(matched.body) > MOST_BYTES:
            if self.count:
                return False  # A large one begins with a call of its own.
            fits = min(fits, self._most, max(1, MOST_BYTES // len(matched.body)))
        missed = len(matched.missed)
        for series, (agent, _) in zip(_series(matched, targets[:fits], matched.message.headers), targets, strict=False):
            if not self._buffer.add(series):
                self._close()
                if not self._buffer.add(series):
                    matched.missed.append(agent)
        self.count += fits - (len(matched.missed) - missed)
        self._bytes += fits * len(matched.body)
        self.matched.append(matched)
        cursor: tuple[str, ...] = ()
        if fits < len(targets):
            self.cut = fits
            cursor = targets[fits - 1]
        else:
            self.ended.append(matched)
        if targets:
            self._after = encode(Mark(_place(matched.entry), matched.place, cursor))
        return True

    def _close(self) -> None:
        if self._buffer.count:
            self._batches.append((self._buffer.count, self._buffer.batch(PRODUCER, 0)))
            self._buffer = MessageBuffer()

    def change(self) -> FanOut:
        """What to write."""
        self._close()
        return FanOut(self._before, self._after, self._batches)


def _series(matched: Matched, targets: Iterable[tuple[str, str]], headers: dict[str, str] | None) -> Iterator[Gathered]:
    """The message of each target, encoded."""
    message = matched.message
    body, sent_us, sender = matched.body, message.sent_us, message.sender
    tail = encode(sent_us) + encode(sender) + b"\xa0\x00" + encode(headers) + encode(message.expires_us)
    if headers is None and not message.expires_us:
        tail = encode(sent_us) + encode(sender)
    head = b"\x96" if headers is None and not message.expires_us else b"\x9a"
    names: dict[str, bytes] = {}
    for agent, handler in targets:
        name = names.get(handler)
        if name is None:
            name = names[handler] = encode(handler) + b"\x01" + body + tail
        yield Gathered(1, head + encode(agent) + name)


def _event(message: Message) -> Event:
    """The event that a message carries.

    Raises:
        WireError, WrongBody: it is none, or no client of ours would have published it.
    """
    event = decode(message.body, Event)
    check_event(event.body, message.sender, message.headers)
    if not event.handler:
        check_topic(event.topic)
    return event


def _place(entry: Entry) -> tuple[int, int]:
    """An entry's place in its stream."""
    ms, _, seq = entry.id.partition("-")
    return int(ms), int(seq)


class Events(Subscriptions):
    """The events of all shards that this worker owns.

    Args:
        fleet: whose.
        broker: where they are fanned out.
    """

    def __init__(self, fleet: Fleet, app: App, broker: Broker) -> None:
        super().__init__(fleet, broker)
        self._declared = declared_by(app)

    def opened(self, shard: OwnedShard, records: dict[str, bytes]) -> Line:
        """A shard is ours."""
        subscribers, groups = Subscribers(self._fleet.app, self._declared), Groups()
        groups.load(records)
        lines = [Line(self._fleet, self._broker, inbox, subscribers, groups) for inbox in shard.inboxes]
        for line in lines:
            line.load(records)
        line = self.lines[shard.name] = lines[shard.rank]
        line.others = {rank: other for rank, other in enumerate(lines) if other is not line}
        return line

    def take(self, entry: Entry, index: int, message: Message) -> None:
        """An event was read."""
        line = self.lines[entry.shard.name].of(entry.inbox)
        line.take(entry, index, message)
        if line.waiting and (line.task is None or line.task.done()):
            line.task = self.begin(line.run())


__all__ = ["EVENT", "Declared", "Events", "Line"]
