"""Faults of workers' processes: killed, and frozen beyond their lease."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.chaos.conftest import MakeSystem
from tests.chaos.report import Rows
from tests.chaos.system import LEASE_MS, Load, System
from tests.integration.services import Service

AGENTS = 100
#: A takeover that takes so many leases has hung; what it takes is told in the table.
MOST_LEASES = 10
pytestmark = pytest.mark.timeout(900)


async def agents_of(system: System, service: Service, agents: list[str]) -> list[list[str]]:
    """The agents of each shard that a process owns."""
    owned = await system.owned(service)
    by_shard: dict[str, list[str]] = {shard: [] for shard in owned}
    for agent in agents:
        if system.client.shard(agent) in owned:
            by_shard[system.client.shard(agent)].append(agent)
    return [found for found in by_shard.values() if found]


async def test_1_workers_killed_again_and_again_lose_nothing(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    kills = 20 if long else 4
    faults: list[tuple[int, int, list[list[str]]]] = []
    async with system() as one:
        await one.begin(workers=2)
        agents = await one.spawn(AGENTS)
        async with one.load(agents, Load(rate=5000 if long else 3000)) as load:
            for _ in range(kills):
                await asyncio.sleep(rng.uniform(0.2, 2.0 if long else 0.8))
                victim = rng.choice(one.running("worker"))
                held = await agents_of(one, victim, agents)
                faults.append((await one.kill(victim), victim.pid, held))
                await one.all_ready(one.start("worker"))
                # A worker killed before the balance is found again would own nothing.
                await one.all_ready(*one.running("worker"))
            await asyncio.sleep(0.5)
        verdict = await one.settled()
        recovery = one.recovery()
    took = [recovery.after_s(shard, at_ns, pid) for at_ns, pid, held in faults for shard in held]
    assert took
    times = [s for s in took if s is not None]
    assert len(times) == len(took)
    assert not load.errors
    assert not verdict.overlapping
    rows.add("1 kill -9 of a worker", verdict, kills, load.seconds, times, lease_s=LEASE_MS / 1000)
    assert max(times) < MOST_LEASES * LEASE_MS / 1000


async def test_5_a_worker_frozen_beyond_its_lease_settles_nothing_when_it_wakes(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    freezes = 10 if long else 2
    faults: list[tuple[int, int, list[list[str]]]] = []
    async with system() as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(AGENTS)
        # Slow agents are always half way: what they began before the freeze ends after it, and comes too late.
        slow = await one.spawn(AGENTS, "slow")
        async with one.load(agents + slow, Load(rate=2000)) as load:
            for _ in range(freezes):
                await asyncio.sleep(rng.uniform(0.3, 0.8))
                victim = rng.choice(one.running("worker"))
                held = await agents_of(one, victim, agents)
                faults.append((one.freeze(victim), victim.pid, held))
                await asyncio.sleep(rng.uniform(2.0, 3.0) * LEASE_MS / 1000)
                one.thaw(victim)
                await one.all_ready(*one.running("worker"))
        verdict = await one.settled()
        recovery = one.recovery()
        lost = sum(len(held) for _, _, held in faults)
        await one.until(lambda: one.counted("leases_lost", lost), f"{lost} leases lost")
        stale = (await one.counters("stale_settles"))["stale_settles"]
    took = [recovery.after_s(shard, at_ns, pid) for at_ns, pid, held in faults for shard in held]
    times = [s for s in took if s is not None]
    assert took
    assert len(times) == len(took)
    assert not load.errors
    # A process that wakes sees that its lease is over, or hears it from its settle; many freezes show both.
    assert stale or not long
    # What must not happen: that a process begins a message after the next owner has handled one of the same agent. It
    # looks at its lease before each message, so each freeze may catch it once, between the look and the handler.
    assert len(verdict.overlapping) <= freezes
    rows.add(
        "5 SIGSTOP of a worker beyond its lease",
        verdict,
        freezes,
        load.seconds,
        times,
        stale_settles=stale,
        overlapping=len(verdict.overlapping),
    )
    assert max(times) < MOST_LEASES * LEASE_MS / 1000
