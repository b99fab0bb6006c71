"""What came of tasks that agents of this worker had, until their homes know.

    the handler returned, or its message was given up
       |
       +--> kept in the agent's shard, in the call that ends the message --settled--> $task_ended appended at home
                                                                                          |
                                                     forgotten <--------------------------+

So neither an end without an outcome nor an outcome of something that did not end is ever told; a worker that dies in
between leaves it to the shard's next owner, who tells again, and a home passes over what it knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw

from swell.bus.shard import OwnedShard
from swell.clock import SYSTEM
from swell.codec import decode, encode
from swell.errors import WireError
from swell.priority import inbox_of
from swell.task import OUTBOX, TaskEnded, TaskPlace, home_of
from swell.wire import TASK_ENDED, TASK_HEADER, TO_SHARD, Failure, Message, Series

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)


class Outcomes:
    """The outcomes of one worker's agents.

    Args:
        fleet: whose.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._told: list[tuple[OwnedShard, str, TaskPlace, TaskEnded]] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which this works."""
        self._task = group.create_task(self._tell())

    def end(self) -> None:
        """The worker stops."""
        if self._task is not None:
            self._task.cancel()

    def opened(self, shard: OwnedShard, records: Mapping[str, bytes]) -> None:
        """A shard is ours, with the outcomes that it keeps."""
        for id, encoded in records.items():
            if not id.startswith(OUTBOX):
                continue
            try:
                place, ended = decode(encoded, tuple[TaskPlace, TaskEnded])
            except WireError as error:
                log.error("record cannot be read: %s", error, extra={"record": id})
                continue
            self._told.append((shard, id, place, ended))
            self._news.set()

    def listeners(self, message: Message | Series) -> list[tuple[str, int]]:
        """Who hears the parts of a task."""
        place = _place(message)
        return place.listeners if place is not None else []

    def keep(self, shard: OwnedShard, message: Message | Series, outcome: Raw | Failure) -> None:
        """A task's message has ended: keep what came of it, in the same call, until its home knows."""
        place = _place(message)
        if place is None:
            log.error("a message says that it is a task's, and of which it does not", extra={"agent": message.to})
            return
        ended = TaskEnded(place.id, place.step, message.to)
        if isinstance(outcome, Failure):
            ended.failure = outcome
        else:
            ended.result = outcome
        id = f"{OUTBOX}{place.id}/{place.step}.{place.tries}"
        shard.record(id, encode((place, ended)))
        self._told.append((shard, id, place, ended))
        self._news.set()

    async def _tell(self) -> None:
        """Tell homes of outcomes, once what made them is settled, until cancelled."""
        client = self._fleet.client
        while True:
            await self._news.wait()
            self._news.clear()
            told, self._told = self._told, []
            await self._fleet.written()
            # Of a shard that is no longer ours its next owner tells.
            mine = [one for one in told if one[0].reading]
            now_us = SYSTEM.now_us()
            messages = [
                (inbox_of(home_of(place.id, client.shards), "high"), (TO_SHARD, TASK_ENDED, ended, now_us))
                for _, _, place, ended in mine
            ]
            await client.producer.send_many(messages)
            for shard, id, _, _ in mine:
                if shard.reading:
                    shard.record(id, None)


def _place(message: Message | Series) -> TaskPlace | None:
    """Whose message it is; None if a stranger wrote it."""
    header = (message.headers or {}).get(TASK_HEADER, "")
    try:
        return msgspec.json.decode(header, type=TaskPlace)
    except (msgspec.DecodeError, RecursionError):
        return None
