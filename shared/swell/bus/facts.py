"""What shared facts, locks and barriers ask of a server: a part of `swell.bus.broker.Broker`.

A shard is named with each call; all that belongs to one key or name lies in the shard that `swell.keys.shard_of` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

WriteStatus = Literal["ok", "conflict", "stale"]
Operation = Literal["put", "delete", "expire"]
#: In the place of a token, to `hold_leave`: whatever seat the owner holds; none, only the place in the line.
ANY_TOKEN, NO_TOKEN = 0, -1


class Seat(NamedTuple):
    """A lock, semaphore or leadership that somebody holds; `token` is its fencing token."""

    shard: str
    name: str
    owner: str
    token: int


class FactWrite(NamedTuple):
    """One fact to be written.

    Attributes:
        shard: where it lies.
        key: its name.
        value: encoded; None deletes it.
        expected: only if this is its version, 0 if it must not be there; None for whatever it is.
        ttl_ms: how long it stays, 0 for ever.
        nonce: unique, so that a repeated call is known.
        fence: only while this seat is held.
    """

    shard: str
    key: str
    value: bytes | None
    expected: int | None
    ttl_ms: int
    nonce: str
    fence: Seat | None = None


class FactWritten(NamedTuple):
    """What became of it: the new `version` (0: there was nothing to delete), or in a conflict the one found."""

    status: WriteStatus
    version: int


class StoredFact(NamedTuple):
    """A fact as stored: `left_ms` until it expires, -1 for never."""

    key: str
    version: int
    left_ms: int
    value: bytes


class FactChange(NamedTuple):
    """One change: `before` is the version of the shard's change before it; `ttl_ms` is 0 for ever."""

    shard: str
    version: int
    before: int
    operation: Operation
    key: str
    ttl_ms: int
    value: bytes


class Turn(NamedTuple):
    """Somebody who waited in a line was let in, or all who waited at a barrier (then `owner` is empty)."""

    shard: str
    version: int
    name: str
    owner: str


class Tail(NamedTuple):
    """Where a shard's changes end: the newest version drawn, the newest change's, and when the next fact expires.

    `due_ms` is from now; -1 if none expires.
    """

    version: int
    changed: int
    due_ms: int


class HoldAnswer(NamedTuple):
    """What became of the wish to hold something.

    Attributes:
        status: held; waiting in the line; refused, because others use the name with another `limit`.
        token: of the seat held.
        ahead: how many wait before it.
        next_ms: when the next seat lapses unless renewed, from now; -1 if none is held.
        limit: the limit that others gave.
    """

    status: Literal["held", "waiting", "refused"]
    token: int = 0
    ahead: int = 0
    next_ms: int = -1
    limit: int = 0


class Holder(NamedTuple):
    """Who holds a seat: since `held_ms`, and for `left_ms` more unless renewed."""

    owner: str
    token: int
    held_ms: int
    left_ms: int


class HoldState(NamedTuple):
    """All that is known of a name: its limit, how many wait, who holds it."""

    name: str
    limit: int
    waiting: int
    holders: list[Holder]


class Arrival(NamedTuple):
    """What became of coming to a barrier: `number` is the generation passed with, who is there, or others' number."""

    status: Literal["passed", "waiting", "refused", "forgotten"]
    number: int


class FactStore(Protocol):
    """The part of a broker that keeps facts; errors and cancellation are as `Broker` says.

    Writes may be repeated by the broker itself if an answer was lost: each is carried out once.
    """

    async def fact_write(self, write: FactWrite) -> FactWritten:
        """Put, create, swap or delete one fact."""
        ...

    async def fact_read(self, shard: str, keys: Sequence[str]) -> list[StoredFact]:
        """Facts by their keys; those that are not there, or have expired, are left out."""
        ...

    async def fact_names(self, shards: Sequence[str], prefix: str, after: str, count: int) -> list[tuple[str, int]]:
        """Up to `count` keys of these shards with a prefix, above `after`, in order, each with its record's size.

        Keys of facts that have just expired may be among them.
        """
        ...

    async def fact_tail(self, shards: Sequence[str]) -> list[Tail]:
        """Where changes end, after what has expired became changes, too."""
        ...

    async def fact_follow(
        self, changes: Mapping[str, int], turns: Mapping[str, int], block_ms: int
    ) -> tuple[list[FactChange], list[Turn]]:
        """Read what came behind a version in each shard, waiting up to `block_ms` (0: not at all) for the first."""
        ...

    async def fact_wake(self) -> None:
        """End a `fact_follow` that is waiting now, with nothing."""
        ...

    async def hold(self, shard: str, name: str, owner: str, limit: int, ttl_ms: int) -> HoldAnswer:
        """Take one of a name's `limit` seats for `ttl_ms`, or a place in its line; again, to keep the place."""
        ...

    async def hold_renew(self, seats: Sequence[tuple[Seat, int]]) -> list[bool]:
        """Keep seats for so many milliseconds more; False for one that is no longer its owner's."""
        ...

    async def hold_leave(self, seat: Seat) -> bool:
        """Give a seat back and leave the line; False if the seat was not held.

        A seat under another token stays, unless the token given is ANY_TOKEN; with NO_TOKEN every seat does.
        """
        ...

    async def hold_list(self, shard: str, after: str, count: int) -> list[HoldState]:
        """Up to `count` names of a shard that are held or waited for, greater than `after`, in order."""
        ...

    async def arrive(self, shard: str, name: str, party: str, parties: int, ttl_ms: int, *, come: bool) -> Arrival:
        """Come to a barrier, or (`come` False) say that we still wait there; a `ttl_ms` of 0 leaves it."""
        ...
