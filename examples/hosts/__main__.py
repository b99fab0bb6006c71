"""Asks one agent of each kind, and shows an answer as it comes; see README.md."""

from __future__ import annotations

import asyncio
import sys

from swell import SwellError
from swell.cli.target import Target, connected

QUESTIONS = [
    ("greeter/1", "greet", "Ada"),
    ("digester/1", "digest", __file__),
    ("counter/1", "primes_below", 1_000_000),
    ("linter/1", "lint", __file__),
    ("scorer/1", "score", {"text": "a sentence"}),
    ("writer/1", "say", "good morning"),
    ("writer/1", "say", "and again"),
]


async def main() -> None:
    """Spawn one agent of each type, ask it, end it."""
    async with connected(Target()) as client:
        plans = [
            await client.spawn(type, keys=["1"]) for type in dict.fromkeys(to.split("/")[0] for to, _, _ in QUESTIONS)
        ]
        for plan in plans:
            await plan.wait()
        for to, name, body in QUESTIONS:
            print(f"{to} {name}: {await client.ask(to, name, body, timeout=60)}")
        print("writer/1 stream:", end="")
        async for piece in await client.stream("writer/1", "stream", "tell me more", timeout=60):
            print(f" [{piece}]", end="", flush=True)
        print()
        for plan in plans:
            await client.terminate(plan=plan.id)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SwellError as error:
        sys.exit(f"hosts: {error}")
