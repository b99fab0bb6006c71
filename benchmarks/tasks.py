"""Tasks a second through `map`, and durable ones, 100 and 1,000 agents: `python -m benchmarks.tasks`.

Durable ones are those of `run`: submitted, recorded, given to an agent, recorded as ended, told. P50 and P95 are of the
whole call.

On a system of its own with one worker.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator

from swell import Client, Outcome
from swell.bench.agents import TYPE, Item
from swell.bench.system import own
from swell.lifecycle import loop_factory, tune_gc


async def main(tasks: int) -> None:
    """Measure both."""
    async with own() as system:
        client = system.client
        for agents in (100, 1_000):
            keys = [f"t{agents}-{n}" for n in range(agents)]
            plan = await client.spawn(TYPE, keys=keys, wave_size=agents, max_in_flight=agents)
            await plan.wait()
            began = time.perf_counter()
            places = set()
            outcomes: AsyncIterator[Outcome[int]] = client.map(
                TYPE, "echo", (Item(0, n, 0, "") for n in range(tasks)), int
            )
            async for outcome in outcomes:
                assert outcome.result == outcome.place
                places.add(outcome.place)
            took = time.perf_counter() - began
            assert len(places) == tasks
            print(f"{agents} agents: {tasks / took:,.0f} tasks/s ({tasks:,} in {took:.2f} s)")
            await durable(client, agents, tasks // 5)
            await client.terminate(plan=plan.id)


async def durable(client: Client, agents: int, tasks: int) -> None:
    """Tasks that outlive their caller: as many at a time as keep all agents at work, then 32 at a time."""
    for at_a_time in (4 * agents, 32):
        took_s: list[float] = []

        async def one(place: int, took_s: list[float] = took_s) -> None:
            began = time.perf_counter()
            found: int = await client.run(TYPE, "echo", Item(0, place, 0, ""), int, keep=1.0, timeout=120)
            assert found == place
            took_s.append(time.perf_counter() - began)

        async def caller(first: int, step: int = at_a_time) -> None:
            for place in range(first, tasks, step):
                await one(place)

        began = time.perf_counter()
        await asyncio.gather(*map(caller, range(at_a_time)))
        took = time.perf_counter() - began
        took_s.sort()
        shown = ", ".join(f"P{q} {took_s[int(len(took_s) * q / 100)] * 1000:.1f} ms" for q in (50, 95))
        print(f"{agents} agents, durable, {at_a_time} at a time: {tasks / took:,.0f} tasks/s, {shown}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(main(options.tasks)))
