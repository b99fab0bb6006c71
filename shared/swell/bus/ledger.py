"""The account of a shard, and how it is at a glance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of one shard, taken in one instant.

    Attributes:
        sent: messages appended.
        acked: messages handled.
        dead: messages given up.
        expired: messages that were too late.
        depth: messages not settled, as counted.
        duplicate: appends refused because they were there already.
        refused: appends refused because the shard was full.
        stale: settles refused because of an older epoch.
        rewinds: appends whose producer knew of later ones than the server: it had lost what it had acknowledged.
        foreign: entries found in the inbox that no append had written.
        lapsed: times that another process took the shard over from an owner that had not renewed its lease.
        replayed: dead letters that became messages again; they are counted in `sent` too, and stay counted in `dead`.
        dropped: dead letters that somebody deleted.
        scheduled: messages that wait for their time, and are counted in `sent` when it has come.
        present: messages not settled, as found by reading the whole inbox now.
        entries: entries in the inbox now.
    """

    shard: str
    sent: int = 0
    acked: int = 0
    dead: int = 0
    expired: int = 0
    depth: int = 0
    duplicate: int = 0
    refused: int = 0
    stale: int = 0
    rewinds: int = 0
    foreign: int = 0
    lapsed: int = 0
    replayed: int = 0
    dropped: int = 0
    scheduled: int = 0
    present: int = 0
    entries: int = 0

    @property
    def adds_up(self) -> bool:
        """Sent = acked + dead + expired + depth."""
        return self.sent == self.acked + self.dead + self.expired + self.depth

    @property
    def balanced(self) -> bool:
        """Invariant 1: it adds up, and depth is what the stream really holds."""
        return self.adds_up and self.depth == self.present


@dataclass(frozen=True, slots=True)
class Glance:
    """How one shard is, as far as can be told without walking through its inbox.

    Attributes:
        ledger: the counters; `present` and `entries` are not counted here.
        oldest_ms: how long ago the oldest entry was appended that is not settled, None if there is none.
        owner: who holds the lease, or held it last; empty if it was released.
        remaining_ms: how long the lease lasts unless renewed; 0 if it lapsed.
        held_ms: how long ago the lease was granted.
    """

    ledger: Ledger
    oldest_ms: int | None
    owner: str
    remaining_ms: int
    held_ms: int
