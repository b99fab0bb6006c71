"""A question to 1,000 agents until 100 have answered: `python -m benchmarks.quorum`; prints milliseconds.

On a system of its own. Beside it, until all have answered: what waiting for everybody costs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time

from swell import Answers, Client
from swell.bench.agents import TYPE, Item
from swell.bench.system import own
from swell.lifecycle import loop_factory, tune_gc

AGENTS = 1_000
QUORUM = 100


async def rounds(client: Client, ids: list[str], quorum: int | None, count: int) -> list[float]:
    """Milliseconds of each round."""
    times = []
    for n in range(count):
        began = time.perf_counter()
        found: Answers[int] = await client.ask_many(ids, "echo", Item(0, n, 0, ""), int, quorum=quorum, timeout=30)
        times.append((time.perf_counter() - began) * 1000)
        assert found.reached, found.errors
    return times


async def main(count: int) -> None:
    """Measure both."""
    async with own() as system:
        client = system.client
        plan = await client.spawn(TYPE, keys=[f"q{n}" for n in range(AGENTS)], wave_size=AGENTS, max_in_flight=AGENTS)
        await plan.wait()
        ids = [f"{TYPE}/q{n}" for n in range(AGENTS)]
        await rounds(client, ids, None, 3)
        for quorum in (QUORUM, None):
            times = sorted(await rounds(client, ids, quorum, count))
            p95 = times[int(0.95 * len(times))]
            print(f"{quorum or AGENTS} of {AGENTS}: median {statistics.median(times):.1f} ms, P95 {p95:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quorum", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(main(options.rounds)))
