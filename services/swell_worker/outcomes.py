"""What agents here make of tasks, on its way to the tasks' homes; and the parts that handlers send before.

    handler ends --> recorded with its message's end --written--> $task_ended --durable--> the record is removed

So an outcome survives this worker as soon as the agent's message has ended: the shard's next owner sends it. A home may
hear it twice, and takes it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Raw

from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import SYSTEM
from swell.codec import decode, encode
from swell.errors import SwellError
from swell.task import OUTBOX, TaskEnded, TaskPlace
from swell.wire import DONE, PROGRESS, TASK_ENDED, TASK_HEADER, TO_SHARD, TO_TASK, Failure, Message, Series
from swell_worker.executor import Failed

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.host import Fleet

#: Outcomes that are sent together.
MOST_TOGETHER = 512
#: Calls that hear the parts of one task, besides those that waited when it was given to its agent.
MOST_LISTENERS = 100
#: Tasks that somebody began to listen to after they were given.
MOST_HEARD = 10_000


class Told(NamedTuple):
    """An outcome that its home does not know yet: the record that keeps it, and whose."""

    shard: OwnedShard
    key: str
    ended: TaskEnded


class Outcomes:
    """The outcomes of all agents that this worker hosts.

    Args:
        fleet: whose agents.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._begin: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] | None = None
        self._shards: dict[str, OwnedShard] = {}
        # By home: a home whose shard is full holds up no other's.
        self._waiting: dict[str, list[Told]] = {}
        self._sending: set[str] = set()
        # Those that began to listen while a handler ran, by (task, step, try).
        self._listeners: dict[tuple[str, int, int], list[tuple[str, int]]] = {}

    def attach(self, begin: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Give what begins something beside the reading."""
        self._begin = begin

    def opened(self, shard: OwnedShard, records: dict[str, bytes]) -> None:
        """A shard is ours: send what its former owner had not sent."""
        self._shards[shard.name] = shard
        for key, record in records.items():
            if key.startswith(OUTBOX):
                home, ended = decode(record, tuple[str, TaskEnded])
                self._send(home, Told(shard, key, ended))

    def closed(self, shard: OwnedShard) -> None:
        """A shard is no longer ours: what is not sent is its next owner's to send."""
        if self._shards.get(shard.name) is shard:
            del self._shards[shard.name]

    def ended(self, entry: Entry, index: int, message: Message | Series, status: int, body: Raw) -> None:
        """A task's message ends in this turn of the loop."""
        place = place_of(message)
        if place is None:
            return  # A stranger's: it has no home that could be told.
        self._listeners.pop((place.id, place.step, place.tries), None)
        ended = TaskEnded(place.id, place.step, place.tries, message.to)
        if status == DONE:
            ended.result = body
        else:
            ended.failure = decode(body, Failure)
        key = f"{OUTBOX}{entry.inbox.name}/{entry.id}.{index}"
        entry.shard.record(key, encode((place.home, ended)))
        self._send(place.home, Told(entry.shard, key, ended))

    def _send(self, home: str, told: Told) -> None:
        self._waiting.setdefault(home, []).append(told)
        if home not in self._sending and self._begin is not None:
            self._sending.add(home)
            self._begin(self._run(home))

    async def _run(self, home: str) -> None:
        """Send what waits for one home, until nothing does."""
        client = self._fleet.client
        try:
            while waiting := self._waiting.get(home):
                batch = waiting[:MOST_TOGETHER]
                del waiting[:MOST_TOGETHER]
                # Not before it is written: a former owner of the agent's shard has no say.
                await self._fleet.written()
                ours = [told for told in batch if self._shards.get(told.shard.name) is told.shard]
                now_us = SYSTEM.now_us()
                await client.producer.send_many((home, (TO_SHARD, TASK_ENDED, told.ended, now_us)) for told in ours)
                for told in ours:
                    told.shard.record(told.key, None)
        finally:
            self._sending.discard(home)
            if not self._waiting.get(home):
                self._waiting.pop(home, None)

    # Parts.

    def listen(self, entry: Entry, index: int, message: Message) -> None:
        """Somebody waits for a task whose handler may be running: it hears the parts from now on."""
        try:
            place = decode(message.body, TaskPlace)
        except SwellError as error:
            self._fleet.end_dead(None, entry, index, message, Failed("wrong_body", str(error)))
            return
        entry.ack(index)
        listeners = self._listeners.setdefault((place.id, place.step, place.tries), [])
        if len(listeners) < MOST_LISTENERS:
            listeners += place.listeners
        while len(self._listeners) > MOST_HEARD:  # Some tasks had ended before.
            del self._listeners[next(iter(self._listeners))]

    def part(self, agent: str, part: Raw) -> bool:
        """Send a part of what an agent's handler makes to whoever waits for it; returns whether it was asked for."""
        cell = self._fleet.cell(agent)
        return cell is not None and self._emit(cell, part)

    def _emit(self, cell: Cell, part: Raw) -> bool:
        for box in cell.all_boxes:
            one = box.line[0] if box.line else None
            if one is None or not one.begun or one.entry.flags[one.index] or not one.series.reply_to:
                continue
            series = one.series
            if series.reply_to != TO_TASK:
                self._fleet.tell(series.reply_to, series.call, PROGRESS, part)
                return True
            place = place_of(series)
            if place is not None:
                later = self._listeners.get((place.id, place.step, place.tries), ())
                for process, call in dict.fromkeys((*place.listeners, *later)):
                    self._fleet.tell(process, call, PROGRESS, part)
            return True
        return False


def place_of(message: Message | Series) -> TaskPlace | None:
    """Where a task's message comes from; None if its header does not say."""
    try:
        return msgspec.json.decode((message.headers or {}).get(TASK_HEADER, ""), type=TaskPlace)
    except msgspec.DecodeError:
        return None
