"""The part of the Redis broker that is about messages that wait for their time, and about events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swell.bus.broker import Lease
from swell.bus.events import FanOut, FanOutStatus, mark_of
from swell.bus.layout import pairs
from swell.bus.redis_calls import RedisCalls
from swell.bus.timed import KINDS, Fired, Next, Waiting
from swell.priority import inbox_of

_FANNED_OUT: dict[int, FanOutStatus] = {0: "lost", 1: "ok", 2: "busy"}


class RedisTimed(RedisCalls):
    """See `swell.bus.timed.TimedBroker` and `swell.bus.events.EventBroker`; the rest is in `swell.bus.redis`."""

    async def fire(self, lease: Lease, nexts: Sequence[Next] = (), most: int = 256) -> Fired | None:
        """See `TimedBroker.fire`."""
        of = self._keys.shard(lease.shard)
        args: list[Any] = [lease.epoch, lease.token, most]
        for one in nexts:
            args += one.id, one.due_ms, one.next_ms, one.kind, one.payload
        others = (self._keys.shard(inbox_of(lease.shard, priority)).inbox for priority in KINDS)
        keys = (of.inbox, of.lease, of.ledger, of.due, of.later, *others)
        answer = await self._function("due", "fire", keys, args)
        if not answer[0]:
            return None
        now, first, moved, left, *flat = answer[1:]
        recurring = [Waiting(flat[i].decode(), _ms(flat[i + 1]), flat[i + 2]) for i in range(0, len(flat), 3)]
        return Fired(int(now), _ms(first) if first else None, moved, left, recurring)

    async def fan_out(self, lease: Lease, step: FanOut, most_depth: int) -> FanOutStatus:
        """See `EventBroker.fan_out`."""
        of = self._keys.shard(lease.shard)
        args: list[Any] = [lease.epoch, lease.token, most_depth, mark_of(lease.shard), step.before, step.after]
        for count, payload in step.batches:
            args += count, payload
        answer = await self._function("due", "fan_out", (of.inbox, of.lease, of.ledger, of.agents), args)
        return _FANNED_OUT[answer]

    async def scheduled(self, shard: str, count: int) -> list[Waiting]:
        """See `TimedBroker.scheduled`."""
        of = self._keys.shard(shard)
        found = pairs(await self._link("query").call("ZRANGE", of.due, 0, count - 1, "WITHSCORES"))
        if not found:
            return []
        values = await self._link("query").call("HMGET", of.later, *(id for id, _ in found))
        return [
            Waiting(id.decode(), _ms(due), value)
            for (id, due), value in zip(found, values, strict=True)
            if value is not None
        ]

    async def waits(self, shard: str, id: str) -> bytes | None:
        """See `TimedBroker.waits`."""
        found: bytes | None = await self._link("query").call("HGET", self._keys.shard(shard).later, id)
        return found


def _ms(score: bytes) -> int:
    """A score of the sorted set; a stranger may have given it any."""
    return int(min(max(float(score), 0.0), 2.0**53))
