"""One shard of the memory broker: what the server-side functions do to a shard's keys, in plain Python.

Nothing here waits, so every method is one instant, as a function is on the server. Time is handed in.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

from swell.bus.broker import (
    Append,
    Appended,
    Delivered,
    Glance,
    Inheritance,
    Lease,
    LeaseState,
    Ledger,
    Outcome,
    Partial,
    Refused,
    ReplayStatus,
    Settlement,
)
from swell.bus.events import MARK, FanOut, FanOutStatus
from swell.bus.memory_due import DueSet
from swell.bus.memory_ids import Ids, Instant, order
from swell.bus.timed import Fired, Next
from swell.errors import GroupGone

#: A producer's last sequence number is forgotten when it was not used for so long.
PRODUCER_TTL_MS = 24 * 3600 * 1000

#: Dead letters kept, the newest of each shard. Redis keeps at least as many, and up to a node of its stream more.
KEEP_LETTERS = 10_000

#: A producer that did not ask for room for so long waits no longer, milliseconds.
FORGET_MS = 2000
#: No batch has more messages.
LARGEST_BATCH = 256

_NOTHING = Partial(0, 0, 0, b"")


def nearly_full(depth: int, max_depth: int) -> bool:
    """Whether somebody may wait for room: with so much of it left nobody does."""
    return 2 * (depth + LARGEST_BATCH) > max_depth


@dataclass(slots=True)
class _Group:
    """The consumer group of one owner: entries it has not seen yet, and those it holds, both in stream order."""

    owner: str
    new: deque[str]
    pending: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class _Held:
    """The lease as stored. `owner` and `token` are empty when the shard was released or never taken.

    `settlements` is the newest settlement that was written under it.
    """

    owner: str = ""
    epoch: int = 0
    token: str = ""
    expires_ms: int = 0
    ttl_ms: int = 0
    settlements: int = 0


@dataclass(slots=True)
class _Suspect:
    """An entry that owners died with: how many; for each message tried alone, by how many and in which epoch last."""

    deaths: int = 0
    trials: dict[int, tuple[int, int]] = field(default_factory=dict)


class MemoryShard:
    """The keys of one shard.

    Attributes:
        records: record id -> record.
        letters: the newest dead letters, stream id -> letter, oldest first.
        due: messages that wait for their time.
        changed: events of blocked reads; set when something was added or the group is another.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: dict[str, bytes] = {}
        self.letters: dict[str, bytes] = {}
        self.due = DueSet()
        self.changed: set[asyncio.Event] = set()
        self._inbox: dict[str, Delivered] = {}
        self._inbox_ids = Ids()
        self._letter_ids = Ids()
        self._lease = _Held()
        self._group: _Group | None = None
        self._producers: dict[str, tuple[int, int]] = {}
        self._partial: dict[str, Partial] = {}
        self._suspects: dict[str, _Suspect] = {}
        #: Producers that wait for room, in order: when each asked last, and the messages of its oldest batch.
        self._line: dict[str, tuple[int, int]] = {}
        self._counters: Counter[str] = Counter()

    def append(self, producer: str, append: Append, max_depth: int, now: Instant, *, behind: bool = False) -> Appended:
        """Append one batch, unless it is a duplicate, follows a gap, or the shard is full.

        A gap `behind` a batch that was refused in the same call is natural; otherwise the server has lost appends.
        """
        last = self._last_seq(producer, now)
        counters = self._counters
        if append.seq <= last:
            counters["duplicate"] += 1
            return Appended("duplicate")
        if append.seq > last + 1:
            if not behind:
                counters["rewinds"] += 1
            return Appended("gap", last)
        depth = counters["depth"]
        room = not nearly_full(depth, max_depth) or self._its_turn(producer, append.count, max_depth - depth, now)
        if depth + append.count > max_depth or not room:
            counters["refused"] += 1
            return Appended("busy", depth)
        self._producers[producer] = (append.seq, now.ms)
        counters["sent"] += append.count
        counters["depth"] += append.count
        self.add(append.count, append.payload, now)
        return Appended("ok")

    def _its_turn(self, producer: str, count: int, room: int, now: Instant) -> bool:
        """Whether there is room for a producer's batch and for all ahead of it: it leaves the line then, else waits."""
        line = {name: one for name, one in self._line.items() if abs(now.ms - one[0]) <= FORGET_MS}
        self._line = line
        ahead = sum(wanted for _, (_, wanted) in takewhile(lambda one: one[0] != producer, line.items()))
        if ahead + count <= room:
            line.pop(producer, None)
            return True
        if count <= room + self._counters["depth"]:
            line[producer] = (now.ms, count)
        return False

    def add(self, count: int, payload: bytes, now: Instant) -> str:
        """Put an entry into the inbox as a bare XADD would, past sequence numbers and ledger; returns its id."""
        id = self._inbox_ids.next(now)
        self._inbox[id] = Delivered(self.name, id, count, payload)
        if self._group is not None:
            self._group.new.append(id)
        self._signal()
        return id

    def acquire(self, owner: str, lease_ms: int, now: Instant) -> Lease | Refused:
        """Take the shard if it is free, lapsed, or ours; what a lapsed owner held counts as one delivery more."""
        held = self._lease
        # Set back since the last renewal, the clock may make no lease last longer than it was given for.
        held.expires_ms = min(held.expires_ms, now.ms + held.ttl_ms)
        running = held.owner != "" and held.expires_ms > now.ms
        if running and held.owner != owner:
            return Refused(self.name, held.owner, held.expires_ms - now.ms)
        if held.owner not in ("", owner) and not running:
            self._counters["lapsed"] += 1
        if held.owner and not running and self._group is not None:
            for id in self._group.pending:
                self._suspects.setdefault(id, _Suspect()).deaths += 1
        epoch = max(held.epoch + 1, now.us)
        self._lease = _Held(owner, epoch, secrets.token_hex(8), now.ms + lease_ms, lease_ms)
        self._group = _Group(owner, deque(self._inbox))
        self._signal()
        return Lease(self.name, owner, epoch, self._lease.token)

    def trial(self, lease: Lease, id: str, index: int, begin: bool) -> int:
        """Count a message's trial by this owner, once, or take it back."""
        if not self._holds(lease):
            return -1
        suspect = self._suspects.get(id)
        if suspect is None:
            return 0
        count, last = suspect.trials.get(index, (0, 0))
        if begin and last != lease.epoch:
            count, last = count + 1, lease.epoch
        elif not begin and last == lease.epoch:
            count, last = count - 1, 0
        suspect.trials[index] = (count, last)
        return count

    def renew(self, lease: Lease, lease_ms: int, now: Instant) -> bool:
        """Prolong the lease if it is still this one, lapsed or not."""
        if not self._holds(lease):
            return False
        self._lease.expires_ms = now.ms + lease_ms
        self._lease.ttl_ms = lease_ms
        return True

    def release(self, lease: Lease) -> bool:
        """Free the shard if the lease is still this one; the epoch stays, so that the next one is greater."""
        if not self._holds(lease):
            return False
        self._lease = _Held(epoch=lease.epoch)
        self._group = None
        self._signal()
        return True

    def lease(self, now: Instant) -> LeaseState:
        """The lease as anybody may read it."""
        held = self._lease
        return LeaseState(self.name, held.owner, held.epoch, max(0, held.expires_ms - now.ms) if held.owner else 0)

    def check_owner(self, owner: str) -> None:
        """Make sure that the group is this owner's.

        Raises:
            GroupGone: it is another's, or there is none.
        """
        self._group_of(owner)

    def read(self, owner: str, count: int) -> list[Delivered]:
        """Up to `count` entries that this owner has not seen yet; they are pending from now on.

        Raises:
            GroupGone: the shard is not this owner's.
        """
        group = self._group_of(owner)
        found: list[Delivered] = []
        while group.new and len(found) < count:
            entry = self._inbox.get(group.new.popleft())
            if entry is not None:
                group.pending[entry.id] = None
                found.append(entry)
        return found

    def pending(self, owner: str, after: str, count: int) -> list[Delivered]:
        """Up to `count` entries behind id `after` that this owner has read and not settled.

        Raises:
            GroupGone: the shard is not this owner's.
        """
        behind = order(after)
        return [self._inbox[id] for id in self._group_of(owner).pending if order(id) > behind][:count]

    def fetch(self, ids: Iterable[str]) -> list[Delivered]:
        """Those of these entries that still exist."""
        return [self._inbox[id] for id in ids if id in self._inbox]

    def settle(self, settlement: Settlement, now: Instant) -> bool:
        """Write outcomes and records, unless the lease is an older one."""
        if not self._holds(settlement.lease):
            self._counters["stale"] += 1
            return False
        if settlement.seq:
            if settlement.seq <= self._lease.settlements:
                return True
            self._lease.settlements = settlement.seq
        for outcome in settlement.outcomes:
            entry = self._inbox.get(outcome.id)
            if entry is not None:
                self._settle_entry(entry, outcome, now)
        for id, record in settlement.records.items():
            if record is None:
                self.records.pop(id, None)
            else:
                self.records[id] = record
        self.due.write(settlement.timed)
        return True

    def fire(self, lease: Lease, nexts: Sequence[Next], most: int, now: Instant) -> Fired | None:
        """Move what is due into the inbox, unless the lease is an older one."""
        if not self._holds(lease):
            return None
        fired = self.due.fire(nexts, most, now.us // 1000, lambda payload: self.add(1, payload, now))
        self._counters.update(sent=fired.moved, depth=fired.moved)
        return fired

    def fan_out(self, lease: Lease, step: FanOut, most_depth: int, now: Instant) -> FanOutStatus:
        """Append what events become, if the mark is where it was."""
        mark = self.records.get(MARK, b"")
        if not self._holds(lease) or mark not in (step.before, step.after):
            return "lost"
        if mark == step.after:
            return "ok"
        count = sum(count for count, _ in step.batches)
        if self._counters["depth"] + count > most_depth:
            return "busy"
        for messages, payload in step.batches:
            self.add(messages, payload, now)
        self.records[MARK] = step.after
        self._counters.update(sent=count, depth=count)
        return "ok"

    def _settle_entry(self, entry: Delivered, outcome: Outcome, now: Instant) -> None:
        """Move one entry from what `partial` says of it to what `outcome` says, which may be the same."""
        before = self._partial.get(entry.id, _NOTHING)
        grown = outcome.dead - before.dead
        if entry.count:
            acked, dead = outcome.acked - before.acked, outcome.dead - before.dead
            expired = outcome.expired - before.expired
            self._counters.update(acked=acked, dead=dead, expired=expired, depth=-(acked + dead + expired))
        elif outcome.done:
            self._counters["foreign"] += 1
        if grown > 0 or not entry.count:
            # After a lost reply an outcome may come again with more: the letters of the first time stand already.
            known = max(0, len(outcome.letters) - max(grown, 1))
            for letter in outcome.letters[known:]:
                self.letters[self._letter_ids.next(now)] = letter
            while len(self.letters) > KEEP_LETTERS:
                del self.letters[next(iter(self.letters))]
        if outcome.done:
            self._forget(entry.id)
        else:
            self._partial[entry.id] = Partial(outcome.acked, outcome.dead, outcome.expired, outcome.bitmap)

    def _forget(self, id: str) -> None:
        del self._inbox[id]
        self._partial.pop(id, None)
        self._suspects.pop(id, None)
        if self._group is not None:
            self._group.pending.pop(id, None)

    def inheritance(self) -> Inheritance:
        """What the former owners left."""
        return Inheritance(
            dict(self.records), dict(self._partial), {id: one.deaths for id, one in self._suspects.items()}
        )

    def ledger(self) -> Ledger:
        """The counters, and the inbox counted now."""
        settled = {id: part.acked + part.dead + part.expired for id, part in self._partial.items()}
        present = sum(entry.count - settled.get(id, 0) for id, entry in self._inbox.items())
        return Ledger(self.name, **self._counters, scheduled=len(self.due), present=present, entries=len(self._inbox))

    def glance(self, now: Instant) -> Glance:
        """How the shard is, without counting the inbox."""
        oldest = next(iter(self._inbox), None)
        age_ms = None if oldest is None else max(0, now.us // 1000 - int(order(oldest)[0]))
        held = self._lease
        left_ms = max(0, held.expires_ms - now.ms) if held.owner else 0
        held_ms = max(0, now.us - held.epoch) // 1000 if held.epoch else 0
        return Glance(
            Ledger(self.name, **self._counters, scheduled=len(self.due)), age_ms, held.owner, left_ms, held_ms
        )

    def dead(self, count: int, before: str, since: str) -> list[tuple[str, bytes]]:
        """The newest `count` dead letters before one stream id and since another, newest first."""
        letters: Iterator[tuple[str, bytes]] = reversed(self.letters.items())
        if before or since:
            newest, oldest = order(before) if before else (math.inf, 0), order(since or "0")
            letters = (one for one in reversed(self.letters.items()) if oldest <= order(one[0]) < newest)
        return list(islice(letters, count))

    def replay(self, id: str, payload: bytes, max_depth: int, now: Instant) -> ReplayStatus:
        """Make a dead letter a message again, unless the shard is full or the letter is gone."""
        counters = self._counters
        if counters["depth"] + 1 > max_depth:
            counters["refused"] += 1
            return "busy"
        if self.letters.pop(id, None) is None:
            return "gone"
        counters.update(sent=1, depth=1, replayed=1)
        self.add(1, payload, now)
        return "ok"

    def drop(self, id: str) -> bool:
        """Forget a dead letter; False if there is none of that id."""
        dropped = self.letters.pop(id, None) is not None
        if dropped:
            self._counters["dropped"] += 1
        return dropped

    def _last_seq(self, producer: str, now: Instant) -> int:
        last, used_ms = self._producers.get(producer, (0, 0))
        if last and now.ms - used_ms <= PRODUCER_TTL_MS:
            return last
        # A producer that is new here is the occasion to forget those that are long gone.
        self._producers = {
            name: (seq, used) for name, (seq, used) in self._producers.items() if now.ms - used <= PRODUCER_TTL_MS
        }
        return 0

    def _holds(self, lease: Lease) -> bool:
        held = self._lease
        return held.owner != "" and (held.epoch, held.token) == (lease.epoch, lease.token)

    def _group_of(self, owner: str) -> _Group:
        if self._group is None or self._group.owner != owner:
            raise GroupGone(f"the consumer group of {owner} on shard {self.name} is gone")
        return self._group

    def _signal(self) -> None:
        for event in self.changed:
            event.set()
