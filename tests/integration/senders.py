"""A process that sends numbers to one agent until it is killed: `flood` as many as it can, `singles` one by one."""

from __future__ import annotations

import asyncio
import itertools
import sys

from swell import Client
from swell.config import load

#: The least limit that there is.
DEPTH = 256


async def main(url: str, namespace: str, manner: str, agent: str) -> None:
    """Send."""
    settings = load({"redis": url, "namespace": namespace, "max_depth": DEPTH})
    async with Client.connect(settings=settings) as client:
        if manner == "flood":
            await client.send_many((agent, manner, number) for number in itertools.count())
        for number in itertools.count():
            await client.send(agent, manner, number)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
