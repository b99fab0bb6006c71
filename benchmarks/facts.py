"""What shared facts and locks cost: calls a second, and how long each takes.

    python -m benchmarks.facts [--calls N] [--aof]

A server of its own on this machine, keeping nothing on disk unless --aof (everysec); two client processes' worth of
connections in one process. Each kind of call is made one after another by one caller, then by 100 callers of one client
at a time; a watch is timed from the call of `put` to the watcher of another client.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from swell import Client
from swell.bench.system import own
from swell.histogram import Histogram
from swell.lifecycle import loop_factory, tune_gc

CALLERS = 100
VALUE = "x" * 100


async def timed(call: Callable[[int], Awaitable[Any]], calls: int, callers: int) -> tuple[float, Histogram]:
    """Make calls, each caller one after another: how many a second, and how long each took (microseconds)."""
    histogram = Histogram()
    numbers = iter(range(calls))

    async def caller() -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(number)
            histogram.record(int((time.perf_counter() - began) * 1e6))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return calls / (time.perf_counter() - began), histogram


async def watch_latency(one: Client, other: Client, calls: int) -> Histogram:
    """From the call of `put` until the watcher of another client has the change, microseconds."""
    histogram = Histogram()
    watch = other.facts.watch("watched", float)
    await one.facts.put("watched", time.perf_counter())
    await anext(aiter(watch))
    for _ in range(calls):
        await one.facts.put("watched", time.perf_counter())
        change = await anext(aiter(watch))
        histogram.record(int((time.perf_counter() - (change.value or 0)) * 1e6))
    return histogram


async def hand_over(one: Client, other: Client, calls: int) -> Histogram:
    """From the end of a lock's body until the next holder, of another client, is in, microseconds."""
    histogram = Histogram()
    left = 0.0
    wanted, inside = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        for _ in range(calls):
            await wanted.wait()
            wanted.clear()
            async with other.facts.lock("handed"):
                histogram.record(int((time.perf_counter() - left) * 1e6))
            inside.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(waits())
        for _ in range(calls):
            inside.clear()
            async with one.facts.lock("handed"):
                wanted.set()
                while not any(lock.waiting for lock in await one.facts.locks()):
                    pass
                left = time.perf_counter()
            await inside.wait()
    return histogram


async def measure(calls: int, aof: bool) -> None:
    """Print the table."""
    async with own(1, aof=aof) as system, Client.connect(system.url, namespace="facts") as one:
        facts = one.facts
        await facts.put("there", VALUE)
        # As many as there are callers: each swaps one that nobody else has in hand.
        free = [(f"swap/{number}", await facts.put(f"swap/{number}", VALUE)) for number in range(CALLERS)]
        names = itertools.count()

        async def swap(_: int) -> None:
            key, version = free.pop()
            free.append((key, await facts.swap(key, version, VALUE)))

        async def lock(_: int) -> None:
            async with facts.lock(f"lock/{next(names) % 1000}"):
                pass

        kinds: dict[str, Callable[[int], Awaitable[Any]]] = {
            "get": lambda _: facts.get("there", str),
            "put": lambda number: facts.put(f"put/{number % 1000}", VALUE),
            "swap": swap,
            "lock and unlock, nobody waiting": lock,
        }
        print("| call | a second, one caller | P95, us | a second, 100 callers | P95, us |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for name, call in kinds.items():
            await timed(call, calls // 10, 1)
            alone, took = await timed(call, calls, 1)
            crowd, crowded = await timed(call, calls * 5, CALLERS)
            p95s = [f"{one.quantile_us(0.95):,.0f}" for one in (took, crowded)]
            print(f"| {name} | {alone:,.0f} | {p95s[0]} | {crowd:,.0f} | {p95s[1]} |")
        async with Client.connect(system.url, namespace="facts") as other:
            for name, histogram in (
                ("put until another client's watch has it", await watch_latency(one, other, calls)),
                ("end of a lock until the next in line is in", await hand_over(one, other, calls // 10)),
            ):
                print(f"\n{name}: P50 {histogram.quantile_us(0.5):,.0f} us, P95 {histogram.quantile_us(0.95):,.0f} us")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.facts", description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--aof", action="store_true")
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(measure(options.calls, options.aof))
    return 0


if __name__ == "__main__":
    sys.exit(main())
