"""What Swell asks of a server. Two implementations, Redis and memory, pass one conformance suite.

A shard's life, as its owner sees it:

    free --acquire--> owned (epoch e) --renew--> owned --release--> free, clean
                          |
                          +-- not renewed in time --> lapsed --acquire by another--> owned (epoch > e)

    append: any process     XADD, unless a duplicate, a gap, or the shard is full
    read:   the owner       new entries of all its shards in one blocking call
    settle: the owner       ack and delete, record, dead-letter; refused under an older epoch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from swell.bus.events import EventBroker
from swell.bus.facts import FactStore
from swell.bus.ledger import Glance as Glance
from swell.bus.ledger import Ledger as Ledger
from swell.bus.timed import Timed, TimedBroker

AppendStatus = Literal["ok", "duplicate", "busy", "gap"]
ReplayStatus = Literal["ok", "gone", "busy"]


class Append(Struct, frozen=True, gc=False):
    """One batch for one inbox. `seq` counts from 1 for each producer and inbox; `count` is its messages.

    Wherever this file names a shard of an entry, or of what is done with entries, it is the name of an inbox: the
    shard's own for normal messages, `3.critical` for others (`swell.priority`).
    """

    shard: str
    seq: int
    count: int
    payload: bytes


class Appended(NamedTuple):
    """What became of an append: `depth` of the shard if busy, the `last` number known if a gap, else 0."""

    status: AppendStatus
    detail: int = 0


class Lease(NamedTuple):
    """Ownership of a shard. `epoch` and `token` together are the fencing token of everything the owner writes."""

    shard: str
    owner: str
    epoch: int
    token: str


class Refused(NamedTuple):
    """Somebody else holds the lease, for `remaining_ms` more unless renewed."""

    shard: str
    owner: str
    remaining_ms: int


class LeaseState(NamedTuple):
    """A shard's lease as anybody may read it; `owner` is empty if it was never taken or was released."""

    shard: str
    owner: str
    epoch: int
    remaining_ms: int


class Delivered(Struct, frozen=True, gc=False):
    """One entry as read: `count` is its field `n` (0 if it has none), `payload` its field `b` (empty if none)."""

    shard: str
    id: str
    count: int
    payload: bytes


@dataclass(slots=True)
class Outcome:
    """What became of one entry so far; the three counts are totals over the whole entry, not increases.

    Attributes:
        id: the entry.
        acked: messages handled.
        dead: messages given up.
        expired: messages that were too late.
        done: whether all messages are settled; then the entry is acked and deleted.
        letters: dead letters not written yet, encoded.
        bitmap: for an entry not done: one byte a message, 1 if settled (kept for the next owner).
    """

    id: str
    acked: int
    dead: int = 0
    expired: int = 0
    done: bool = True
    letters: list[bytes] = field(default_factory=list)
    bitmap: bytes = b""


@dataclass(slots=True)
class Settlement:
    """All that an owner has to write to one shard: outcomes of entries, and records (None deletes one).

    Everything in it happens at once, or nothing: a record and the message that caused it cannot part.

    Attributes:
        lease: the fencing token.
        outcomes: of entries.
        records: by id.
        timed: messages that wait for their time, by id (None removes one).
        inbox: where the entries lie; "" for the shard's inbox of normal messages.
        seq: counts an owner's settlements of the shard from 1, in their order: one that was written already, or that
            comes after a later one, changes nothing. 0 is always written.
    """

    lease: Lease
    outcomes: list[Outcome] = field(default_factory=list)
    records: dict[str, bytes | None] = field(default_factory=dict)
    seq: int = 0
    timed: dict[str, Timed | None] = field(default_factory=dict)
    inbox: str = ""


class Partial(NamedTuple):
    """What an entry's former owner had settled of it."""

    acked: int
    dead: int
    expired: int
    bitmap: bytes


class Left(NamedTuple):
    """What former owners left of one inbox: entries settled in part, and how many owners died holding an entry."""

    partial: dict[str, Partial]
    deliveries: dict[str, int]


class Inheritance(NamedTuple):
    """What a shard's new owner finds.

    Attributes:
        records: by id.
        partial: entries of the inbox of normal messages that are settled in part.
        deliveries: how many owners died holding an entry of it.
        others: the same of the shard's other inboxes, by their names.
    """

    records: dict[str, bytes]
    partial: dict[str, Partial]
    deliveries: dict[str, int]
    others: Mapping[str, Left] = {}


class Member(NamedTuple):
    """A live process of a role and what it says of itself (encoded `wire.WorkerInfo`)."""

    process: str
    info: bytes


