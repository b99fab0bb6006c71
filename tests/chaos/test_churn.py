"""Agents that come and go leave nothing behind: no tasks, no memory, no keys, no connections."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from tests.chaos.account import Verdict
from tests.chaos.conftest import MakeSystem
from tests.chaos.report import Rows
from tests.chaos.system import PATIENCE_S, System, resident_mib

#: What may be more than before: what happens to be under way, and connections that some processes need late. A leak of
#: one for each agent, or each hundred of them, is far more.
SPARE = 12
#: Resident memory that a process may have grown by, MiB: what allocators keep, the records of those that ended (each
#: shard keeps a bounded number), and the shards of those agents that a client remembers.
SPARE_MIB = 32.0
pytestmark = pytest.mark.timeout(900)


@dataclass
class Size:
    """How much of everything there is."""

    tasks: dict[int, int]
    descriptors: dict[int, int]
    memory_mib: dict[int, float]
    keys: int
    connections: int


async def size(system: System, inspectors: list[str]) -> Size:
    """Measure a system at rest."""
    answers: list[tuple[int, int]] = [await system.client.ask(id, "look", None, tuple[int, int]) for id in inspectors]
    async with Redis.from_url(system.url, protocol=2) as redis:
        keys = [key async for key in redis.scan_iter(f"swell:{system.namespace}:*", count=1000)]
        connections = len(await redis.client_list())
    pids = [service.pid for service in system.services]
    return Size(
        tasks=dict(answers),
        descriptors={pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids},
        memory_mib={pid: resident_mib(pid) for pid in pids},
        keys=len(keys),
        connections=connections,
    )


async def churn(system: System, count: int) -> None:
    """Spawn agents, have each do something, and end them."""
    plan = await system.client.spawn("mayfly", count, wave_size=100)
    assert (await plan.wait(PATIENCE_S)).ready == count
    views = await system.client.agents("mayfly", limit=10_000)
    async with asyncio.TaskGroup() as group:
        for view in views[:200]:
            group.create_task(system.client.ask(view.id, "echo", 1, int))
    assert await system.client.send_many((view.id, "echo", 2) for view in views) == count
    assert (await system.client.terminate(plan=plan.id)).terminated == count


async def test_13_agents_that_come_and_go_leave_nothing_behind(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    count, least_s = (10_000, 60.0) if long else (250, 0.0)
    churned = 0
    async with system() as one:
        await one.begin(workers=2, metrics=1)
        inspectors = await one.spawn(32, "inspector")
        await churn(one, count)  # What is made once and kept is there after this.
        await one.drained()
        before = await size(one, inspectors)
        began = time.monotonic()
        while churned < 4 * count or time.monotonic() - began < least_s:
            await churn(one, count)
            churned += count
        seconds = time.monotonic() - began
        await one.drained()
        after = await at_rest(one, inspectors, before)
        verdict = await one.settled()
    assert len(before.tasks) == 2
    check(before, after)
    growth = max(after.memory_mib[pid] - before.memory_mib[pid] for pid in before.memory_mib)
    rows.add(
        "13 churn",
        verdict,
        churned,
        seconds,
        agents=churned,
        agents_per_s=round(churned / seconds, 1),
        most_growth_mib=round(growth, 1),
    )
    assert verdict == Verdict()


async def at_rest(system: System, inspectors: list[str], before: Size) -> Size:
    """The size when the tasks of agents at rest have ended; else as it is in the end."""
    for _ in range(60):
        after = await size(system, inspectors)
        if all(after.tasks[pid] <= before.tasks[pid] + SPARE for pid in after.tasks):
            break
        await asyncio.sleep(0.25)
    return after


def check(before: Size, after: Size) -> None:
    """Nothing may have grown."""
    for what in ("tasks", "descriptors"):
        was, now = getattr(before, what), getattr(after, what)
        assert all(now[pid] <= was[pid] + SPARE for pid in was), f"{what}: {was} before, {now} after"
    for pid, was_mib in before.memory_mib.items():
        assert after.memory_mib[pid] < was_mib + SPARE_MIB, f"memory: {before.memory_mib}, then {after.memory_mib}"
    assert after.keys <= before.keys + SPARE
    assert after.connections <= before.connections + SPARE
