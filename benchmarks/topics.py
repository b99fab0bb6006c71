"""An event to 10,000 subscribers, and a look-up among 100,000 subscriptions: `python -m benchmarks.topics`.

The first on a system of its own: from `publish` until the last subscriber's handler has returned. The second without a
system: the time to find who wants an event, topics that were looked up before and topics that are new.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time

from swell import Client
from swell.bench.agents import TYPE, Item
from swell.bench.system import own
from swell.lifecycle import loop_factory, tune_gc
from swell.topics import TopicIndex

SUBSCRIBERS = 10_000
SUBSCRIPTIONS = 100_000
LOOK_UPS = 100_000


async def acked(client: Client) -> int:
    """Messages handled so far."""
    return sum([(await client.broker.ledger(shard)).acked for shard in client.shard_names])


async def fan_out(client: Client, rounds: int) -> list[tuple[float, float]]:
    """Milliseconds until a publish is durable, and until all subscribers have handled it."""
    times = []
    for number in range(rounds):
        before = await acked(client)
        began = time.perf_counter()
        await client.broadcast("take", Item(0, number, time.time_ns() // 1000, ""), type=TYPE)
        durable = time.perf_counter() - began
        while await acked(client) < before + SUBSCRIBERS + client.shards:
            await asyncio.sleep(0.001)
        times.append((durable * 1000, (time.perf_counter() - began) * 1000))
    return times


def look_ups() -> tuple[float, float]:
    """Microseconds of a look-up: of topics seen before, and of new ones."""
    rng = random.Random(1)
    index: TopicIndex[int] = TopicIndex()
    for number in range(SUBSCRIPTIONS):
        customer, order = rng.randrange(1000), rng.randrange(100)
        one = f"shop.{customer}.{order}"
        index.add((f"{one}.paid", f"shop.{customer}.*.{number}", f"{one}.{number}.**")[number % 3], number)
    found = []
    for topics in (
        [f"shop.{n % 10}.{n % 100}.paid" for n in range(LOOK_UPS)],
        [f"shop.{n % 1000}.{n % 100}.n{n}" for n in range(LOOK_UPS)],
    ):
        began = time.perf_counter()
        for topic in topics:
            for _ in index.match(topic):
                pass
        found.append((time.perf_counter() - began) / len(topics) * 1e6)
    return found[0], found[1]


async def main(rounds: int) -> None:
    """Measure both."""
    known, new = look_ups()
    print(f"a look-up among {SUBSCRIPTIONS:,} subscriptions: {known:.2f} us (seen before), {new:.2f} us (new topics)")
    async with own() as system:
        client = system.client
        plan = await client.spawn(TYPE, count=SUBSCRIBERS, wave_size=1000, max_in_flight=1000)
        await plan.wait()
        await fan_out(client, 2)
        times = await fan_out(client, rounds)
        durable = statistics.median(first for first, _ in times)
        handled = sorted(second for _, second in times)
        p95 = handled[int(0.95 * len(handled))]
        print(f"an event to {SUBSCRIBERS:,} agents: durable after {durable:.1f} ms (median)")
        print(f"handled by all after {statistics.median(handled):.0f} ms (median), {p95:.0f} ms (P95)")
        unbalanced = [one for one in await client.ledger() if not one.balanced]
        assert not unbalanced, unbalanced


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.topics", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(main(options.rounds)))
