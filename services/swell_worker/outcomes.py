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
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Raw

from swell.backoff import RECONNECT
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import SYSTEM
from swell.codec import MAX_BATCH_BYTES, decode, encode
from swell.errors import SwellError, WireError
from swell.priority import PRIORITIES, inbox_of
from swell.task import OUTBOX, TaskEnded, TaskPlace
from swell.wire import TASK_ENDED, TASK_HEADER, TO_SHARD, Failure, Message, Series

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: Bytes of a result: it travels in a message to the task's home, or as the body of the next step.
MOST_RESULT = MAX_BATCH_BYTES - 4096
#: Calls that hear the parts of one task, besides those that waited when it was given to its agent.
MOST_LISTENERS = 100
#: Tasks that somebody began to listen to after they were given.
MOST_HEARD = 10_000


class Told(NamedTuple):
    """An outcome that its home may not know yet: the shard and the record that keep it."""

    shard: OwnedShard
    key: str
    ended: TaskEnded


class Outcomes:
    """The outcomes of one worker's agents.

    Args:
        fleet: whose.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        # By the inbox at home: one whose shard is full, or that lies behind others, holds up no other.
        self._waiting: dict[str, list[Told]] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        # Those that began to listen while a handler ran, by (task, step, try).
        self._listeners: dict[tuple[str, int, int], list[tuple[str, int]]] = {}

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which this works."""
        self._group = group

    def end(self) -> None:
        """The worker stops."""
        for task in self._sending.values():
            task.cancel()

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
            self._send(_inbox(place), Told(shard, id, ended))

    def listen(self, entry: Entry, index: int, message: Message) -> None:
        """Somebody waits for a task whose handler may be running: it hears the parts from now on."""
        place = self._fleet.read(entry, index, message, TaskPlace)
        if place is None:
            return
        listeners = self._listeners.setdefault((place.id, place.step, place.tries), [])
        if len(listeners) < MOST_LISTENERS:
            listeners += place.listeners
        while len(self._listeners) > MOST_HEARD:  # Some tasks had ended before.
            del self._listeners[next(iter(self._listeners))]
        entry.ack(index)

    def listeners(self, message: Message | Series) -> Iterable[tuple[str, int]]:
        """Who hears the parts of a task."""
        place = _place(message)
        if place is None:
            return ()
        later = self._listeners.get((place.id, place.step, place.tries), ())
        return dict.fromkeys((*place.listeners, *later))

    def keep(self, entry: Entry, message: Message | Series, outcome: Raw | Failure) -> None:
        """A task's message has ended: keep what came of it, in the same call, until its home knows."""
        place = _place(message)
        if place is None:
            log.error("a message says that it is a task's, and of which it does not", extra={"agent": message.to})
            return
        shard, place.priority = entry.shard, PRIORITIES[entry.inbox.rank]
        self._listeners.pop((place.id, place.step, place.tries), None)
        ended = TaskEnded(place.id, place.step, message.to, place.tries)
        if isinstance(outcome, Failure):
            ended.failure = outcome
        elif len(outcome) > MOST_RESULT:
            reason = f"the result has {len(outcome)} bytes; a task's may have {MOST_RESULT}: return a reference instead"
            ended.failure = Failure("handler_failed", reason, message.to)
        else:
            ended.result = outcome
        # With the agent: two owners of the home, one not knowing of the other's, may have given it to two of one shard.
        key = f"{OUTBOX}{place.id}/{place.step}.{place.tries}/{message.to}"
        shard.record(key, encode((place, ended)))
        self._send(_inbox(place), Told(shard, key, ended))

    def _send(self, inbox: str, told: Told) -> None:
        self._waiting.setdefault(inbox, []).append(told)
        if inbox not in self._sending and not self._fleet.ending:
            assert self._group is not None
            self._sending[inbox] = self._group.create_task(self._tell(inbox))

    async def _tell(self, inbox: str) -> None:
        """Tell one home of outcomes, each once what made it is settled, until none waits."""
        failures = 0
        try:
            while waiting := self._waiting.pop(inbox, None):
                await self._fleet.written()
                # Of a shard that is no longer ours its next owner tells.
                mine = [told for told in waiting if told.shard.reading]
                try:
                    await self._append(inbox, mine)
                    failures = 0
                except SwellError as error:
                    failures += 1
                    if failures == 1:
                        log.warning("outcomes of tasks wait: %s", error, extra={"shard": inbox})
                    self._waiting[inbox] = [*mine, *self._waiting.get(inbox, ())]
                    await asyncio.sleep(RECONNECT.wait_s(failures))
        finally:
            del self._sending[inbox]

    async def _append(self, inbox: str, told: list[Told]) -> None:
        now_us = SYSTEM.now_us()
        messages = ((inbox, (TO_SHARD, TASK_ENDED, one.ended, now_us)) for one in told)
        await self._fleet.client.producer.send_many(messages)
        for one in told:
            if one.shard.reading:
                one.shard.record(one.key, None)


def _inbox(place: TaskPlace) -> str:
    """Where an outcome goes: before the messages of its home's shard that wait as long, for somebody waits for it."""
    return inbox_of(place.home, "critical" if place.priority == "critical" else "high")


def _place(message: Message | Series) -> TaskPlace | None:
    """Whose message it is; None if a stranger wrote it."""
    header = (message.headers or {}).get(TASK_HEADER, "")
    try:
        return msgspec.json.decode(header, type=TaskPlace)
    except (msgspec.DecodeError, RecursionError):
        return None
