"""Spawns a hundred reviewers and lets them count the lines of the files given.

swell up --app examples.first.app:app          in one terminal
python -m examples.first README.md Makefile    in another
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from examples.first.app import Review, Verdict
from swell import Client, SwellError
from swell.cli.target import Target, connected


async def ask(client: Client, agent: str, path: str) -> Verdict:
    """One question to one reviewer."""
    verdict: Verdict = await client.ask(agent, "review", Review(path), Verdict, timeout=5)
    return verdict


async def main(paths: list[str]) -> None:
    """Spawn, ask, show."""
    async with connected(Target()) as client:
        plan = await client.spawn("reviewer", count=100, wave_size=25)
        async for progress in plan:
            print(f"{progress.ready} of {progress.count} ready")
        free = await client.agents("reviewer", state="ready", limit=len(paths))
        questions = (ask(client, agent.id, path) for agent, path in zip(free, paths, strict=True))
        for path, verdict in zip(paths, await asyncio.gather(*questions), strict=True):
            print(f"{path}: {verdict.lines} lines, says {verdict.by}")
        ended = await client.terminate(plan=plan.id)
        print(f"{ended.terminated} agents ended")


if __name__ == "__main__":
    try:
        asyncio.run(main([str(Path(path).resolve()) for path in sys.argv[1:] or [__file__]]))
    except SwellError as error:
        sys.exit(f"first: {error}")
