"""The part of the Redis broker that is about records and dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from swell.bus.broker import ReplayStatus
from swell.bus.layout import pairs
from swell.bus.redis_calls import RedisCalls
from swell.keys import is_task

_REPLAYED: tuple[ReplayStatus, ...] = ("ok", "gone", "busy")


class RedisRecords(RedisCalls):
    """See `swell.bus.broker.Broker`; the rest is in `swell.bus.redis`."""

    async def records(self, shard: str) -> dict[str, bytes]:
        """See `Broker.records`."""
        answer = await self._link("query").call("HGETALL", self._keys.shard(shard).agents)
        return {name.decode(): record for name, record in pairs(answer)}

    async def record(self, shard: str, id: str) -> bytes | None:
        """See `Broker.record`."""
        of = self._keys.shard(shard)
        found: bytes | None = await self._link("query").call("HGET", of.tasks if is_task(id) else of.agents, id)
        return found

    async def tasks(self, shard: str) -> dict[str, bytes]:
        """See `Broker.tasks`."""
        answer = await self._link("query").call("HGETALL", self._keys.shard(shard).tasks)
        return {name.decode(): record for name, record in pairs(answer)}

    async def dead(self, shard: str, count: int, before: str = "", since: str = "") -> list[tuple[str, bytes]]:
        """See `Broker.dead`."""
        key, newest = self._keys.shard(shard).dead, f"({before}" if before else "+"
        answer = await self._link("query").call("XREVRANGE", key, newest, since or "-", "COUNT", count)
        return [(entry[0].decode(), entry[1][1]) for entry in answer]

    async def dead_at(self, shard: str, ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """See `Broker.dead_at`."""
        key = self._keys.shard(shard).dead
        answers = await self._link("query").calls([("XRANGE", key, id, id) for id in ids])
        return [(entry[0].decode(), entry[1][1]) for entries in answers for entry in entries]

    async def replay(self, shard: str, letters: Sequence[tuple[str, bytes]], max_depth: int) -> list[ReplayStatus]:
        """See `Broker.replay`."""
        of = self._keys.shard(shard)
        args = (max_depth, *(part for letter in letters for part in letter))
        return [_REPLAYED[n] for n in await self._confirmed("append", "replay", (of.inbox, of.ledger, of.dead), args)]

    async def drop(self, shard: str, ids: Sequence[str]) -> list[bool]:
        """See `Broker.drop`."""
        of = self._keys.shard(shard)
        return [bool(n) for n in await self._function("query", "drop", (of.ledger, of.dead), ids)]
