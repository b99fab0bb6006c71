"""The facts, locks and barriers of one shard of the memory broker: functions/facts.lua, holds.lua and barrier.lua.

Nothing here waits, so every method is one instant, as a function is on the server. Time is handed in.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from swell.bus.facts import (
    ANY_TOKEN,
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
)
from swell.bus.memory_ids import Instant

#: Changes that are kept for those who watch, and bytes of their keys and values.
KEEP_CHANGES, KEEP_CHANGE_BYTES = 4096, 4 << 20
#: Turns that are kept for those who wait, and parties of which it is known that they passed.
KEEP_TURNS, KEEP_PASSED = 1000, 10_000


@dataclass(slots=True)
class _Fact:
    version: int
    expires_ms: int
    value: bytes


@dataclass(slots=True)
class _Taken:
    """A seat: its token, since when, and when it lapses."""

    token: int
    since_ms: int
    expires_ms: int


@dataclass(slots=True)
class _Seats:
    """One name: its holders, and those who wait, in order: owner -> (when it counts as dead, its ttl)."""

    limit: int
    ttl_ms: int = 0
    held: dict[str, _Taken] = field(default_factory=dict)
    line: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Gathering:
    """One barrier: who has come -> when it counts as dead; who passed -> with which generation."""

    parties: int = 0
    arrived: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)


class FactShard:
    """One shard.

    Attributes:
        changed: events of those who follow; set at every change and turn.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.changed: set[asyncio.Event] = set()
        self._facts: dict[str, _Fact] = {}
        self._changes: deque[FactChange] = deque()
        self._bytes = 0
        self._turns: deque[Turn] = deque(maxlen=KEEP_TURNS)
        self._version = 0
        self._newest_change = 0
        self._seats: dict[str, _Seats] = {}
        self._barriers: dict[str, _Gathering] = {}
        self._nonces: dict[str, int] = {}

    # Facts.

    def write(self, write: FactWrite, fenced: bool, now: Instant) -> FactWritten:
        """Put, create, swap or delete a fact; `fenced` says that its fence holds, or that there is none."""
        if write.nonce in self._nonces:
            return FactWritten("ok", self._nonces[write.nonce])
        if not fenced:
            return FactWritten("stale", 0)
        self._lapse(now)
        fact = self._facts.get(write.key)
        found = fact.version if fact is not None else 0
        if write.expected is not None and write.expected != found:
            return FactWritten("conflict", found)
        if write.value is None:
            if fact is None:
                return FactWritten("ok", 0)
            del self._facts[write.key]
            version = self._tell("delete", write.key, now)
        else:
            version = self._tell("put", write.key, now, write.ttl_ms, write.value)
            self._facts[write.key] = _Fact(version, now.ms + write.ttl_ms if write.ttl_ms else 0, write.value)
        self._nonces[write.nonce] = version
        while len(self._nonces) > KEEP_CHANGES:
            del self._nonces[next(iter(self._nonces))]
        return FactWritten("ok", version)

    def read(self, keys: Sequence[str], now: Instant) -> list[StoredFact]:
        """Those of these facts that are there."""
        found = []
        for key in keys:
            fact = self._facts.get(key)
            if fact is not None and not 0 < fact.expires_ms <= now.ms:
                left_ms = fact.expires_ms - now.ms if fact.expires_ms else -1
                found.append(StoredFact(key, fact.version, left_ms, fact.value))
        return found

    def names(self, prefix: str, after: str, count: int) -> list[tuple[str, int]]:
        """Keys in order, with the sizes of their values."""
        names = sorted(key for key in self._facts if key.startswith(prefix))
        return [(key, len(self._facts[key].value)) for key in islice(names, bisect_right(names, after), None)][:count]

    def tail(self, now: Instant) -> Tail:
        """Where changes end, after what has expired became one."""
        self._lapse(now)
        due = min((fact.expires_ms for fact in self._facts.values() if fact.expires_ms), default=None)
        return Tail(self._version, self._newest_change, -1 if due is None else max(0, due - now.ms))

    def changes(self, after: int) -> list[FactChange]:
        """Changes that are kept behind a version."""
        return [change for change in self._changes if change.version > after]

    def _lapse(self, now: Instant) -> None:
        for key in [key for key, fact in self._facts.items() if 0 < fact.expires_ms <= now.ms]:
            del self._facts[key]
            self._tell("expire", key, now)

    def _draw(self, now: Instant) -> int:
        self._version = max(self._version + 1, now.us)
        return self._version

    def _tell(self, operation: Operation, key: str, now: Instant, ttl_ms: int = 0, value: bytes = b"") -> int:
        version = self._draw(now)
        change = FactChange(self.name, version, self._newest_change, operation, key, ttl_ms, value)
        self._newest_change = version
        self._changes.append(change)
        self._bytes += len(key.encode()) + len(value)
        while len(self._changes) > 1 and (len(self._changes) > KEEP_CHANGES or self._bytes > KEEP_CHANGE_BYTES):
            oldest = self._changes.popleft()
            self._bytes -= len(oldest.key.encode()) + len(oldest.value)
        self._signal()
        return version

    # Locks.

    def hold(self, name: str, owner: str, limit: int, ttl_ms: int, now: Instant) -> HoldAnswer:
        """Take a seat, or a place in the line."""
        seats = self._seats.setdefault(name, _Seats(limit))
        self._give(name, seats, owner, now)
        if not seats.held and not seats.line:
            seats.limit, seats.ttl_ms = limit, 0
        elif seats.limit != limit:
            return HoldAnswer("refused", limit=seats.limit)
        seats.ttl_ms = max(seats.ttl_ms, ttl_ms)
        if owner in seats.held:
            seats.held[owner].expires_ms = now.ms + ttl_ms
        else:
            seats.line[owner] = (now.ms + ttl_ms, ttl_ms)
            self._give(name, seats, owner, now)
        if owner in seats.held:
            return HoldAnswer("held", token=seats.held[owner].token)
        next_ms = min((one.expires_ms for one in seats.held.values()), default=now.ms - 1) - now.ms
        return HoldAnswer("waiting", ahead=list(seats.line).index(owner), next_ms=next_ms)

    def renew(self, seat: Seat, ttl_ms: int, now: Instant) -> bool:
        """Keep a seat, lapsed or not, if nobody else was let in."""
        seats = self._seats.get(seat.name)
        held = seats.held.get(seat.owner) if seats is not None else None
        if seats is None or held is None or held.token != seat.token:
            return False
        seats.ttl_ms = max(seats.ttl_ms, ttl_ms)
        held.expires_ms = now.ms + ttl_ms
        return True

    def leave(self, seat: Seat, now: Instant) -> bool:
        """Give a seat back, or leave the line."""
        seats = self._seats.get(seat.name)
        if seats is None:
            return False
        own = seats.held.get(seat.owner)
        held = own is not None and seat.token in (ANY_TOKEN, own.token)
        if held:
            del seats.held[seat.owner]
        seats.line.pop(seat.owner, None)
        self._give(seat.name, seats, seat.owner, now)
        if not seats.held and not seats.line:
            del self._seats[seat.name]
        return held

    def holds(self, seat: Seat, now: Instant) -> bool:
        """Whether a seat is held at this moment, under its token."""
        seats = self._seats.get(seat.name)
        held = seats.held.get(seat.owner) if seats is not None else None
        return held is not None and held.token == seat.token and held.expires_ms > now.ms

    def list_held(self, after: str, count: int, now: Instant) -> list[HoldState]:
        """Names that are held or waited for, and by whom."""
        found = []
        for name in sorted(name for name in self._seats if name > after):
            seats = self._seats[name]
            holders = [
                Holder(owner, one.token, max(0, now.ms - one.since_ms), one.expires_ms - now.ms)
                for owner, one in seats.held.items()
                if one.expires_ms > now.ms
            ]
            if holders or any(lapses_ms > now.ms for lapses_ms, _ in seats.line.values()):
                found.append(HoldState(name, seats.limit, len(seats.line), holders))
        return found[:count]

    def _give(self, name: str, seats: _Seats, own: str, now: Instant) -> None:
        """Free what has lapsed, and give it to those who wait, the first first."""
        for owner, held in list(seats.held.items()):
            # Set back since, the clock may make no seat last longer than anybody asked for.
            held.expires_ms = min(held.expires_ms, now.ms + seats.ttl_ms)
            if held.expires_ms <= now.ms:
                del seats.held[owner]
        while seats.line and len(seats.held) < seats.limit:
            first = next(iter(seats.line))
            lapses_ms, ttl_ms = seats.line.pop(first)
            if lapses_ms > now.ms:
                token = self._draw(now)
                seats.held[first] = _Taken(token, now.ms, now.ms + ttl_ms)
                if first != own:
                    self._turn(token, name, first)

    def turns(self, after: int) -> list[Turn]:
        """Turns that are kept behind a version."""
        return [turn for turn in self._turns if turn.version > after]

    def _turn(self, version: int, name: str, owner: str) -> None:
        self._turns.append(Turn(self.name, version, name, owner))
        self._signal()

    # Barriers.

    def arrive(self, name: str, party: str, parties: int, ttl_ms: int, come: bool, now: Instant) -> Arrival:
        """Come to a barrier, wait there, or leave it."""
        barrier = self._barriers.setdefault(name, _Gathering())
        if party in barrier.passed:
            return Arrival("passed", barrier.passed[party])
        arrived = barrier.arrived = {one: at_ms for one, at_ms in barrier.arrived.items() if at_ms > now.ms}
        if not ttl_ms:
            arrived.pop(party, None)
            return Arrival("waiting", len(arrived))
        if not come and party not in arrived:
            return Arrival("forgotten", 0)
        if arrived and barrier.parties != parties:
            return Arrival("refused", barrier.parties)
        arrived[party] = now.ms + ttl_ms
        barrier.parties = parties
        if len(arrived) < parties:
            return Arrival("waiting", len(arrived))
        generation = self._draw(now)
        barrier.passed.update(dict.fromkeys(arrived, generation))
        while len(barrier.passed) > KEEP_PASSED:
            del barrier.passed[next(iter(barrier.passed))]
        barrier.arrived = {}
        self._turn(generation, name, "")
        return Arrival("passed", generation)

    def _signal(self) -> None:
        for event in self.changed:
            event.set()
