"""How long an urgent message takes beside a backlog of normal ones.

    python -m benchmarks.priorities [--backlog N] [--aof]

It starts its own server and one worker. A client sends a backlog of normal messages at once; each is written to a file.
Two others ask the same agents meanwhile, one question after another: one with critical questions, one with normal ones.
Ends with P50, P95 and the latest answer of both, how deep the backlog was, and the account.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from benchmarks.agents import Item
from benchmarks.kill import PAD, Bench, balanced, on_bench, spawn
from swell import Client
from swell.priority import Priority

#: Between two messages that are timed, seconds.
PAUSE_S = 0.005


async def fill(client: Client, ids: list[str], count: int) -> None:
    """Send the backlog."""
    await client.send_many((ids[n % len(ids)], "add", Item(n, 0, PAD)) for n in range(count))


async def time_asks(client: Client, ids: list[str], priority: Priority, until: asyncio.Task[None]) -> list[float]:
    """Ask agents that have a backlog, one after another, until it is over; returns how long each took, milliseconds."""
    took: list[float] = []
    while not until.done():
        began = time.perf_counter()
        await client.ask(ids[len(took) % len(ids)], "account", priority=priority, timeout=120)
        took.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(PAUSE_S)
    return took


async def drained(client: Client, deepest: list[int], since: asyncio.Task[None]) -> None:
    """Watch the depth until the backlog was sent and is handled."""
    while True:
        depth = sum(one.ledger.depth for one in await client.broker.glance(client.shard_names))
        deepest[0] = max(deepest[0], depth)
        if since.done() and depth < 100:
            return
        await asyncio.sleep(0.01)


async def measure(bench: Bench, backlog: int) -> bool:
    """Run it; returns whether every ledger balances."""
    bench.start_worker()
    async with bench.client() as client, bench.client() as urgent, bench.client() as patient:
        ids = await spawn(client, "notary")
        deepest = [0]
        filling = asyncio.ensure_future(fill(client, ids, backlog))
        draining = asyncio.ensure_future(drained(client, deepest, filling))
        while deepest[0] < min(backlog, 100_000) and not filling.done():
            await asyncio.sleep(0.01)
        found = await asyncio.gather(
            time_asks(urgent, ids, "critical", draining),
            time_asks(patient, ids, "normal", draining),
        )
        await filling
        await draining
        fine = await balanced(client)
    print(
        f"{backlog:,} normal messages to {len(ids)} agents, at most {deepest[0]:,} of them unsettled; account: {fine}"
    )
    for name, took in zip(("critical", "normal"), found, strict=True):
        took.sort()
        shown = ", ".join(f"P{q} {took[min(len(took) - 1, int(q / 100 * len(took)))]:.1f} ms" for q in (50, 95))
        print(f"  {name}: {len(took):,} asks, {shown}, at most {took[-1]:.1f} ms")
    return fine


def main() -> int:
    """Run it; exit code 1 if a ledger does not balance."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.priorities", description=__doc__)
    parser.add_argument("--backlog", type=int, default=300_000)
    parser.add_argument("--aof", action="store_true", help="append-only file, everysec")
    options = parser.parse_args()
    return 0 if on_bench(lambda bench: measure(bench, options.backlog), options.aof) else 1


if __name__ == "__main__":
    sys.exit(main())
