"""Keeping leases: heartbeats, renewals, taking free shards, handing over those that others have a right to.

    every tick (a quarter of the lease, at most half a second):
        heartbeat        -> who lives, and who of them is held and takes no shards
        renew            -> a shard that is no longer ours is lost
        share            -> too many: hand over, politely; too few: take what is free or lapsed

    trusted_until_ns = when the renewal was begun + lease - margin        on this process's own monotonic clock

Behind trusted_until_ns nothing of a shard is begun, so a process that slept through its lease stops by itself.

The server measures leases by its wall clock. If that is set ahead, all of them look lapsed at once: so a lease counts
as lapsed only if its owner was also silent for SILENT_TICKS of its ticks, by our own clock, or beats on and does not
renew it (it lost the shard while the server was away, and has its share without it). If the clock is set back, what
would last too long is cut to what it was given for (acquire, heartbeat).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from swell.backoff import Backoff
from swell.bus.balance import fair_share, to_hand_over, to_take
from swell.bus.broker import Broker, Inheritance, Lease, LeaseState, Member, Refused
from swell.bus.shard import OwnedShard
from swell.codec import decode
from swell.errors import BrokerError, WireError
from swell.wire import WorkerInfo

log = logging.getLogger(__name__)

MOST_TICK_S = 0.5
#: A shard that we wait for is looked at again this often, seconds.
MISSING_TICK_S = 0.1
#: An owner that beats has beaten again within so many ticks; and between so many beats it renews what it holds.
SILENT_TICKS = 2
#: Part of the lease by which we stop trusting it early.
MARGIN = 0.1
_AGAIN = Backoff(0.1, 1.0)


class Holder(Protocol):
    """Who is told what becomes of shards."""

    async def taken(self, lease: Lease, inherited: Inheritance, trusted_until_ns: int) -> None:
        """A shard is ours now."""
        ...

    async def hand_over(self, shard: OwnedShard) -> None:
        """Finish what runs, settle it; then the shard is released."""
        ...

    def lost(self, shard: OwnedShard) -> None:
        """A shard is no longer ours; nothing of it may be written."""
        ...


class LeaseKeeper:
    """Keeps a process's share of the shards of one role.

    Args:
        broker: the server.
        role: whose members share the shards: worker, manager or metrics.
        process: our name.
        shards: all shards of the role.
        owned: our shards, by name, shared with the consumer.
        holder: who is told.
        lease_ms: how long a lease lasts.
        info: what we say of ourselves, encoded; asked anew for every heartbeat.
    """

    def __init__(
        self,
        broker: Broker,
        role: str,
        process: str,
        shards: Sequence[str],
        owned: dict[str, OwnedShard],
        holder: Holder,
        lease_ms: int,
        info: Callable[[], bytes],
    ) -> None:
        self._broker = broker
        self._role = role
        self._process = process
        self._shards = shards
        self._owned = owned
        self._holder = holder
        self._lease_ms = lease_ms
        self._info = info
        self._leaving = False
        self._now = asyncio.Event()
        self._handing: set[str] = set()
        # For each member what it said last, and when we saw that it was new; and when we began to look.
        self._beats: dict[str, tuple[bytes, float]] = {}
        self._looking_since = time.monotonic()
        # For each shard whose lease was seen lapsed: its epoch, what its owner said last, and its beats since.
        self._lapsed: dict[str, tuple[int, bytes, int]] = {}
        self.share = 0
        self.members: list[str] = []
        self.sharers: list[str] = []
        self.on_tick: Callable[[], None] = lambda: None
        self.problem = "the server has not answered yet"

    def leave(self) -> None:
        """Hand over everything, and let `run` end when that is done."""
        self._leaving = True
        self._now.set()

    def look_now(self) -> None:
        """Do not wait for the next tick: something is wrong with a lease."""
        self._now.set()

    async def run(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Tick until `leave` is done.

        Args:
            spawn: starts a hand-over beside us, so that the other leases are renewed meanwhile.
        """
        failures = 0
        while not (self._leaving and not self._owned):
            try:
                wait_s = await self._tick(spawn)
                failures = 0
                self.problem = ""
            except BrokerError as error:
                failures += 1
                self.problem = f"leases cannot be kept: {error}"
                if failures == 1:
                    log.warning("leases cannot be kept: %s", error)
                wait_s = _AGAIN.wait_s(failures)
            self.drop_lapsed()
            self.on_tick()
            try:
                async with asyncio.timeout(wait_s):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
        await self._depart()

    async def _depart(self) -> None:
        """Say that we leave, so that nobody waits for our heartbeat to lapse; if that fails, it lapses."""
        try:
            await self._broker.heartbeat(self._role, self._process, 0, b"")
        except BrokerError as error:
            log.warning("could not say goodbye: %s", error)

    def drop_lapsed(self) -> None:
        """Lose every shard that our own clock no longer trusts."""
        now = time.monotonic_ns()
        for shard in list(self._owned.values()):
            if shard.reading and now >= shard.trusted_until_ns:
                log.warning("lease lapsed", extra={"shard": shard.name, "epoch": shard.lease.epoch})
                self._holder.lost(shard)

    async def _tick(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> float:
        ttl_ms = 0 if self._leaving else self._lease_ms
        members = await self._broker.heartbeat(self._role, self._process, ttl_ms, self._info())
        self._listen(members)
        said = sorted((*_said(member), member.process) for member in members)
        self.members = [name for _, _, name in said]
        self._share_among([name for _, held, name in said if not held])
        await self._renew()
        self.share = 0 if self._leaving else fair_share(self.sharers, self._process, len(self._shards))
        for name in to_hand_over(list(self._owned), self.share):
            if name not in self._handing:
                self._handing.add(name)
                spawn(self._hand_over(self._owned[name]))
        if len(self._owned) < self.share:
            await self._take_missing()
        return self._tick_s if len(self._owned) >= self.share else min(self._tick_s, MISSING_TICK_S)

    def _share_among(self, sharers: list[str]) -> None:
        """Keep the list while it is the same, so that who looks at it sees by that when it changes."""
        if sharers != self.sharers:
            self.sharers = sharers

    @property
    def _tick_s(self) -> float:
        return min(self._lease_ms / 4000, MOST_TICK_S)

    def _listen(self, members: Sequence[Member]) -> None:
        """Remember of each member when it was heard last, by our own clock; long gone ones are forgotten."""
        now = time.monotonic()
        self._beats = {name: beat for name, beat in self._beats.items() if now - beat[1] < self._lease_ms / 100}
        for member in members:
            if self._beats.get(member.process, (b"",))[0] != member.info:
                self._beats[member.process] = (member.info, now)

    def _silent(self, owner: str) -> bool:
        """Whether a process has not beaten for so long that it is not only the clock that says so."""
        _, heard = self._beats.get(owner, (b"", self._looking_since))
        return time.monotonic() - heard >= SILENT_TICKS * self._tick_s

    def _free(self, state: LeaseState) -> bool:
        """Whether a shard may be taken: released, ours from before, or its owner is gone by the server and by us."""
        if not state.owner or state.owner == self._process or self._let_go(state):
            return True
        return (not state.remaining_ms or state.owner not in self.members) and self._silent(state.owner)

    def _let_go(self, state: LeaseState) -> bool:
        """Whether a lease has lapsed and stayed so while its owner beat on: the owner no longer has the shard."""
        if state.remaining_ms:
            self._lapsed.pop(state.shard, None)
            return False
        said, _ = self._beats.get(state.owner, (b"", 0.0))
        epoch, before, beats = self._lapsed.get(state.shard, (0, b"", 0))
        beats = beats + (said != before) if epoch == state.epoch else 0
        self._lapsed[state.shard] = (state.epoch, said, beats)
        return beats >= SILENT_TICKS

    async def _renew(self) -> None:
        shards = list(self._owned.values())
        if not shards:
            return
        began = time.monotonic_ns()
        answers = await self._broker.renew([shard.lease for shard in shards], self._lease_ms)
        for shard, ours in zip(shards, answers, strict=True):
            if self._owned.get(shard.name) is not shard:
                continue
            if not ours:
                log.warning("lease lost", extra={"shard": shard.name, "epoch": shard.lease.epoch})
                self._holder.lost(shard)
            elif shard.reading:
                shard.trusted_until_ns = self._trusted(began)

    def _trusted(self, began_ns: int) -> int:
        return began_ns + int(self._lease_ms * 1_000_000 * (1 - MARGIN))

    async def _take_missing(self) -> None:
        missing = [name for name in self._shards if name not in self._owned]
        states = await self._broker.leases(missing)
        free = [state.shard for state in states if self._free(state)]
        for name in to_take(free, len(self._owned), self.share, self.sharers, self._process):
            began = time.monotonic_ns()
            lease = await self._broker.acquire(name, self._process, self._lease_ms)
            if isinstance(lease, Refused):
                continue
            log.info("shard acquired", extra={"shard": name, "epoch": lease.epoch})
            await self._holder.taken(lease, await self._broker.inherit(lease), self._trusted(began))

    async def _hand_over(self, shard: OwnedShard) -> None:
        try:
            await self._holder.hand_over(shard)
            if self._owned.get(shard.name) is shard:
                await self._broker.release(shard.lease)
                log.info("shard released", extra={"shard": shard.name, "epoch": shard.lease.epoch})
        except BrokerError as error:
            log.warning("shard not released, its lease will lapse: %s", error, extra={"shard": shard.name})
            self._holder.lost(shard)
        finally:
            if self._owned.get(shard.name) is shard:
                del self._owned[shard.name]
            self._handing.discard(shard.name)
            self._now.set()


def _said(member: Member) -> tuple[int, bool]:
    """When a process started, as it says (the oldest come first), and whether it takes no shards."""
    try:
        info = decode(member.info, WorkerInfo)
    except WireError:
        return 0, False
    return info.started_ms, info.held
