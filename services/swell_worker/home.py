"""A shard as the home of tasks: what it holds of them in memory, and its records."""

from __future__ import annotations

import asyncio

from swell.bus.shard import OwnedShard
from swell.codec import encode
from swell.task import PREFIX, TaskRecord


class Home:
    """The tasks of one shard.

    Attributes:
        size: bytes of bodies and results held.
        giving: messages to agents under way.
    """

    def __init__(self, shard: OwnedShard) -> None:
        self.shard = shard
        self.tasks: dict[str, TaskRecord] = {}
        self.size = 0
        self.giving: set[asyncio.Task[None]] = set()

    def keep(self, record: TaskRecord) -> None:
        """Write a task's record with what ends in this turn of the loop."""
        self.shard.record(PREFIX + record.request.id, encode(record))

    def hold(self, record: TaskRecord) -> None:
        """Take a record into memory, in the place of the one that was there."""
        self.forget(record.request.id)
        self.tasks[record.request.id] = record
        self.size += len(record.body) + len(record.result)

    def forget(self, id: str) -> None:
        """Drop a record from memory."""
        before = self.tasks.pop(id, None)
        if before is not None:
            self.size -= len(before.body) + len(before.result)
