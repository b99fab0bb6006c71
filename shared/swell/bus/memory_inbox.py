"""One inbox of the memory broker: its entries, who has read them, and what of them is settled."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from swell.bus.broker import Append, Appended, Delivered, Left, Outcome, Partial
from swell.bus.memory_ids import Ids, Instant, order
from swell.errors import GroupGone

#: A producer's last sequence number is forgotten when it was not used for so long.
PRODUCER_TTL_MS = 24 * 3600 * 1000
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
class _Suspect:
    """An entry that owners died with: how many; for each message tried alone, by how many and in which epoch last."""

    deaths: int = 0
    trials: dict[int, tuple[int, int]] = field(default_factory=dict)


class MemoryInbox:
    """The keys of one inbox.

    Args:
        name: its name.
        counters: of its shard's ledger.

    Attributes:
        entries: what lies in it, by id, oldest first.
        changed: events of blocked reads; set when something was added or the group is another.
    """

    def __init__(self, name: str, counters: Counter[str]) -> None:
        self.name = name
        self.entries: dict[str, Delivered] = {}
        self.changed: set[asyncio.Event] = set()
        self._counters = counters
        self._ids = Ids()
        self._group: _Group | None = None
        self._producers: dict[str, tuple[int, int]] = {}
        self._partial: dict[str, Partial] = {}
        self._suspects: dict[str, _Suspect] = {}
        #: Producers that wait for room, in order: when each asked last, and the messages of its oldest batch.
        self._line: dict[str, tuple[int, int]] = {}

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
        """Put an entry in as a bare XADD would, past sequence numbers and ledger; returns its id."""
        id = self._ids.next(now)
        self.entries[id] = Delivered(self.name, id, count, payload)
        if self._group is not None:
            self._group.new.append(id)
        self._signal()
        return id

    def taken(self, owner: str, *, died: bool) -> None:
        """The shard has a new owner, who reads all again; if the former one `died`, what it held is counted."""
        if died and self._group is not None:
            for id in self._group.pending:
                self._suspects.setdefault(id, _Suspect()).deaths += 1
        self._group = _Group(owner, deque(self.entries))
        self._signal()

    def released(self) -> None:
        """The shard has no owner."""
        self._group = None
        self._signal()

    def trial(self, epoch: int, id: str, index: int, begin: bool) -> int:
        """Count a message's trial by this owner, once, or take it back."""
        suspect = self._suspects.get(id)
        if suspect is None:
            return 0
        count, last = suspect.trials.get(index, (0, 0))
        if begin and last != epoch:
            count, last = count + 1, epoch
        elif not begin and last == epoch:
            count, last = count - 1, 0
        suspect.trials[index] = (count, last)
        return count

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
            entry = self.entries.get(group.new.popleft())
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
        return [self.entries[id] for id in self._group_of(owner).pending if order(id) > behind][:count]

    def fetch(self, ids: Iterable[str]) -> list[Delivered]:
        """Those of these entries that still exist."""
        return [self.entries[id] for id in ids if id in self.entries]

    def settle_entry(self, outcome: Outcome) -> list[bytes]:
        """Move one entry from what `partial` says of it to what `outcome` says, which may be the same.

        Returns:
            the dead letters to write.
        """
        entry = self.entries.get(outcome.id)
        if entry is None:
            return []
        before = self._partial.get(entry.id, _NOTHING)
        grown = outcome.dead - before.dead
        if entry.count:
            acked, dead = outcome.acked - before.acked, outcome.dead - before.dead
            expired = outcome.expired - before.expired
            self._counters.update(acked=acked, dead=dead, expired=expired, depth=-(acked + dead + expired))
        elif outcome.done:
            self._counters["foreign"] += 1
        if outcome.done:
            self._forget(entry.id)
        else:
            self._partial[entry.id] = Partial(outcome.acked, outcome.dead, outcome.expired, outcome.bitmap)
        if grown <= 0 and entry.count:
            return []
        # After a lost reply an outcome may come again with more: the letters of the first time stand already.
        return outcome.letters[max(0, len(outcome.letters) - max(grown, 1)) :]

    def _forget(self, id: str) -> None:
        del self.entries[id]
        self._partial.pop(id, None)
        self._suspects.pop(id, None)
        if self._group is not None:
            self._group.pending.pop(id, None)

    def left(self) -> Left:
        """What the former owners left."""
        return Left(dict(self._partial), {id: one.deaths for id, one in self._suspects.items()})

    @property
    def present(self) -> int:
        """Messages that nobody settled, counted now."""
        settled = {id: part.acked + part.dead + part.expired for id, part in self._partial.items()}
        return sum(entry.count - settled.get(id, 0) for id, entry in self.entries.items())

    def _last_seq(self, producer: str, now: Instant) -> int:
        last, used_ms = self._producers.get(producer, (0, 0))
        if last and now.ms - used_ms <= PRODUCER_TTL_MS:
            return last
        # A producer that is new here is the occasion to forget those that are long gone.
        self._producers = {
            name: (seq, used) for name, (seq, used) in self._producers.items() if now.ms - used <= PRODUCER_TTL_MS
        }
        return 0

    def _group_of(self, owner: str) -> _Group:
        if self._group is None or self._group.owner != owner:
            raise GroupGone(f"the consumer group of {owner} on inbox {self.name} is gone")
        return self._group

    def _signal(self) -> None:
        for event in self.changed:
            event.set()
