"""One shard of the memory broker: what the server-side functions do to a shard's keys, in plain Python.

Nothing here waits, so every method is one instant, as a function is on the server. Time is handed in.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from swell.bus.broker import (
    Glance,
    Inheritance,
    Lease,
    LeaseState,
    Ledger,
    Refused,
    ReplayStatus,
    Settlement,
)
from swell.bus.events import FanOut, FanOutStatus, mark_of
from swell.bus.memory_due import DueSet
from swell.bus.memory_ids import Ids, Instant, order
from swell.bus.memory_inbox import MemoryInbox
from swell.bus.timed import KINDS, ONCE, Fired, Next
from swell.keys import is_task
from swell.priority import inbox_of, inboxes

#: Dead letters kept, the newest of each shard. Redis keeps at least as many, and up to a node of its stream more.
KEEP_LETTERS = 10_000


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


class MemoryShard:
    """The keys of one shard.

    Attributes:
        records: record id -> record.
        tasks: the same of tasks.
        letters: the newest dead letters, stream id -> letter, oldest first.
        due: messages that wait for their time.
        inboxes: by name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: dict[str, bytes] = {}
        self.tasks: dict[str, bytes] = {}
        self.letters: dict[str, bytes] = {}
        self.due = DueSet()
        self._counters: Counter[str] = Counter()
        self.inboxes = {inbox: MemoryInbox(inbox, self._counters) for inbox in inboxes(name)}
        self._by_kind = {kind: self.inboxes[inbox_of(name, priority)] for priority, kind in KINDS.items()}
        self._by_kind[ONCE] = self.inboxes[name]
        self._letter_ids = Ids()
        self._lease = _Held()

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
        for inbox in self.inboxes.values():
            inbox.taken(owner, died=held.owner != "" and not running)
        epoch = max(held.epoch + 1, now.us)
        self._lease = _Held(owner, epoch, secrets.token_hex(8), now.ms + lease_ms, lease_ms)
        return Lease(self.name, owner, epoch, self._lease.token)

    def trial(self, lease: Lease, id: str, index: int, begin: bool) -> int:
        """Count a message's trial by this owner, once, or take it back; `lease.shard` names the inbox."""
        return self.inboxes[lease.shard].trial(lease.epoch, id, index, begin) if self._holds(lease) else -1

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
        for inbox in self.inboxes.values():
            inbox.released()
        return True

    def lease(self, now: Instant) -> LeaseState:
        """The lease as anybody may read it."""
        held = self._lease
        return LeaseState(self.name, held.owner, held.epoch, max(0, held.expires_ms - now.ms) if held.owner else 0)

    def settle(self, settlement: Settlement, now: Instant) -> bool:
        """Write outcomes and records, unless the lease is an older one."""
        if not self._holds(settlement.lease):
            self._counters["stale"] += 1
            return False
        if settlement.seq:
            if settlement.seq <= self._lease.settlements:
                return True
            self._lease.settlements = settlement.seq
        inbox = self.inboxes[settlement.inbox or self.name]
        for outcome in settlement.outcomes:
            for letter in inbox.settle_entry(outcome):
                self.letters[self._letter_ids.next(now)] = letter
        while len(self.letters) > KEEP_LETTERS:
            del self.letters[next(iter(self.letters))]
        for id, record in settlement.records.items():
            records = self.tasks if is_task(id) else self.records
            if record is None:
                records.pop(id, None)
            else:
                records[id] = record
        self.due.write(settlement.timed)
        return True

    def fire(self, lease: Lease, nexts: Sequence[Next], most: int, now: Instant) -> Fired | None:
        """Move what is due into the inboxes, unless the lease is an older one."""
        if not self._holds(lease):
            return None

        def add(kind: bytes, payload: bytes) -> None:
            self._by_kind.get(kind, self._by_kind[ONCE]).add(1, payload, now)

        fired = self.due.fire(nexts, most, now.us // 1000, add)
        self._counters.update(sent=fired.moved, depth=fired.moved)
        return fired

    def fan_out(self, lease: Lease, step: FanOut, most_depth: int, now: Instant) -> FanOutStatus:
        """Append what events become, if the mark is where it was; `lease.shard` names the inbox."""
        mark_id = mark_of(lease.shard)
        mark = self.records.get(mark_id, b"")
        if not self._holds(lease) or mark not in (step.before, step.after):
            return "lost"
        if mark == step.after:
            return "ok"
        count = sum(count for count, _ in step.batches)
        if self._counters["depth"] + count > most_depth:
            return "busy"
        for messages, payload in step.batches:
            self.inboxes[lease.shard].add(messages, payload, now)
        self.records[mark_id] = step.after
        self._counters.update(sent=count, depth=count)
        return "ok"

    def inheritance(self) -> Inheritance:
        """What the former owners left."""
        left = {name: inbox.left() for name, inbox in self.inboxes.items()}
        return Inheritance(self.records | self.tasks, *left.pop(self.name), left)

    def ledger(self) -> Ledger:
        """The counters, and the inboxes counted now."""
        present = sum(inbox.present for inbox in self.inboxes.values())
        entries = sum(len(inbox.entries) for inbox in self.inboxes.values())
        return Ledger(self.name, **self._counters, scheduled=len(self.due), present=present, entries=entries)

    def glance(self, now: Instant) -> Glance:
        """How the shard is, without counting the inboxes."""
        ages = [now.us // 1000 - order(id)[0] for one in self.inboxes.values() for id in islice(one.entries, 1)]
        held = self._lease
        left_ms = max(0, held.expires_ms - now.ms) if held.owner else 0
        held_ms = max(0, now.us - held.epoch) // 1000 if held.epoch else 0
        ledger = Ledger(self.name, **self._counters, scheduled=len(self.due))
        return Glance(ledger, max(0, *ages) if ages else None, held.owner, left_ms, held_ms)

    def dead(self, count: int, before: str, since: str) -> list[tuple[str, bytes]]:
        """The newest `count` dead letters before one stream id and since another, newest first."""
        letters: Iterator[tuple[str, bytes]] = reversed(self.letters.items())
        if before or since:
            newest, oldest = order(before) if before else (math.inf, 0), order(since or "0")
            letters = (one for one in reversed(self.letters.items()) if oldest <= order(one[0]) < newest)
        return list(islice(letters, count))

    def replay(self, inbox: str, letter: tuple[str, bytes], max_depth: int, now: Instant) -> ReplayStatus:
        """Make a dead letter (its id, its batch) a message again, unless the shard is full or the letter is gone."""
        id, payload = letter
        counters = self._counters
        if counters["depth"] + 1 > max_depth:
            counters["refused"] += 1
            return "busy"
        if self.letters.pop(id, None) is None:
            return "gone"
        counters.update(sent=1, depth=1, replayed=1)
        self.inboxes[inbox].add(1, payload, now)
        return "ok"

    def drop(self, id: str) -> bool:
        """Forget a dead letter; False if there is none of that id."""
        dropped = self.letters.pop(id, None) is not None
        if dropped:
            self._counters["dropped"] += 1
        return dropped

    def _holds(self, lease: Lease) -> bool:
        held = self._lease
        return held.owner != "" and (held.epoch, held.token) == (lease.epoch, lease.token)
