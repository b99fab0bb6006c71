"""Giving tasks to agents that are free.

    board --> queue of the type --an agent is free--> its message is on its way --appended--> the board records it
                  ^                                       |
                  +-- the shard is not ours any more: what stands in line is not sent, the next owner gives it

The message goes before the record says so: an owner that dies in between gives the task out again, and the outcome that
is told first counts. That may be told before the server's answer to the append is looked at: a board knows its tasks
that are on their way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from swell.clock import SYSTEM
from swell.errors import SwellError
from swell.later import Cancel
from swell.priority import PRIORITIES, Priority
from swell.task import TaskPlace, TaskRecord
from swell.wire import CANCEL, ID_HEADER, TASK_HEADER, TASK_LISTEN, TO_SHARD, TO_TASK, Failure
from swell.working import ASKABLE, MOST_LISTED
from swell_worker.task_board import Board
from swell_worker.task_queue import LOOK_S, Given, Hands, Ranked

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: How long a hand-over waits for messages on their way to agents, seconds: an agent's shard may be full for hours.
MOST_CLOSING_S = 1.0
#: What an id of a task's message begins with, so that it is not one of its agent's own.
_MESSAGE = "task."

#: Begins some work of the worker's.
Begin = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Giving:
    """The tasks of one worker that wait for an agent, and those that are on their way to one.

    Args:
        fleet: whose.
        begin: begins some work.
        news: set when there is something to give out, or somebody to give it to.
    """

    def __init__(self, fleet: Fleet, begin: Begin, news: asyncio.Event) -> None:
        self._fleet = fleet
        self._begin = begin
        self._news = news
        self._queues: dict[str, Ranked[tuple[Board, TaskRecord]]] = {}
        self._hands: dict[str, Hands] = {}
        #: Messages on their way to agents, by the shard whose task it is.
        self._on_their_way: dict[str, set[asyncio.Task[None]]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def queue(self, board: Board, record: TaskRecord) -> None:
        """A task waits for an agent."""
        queue = self._queues.setdefault(_type(record), Ranked())
        queue.put(record.request.id, (board, record), PRIORITIES.index(record.request.priority))
        self._news.set()

    def unqueue(self, record: TaskRecord) -> None:
        """A task does not wait any more."""
        self._queues[_type(record)].drop(record.request.id, PRIORITIES.index(record.request.priority))

    def held(self, given: Given) -> None:
        """An agent has a task that an owner before us gave it."""
        self._of(given).keep(given)

    def release(self, given: Given, *, gone: bool = False) -> None:
        """An agent has ended with a task, or it is `gone`."""
        self._of(given).release(given, gone=gone)
        self._news.set()

    def _of(self, given: Given) -> Hands:
        type = given.agent.partition("/")[0]
        # Whoever else sends `$task_ended` may name any.
        return self._hands.setdefault(type, Hands()) if type in self._fleet.app.types else Hands()

    async def closing(self, home: str) -> None:
        """A shard is handed over: what is on its way to agents is recorded first, if it arrives soon."""
        if under_way := self._on_their_way.get(home):
            await asyncio.wait(under_way, timeout=MOST_CLOSING_S)

    def lost(self, board: Board) -> None:
        """A shard is no longer ours: its next owner gives out what was not recorded as given."""
        home = board.shard.name
        for task in self._on_their_way.get(home, ()):
            task.cancel()
        board.giving.clear()
        for record in board.live.values():
            if record.state == "queued":
                self.unqueue(record)
        for hands in self._hands.values():
            hands.lost(home)

    def give_out(self) -> float:
        """Give out what can be; returns when to look for agents, monotonic seconds, if some tasks still wait."""
        return min([self._give_out(type) for type in self._queues], default=float("inf"))

    def _give_out(self, type: str) -> float:
        queue, hands = self._queues[type], self._hands.setdefault(type, Hands())
        while len(queue) and hands.free:
            board, record = queue.take()
            if not board.shard.reading:
                continue  # It is the next owner's.
            given = board.give(record, hands.take())
            hands.keep(given)
            under_way = self._on_their_way.setdefault(board.shard.name, set())
            task = self._begin(self._give(board, record, given))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if not len(queue):
            return float("inf")
        if hands.look_at() <= time.monotonic() and type not in self._looking:
            looking = self._looking[type] = self._begin(self._look(type, hands))
            looking.add_done_callback(lambda _: self._looking.pop(type, None))
        return time.monotonic() + LOOK_S if type in self._looking else hands.look_at()

    async def _look(self, type: str, hands: Hands) -> None:
        """Find agents that can be asked."""
        try:
            views = [view for view in await self._fleet.client.agents(type, limit=MOST_LISTED) if view.state in ASKABLE]
        except SwellError as error:
            log.warning("agents of type %s are looked for again: %s", type, error)
            views = []
        views.sort(key=lambda view: (view.queued, view.state == "working"))
        hands.found(view.id for view in views)
        self._news.set()

    async def _give(self, board: Board, record: TaskRecord, given: Given) -> None:
        """Send an agent the message of a task, then record that it has it."""
        if not board.awaits(record, given):
            self.release(given)  # It has ended, or that step of it has, before this began.
            return
        request, client, agent = record.request, self._fleet.client, given.agent
        place = TaskPlace(given.home, given.id, given.step, given.tries, record.waiting)
        headers = {TASK_HEADER: msgspec.json.encode(place).decode(), ID_HEADER: _message_id(given)}
        fields = (agent, request.steps[given.step].name, record.body, SYSTEM.now_us(), request.sender)
        message = (*fields, TO_TASK, 0, headers, request.until_us)
        try:
            await client.producer.send(client.inbox(agent, request.priority), message)
        except SwellError as error:
            self.release(given)
            if board.awaits(record, given):
                failure = Failure("handler_failed", f"task {given.id} cannot be sent to {agent}: {error}", agent)
                board.end(record, "failed", failure=failure)
            return
        board.given(record, given)

    # What the agent that has a task, or will have it, is told: at once, past every backlog.

    def cancel(self, record: TaskRecord, given: Given) -> None:
        """A task is not wanted any more. That is said behind the task's own message, too, which may be unread yet."""
        message = (TO_SHARD, CANCEL, Cancel(given.agent, id=_message_id(given)), SYSTEM.now_us())
        self._tell(given, {"critical", record.request.priority}, message)

    def listen(self, given: Given, waiter: tuple[str, int]) -> None:
        """One more waits for a task."""
        place = TaskPlace(given.home, given.id, given.step, given.tries, [waiter])
        self._tell(given, {"critical"}, (TO_SHARD, TASK_LISTEN, place, SYSTEM.now_us()))

    def _tell(self, given: Given, ways: set[Priority], message: tuple[Any, ...]) -> None:
        async def send() -> None:
            client = self._fleet.client
            try:
                await client.producer.send_many((client.inbox(given.agent, way), message) for way in ways)
            except SwellError as error:
                log.warning("the agent of task %s is not told: %s", given.id, error)

        self._begin(send())


def _type(record: TaskRecord) -> str:
    return record.request.steps[record.step].type


def _message_id(given: Given) -> str:
    """What the message of a task can be cancelled by."""
    return f"{_MESSAGE}{given.id}.{given.step}"
