"""How late messages for later are while the system is at work: from the moment they are due to their handler.

    python -m benchmarks.lateness [--scheduled N] [--rate N] [--seconds S] [--aof]

It starts its own server and two workers, keeps them busy with a steady load, and lets messages fall due meanwhile at
moments spread evenly. Ends with P50, P95, P99, the latest, and the account: all were handled, each once.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from datetime import UTC, datetime, timedelta

from benchmarks.agents import Item
from benchmarks.kill import PAD, Bench, balanced, on_bench, spawn
from swell import Client

#: The bound of the design: a message for later is handled at most so long after it was due, milliseconds.
BOUND_MS = 50.0
#: The load is sent in steps of so many seconds.
STEP_S = 0.01
#: Before the first message is due, seconds.
LEAD_S = 2.0


async def load(client: Client, ids: list[str], rate: int, seconds: float) -> None:
    """Send a steady load to the other agents."""
    numbers = itertools.count()
    began = time.perf_counter()
    for step in range(int(seconds / STEP_S)):
        await asyncio.sleep(max(0.0, began + step * STEP_S - time.perf_counter()))
        count = int(rate * STEP_S)
        await client.send_many((ids[n % len(ids)], "add", Item(n, 0, PAD)) for n in itertools.islice(numbers, count))


async def measure(bench: Bench, scheduled: int, rate: int, seconds: float) -> bool:
    """Run it; returns whether all were handled once, within the bound but for one in a hundred."""
    bench.start_worker()
    bench.start_worker()
    async with bench.client() as client:
        while len({lease.owner for lease in await client.leases() if lease.shard.isdigit()} - {""}) < 2:
            await asyncio.sleep(0.05)
        late, busy = await spawn(client, "late"), await spawn(client, "notary")
        first = datetime.now(UTC) + timedelta(seconds=LEAD_S)
        moments = [first + timedelta(seconds=seconds * n / scheduled) for n in range(scheduled)]
        await asyncio.gather(
            *(client.send(late[n % len(late)], "note", _us(at), at=at) for n, at in enumerate(moments))
        )
        await load(client, busy, rate, LEAD_S + seconds + 1)
        answers: list[list[int]] = await asyncio.gather(*(client.ask(id, "all", None, list[int]) for id in late))
        found = sorted(us / 1000 for answer in answers for us in answer)
        fine = await balanced(client) and len(found) == scheduled
    shown = {q: found[min(len(found) - 1, int(q / 100 * len(found)))] for q in (50, 95, 99)} if found else {}
    print(f"{scheduled:,} messages for later, {rate:,} other messages a second for {seconds:g} s, 2 workers")
    print(f"  handled {len(found):,}, each once: {fine}")
    print("  late by: " + ", ".join(f"P{q} {ms:.1f} ms" for q, ms in shown.items()) + f", at most {found[-1]:.1f} ms")
    return fine and shown[99] <= BOUND_MS


def _us(moment: datetime) -> int:
    """A moment as the server keeps it, in whole milliseconds; microseconds since 1970."""
    return round(moment.timestamp() * 1e6) // 1000 * 1000


def main() -> int:
    """Run it; exit code 1 if a message is missing or came twice, or if P99 is beyond the bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lateness", description=__doc__)
    parser.add_argument("--scheduled", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--aof", action="store_true", help="append-only file, everysec")
    options = parser.parse_args()
    fine = on_bench(
        lambda bench: measure(bench, options.scheduled, options.rate, options.seconds),
        options.aof,
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
