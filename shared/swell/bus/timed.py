"""Messages that wait beside their shard until they are due: what is written, moved and read of them.

    stored (settle, with the message that asked for it) --> due --fire--> in the inbox, a message like any other
                                  |                          |
                                  +--removed (settle)        +-- recurring: stored again for its next time, in that call

Time is the server's, in milliseconds since 1970. Only the shard's owner stores, removes and moves, under its epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from swell.priority import Priority

if TYPE_CHECKING:
    from swell.bus.broker import Lease

#: First byte of what is stored. `ONCE` is followed by the batch of one message that goes into the inbox of normal
#: messages, one of `KINDS` by one that goes into that of another priority, and `AGAIN` by what the owner makes such a
#: batch of, each time anew.
ONCE = b"o"
AGAIN = b"r"
KINDS: dict[Priority, bytes] = {"critical": b"c", "high": b"h", "low": b"l"}


class Timed(NamedTuple):
    """What is stored under an id: when it is due (milliseconds since 1970), and `ONCE` or `AGAIN` with its content."""

    due_ms: int
    value: bytes


class Waiting(NamedTuple):
    """One of those that are stored."""

    id: str
    due_ms: int
    value: bytes


class Next(NamedTuple):
    """One time of a recurring message: at `due_ms` it becomes `payload`, and is due again at `next_ms`.

    `kind` says which inbox it goes to, as the first byte of what is stored does.
    """

    id: str
    due_ms: int
    next_ms: int
    payload: bytes
    kind: bytes = ONCE


class Fired(NamedTuple):
    """What a call of `fire` found.

    Attributes:
        now_ms: the server's time.
        next_ms: when the earliest of what is left is due, which may be now; None if nothing is left.
        moved: messages that are in the inbox now.
        waiting: how many are left.
        recurring: those that are due and need their next time.
    """

    now_ms: int
    next_ms: int | None
    moved: int
    waiting: int
    recurring: list[Waiting]


class TimedBroker(Protocol):
    """The part of `swell.bus.broker.Broker` that is about messages that wait for their time."""

    async def fire(self, lease: Lease, nexts: Sequence[Next] = (), most: int = 256) -> Fired | None:
        """Move what is due into the inbox, at most `most` that are due once, and the `nexts` of those that recur.

        All of it in one instant, so each is moved once whoever calls how often: one of `nexts` is passed over unless it
        is due at just that time.

        Returns:
            None if the lease is no longer ours.
        """
        ...

    async def scheduled(self, shard: str, count: int) -> list[Waiting]:
        """The `count` of a shard that are due first, in that order."""
        ...

    async def waits(self, shard: str, id: str) -> bytes | None:
        """What is stored under this id; None if nothing is."""
        ...
