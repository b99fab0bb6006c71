"""Agents that know the digests of files: `swell up --app examples.priorities.app:app`."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from msgspec import Struct

from swell import Agent, App, handler

app = App("digests")


class Known(Struct):
    """How many files an agent has read, and the digest of one."""

    files: int
    digest: str


@app.agent("librarian")
class Librarian(Agent):
    """Reads files, and remembers their digests."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    @handler
    async def read(self, path: str) -> None:
        """Read one file."""
        data = await asyncio.to_thread(Path(path).read_bytes)
        self._digests[path] = hashlib.sha256(data).hexdigest()

    @handler
    async def look_up(self, path: str) -> Known:
        """The digest of a file, which is read now if it was not yet."""
        if path not in self._digests:
            await self.read(path)
        return Known(len(self._digests), self._digests[path])
