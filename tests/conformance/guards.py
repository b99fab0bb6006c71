"""The safety checks of a shard, each of which can be taken out, in the tests only.

On a server a guard is taken out of the functions' source by exact replacement: if the text is not there, a refactoring
has moved the guard, and the replacement here must follow it. In memory its twin is patched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from swell.bus.broker import Append, Appended, Delivered, Lease, Outcome, Refused, Settlement
from swell.bus.functions import library
from swell.bus.memory_ids import Instant
from swell.bus.memory_inbox import MemoryInbox, _Group
from swell.bus.memory_shard import MemoryShard
from swell.bus.redis import RedisBroker

#: The one group that all owners share when the group per incarnation is taken out.
SHARED = "workers"
#: A depth that no history reaches.
ENDLESS = 1_000_000

_append = MemoryInbox.append
_taken = MemoryInbox.taken
_acquire = MemoryShard.acquire
_settle_entry = MemoryInbox.settle_entry
_settle = MemoryShard.settle


@dataclass(frozen=True, slots=True)
class Guard:
    """One safety check.

    Attributes:
        name: what is taken out.
        lua: pieces of the functions' source and what stands in their place without the guard.
        memory: the same for the memory broker: methods of its inboxes and shards, and what stands in their place.
        breaks: how the violation begins that tells of it, on a server and in memory.
        broker: the connection to a server without the guard.
    """

    name: str
    lua: Mapping[str, str]
    memory: Mapping[str, Callable[..., Any]]
    breaks: tuple[str, ...]
    broker: type[RedisBroker] = RedisBroker


def weakened(guard: Guard) -> str:
    """The source of the whole library, without one guard."""
    source = library()
    for text, instead in guard.lua.items():
        assert source.count(text) == 1, f"{guard.name}: {text!r} is there {source.count(text)} times"
        source = source.replace(text, instead)
    return source


def weaken_memory(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a guard out of all memory shards."""
    for method, instead in guard.memory.items():
        monkeypatch.setattr(MemoryInbox if hasattr(MemoryInbox, method) else MemoryShard, method, instead)


class SharedGroupBroker(RedisBroker):
    """All owners read through one group, as most users of streams do."""

    async def read(self, owner: str, inboxes: Sequence[str], count: int, block_ms: int) -> list[Delivered]:
        return await super().read(SHARED, inboxes, count, block_ms)

    async def pending(self, owner: str, inbox: str, after: str, count: int) -> list[Delivered]:
        return await super().pending(SHARED, inbox, after, count)

    async def settle(
        self, settlements: Sequence[Settlement], replies: Mapping[str, bytes] | None = None
    ) -> tuple[list[bool], int]:
        of_group = [Settlement(one.lease._replace(owner=SHARED), one.outcomes, one.records) for one in settlements]
        return await super().settle(of_group, replies)


def _seen_anew(
    self: MemoryInbox, producer: str, append: Append, max_depth: int, now: Instant, *, behind: bool = False
) -> Appended:
    if append.seq <= self._last_seq(producer, now):
        self._producers[producer] = (append.seq - 1, now.ms)
    return _append(self, producer, append, max_depth, now, behind=behind)


def _leap(
    self: MemoryInbox, producer: str, append: Append, max_depth: int, now: Instant, *, behind: bool = False
) -> Appended:
    if append.seq > self._last_seq(producer, now) + 1:
        self._producers[producer] = (append.seq - 1, now.ms)
    return _append(self, producer, append, max_depth, now, behind=behind)


def _deep(
    self: MemoryInbox, producer: str, append: Append, max_depth: int, now: Instant, *, behind: bool = False
) -> Appended:
    return _append(self, producer, append, ENDLESS, now, behind=behind)


def _share_group(self: MemoryInbox, owner: str, *, died: bool) -> None:
    before = self._group
    _taken(self, owner, died=died)
    self._group = before or self._group


def _any_group(self: MemoryInbox, owner: str) -> _Group:
    return self._group or _Group(owner, deque())


def _seize(self: MemoryShard, owner: str, lease_ms: int, now: Instant) -> Lease | Refused:
    self._lease.expires_ms = 0
    return _acquire(self, owner, lease_ms, now)


def _from_nothing(self: MemoryInbox, outcome: Outcome) -> list[bytes]:
    self._partial.pop(outcome.id, None)
    return _settle_entry(self, outcome)


def _unnumbered(self: MemoryShard, settlement: Settlement, now: Instant) -> bool:
    return _settle(self, Settlement(settlement.lease, settlement.outcomes, settlement.records), now)


GUARDS = (
    Guard(
        "the epoch check",
        {"return held[1] == epoch and held[2] == token": "return redis.call('HEXISTS', lease, 'group') == 1"},
        {"_holds": lambda self, lease: self._lease.owner != ""},
        ("one owner: accepted a stale",),
    ),
    Guard(
        "the sequence check: a batch seen already",
        {"if seq <= last then\n": "if false then\n"},
        {"append": _seen_anew},
        ("settled once: appended twice",),
    ),
    Guard(
        "the sequence check: a gap",
        {"elseif seq > last + 1 then": "elseif false then"},
        {"append": _leap},
        ("nothing lost: acknowledged and not written", "order:"),
    ),
    Guard(
        "the group per incarnation",
        {
            "      redis.pcall('XGROUP', 'DESTROY', inbox, held[4])\n": "",
            "    redis.pcall('XGROUP', 'DESTROY', inbox, owner)\n": "",
            "redis.call('XGROUP', 'CREATE', inbox, owner,": f"redis.pcall('XGROUP', 'CREATE', inbox, '{SHARED}',",
            "'group', owner,": f"'group', '{SHARED}',",
        },
        {"taken": _share_group, "_group_of": _any_group},
        ("order:", "nothing lost: never settled"),
        SharedGroupBroker,
    ),
    Guard(
        "the depth limit",
        {"if depth + ahead + count <= limit then": "if true then", "if depth + count > limit then": "if false then"},
        {"append": _deep},
        ("bounded: depth",),
    ),
    Guard(
        "the refusal of a lease that runs",
        {"if left > 0 and held[1] ~= owner then": "if false then"},
        {"acquire": _seize},
        ("one owner: granted beside",),
    ),
    Guard(
        "what an entry's former settles counted is subtracted",
        {"a0, d0, e0 = recorded(partial, id)": "a0, d0, e0 = 0, 0, 0"},
        {"settle_entry": _from_nothing},
        ("conservation:",),
    ),
    Guard(
        "the numbers of settles",
        {"  if seq == 0 then\n": "  if true then\n"},
        {"settle": _unnumbered},
        ("one owner: records", "settled once:"),
    ),
    Guard(
        "an entry that is gone is passed over",
        {"      if exists then\n": "      if true then\n"},
        {},
        ("conservation:",),
    ),
    Guard(
        "a dead letter is written once",
        {"local known = math.max(0, letters - math.max(d - d0, 1))": "local known = 0"},
        {},
        ("settled once: dead letters",),
    ),
)
