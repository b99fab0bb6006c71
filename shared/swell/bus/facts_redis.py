"""Facts, locks and barriers on Redis: the part of `RedisBroker` that `swell.bus.facts` asks for.

A lost answer does not tell whether a call was carried out. All calls here may be sent twice: a fact's write carries a
nonce that the server finds again, and a seat, a place in a line or an arrival belongs to an owner, who has it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, get_args

from swell.bus.facts import (
    Arrival,
    FactChange,
    FactWrite,
    FactWritten,
    HoldAnswer,
    Holder,
    HoldState,
    Operation,
    Seat,
    StoredFact,
    Tail,
    Turn,
    WriteStatus,
)
from swell.bus.link import FunctionsGone
from swell.bus.redis_calls import RedisCalls
from swell.bus.waiting_read import block
from swell.errors import BrokerUnavailable
from swell.keys import FactKeys

_WRITTEN: tuple[WriteStatus, ...] = get_args(WriteStatus)
_OPERATIONS = {name.encode(): name for name in get_args(Operation)}
_ARRIVED = ("waiting", "passed", "refused", "forgotten")
#: Entries of one stream that are read at a time.
_READ = 1024


class FactsOnRedis(RedisCalls):
    """Mixed into `RedisBroker`; see `FactStore` for what each method promises."""

    async def fact_write(self, write: FactWrite) -> FactWritten:
        """See `FactStore.fact_write`."""
        try:
            return await self._once(write, repeated=0)
        except FunctionsGone:
            raise
        except BrokerUnavailable:
            return await self._once(write, repeated=1)

    async def _once(self, write: FactWrite, repeated: int) -> FactWritten:
        keys: tuple[bytes, ...] = self._keys.facts(write.shard).all
        fence = ("", "")
        if write.fence is not None:
            seats = self._keys.facts(write.fence.shard).seats(write.fence.name)
            keys = (*keys, seats[0], seats[2])
            fence = (write.fence.owner, str(write.fence.token))
        expected = "" if write.expected is None else write.expected
        operation = "put" if write.value is not None else "delete"
        args = (operation, write.key, expected, write.ttl_ms, write.nonce, repeated, write.value or b"", *fence)
        if write.value is None:
            answer = await self._confirmed("facts", "fact_delete", keys, args)
        else:
            answer = await self._confirmed("facts", "fact_write", keys, args)
        return FactWritten(_WRITTEN[answer[0]], int(answer[1]))

    async def fact_read(self, shard: str, keys: Sequence[str]) -> list[StoredFact]:
        """See `FactStore.fact_read`."""
        answer = await self._function("query", "fact_read", (self._keys.facts(shard).data,), keys)
        found = []
        for at, key in enumerate(keys):
            version, left, value = answer[3 * at : 3 * at + 3]
            if int(version):
                found.append(StoredFact(key, int(version), int(left), value))
        return found

    async def fact_names(self, shards: Sequence[str], prefix: str, after: str, count: int) -> list[tuple[str, int]]:
        """See `FactStore.fact_names`."""
        least = b"(" + after.encode() if after >= prefix and after else b"[" + prefix.encode()
        # No byte of UTF-8 is 0xFF.
        most = b"(" + prefix.encode() + b"\xff" if prefix else b"+"
        pages = []
        for shard in shards:
            of = self._keys.facts(shard)
            answer = await self._function("query", "fact_names", (of.data, of.names), (least, most, count))
            pages.append([(answer[at], int(answer[at + 1])) for at in range(0, len(answer), 2)])
        return [(key.decode(errors="replace"), size) for key, size in islice(merge(*pages), count)]

    async def fact_tail(self, shards: Sequence[str]) -> list[Tail]:
        """See `FactStore.fact_tail`."""
        keys = [key for shard in shards for key in self._keys.facts(shard).all]
        answer = [int(n) for n in await self._function("query", "fact_tail", keys, ())]
        return [Tail(*answer[at : at + 3]) for at in range(0, len(answer), 3)]

    async def fact_follow(
        self, changes: Mapping[str, int], turns: Mapping[str, int], block_ms: int
    ) -> tuple[list[FactChange], list[Turn]]:
        """See `FactStore.fact_follow`."""
        places = {self._keys.facts(shard).changes: (shard, True, after) for shard, after in changes.items()}
        places |= {self._keys.facts(shard).turns: (shard, False, after) for shard, after in turns.items()}
        answer = await self._waiting_read("follow").call(
            *("XREAD", "COUNT", _READ, *block(block_ms), "STREAMS"),
            *places,
            *(f"{after}-0" for _, _, after in places.values()),
            block_ms=block_ms,
        )
        changed: list[FactChange] = []
        given: list[Turn] = []
        for key, entries in answer or ():
            shard, is_change, _ = places[key]
            for id, fields in entries:
                said = dict(zip(fields[::2], fields[1::2], strict=False))
                version = int(id.partition(b"-")[0])
                if is_change:
                    changed.append(_change(shard, version, said))
                else:
                    given.append(Turn(shard, version, _text(said.get(b"n")), _text(said.get(b"o"))))
        return changed, given

    async def fact_wake(self) -> None:
        """See `FactStore.fact_wake`."""
        await self._waiting_read("follow").wake()

    async def hold(self, shard: str, name: str, owner: str, limit: int, ttl_ms: int) -> HoldAnswer:
        """See `FactStore.hold`."""
        answer = await self._confirmed("holds", "hold", self._seats(shard, name), (name, owner, limit, ttl_ms))
        if answer[0] == 1:
            return HoldAnswer("held", token=int(answer[1]))
        if answer[0] == 2:
            return HoldAnswer("refused", limit=int(answer[1]))
        return HoldAnswer("waiting", ahead=int(answer[1]), next_ms=int(answer[2]))

    async def hold_renew(self, seats: Sequence[tuple[Seat, int]]) -> list[bool]:
        """See `FactStore.hold_renew`."""
        keys: list[bytes] = []
        args: list[Any] = []
        for seat, ttl_ms in seats:
            of = self._keys.facts(seat.shard)
            keys += (*of.seats(seat.name), of.locks)
            args += (seat.name, seat.owner, seat.token, ttl_ms)
        return [bool(ok) for ok in await self._function("holds", "hold_renew", keys, args)]

    async def hold_leave(self, seat: Seat) -> bool:
        """See `FactStore.hold_leave`."""
        keys = self._seats(seat.shard, seat.name)
        return bool(await self._function("holds", "hold_leave", keys, (seat.name, seat.owner, seat.token)))

    async def hold_list(self, shard: str, after: str, count: int) -> list[HoldState]:
        """See `FactStore.hold_list`."""
        of = self._keys.facts(shard)
        names = [_text(name) for name in await self._function("holds", "hold_names", (of.locks,), (after, count))]
        if not names:
            return []
        keys = [key for name in names for key in of.seats(name)]
        answers = await self._function("holds", "hold_show", keys, ())
        return [_state(name, answer) for name, answer in zip(names, answers, strict=True)]

    async def arrive(self, shard: str, name: str, party: str, parties: int, ttl_ms: int, *, come: bool) -> Arrival:
        """See `FactStore.arrive`."""
        of = self._keys.facts(shard)
        keys = (*of.barrier(name), of.turns, of.meta)
        answer = await self._confirmed("holds", "arrive", keys, (name, party, parties, ttl_ms, int(come)))
        return Arrival(_ARRIVED[answer[0]], int(answer[1]))  # type: ignore[arg-type]

    def _seats(self, shard: str, name: str) -> tuple[bytes, ...]:
        of: FactKeys = self._keys.facts(shard)
        return (*of.seats(name), of.turns, of.meta, of.locks)


def _change(shard: str, version: int, said: Mapping[bytes, bytes]) -> FactChange:
    """A change as read; one that no function of ours wrote has an impossible version before it, so it is a gap."""
    before, ttl = said.get(b"p", b""), said.get(b"t", b"")
    operation = _OPERATIONS.get(said.get(b"o", b""))
    if operation is None or not before.isdigit() or not ttl.isdigit():
        return FactChange(shard, version, -1, "delete", "", 0, b"")
    return FactChange(shard, version, int(before), operation, _text(said.get(b"k")), int(ttl), said.get(b"b", b""))


def _state(name: str, answer: Sequence[Any]) -> HoldState:
    rest = answer[2:]
    holders = [
        Holder(_text(rest[at]), int(rest[at + 1]), int(rest[at + 2]), int(rest[at + 3]))
        for at in range(0, len(rest), 4)
    ]
    return HoldState(name, int(answer[0]), int(answer[1]), holders)


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
