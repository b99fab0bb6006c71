"""What waking an agent costs, and what a resize, a pause and a resume of a type take: `python -m benchmarks.lifecycle`.

Runs on a system of its own. An agent that was let go is asked something, and one that was not; the difference is the
wake. Then a type is resized to many and back to none, and paused and resumed while its agents are idle.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import benchmarks.held_agents as agents
from swell import Client
from swell.bench.system import own
from swell.lifecycle import loop_factory, tune_gc


async def ask_each(client: Client, type: str, count: int) -> list[float]:
    """Milliseconds that each agent's answer took, one after another."""
    took = []
    for number in range(count):
        began = time.perf_counter()
        await client.ask(f"{type}/{number:04}", "echo", number)
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


async def let_go(client: Client, count: int) -> None:
    """Return when all of the sleepers are passive."""
    for _ in range(600):
        if len(await client.agents("sleeper", "passive", count)) == count:
            return
        await asyncio.sleep(0.05)
    raise SystemExit("the agents were not let go within 30 s")


async def main(asked: int, many: int) -> None:
    """Measure."""
    async with own(app=f"{agents.__name__}:app") as system:
        client = system.client
        for type in ("sleeper", "waker"):
            await (await client.resize(type, asked)).wait()
        await let_go(client, asked)
        for type, what in (("sleeper", "a passive"), ("waker", "an idle")):
            took = await ask_each(client, type, asked)
            print(f"ask of {what} agent: {took[len(took) // 2]:.2f} ms (P50), {took[int(0.95 * len(took))]:.2f} (P95)")
        await (await client.resize("waker", 0)).wait()
        for size in (many, many, 0):
            began = time.perf_counter()
            last = await (await client.resize("waker", size, wave_size=100)).wait()
            took_ms = (time.perf_counter() - began) * 1000
            print(f"resize to {size:,}: {last.ready:,} agents in {last.waves} waves, {took_ms:.0f} ms")
            if size and last.ready:
                for verb, call in (("pause", client.pause), ("resume", client.resume)):
                    began = time.perf_counter()
                    count = await call(type="waker")
                    print(f"{verb} of a type with {count:,} agents: {(time.perf_counter() - began) * 1000:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lifecycle", description=__doc__)
    parser.add_argument("--asked", type=int, default=500)
    parser.add_argument("--many", type=int, default=1000)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(main(options.asked, options.many)))
