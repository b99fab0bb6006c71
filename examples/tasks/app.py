"""Agents that read files: one handler tells how far it is, and two make a chain."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from msgspec import Struct

from swell import Agent, App, handler

app = App("tasks")


class Hashed(Struct):
    """A file, and the SHA-256 of its bytes."""

    path: str
    sha256: str


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _files(directory: str) -> list[Path]:
    return sorted(Path(directory).glob("*.py"))


@app.agent("reader")
class Reader(Agent):
    """Reads files, one at a time."""

    @handler
    async def hash(self, path: str) -> Hashed:
        """Hash one file."""
        return Hashed(path, await asyncio.to_thread(_digest, path))

    @handler
    async def hash_all(self, directory: str) -> list[Hashed]:
        """Hash the Python files of a directory, and tell of each as soon as it is done."""
        found = []
        for path in await asyncio.to_thread(_files, directory):
            found.append(await self.hash(str(path)))
            await self.emit(path.name)
        return found


@app.agent("judge")
class Judge(Agent):
    """Makes one of many."""

    @handler
    async def combine(self, files: list[Hashed]) -> str:
        """Hash the hashes."""
        return hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
