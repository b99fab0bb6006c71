"""Facts, locks and barriers in memory: the part of `MemoryBroker` that `swell.bus.facts` asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Protocol

from swell.bus.facts import (
    Arrival,
    FactChange,
    FactWrite,
    FactWritten,
    HoldAnswer,
    HoldState,
    Seat,
    StoredFact,
    Tail,
    Turn,
)
from swell.bus.memory_server import MemoryServer, Namespace


class _Process(Protocol):
    """What a broker has for its parts."""

    _server: MemoryServer
    _space: Namespace


class FactsInMemory(_Process):
    """Mixed into `MemoryBroker`; see `FactStore` for what each method promises. Each call lets the loop turn once."""

    _following: asyncio.Event | None = None

    async def fact_write(self, write: FactWrite) -> FactWritten:
        """Put, create, swap or delete one fact."""
        await asyncio.sleep(0)
        now, fence = self._server.now(), write.fence
        fenced = fence is None or self._space.facts(fence.shard).holds(fence, now)
        return self._space.facts(write.shard).write(write, fenced, now)

    async def fact_read(self, shard: str, keys: Sequence[str]) -> list[StoredFact]:
        """Facts by their keys."""
        await asyncio.sleep(0)
        return self._space.facts(shard).read(keys, self._server.now())

    async def fact_names(self, shards: Sequence[str], prefix: str, after: str, count: int) -> list[tuple[str, int]]:
        """Keys in their order."""
        await asyncio.sleep(0)
        pages = [self._space.facts(shard).names(prefix, after, count) for shard in shards]
        return list(islice(merge(*pages), count))

    async def fact_tail(self, shards: Sequence[str]) -> list[Tail]:
        """Where changes end."""
        await asyncio.sleep(0)
        return [self._space.facts(shard).tail(self._server.now()) for shard in shards]

    async def fact_follow(
        self, changes: Mapping[str, int], turns: Mapping[str, int], block_ms: int
    ) -> tuple[list[FactChange], list[Turn]]:
        """Read what came behind a version in each shard, waiting up to `block_ms` for the first."""
        event = self._following = asyncio.Event()
        await asyncio.sleep(0)
        shards = [self._space.facts(shard) for shard in {*changes, *turns}]
        for shard in shards:
            shard.changed.add(event)
        try:
            while True:
                changed = [one for shard, after in changes.items() for one in self._space.facts(shard).changes(after)]
                given = [one for shard, after in turns.items() for one in self._space.facts(shard).turns(after)]
                if changed or given or not block_ms or event is not self._following:
                    return changed, given
                event.clear()
                async with asyncio.timeout(block_ms / 1000):
                    await event.wait()
        except TimeoutError:
            return [], []
        finally:
            if self._following is event:
                self._following = None
            for shard in shards:
                shard.changed.discard(event)

    async def fact_wake(self) -> None:
        """End a `fact_follow` that is waiting now, with nothing."""
        await asyncio.sleep(0)
        if self._following is not None:
            woken, self._following = self._following, None
            woken.set()

    async def hold(self, shard: str, name: str, owner: str, limit: int, ttl_ms: int) -> HoldAnswer:
        """Take a seat, or a place in the line."""
        await asyncio.sleep(0)
        return self._space.facts(shard).hold(name, owner, limit, ttl_ms, self._server.now())

    async def hold_renew(self, seats: Sequence[tuple[Seat, int]]) -> list[bool]:
        """Keep seats; False for one that is no longer its owner's."""
        await asyncio.sleep(0)
        now = self._server.now()
        return [self._space.facts(seat.shard).renew(seat, ttl_ms, now) for seat, ttl_ms in seats]

    async def hold_leave(self, seat: Seat) -> bool:
        """Give a seat back, or leave the line."""
        await asyncio.sleep(0)
        return self._space.facts(seat.shard).leave(seat, self._server.now())

    async def hold_list(self, shard: str, after: str, count: int) -> list[HoldState]:
        """Names that are held or waited for, and by whom."""
        await asyncio.sleep(0)
        return self._space.facts(shard).list_held(after, count, self._server.now())

    async def arrive(self, shard: str, name: str, party: str, parties: int, ttl_ms: int, *, come: bool) -> Arrival:
        """Come to a barrier, wait there, or leave it."""
        await asyncio.sleep(0)
        return self._space.facts(shard).arrive(name, party, parties, ttl_ms, come, self._server.now())
