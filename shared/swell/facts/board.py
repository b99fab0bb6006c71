"""Facts: what a namespace's agents and clients share under keys, and what they wait for together."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from swell.bus.facts import FactStore, FactWrite, Seat, StoredFact
from swell.errors import FactConflict, StaleFence, WrongBody
from swell.facts.barrier import Barrier
from swell.facts.claims import Claims
from swell.facts.follower import Follower
from swell.facts.keeper import Held, Keeper
from swell.facts.seats import Desk, Wish, seat
from swell.facts.values import (
    LEAST_FACT_S,
    LEAST_SEAT_S,
    MOST_FACT_S,
    MOST_LISTED,
    MOST_SEAT_S,
    MOST_SEATS,
    Fact,
    LockView,
    SeatKind,
    check_key,
    check_number,
    check_own,
    check_prefix,
    check_wait,
    decode_value,
    encode_value,
    lock_view,
    milliseconds,
)
from swell.facts.watch import Watch
from swell.keys import shard_of

if TYPE_CHECKING:
    from swell.client import Client

_T = TypeVar("_T")

#: How long a lock, a seat or a place is kept without a sign of life, unless said otherwise, seconds.
TTL_S = 10.0
#: Bytes of values that one page of facts has at most, unless its first alone has more.
PAGE_BYTES = 4 << 20
#: Facts of one page when a watch begins.
_WATCH_PAGE = 256


class Facts:
    """Facts, locks, semaphores, barriers and leaders of one namespace: `client.facts`, and `self.facts` in an agent.

    All methods raise BrokerUnavailable while the server is away (what was being written may have been), and WrongBody
    for an argument that cannot be, with the argument named; those that wait (watch, lock and the like) wait longer.
    """

    #: What keys that are written, and names that are taken, must be.
    _check = staticmethod(check_own)

    def __init__(self, client: Client, label: str = "", desk: Desk | None = None) -> None:
        broker: FactStore = client.broker
        self._client = client
        self._label = label or client.process
        self._desk = desk or Desk(broker, Follower(broker), Keeper(broker))
        self._broker = broker

    def named(self, agent: str) -> Facts:
        """The same for one agent, whose id is shown in `swell locks`."""
        return Facts(self._client, f"{agent}@{self._client.process}", self._desk)

    async def run(self) -> None:
        """Renew what is held and follow what is waited for, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._desk.follower.run())
                group.create_task(self._desk.keeper.run())
        finally:
            self.end_watches()

    def end_watches(self) -> None:
        """Have all watches end, those under way and later ones: the process stops."""
        self._desk.follower.end()

    # Facts.

    @overload
    async def get(self, key: str, type: builtins.type[_T]) -> Fact[_T] | None: ...
    @overload
    async def get(self, key: str, type: Any = Any) -> Fact[Any] | None: ...
    async def get(self, key: str, type: Any = Any) -> Fact[Any] | None:
        """The fact of a key, None if there is none, or no longer.

        Args:
            key: 1 to 512 bytes of printable text.
            type: what the value is decoded as.

        Raises:
            WireError: the value is not of that type.
        """
        stored = await self.stored(key)
        return _fact(stored, type) if stored is not None else None

    async def put(self, key: str, value: Any, *, ttl: float | None = None, fence: Held | Seat | None = None) -> int:
        """Put a value under a key, whatever was there; returns its version.

        Args:
            key: 1 to 512 bytes of printable text; one that begins with `$` is the system's own, and refused.
            value: anything msgspec can encode, at most 1 MiB encoded.
            ttl: how long it stays, seconds; None for as long as nobody changes it. Each put sets it anew.
            fence: only while this lock is held, by the server's clock; a Seat of `claims` if this process is not it.

        Raises:
            WireError: the value cannot be encoded or is too large.
            StaleFence: the lock is not held any more; nothing was written.
            BrokerFull: the server has no memory left; nothing was written.
        """
        return await self._write(key, encode_value(key, value), None, ttl, fence)

    async def create(self, key: str, value: Any, *, ttl: float | None = None, fence: Held | Seat | None = None) -> int:
        """Put a value under a key that has none; returns its version. Otherwise as `put`.

        Raises:
            FactConflict: there is one.
        """
        return await self._write(key, encode_value(key, value), 0, ttl, fence)

    async def swap(
        self, key: str, version: int, value: Any, *, ttl: float | None = None, fence: Held | Seat | None = None
    ) -> int:
        """Put a value under a key if the fact there has this version (0: if there is none); returns the new version.

        A call that is cut by a broken connection is repeated, and finds out whether it was carried out. Otherwise as
        `put`.

        Raises:
            FactConflict: it has another version, which the error carries.
        """
        check_number(version, 0, 2**53, "version")
        return await self._write(key, encode_value(key, value), version, ttl, fence)

    async def delete(self, key: str, version: int | None = None, *, fence: Held | Seat | None = None) -> bool:
        """Delete a fact; False if there is none.

        Args:
            key: which.
            version: only if it has this one.
            fence: only while this lock is held.

        Raises:
            FactConflict: it has another version.
            StaleFence: the lock is not held any more.
        """
        if version is not None:
            check_number(version, 0, 2**53, "version")
        return await self._write(key, None, version, None, fence) > 0

    async def list(self, prefix: str = "", *, limit: int = 100, after: str = "", type: Any = Any) -> list[Fact[Any]]:
        """A page of facts in the order of their keys, as they are while it is read (not in one instant).

        Args:
            prefix: only keys that begin with it.
            limit: at most so many, 1..1000. A page of large values, over 4 MiB together, is shorter: the end is an
                empty page.
            after: the last key of the page before.
            type: what the values are decoded as.

        Raises:
            WireError: a value is not of that type; the text names its key.
        """
        return [_fact(stored, type) for stored in await self.page(prefix, limit, after)]

    @overload
    def watch(self, key: str = "", type: builtins.type[_T] = ..., *, prefix: str | None = None) -> Watch[_T]: ...
    @overload
    def watch(self, key: str = "", type: Any = Any, *, prefix: str | None = None) -> Watch[Any]: ...
    def watch(self, key: str = "", type: Any = Any, *, prefix: str | None = None) -> Watch[Any]:
        """What is there (kind `there`), then every later change (`put`, `deleted`, `expired`), without polling.

        It goes on by itself when a connection broke or the server was away, without a gap. What cannot be told without
        a gap (4,096 changes or 4 MiB in one shard were not taken in time, the server was flushed, or lost what it had)
        is announced as `skipped`: forget what you know; all that is there follows.

        Args:
            key: one fact; or
            prefix: all facts whose keys begin with it; "" for all.
            type: what values are decoded as.
        """
        return self.watch_encoded(key, prefix, lambda key, data: decode_value(key, data, type))

    def watch_encoded(self, key: str, prefix: str | None, decode: Callable[[str, bytes], _T]) -> Watch[_T]:
        """As `watch`, with the values as `decode` makes them of (key, bytes).

        Raises:
            WrongBody: not exactly one of key and prefix is given.
        """
        if bool(key) == (prefix is not None):
            raise WrongBody("", "give either a key or a prefix to watch", field="key")
        if prefix is None:
            check_key(key)
            shard = self._shard(key)

            async def one(after: str) -> builtins.list[tuple[str, StoredFact]]:
                return [] if after else [(shard, fact) for fact in await self._broker.fact_read(shard, [key])]

            return Watch(self._desk.follower, [shard], one, key.__eq__, decode)
        begins = check_prefix(prefix)

        async def page(after: str) -> builtins.list[tuple[str, StoredFact]]:
            return [(self._shard(fact.key), fact) for fact in await self.page(begins, _WATCH_PAGE, after)]

        return Watch(self._desk.follower, self._client.shard_names, page, lambda key: key.startswith(begins), decode)

    async def stored(self, key: str) -> StoredFact | None:
        """The fact of a key with its value still encoded."""
        check_key(key)
        found = await self._broker.fact_read(self._shard(key), [key])
        return found[0] if found else None

    async def page(self, prefix: str = "", limit: int = 100, after: str = "") -> builtins.list[StoredFact]:
        """A page of facts with their values still encoded; see `list`."""
        check_prefix(prefix)
        check_number(limit, 1, MOST_LISTED, "limit")
        check_prefix(after, "after")
        found: builtins.list[StoredFact] = []
        while not found:
            # Those that have expired may be a whole page.
            names = await self._broker.fact_names(self._client.shard_names, prefix, after, limit)
            if not names:
                break
            sizes = itertools.accumulate(size for _, size in names)
            keys = [key for (key, own), size in zip(names, sizes, strict=True) if size <= PAGE_BYTES or size == own]
            after = keys[-1]
            by_shard: dict[str, builtins.list[str]] = {}
            for key in keys:
                by_shard.setdefault(self._shard(key), []).append(key)
            for shard, of_shard in by_shard.items():
                found += await self._broker.fact_read(shard, of_shard)
        return sorted(found, key=lambda fact: fact.key)

    async def _write(
        self, key: str, value: bytes | None, expected: int | None, ttl: float | None, fence: Held | Seat | None
    ) -> int:
        self._check(key)
        ttl_ms = 0 if ttl is None else milliseconds(ttl, LEAST_FACT_S, MOST_FACT_S)
        if fence is not None and not isinstance(fence, Held | Seat):
            raise WrongBody("", f"fence: {fence!r:.80} is not what a lock's `async with` gives", field="fence")
        held = fence.seat if isinstance(fence, Held) else fence
        if held is not None:
            check_key(held.owner, "fence")  # Without an owner a fence would be none.
        write = FactWrite(self._shard(key), key, value, expected, ttl_ms, secrets.token_hex(8), held)
        written = await self._broker.fact_write(write)
        if written.status == "conflict":
            raise FactConflict(key, written.version)
        if written.status == "stale":
            assert held is not None
            raise StaleFence(key, held.name.partition("/")[2], held.token)
        return written.version

    # Locks.

    def lock(self, name: str, ttl: float = TTL_S, *, wait: float | None = None) -> AbstractAsyncContextManager[Held]:
        """Hold a lock while the body runs: `async with client.facts.lock("deploy") as held: ...`.

        Who waits is let in in the order of coming. It is renewed in the background; a holder that dies frees it after
        `ttl`. If it cannot be renewed in time, `held.lost` is set, the body is cancelled and LockLost raised.

        Args:
            name: 1 to 512 bytes of printable text; one that begins with `$` is the system's own, and refused.
            ttl: how long it is kept without a sign of life, 0.1..3600 seconds.
            wait: how long to wait for it, seconds; None for ever, 0 to ask once.

        Raises:
            LockHeld: on entering: others held it for all of `wait`; the error names them.
        """
        return self._seat("lock", name, 1, ttl, wait)

    def semaphore(
        self, name: str, limit: int, ttl: float = TTL_S, *, wait: float | None = None
    ) -> AbstractAsyncContextManager[Held]:
        """As `lock`, for `limit` holders at a time (1..10,000); each has a token of its own.

        Raises:
            InUse: on entering: others use the name with another limit.
        """
        return self._seat("semaphore", name, check_number(limit, 1, MOST_SEATS, "limit"), ttl, wait)

    def leader(self, name: str, ttl: float = TTL_S, *, wait: float | None = None) -> AbstractAsyncContextManager[Held]:
        """Wait to be elected, and lead while the body runs: a term, whose token is greater than all before it.

        As `lock`, under names of its own: when a leader's body ends, or its ttl passes, the next in line leads.
        """
        return self._seat("leader", name, 1, ttl, wait)

    def barrier(self, name: str, parties: int, ttl: float = TTL_S) -> Barrier:
        """A barrier: `await client.facts.barrier("loaded", 5).wait()` returns when five have come.

        Args:
            name: as for `lock`.
            parties: how many, 1..10,000.
            ttl: how long a party counts without a sign of life, 0.1..3600 seconds.
        """
        self._check(name, "name")
        check_number(parties, 1, MOST_SEATS, "parties")
        ttl_ms = milliseconds(ttl, LEAST_SEAT_S, MOST_SEAT_S)
        return Barrier(self._desk, self._shard(name), name, parties, ttl_ms, self._owner)

    @property
    def claims(self) -> Claims:
        """Seats of owners that live elsewhere, known by names that they give, and renewed by asking again."""
        return Claims(self._desk, self._shard)

    async def locks(self, limit: int = 100, after: str = "") -> builtins.list[LockView]:
        """Locks, semaphores and leaders that are held or waited for, in order: who holds what, since when.

        Args:
            limit: at most so many, 1..1000.
            after: the `place` of the last one of the page before.
        """
        check_number(limit, 1, MOST_LISTED, "limit")
        check_prefix(after, "after")
        broker = self._broker
        found = [state for shard in self._client.shard_names for state in await broker.hold_list(shard, after, limit)]
        return [lock_view(state) for state in sorted(found, key=lambda state: state.name)[:limit]]

    def _seat(
        self, kind: SeatKind, name: str, limit: int, ttl: float, wait: float | None
    ) -> AbstractAsyncContextManager[Held]:
        self._check(name, "name")
        ttl_ms = milliseconds(ttl, LEAST_SEAT_S, MOST_SEAT_S)
        place = f"{kind}/{name}"
        return seat(self._desk, Wish(self._shard(place), place, self._owner(), limit, ttl_ms), check_wait(wait))

    def _owner(self) -> str:
        return f"{self._label}#{next(self._desk.numbers)}"

    def _shard(self, key: str) -> str:
        return str(shard_of(key, self._client.shards))


class SystemFacts(Facts):
    """The same for the system itself, which may write keys and take names that begin with `$`.

    Args:
        facts: those of the process's client, which runs them.
    """

    _check = staticmethod(check_key)

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts._client, facts._label, facts._desk)


def _fact(stored: StoredFact, type: Any) -> Fact[Any]:
    expires_s = stored.left_ms / 1000 if stored.left_ms >= 0 else None
    return Fact(stored.key, decode_value(stored.key, stored.value, type), stored.version, expires_s)


__all__ = ["Facts", "SystemFacts"]
