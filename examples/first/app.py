"""The app: agents of type `reviewer`, which count the lines of a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec import Struct

from swell import Agent, App, handler

app = App("first")


class Review(Struct):
    """What to look at."""

    path: str


class Verdict(Struct):
    """What was seen."""

    lines: int
    by: str


def count_lines(path: str) -> int:
    """The lines of a text file."""
    return len(Path(path).read_text(encoding="utf-8", errors="replace").splitlines())


@app.agent("reviewer", max_attempts=3, timeout=30)
class Reviewer(Agent):
    """Counts the lines of files; remembers the longest one."""

    def __init__(self) -> None:
        self.longest = Verdict(0, "")

    @handler
    async def review(self, body: Review) -> Verdict:
        """Count one file's lines. Reading blocks, so it happens in a thread."""
        verdict = Verdict(await asyncio.to_thread(count_lines, body.path), self.id)
        self.longest = max(self.longest, verdict, key=lambda one: one.lines)
        return verdict
