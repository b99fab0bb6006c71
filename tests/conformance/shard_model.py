"""What is true of one shard: which messages were appended, handled and settled, and by whose right.

Whoever injects a fault sees the server's answer all the same, though the process that asked does not: so the truth is
known even where the process must guess. It knows nothing of how the functions work, only what they promise.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from swell.bus.broker import Lease, Ledger

#: How a message ended: the fields of an outcome, in its order.
KINDS = ("acked", "dead", "expired")


class Violation(AssertionError):
    """An invariant of docs/design.md does not hold."""


class Message(NamedTuple):
    """One message: who sent it to whom, and its place among those, from 1."""

    sender: str
    agent: str
    number: int


def demand(holds: bool, invariant: str, *details: object) -> None:
    """Raise a violation unless an invariant holds."""
    if not holds:
        raise Violation(" ".join([invariant, *map(str, details)]))


@dataclass(slots=True)
class Truth:
    """The account of one shard.

    Attributes:
        max_depth: the depth limit all producers ask for.
        sent: messages that an append wrote, in the order they were written.
        settled: message -> how it ended, in accepted settles.
        handled: (sender, agent) -> how many of its messages were handled at least once.
        holder: the newest grant; None when the shard is free.
        lapsed: whether the holder's lease has run out.
        records: the records last accepted.
        newest: the number of the newest settle of the holder's.
        taken: dead letters that were replayed or dropped.
    """

    max_depth: int
    sent: dict[Message, None] = field(default_factory=dict)
    settled: dict[Message, int] = field(default_factory=dict)
    handled: Counter[tuple[str, str]] = field(default_factory=Counter)
    holder: Lease | None = None
    lapsed: bool = True
    epoch: int = 0
    records: dict[str, bytes] = field(default_factory=dict)
    newest: int = 0
    taken: int = 0

    def granted(self, lease: Lease) -> None:
        """The server made somebody the owner."""
        rival = self.holder is not None and self.holder.owner != lease.owner and not self.lapsed
        demand(not rival, "one owner: granted beside", self.holder)
        demand(lease.epoch > self.epoch, "one owner: an epoch came again:", lease.epoch, self.epoch)
        self.holder, self.epoch, self.lapsed, self.newest = lease, lease.epoch, False, 0

    def accepted(self, lease: Lease, what: str) -> None:
        """The server did what an owner asked of it."""
        demand(lease == self.holder, "one owner: accepted a stale", what, "of", lease)

    def refused(self, lease: Lease, what: str) -> None:
        """The server found that an owner is none any more."""
        demand(lease != self.holder, "one owner: refused a rightful", what, "of", lease)

    def freed(self, lease: Lease) -> None:
        """The server took a shard back."""
        self.accepted(lease, "release")
        self.holder = None

    def wrote(self, messages: list[Message]) -> None:
        """An append was answered with ok."""
        for message in messages:
            demand(message not in self.sent, "settled once: appended twice:", message)
            self.sent[message] = None

    def ended(self, lease: Lease, results: dict[Message, int], records: dict[str, bytes]) -> None:
        """A settle was accepted."""
        self.accepted(lease, "settle")
        for message, kind in results.items():
            before = self.settled.setdefault(message, kind)
            demand(before == kind, "settled once: ended twice:", message, KINDS[before], KINDS[kind])
        self.records |= records

    def settled_by(self, lease: Lease, seq: int, results: dict[Message, int], records: dict[str, bytes]) -> None:
        """A settle was accepted; one that comes behind a later one changes nothing."""
        self.accepted(lease, "settle")
        if seq > self.newest:
            self.newest = seq
            self.ended(lease, results, records)

    def begun(self, message: Message, lease: Lease) -> None:
        """A handler was given a message for the first time in this ownership."""
        demand(message in self.sent, "nothing lost: handled what nobody sent:", message)
        again = lease == self.holder and message in self.settled
        demand(not again, "settled once: handled after it was settled:", message)
        line = message.sender, message.agent
        demand(message.number <= self.handled[line] + 1, "order: handled before its turn:", message)
        self.handled[line] = max(self.handled[line], message.number)

    def check(self, ledger: Ledger, records: dict[str, bytes], letters: int) -> None:
        """Hold what can be seen of the shard against the account."""
        demand(ledger.balanced, "conservation:", ledger)
        demand(ledger.sent == len(self.sent), "settled once: sent", len(self.sent), ledger)
        ends = Counter(KINDS[kind] for kind in self.settled.values())
        counted = {name: getattr(ledger, name) for name in KINDS}
        demand(counted == {name: ends[name] for name in KINDS}, "settled once:", counted, dict(ends))
        demand(ledger.depth <= self.max_depth, "bounded: depth", ledger.depth)
        demand(letters == ends["dead"] - self.taken, "settled once: dead letters", letters, ends["dead"], self.taken)
        demand(records == self.records, "one owner: records", records, self.records)


@dataclass(slots=True)
class Batch:
    """What one append carries."""

    seq: int
    messages: list[Message]


@dataclass(slots=True)
class Sender:
    """A producer of one shard: sends in order, keeps what is not acknowledged, repeats it under the same numbers."""

    name: str
    unacknowledged: list[Batch] = field(default_factory=list)
    numbers: dict[str, itertools.count[int]] = field(default_factory=dict)
    seq: int = 0

    def add(self, agents: list[str]) -> None:
        """Gather one batch, a message to each of these agents."""
        self.seq += 1
        lines = [self.numbers.setdefault(agent, itertools.count(1)) for agent in agents]
        messages = [Message(self.name, agent, next(line)) for agent, line in zip(agents, lines, strict=True)]
        self.unacknowledged.append(Batch(self.seq, messages))

    def take_back(self, agent: str) -> None:
        """The newest message to an agent was not written: its number is the next one's."""
        self.numbers[agent] = itertools.count(next(self.numbers[agent]) - 1)
