"""Wall clocks that jump by an hour either way: a worker's, and the server's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from swell.embedded import find_binary
from tests.chaos.clocks import faketime_variables, find_faketime, shift
from tests.chaos.conftest import MakeSystem
from tests.chaos.report import Rows
from tests.chaos.system import LEASE_MS, PATIENCE_S, Load, System
from tests.conftest import start_server, stop_server

HOUR_S = 3600
pytestmark = pytest.mark.timeout(900)


async def epochs(system: System) -> dict[str, int]:
    """The epoch of each shard: it grows with every change of its owner."""
    return {lease.shard: lease.epoch for lease in await system.client.leases() if lease.epoch}


async def jump_under_load(
    system: System, jump: Callable[[int], None], jumps: int, rng: random.Random, rows: Rows, name: str
) -> None:
    """Set a clock ahead and back by an hour again and again; nothing may change its owner, nothing be handled again.

    In the end a worker is killed: also then its shards must be taken over, and only once.
    """
    await system.begin(workers=2, metrics=1)
    agents = await system.spawn(100)
    before = await epochs(system)
    async with system.load(agents, Load(rate=2000)) as load:
        for number in range(jumps):
            await asyncio.sleep(rng.uniform(0.5, 1.5) * LEASE_MS / 1000)
            jump((HOUR_S, 0, -HOUR_S, 0)[number % 4])
        await asyncio.sleep(2 * LEASE_MS / 1000)
        assert await epochs(system) == before
        victim = system.running("worker")[0]
        owned = await system.owned(victim)
        held = [agent for agent in agents if system.client.shard(agent) in owned]
        killed_ns = await system.kill(victim)

        async def taken() -> bool:
            now = await epochs(system)
            return all(now[shard] != before[shard] for shard in owned)

        await system.until(taken, "the dead worker's shards are owned again")
        first = {shard: epoch for shard, epoch in (await epochs(system)).items() if shard in owned}
        await asyncio.sleep(LEASE_MS / 1000)
        after = await epochs(system)
        assert {shard: after[shard] for shard in owned} == first
    verdict = await system.settled()
    took_s = system.recovery().after_s(held, killed_ns, victim.pid)
    stale = (await system.counters("stale_settles"))["stale_settles"]
    assert not load.errors
    assert {shard for shard in before if after[shard] != before[shard]} == owned
    assert (stale, len(verdict.overlapping)) == (0, 0)
    assert set(verdict.repeats_by) <= {one.pid for one in system.running("worker")}
    assert took_s is not None
    rows.add(name, verdict, jumps, load.seconds, [took_s], stale_settles=stale)
    assert took_s < PATIENCE_S


async def test_15_a_workers_wall_clock_that_jumps_changes_no_owner(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool, tmp_path: Path
) -> None:
    control = tmp_path / "clock"
    shift(control, 0)
    async with system(test_clock=control) as one:
        name = "15 the workers' wall clock jumps by an hour"
        await jump_under_load(one, lambda s: shift(control, s), 20 if long else 4, rng, rows, name)


async def test_15_the_servers_wall_clock_that_jumps_changes_no_owner(
    system: MakeSystem,
    rng: random.Random,
    rows: Rows,
    long: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = find_faketime()
    if library is None:
        pytest.skip("no libfaketime (Debian: the package faketime)")
    control = tmp_path / "clock"
    control.write_text("+0")
    with monkeypatch.context() as patched:
        for name, value in faketime_variables(library, control).items():
            patched.setenv(name, value)
        server = await asyncio.to_thread(start_server, str(find_binary()), tmp_path)
    try:
        await follows(server.url, control)
        async with system(server.url) as one:
            name = "15 the server's wall clock jumps by an hour"
            await jump_under_load(one, lambda s: set_clock(control, s), 20 if long else 4, rng, rows, name)
    finally:
        stop_server(server)


def set_clock(control: Path, seconds: int) -> None:
    """Set the server's clock; it may look at any time."""
    new = control.with_suffix(".new")
    new.write_text(f"{seconds:+d}")
    new.replace(control)


async def follows(url: str, control: Path) -> None:
    """Check that the server's clock is what the test says; otherwise the test would show nothing."""
    async with Redis.from_url(url, protocol=2) as redis:
        set_clock(control, HOUR_S)
        async with asyncio.timeout(PATIENCE_S):
            # The server looks at its clock once in a turn of its loop, which may have begun before.
            while not HOUR_S - 2 < (await redis.time())[0] - time.time() < HOUR_S + 2:
                await asyncio.sleep(0.01)
        set_clock(control, 0)
