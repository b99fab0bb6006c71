"""Load from inside the network, and its account: `python -m tests.system.load SECONDS RATE`; prints one line of JSON.

Agents are sent numbered messages and asked all the time. Calls wait as long as it takes, as programs with patience do;
a call that fails all the same is counted with its error.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time

from swell import Client, SwellError
from tests.system.agents import Seen

AGENTS = 40


async def main(seconds: float, rate: int) -> None:
    """Send, ask, and compare."""
    async with Client.connect() as client:
        run = secrets.token_hex(3)
        plan = await client.spawn("tally", keys=[f"{run}-{n:03d}" for n in range(AGENTS)])
        await plan.wait()
        print("begun", flush=True)
        ids = [f"tally/{run}-{n:03d}" for n in range(AGENTS)]
        numbers = 0
        asks = 0
        errors: list[str] = []
        slowest = 0.0
        until = time.monotonic() + seconds

        async def send() -> None:
            nonlocal numbers
            while time.monotonic() < until:
                try:
                    for number in range(numbers, numbers + 5):
                        await client.send_many([(id, "add", number) for id in ids])
                except SwellError as error:
                    errors.append(f"send: {error}")
                    return
                numbers += 5
                await asyncio.sleep(5 * AGENTS / rate)

        async def ask(id: str) -> None:
            nonlocal asks, slowest
            while time.monotonic() < until:
                began = time.monotonic()
                try:
                    assert await client.ask(id, "ping", asks, int, timeout=60) >= 0
                except SwellError as error:
                    errors.append(f"ask: {error}")
                slowest = max(slowest, time.monotonic() - began)
                asks += 1
                await asyncio.sleep(0.05)

        await asyncio.gather(send(), *map(ask, ids[:8]))
        seen = await asyncio.gather(*(client.ask(id, "seen", None, Seen, timeout=60) for id in ids))
        account = {
            "sent": numbers * AGENTS,
            "handled": sum(one.handled for one in seen),
            "out_of_order": sum(one.out_of_order for one in seen),
            "asks": asks,
            "slowest_ask_s": round(slowest, 2),
            "errors": errors,
            "balanced": all(ledger.balanced for ledger in await client.ledger() if ledger.shard != "metrics"),
        }
        await client.terminate(plan=plan.id)
        print(json.dumps(account), flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2])))
