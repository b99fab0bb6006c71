"""Tasks a second through `map`, and durable ones, 100 and 1,000 agents: `python -m benchmarks.tasks`.

Durable ones are submitted together and recorded, then each result is fetched; P95 is of `run`, 32 at a time.

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
    """Tasks that outlive their caller: all at once, then 32 at a time for their latency."""
    began = time.perf_counter()
    ids = await client.submit_many(TYPE, "echo", (Item(0, n, 0, "") for n in range(tasks)), keep=1.0, ttl=600)
    submitted = time.perf_counter() - began
    while await _open(client):
        await asyncio.sleep(0.2)
    took = time.perf_counter() - began
    print(f"{agents} agents, durable: {len(ids) / took:,.0f} tasks/s, submitted at {len(ids) / submitted:,.0f}/s")
    took_s: list[float] = []

    async def caller(first: int) -> None:
        for n in range(first, tasks // 4, 32):
            began = time.perf_counter()
            found: int = await client.run(TYPE, "echo", Item(0, n, 0, ""), int, keep=1.0)
            assert found == n
            took_s.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller(first) for first in range(32)))
    took = time.perf_counter() - began
    took_s.sort()
    p50, p95 = took_s[len(took_s) // 2] * 1000, took_s[int(len(took_s) * 0.95)] * 1000
    print(f"{agents} agents, run, 32 at a time: {len(took_s) / took:,.0f} tasks/s, P50 {p50:.1f} ms, P95 {p95:.1f} ms")


async def _open(client: Client) -> bool:
    for state in ("queued", "running"):
        if await client.tasks(state, limit=1):
            return True
    return any(ledger.depth for ledger in await client.ledger())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(main(options.tasks)))
