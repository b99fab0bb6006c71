"""A shop in which agents hear of orders that they subscribed to, declared and at run time.

swell up --app examples.topics.app:app     in one terminal
python -m examples.topics                  in another
"""

from __future__ import annotations

import asyncio
import sys

from examples.topics.app import Order
from swell import Client, SwellError
from swell.cli.target import Target, connected

ORDERS = [Order(number, 1500 if number % 3 == 0 else 20) for number in range(1, 10)]


async def told(client: Client, agent: str, count: int) -> list[int]:
    """What an agent has heard, once it is so much."""
    while True:
        seen: list[int] = await client.ask(agent, "seen", None, list[int])
        if len(seen) >= count:
            return seen
        await asyncio.sleep(0.02)


async def main() -> None:
    """Pay nine orders, and ask around."""
    async with connected(Target()) as client:
        for type, keys in (("ledger", ["1"]), ("auditor", ["1"]), ("packer", ["a", "b", "c"]), ("till", ["1"])):
            plan = await client.spawn(type, keys=keys)
            await plan.wait()
        await client.subscribe("auditor/1", "returns.**", "look")
        async with asyncio.timeout(20):
            for order in ORDERS:
                await client.send("till/1", "pay", order)
            print("the ledger has", *await told(client, "ledger/1", len(ORDERS)))
            await client.publish("returns.today", Order(99, 5))
            print("the auditor saw", *await told(client, "auditor/1", 4))
            packed = [await told(client, f"packer/{key}", 3) for key in "abc"]
        print("packed by three:", *sorted(number for numbers in packed for number in numbers))
        await client.terminate("ledger/1", "auditor/1", "packer/a", "packer/b", "packer/c", "till/1")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SwellError as error:
        sys.exit(f"error: {error}")
