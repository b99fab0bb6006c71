"""A shard in its owner's hands, with its inboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swell.bus.broker import Inheritance, Lease, Left
from swell.bus.entry import Entry
from swell.bus.timed import Timed
from swell.priority import NORMAL, inboxes, rank

_NOTHING = Left({}, {})


class Inbox:
    """What the owner knows of one inbox of a shard.

    Attributes:
        name: "3", or "3.critical".
        rank: of its messages' priority, 0 for the most urgent.
        shard: whose it is.
        recover: whether entries may have been delivered to us in a reply that was lost.
        open: entries read and not settled, in the order of the stream.
        done: those of them that are ended and can be settled.
        partial: what former owners settled of entries that were not read yet.
        deliveries: how many owners died holding an entry.
        suspects: entries that too many owners died with; see `swell.bus.careful`.
        waiting: whether a suspect entry is being handled, so that nothing behind it is delivered.
        trial: set when something of a suspect entry ended, or the shard is no longer read.
    """

    __slots__ = (
        *("deliveries", "done", "name", "open", "partial", "rank", "recover", "shard", "suspects", "trial", "waiting"),
    )

    shard: OwnedShard

    def __init__(self, name: str, left: Left) -> None:
        self.name = name
        self.rank = rank(name)
        self.recover = False
        self.open: dict[str, Entry] = {}
        self.done: list[Entry] = []
        self.partial, self.deliveries = left
        self.suspects: set[str] = set()
        self.waiting = False
        self.trial: asyncio.Event | None = None

    def opened(self, id: str, count: int, size: int, read_ns: int) -> Entry:
        """Take an entry into our hands."""
        entry = self.open[id] = Entry(self, id, count, read_ns, self.partial.pop(id, None) if self.partial else None)
        self.held(entry, size)
        return entry

    def held(self, entry: Entry, size: int) -> None:
        """An entry's payload is in memory (again)."""
        self.shard.held_bytes += size - entry.size
        entry.size = size

    def quiet(self, entry: Entry) -> None:
        """Nothing of the entry is held in memory any more; if all its messages ended, it can be settled."""
        shard = self.shard
        shard.held_bytes -= entry.size
        entry.size = 0
        if not entry.left:
            self.done.append(entry)
            shard.dirty.set()
        if self.trial is not None:
            self.trial.set()


class OwnedShard(Inbox):
    """What the owner knows of a shard between acquire and release; it is its own inbox of normal messages.

    Attributes, beside those of `Inbox`:
        lease: the fencing token; `lease.shard` is the name, "0", "1", ..., "control" or "metrics".
        trusted_until_ns: monotonic time, nanoseconds, behind which nothing of this shard may be begun.
        reading: whether new entries are asked for; ends with a hand-over.
        inboxes: all of them, by rank.
        records: records to write with the next settle.
        timed: messages that wait for their time, to store or remove (None) with the next settle.
        on_timed: told when such are written, and when the first of them is due (server time, milliseconds).
        whole: whether a kept state, or one of those, is among them: then all that ended is settled in the same call.
        settlements: settlements made under this lease.
        held_bytes: payload bytes of open entries that are held in memory.
        dirty: set when there is something to settle.
    """

    __slots__ = (
        *("dirty", "held_bytes", "inboxes", "lease", "on_timed", "reading", "records", "settlements", "timed"),
        *("trusted_until_ns", "whole"),
    )

    def __init__(self, lease: Lease, inherited: Inheritance, trusted_until_ns: int, dirty: asyncio.Event) -> None:
        super().__init__(lease.shard, Left(inherited.partial, inherited.deliveries))
        self.shard = self
        self.lease = lease
        self.trusted_until_ns = trusted_until_ns
        self.reading = True
        self.records: dict[str, bytes | None] = {}
        self.timed: dict[str, Timed | None] = {}
        self.on_timed: Callable[[int], None] | None = None
        self.whole = False
        self.settlements = 0
        self.held_bytes = 0
        self.dirty = dirty
        names = inboxes(lease.shard)
        self.inboxes = [Inbox(name, inherited.others.get(name, _NOTHING)) for name in names]
        self.inboxes[NORMAL] = self
        for inbox in self.inboxes:
            inbox.shard = self

    def record(self, id: str, record: bytes | None) -> None:
        """Write a record (None: delete it) in the same call as the messages that end before the loop turns."""
        self.records[id] = record
        self.dirty.set()

    def snapshot(self, id: str, snapshot: bytes | None) -> None:
        """Write an agent's kept state (None: delete it) in the same call as all messages that ended until then.

        Written before the acknowledgement of a message that made it, it would count that message twice after a crash.
        """
        self.whole = True
        self.record(id, snapshot)

    def store(self, id: str, timed: Timed | None) -> None:
        """Store a message that waits for its time, or remove it (None), in the same call as all that ended until then.

        Written apart from the end of the message that asked for it, a crash between the two would store it again.
        """
        self.whole = True
        self.timed[id] = timed
        self.dirty.set()

    @property
    def unwritten(self) -> bool:
        """Whether something ended, or was recorded, that no settle has taken yet."""
        if self.records or self.timed:
            return True
        return any(one.done or any(entry.half_settled for entry in one.open.values()) for one in self.inboxes)

    def stop(self) -> None:
        """Begin nothing more of this shard."""
        self.reading = False
        self.trusted_until_ns = 0
        for inbox in self.inboxes:
            if inbox.trial is not None:
                inbox.trial.set()