class Broker(TimedBroker, EventBroker, FactStore, Protocol):
    """A connection of one process to the server.

    All methods raise `BrokerUnavailable` (try again), `BrokerFull` (append only: try again) or `BrokerRefused`
    (do not). A cancelled call leaves no half-read reply behind: its connection is closed.
    """

    async def open(self, shards: int) -> int:
        """Connect, check the server, load the functions; create the namespace with `shards` shards if it is new.

        Returns:
            the number of shards that the namespace has.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...

    async def ping(self) -> float:
        """Ask for a sign of life; returns the round trip in seconds."""
        ...

    async def trouble(self) -> str:
        """What is wrong with the server although it answers, for people; empty if nothing is known to be."""
        ...

    async def memory(self) -> tuple[int, int]:
        """Bytes that the server uses and may use, 0 where it does not tell or has no limit."""
        ...

    async def append(self, producer: str, appends: Sequence[Append], max_depth: int) -> list[Appended]:
        """Append batches, in the order given, each whole or not at all. Repeating a call is safe."""
        ...

    async def acquire(self, shard: str, owner: str, lease_ms: int) -> Lease | Refused:
        """Take a free or lapsed shard: the epoch grows, the old group is destroyed, ours is made at the beginning."""
        ...

    async def inherit(self, lease: Lease) -> Inheritance:
        """Read what the former owners of a shard left."""
        ...

    async def trial(self, lease: Lease, id: str, index: int, *, begin: bool = True) -> int:
        """Note that message `index` of an entry that owners died with is handled alone now; False takes it back.

        Repeating a call counts once: an owner tries a message once.

        Returns:
            how many owners have tried it, this one included; 0 if no owner died with the entry, -1 if the lease is no
            longer ours.
        """
        ...

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> list[bool]:
        """Prolong leases; False for one that is no longer ours."""
        ...

    async def release(self, lease: Lease) -> bool:
        """Give a shard back at once, with nothing unsettled in our hands; False if it was no longer ours."""
        ...

    async def read(self, owner: str, inboxes: Sequence[str], count: int, block_ms: int) -> list[Delivered]:
        """Read up to `count` new entries of each inbox, waiting up to `block_ms` for the first.

        The inboxes are of one priority; reads of different priorities may wait beside each other.

        Raises:
            GroupGone: one of the shards is no longer ours.
        """
        ...

    async def wake(self) -> None:
        """End each `read` that is waiting now, with nothing."""
        ...

    async def pending(self, owner: str, inbox: str, after: str, count: int) -> list[Delivered]:
        """Read again, in order, entries delivered to us and not settled, beginning behind id `after` ("0": all).

        Raises:
            GroupGone: the shard is no longer ours.
        """
        ...

    async def fetch(self, inbox: str, ids: Sequence[str]) -> list[Delivered]:
        """Read given entries again; those that no longer exist are left out."""
        ...

    async def settle(
        self, settlements: Sequence[Settlement], replies: Mapping[str, bytes] | None = None
    ) -> tuple[list[bool], int]:
        """Write outcomes and records, and behind them append encoded replies to the streams of processes.

        Repeating a call settles nothing twice, and one that comes late undoes nothing of a later one that is
        numbered higher (a reply may come twice; the asker knows its calls).

        Returns:
            for each settlement False if its epoch is no longer ours, and how many reply streams were gone.
        """
        ...

    async def open_replies(self, process: str, ttl_ms: int) -> bool:
        """Create our reply stream, or prolong it; returns whether it was not there."""
        ...

    async def read_replies(self, process: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
        """Read replies behind id `after` and forget those up to it; waits up to `block_ms` for the first.

        Raises:
            GroupGone: there is no such stream, or not any more; what ids were read of it says nothing of the next one.
        """
        ...

    async def heartbeat(self, role: str, process: str, ttl_ms: int, info: bytes) -> list[Member]:
        """Say that we live for `ttl_ms` more (0: that we leave); returns all live members of the role, sorted."""
        ...

    async def members(self, role: str) -> list[Member]:
        """All live processes of a role, sorted by name."""
        ...

    async def leases(self, shards: Sequence[str]) -> list[LeaseState]:
        """The lease of each shard."""
        ...

    async def glance(self, shards: Sequence[str]) -> list[Glance]:
        """How shards are now, cheap enough to ask for every second."""
        ...

    async def ledger(self, shard: str) -> Ledger:
        """The account of a shard, audited against its inbox in the same instant."""
        ...

    async def records(self, shard: str) -> dict[str, bytes]:
        """All records of a shard, but those of tasks."""
        ...

    async def tasks(self, shard: str) -> dict[str, bytes]:
        """All records of a shard's tasks."""
        ...

    async def record(self, shard: str, id: str) -> bytes | None:
        """One record of a shard."""
        ...

    async def dead(self, shard: str, count: int, before: str = "", since: str = "") -> list[tuple[str, bytes]]:
        """Up to `count` dead letters of a shard, encoded, with their stream ids, the newest first.

        Args:
            shard: whose.
            count: at most so many.
            before: only letters written before this stream id; "" for no limit.
            since: only letters of this stream id and newer; "" for no limit.
        """
        ...

    async def dead_at(self, shard: str, ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """The dead letters of these stream ids; those that no longer exist are left out."""
        ...

    async def replay(self, shard: str, letters: Sequence[tuple[str, bytes]], max_depth: int) -> list[ReplayStatus]:
        """Make dead letters messages again: each is deleted and its batch of one message appended, both or neither.

        Repeating a call replays nothing twice: letters that it replayed are gone.

        Args:
            shard: the inbox that they go to; the letters are its shard's.
            letters: the stream id of each, and the batch of one message that it becomes.
            max_depth: as for an append; a letter for which there is no room stays, and is answered busy.
        """
        ...

    async def drop(self, shard: str, ids: Sequence[str]) -> list[bool]:
        """Delete the dead letters of these stream ids; False for one that does not exist."""
        ...
