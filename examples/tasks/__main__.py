"""Submits the tasks and prints what comes of them; see README.md."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

from examples.tasks.app import Hashed
from swell import SwellError
from swell.cli.target import Target, connected

HERE = Path("examples/tasks")


async def main() -> None:
    """Run the example once."""
    async with connected(Target()) as client:
        await (await client.spawn("reader", count=4)).wait()
        await (await client.spawn("judge", count=1)).wait()

        one: Hashed = await client.run("reader", "hash", str(HERE / "app.py"), Hashed)
        print("hashed right:", one.sha256 == hashlib.sha256((HERE / "app.py").read_bytes()).hexdigest())

        task = await client.submit("reader", "hash_all", str(HERE))
        async for part in task:
            print("done with", part)
        print(len(await task.result(list[Hashed])), "files hashed")

        paths = [str(path) for path in sorted(Path("shared/swell").glob("*.py"))]  # noqa: ASYNC240
        ids = await client.submit_many("reader", "hash", paths)
        hashed: list[Hashed] = [await (await client.task(id)).result(Hashed) for id in ids]
        print("all in order:", [file.path for file in hashed] == paths)

        chain = await client.chain([("reader", "hash_all"), ("judge", "combine")], str(HERE))
        print("chain:", len(await chain.result(str)), "digits")
        await client.terminate(type="reader")
        await client.terminate(type="judge")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SwellError as error:
        sys.exit(f"tasks: {error}")
