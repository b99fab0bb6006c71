"""Tasks a second through `map`, 100 and 1,000 agents: `python -m benchmarks.tasks`; each is asked and answered.

On a system of its own with one worker.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator

from swell import Outcome
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
            await client.terminate(plan=plan.id)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(main(options.tasks)))
