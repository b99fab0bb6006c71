"""Spawns with and without a pool: `python -m benchmarks.pools`; prints milliseconds.

Runs the app of examples/pools, whose agents compile rules (real work, in a thread), on a system of its own. One agent
is spawned at a time, with a pause in which the pool can refill; then more at once than the pool may hold.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time

import examples.pools.app as example
from swell import Client
from swell.bench.system import own
from swell.lifecycle import loop_factory, tune_gc

BURST = 32


async def spawn(client: Client, type: str, keys: list[str]) -> float:
    """Milliseconds until all of them are ready."""
    began = time.perf_counter()
    plan = await client.spawn(type, keys=keys, wave_size=len(keys), max_in_flight=len(keys))
    await plan.wait()
    return (time.perf_counter() - began) * 1000


async def main(rounds: int) -> None:
    """Measure both types."""
    async with own(app=f"{example.__name__}:app") as system:
        client = system.client
        for type in ("warm", "cold"):
            times = []
            for number in range(rounds):
                times.append(await spawn(client, type, [f"{number}"]))
                await asyncio.sleep(0.2)
            times.sort()
            p95 = times[int(0.95 * len(times))]
            print(f"{type}: one agent ready after {statistics.median(times):.1f} ms (median), {p95:.1f} ms (P95)")
            burst = await spawn(client, type, [f"b{number}" for number in range(BURST)])
            print(f"{type}: {BURST} at once ready after {burst:.0f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pools", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(main(options.rounds)))
