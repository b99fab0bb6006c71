"""A shard in its owner's hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swell.bus.broker import Inheritance, Lease
from swell.bus.entry import Entry
from swell.bus.timed import Timed


class OwnedShard:
    """What the owner knows of a shard between acquire and release.

    Attributes:
        name: "0", "1", ..., "control" or "metrics".
        lease: the fencing token.
        trusted_until_ns: monotonic time, nanoseconds, behind which nothing of this shard may be begun.
        reading: whether new entries are asked for; ends with a hand-over.
        recover: whether entries may have been delivered to us in a reply that was lost.
        open: entries read and not settled, in the order of the stream.
        done: those of them that are ended and can be settled.
        records: records to write with the next settle.
        timed: messages that wait for their time, to store or remove (None) with the next settle.
        on_timed: told when such are written, and when the first of them is due (server time, milliseconds).
        whole: whether a kept state, or one of those, is among them: then all that ended is settled in the same call.
        settlements: settle calls made under this lease.
        held_bytes: payload bytes of open entries that are held in memory.
        suspects: entries that too many owners died with; see `swell.bus.careful`.
        waiting: whether a suspect entry is being handled, so that nothing behind it is delivered.
        trial: set when something of a suspect entry ended, or the shard is no longer read.
    """

    __slots__ = (
        "_dirty",
        "deliveries",
        "done",
        "held_bytes",
        "lease",
        "name",
        "on_timed",
        "open",
        "partial",
        "reading",
        "records",
        "recover",
        "settlements",
        "suspects",
        "timed",
        "trial",
        "trusted_until_ns",
        "waiting",
        "whole",
    )

    def __init__(self, lease: Lease, inherited: Inheritance, trusted_until_ns: int, dirty: asyncio.Event) -> None:
        self.name = lease.shard
        self.lease = lease
        self.trusted_until_ns = trusted_until_ns
        self.reading = True
        self.recover = False
        self.open: dict[str, Entry] = {}
        self.done: list[Entry] = []
        self.records: dict[str, bytes | None] = {}
        self.timed: dict[str, Timed | None] = {}
        self.on_timed: Callable[[int], None] | None = None
        self.whole = False
        self.settlements = 0
        self.partial = inherited.partial
        self.deliveries = inherited.deliveries
        self.held_bytes = 0
        self.suspects: set[str] = set()
        self.waiting = False
        self.trial: asyncio.Event | None = None
        self._dirty = dirty

    def opened(self, id: str, count: int, size: int, read_ns: int) -> Entry:
        """Take an entry into our hands."""
        entry = self.open[id] = Entry(self, id, count, read_ns, self.partial.pop(id, None) if self.partial else None)
        self.held(entry, size)
        return entry

    def held(self, entry: Entry, size: int) -> None:
        """An entry's payload is in memory (again)."""
        self.held_bytes += size - entry.size
        entry.size = size

    def quiet(self, entry: Entry) -> None:
        """Nothing of the entry is held in memory any more; if all its messages ended, it can be settled."""
        self.held_bytes -= entry.size
        entry.size = 0
        if not entry.left:
            self.done.append(entry)
            self._dirty.set()
        if self.trial is not None:
            self.trial.set()

    def record(self, id: str, record: bytes | None) -> None:
        """Write a record (None: delete it) in the same call as the messages that end before the loop turns."""
        self.records[id] = record
        self._dirty.set()

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
        self._dirty.set()

    @property
    def unwritten(self) -> bool:
        """Whether something ended, or was recorded, that no settle has taken yet."""
        return bool(self.done or self.records or self.timed) or any(entry.half_settled for entry in self.open.values())

    def stop(self) -> None:
        """Begin nothing more of this shard."""
        self.reading = False
        self.trusted_until_ns = 0
        if self.trial is not None:
            self.trial.set()
