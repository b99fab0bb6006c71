"""The tasks whose home is one of a worker's shards.

    $task --> board --> an agent that is free: its message is appended --> running, recorded --$task_ended--> board

The message goes before the record says so: an owner that dies in between gives the task out again, and the outcome that
is told first counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from swell.backoff import RECONNECT
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import SYSTEM, now_ms
from swell.codec import decode
from swell.errors import SwellError
from swell.later import Cancel
from swell.priority import PRIORITIES, Priority
from swell.task import (
    MOST_STEPS,
    PREFIX,
    TaskEnded,
    TaskPlace,
    TaskQuestion,
    TaskRecord,
    TaskRequest,
    digest,
)
from swell.wire import CANCEL, ID_HEADER, TASK_HEADER, TASK_LISTEN, TO_SHARD, TO_TASK, Failure, Message
from swell.working import ASKABLE, MOST_LISTED
from swell_worker.executor import Failed
from swell_worker.task_board import Board
from swell_worker.task_queue import LOOK_S, Hands, Ranked

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: Processes that may wait for one task.
MOST_WAITING = 64
#: What an id of a task's message begins with, so that it is not one of its agent's own.
_MESSAGE = "task."


class Tasks:
    """All tasks of one worker.

    Args:
        fleet: whose.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._boards: dict[str, Board] = {}
        self._queues: dict[str, Ranked[tuple[Board, TaskRecord]]] = {}
        self._hands: dict[str, Hands] = {}
        #: Messages on their way to agents, by the shard whose task it is.
        self._giving: dict[str, set[asyncio.Task[None]]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which this works."""
        self._group = group
        self._begin(self._run())

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._group is not None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def end(self) -> None:
        """The worker stops."""
        for task in self._tasks:
            task.cancel()

    def count(self) -> int:
        """Tasks that wait for an agent."""
        return sum(map(len, self._queues.values()))

    # Shards that come and go.

    def opened(self, shard: OwnedShard, records: Mapping[str, bytes]) -> None:
        """A shard is ours, with its tasks and the outcomes that it keeps."""
        board = self._boards[shard.name] = Board(self, shard)
        board.load(records)
        self._news.set()

    async def closing(self, shard: OwnedShard) -> None:
        """A shard is handed over: what is on its way to agents is recorded first."""
        giving = self._giving.get(shard.name)
        if giving:
            await asyncio.wait(giving)
        self.lost(shard)

    def lost(self, shard: OwnedShard) -> None:
        """A shard is no longer ours."""
        board = self._boards.get(shard.name)
        if board is not None and board.shard is shard:
            del self._boards[shard.name]
            for record in board.live.values():
                self._of(record).release(record.agent, record.request.id)

    # What boards ask of us.

    def _of(self, record: TaskRecord) -> Hands:
        type = record.request.steps[record.step].type
        return self._hands.setdefault(type, Hands())

    def queue(self, board: Board, record: TaskRecord) -> None:
        """A task waits for an agent."""
        type = record.request.steps[record.step].type
        queue = self._queues.setdefault(type, Ranked())
        queue.put((board, record), PRIORITIES.index(record.request.priority))
        self._news.set()

    def held(self, record: TaskRecord) -> None:
        """An agent has a task that an owner before us gave it."""
        self._of(record).keep(record.agent, record.request.id)

    def counted(self, record: TaskRecord) -> None:
        """A task has ended."""
        type, recorder = record.request.steps[-1].type, self._fleet.recorder
        recorder.count(f"tasks_{record.state}", type)
        recorder.latency("task", type).record(max(0, record.ended_ms - record.since_ms) * 1000)
        self._news.set()

    def tell(self, process: str, call: int, status: int, body: bytes) -> None:
        """Tell somebody who waits for a task."""
        self._fleet.tell(process, call, status, Raw(body))

    # Requests to a home.

    def take(self, entry: Entry, index: int, message: Message) -> None:
        """A task has come, perhaps again."""
        board = self._boards[entry.shard.name]
        request = self._fleet.read(entry, index, message, TaskRequest)
        if request is None:
            return
        if (failed := self._refusal(request)) is not None:
            self._fleet.end_dead(None, entry, index, message, failed)
            return
        record = board.live.get(request.id)
        if record is not None:
            self._join(record, entry, index, message, digest(request))
        elif request.id in board.kept:
            self._begin(self._ended(board, entry, index, message, digest(request)))
        elif board.full:
            reason = f"{len(board.live)} tasks wait or run in shard {entry.shard.name}, and no more may: submit later"
            self._fleet.end_dead(None, entry, index, message, Failed("too_many_tasks", reason))
        else:
            waiting = [(message.reply_to, message.call)] if message.reply_to else []
            new = TaskRecord(request, digest(request), body=request.body, since_ms=now_ms(), waiting=waiting)
            board.begin(new)
            self._fleet.recorder.count("tasks", request.steps[0].type)
            entry.ack(index)

    def _refusal(self, request: TaskRequest) -> Failed | None:
        """Why a task cannot be one; None if it can."""
        if not 1 <= len(request.steps) <= MOST_STEPS:
            return Failed(
                "wrong_body", f"steps: {len(request.steps)}; give 1 to {MOST_STEPS}", detail={"field": "steps"}
            )
        app = self._fleet.app
        for step in request.steps:
            if step.type not in app.types:
                having = ", ".join(sorted(app.types))
                return Failed("unknown_type", f"app {app.name!r} has no agent type {step.type!r}, only {having}")
        return None

    def wait(self, entry: Entry, index: int, message: Message) -> None:
        """Somebody wants to know how a task ends."""
        question = self._fleet.read(entry, index, message, TaskQuestion)
        if question is None:
            return
        board = self._boards[entry.shard.name]
        record = board.live.get(question.id)
        if record is not None:
            self._join(record, entry, index, message)
        else:
            self._begin(self._ended(board, entry, index, message))

    def cancel(self, entry: Entry, index: int, message: Message) -> None:
        """A task is not wanted any more."""
        question = self._fleet.read(entry, index, message, TaskQuestion)
        if question is None:
            return
        board = self._boards[entry.shard.name]
        record = board.live.get(question.id)
        if record is not None and entry.inbox.rank not in (0, PRIORITIES.index(record.request.priority)):
            record = None  # It goes to several inboxes, and came late: this is another task, under the same key.
        if record is not None:
            agent = record.agent if record.state == "running" else ""
            board.end(record, "cancelled", failure=Failure("cancelled", f"task {question.id} was cancelled", agent))
            if agent:
                what = Cancel(agent, id=message_id(record))
                self._begin(self._to_agent(record, (TO_SHARD, CANCEL, what, SYSTEM.now_us())))
        self._fleet.reply(message, record is not None)
        entry.ack(index)

    def ended(self, entry: Entry, index: int, message: Message) -> None:
        """An agent's worker says what came of a step."""
        board = self._boards[entry.shard.name]
        ended = self._fleet.read(entry, index, message, TaskEnded)
        if ended is None:
            return
        record = board.live.get(ended.id)
        gone = ended.failure is not None and ended.failure.kind == "unknown_agent"
        if record is not None and ended.step == record.step:
            if not gone:
                self._of(record).release(ended.agent, ended.id)
                board.heard(ended)
            elif record.agent == ended.agent and record.state == "running":
                self._of(record).release(ended.agent, ended.id, gone=True)
                board.again(record)
        else:
            for hands in self._hands.values():
                hands.release(ended.agent, ended.id, gone=gone)
        self._news.set()
        entry.ack(index)

    def _join(self, record: TaskRecord, entry: Entry, index: int, message: Message, wanted: str = "") -> None:
        """One more waits for a task that has not ended."""
        if wanted not in ("", record.digest):
            self._other(record, entry, index, message)
            return
        waiter = (message.reply_to, message.call)
        if message.reply_to and waiter not in record.waiting:
            if len(record.waiting) >= MOST_WAITING:
                self._fleet.refuse(message, Failure("too_many", f"too many wait for task {record.request.id} already"))
            else:
                record.waiting.append(waiter)
                self._boards[entry.shard.name].write(record)
                if record.state == "running":
                    listen = TaskPlace(entry.shard.name, record.request.id, record.step, record.tries, [waiter])
                    self._begin(self._to_agent(record, (TO_SHARD, TASK_LISTEN, listen, SYSTEM.now_us())))
        entry.ack(index)

    def _other(self, record: TaskRecord, entry: Entry, index: int, message: Message) -> None:
        reason = f"key: task {record.request.id!r} is known, and was another one; choose another key"
        self._fleet.end_dead(None, entry, index, message, Failed("wrong_body", reason, detail={"field": "key"}))

    async def _ended(self, board: Board, entry: Entry, index: int, message: Message, wanted: str = "") -> None:
        """Answer from the record of a task that has ended, or that is not known."""
        id = decode(message.body, TaskRequest).id if wanted else decode(message.body, TaskQuestion).id
        encoded: bytes | None = None
        failures = 0
        while board.shard.reading:
            try:
                await self._fleet.written()
                encoded = await self._fleet.client.broker.record(board.shard.name, PREFIX + id)
                break
            except SwellError as error:
                failures += 1
                if failures == 1:
                    log.warning("the record of a task is read again: %s", error)
                await asyncio.sleep(RECONNECT.wait_s(failures))
        if not board.shard.reading:
            return
        record = decode(encoded, TaskRecord) if encoded is not None else None
        if record is None and wanted:
            board.kept.pop(id, None)
            self.take(entry, index, message)  # It was forgotten meanwhile: this is a new one.
            return
        if record is None:
            reason = f"there is no task {id!r}: it never was, or was forgotten"
            self._fleet.refuse(message, Failure("unknown_task", reason, detail={"inbox": entry.inbox.name}))
        elif wanted not in ("", record.digest):
            self._other(record, entry, index, message)
            return
        elif message.reply_to:
            board.tell(record, message.reply_to, message.call)
        entry.ack(index)

    async def _to_agent(self, record: TaskRecord, message: tuple[Any, ...]) -> None:
        """Send something about a task to the shard of the agent that has it: at once, and an end behind its message."""
        client, agent = self._fleet.client, record.agent
        ways: set[Priority] = {"critical"} if message[1] == TASK_LISTEN else {"critical", record.request.priority}
        try:
            await client.producer.send_many((client.inbox(agent, priority), message) for priority in ways)
        except SwellError as error:
            log.warning("the agent of task %s is not told: %s", record.request.id, error)

    # Giving tasks out.

    async def _run(self) -> None:
        """Give tasks to whoever is free, and end what is too late, until cancelled."""
        while True:
            now = float(now_ms())
            for board in list(self._boards.values()):
                board.pass_time(now)
            look_at = min([self._give_out(type) for type in list(self._queues)], default=float("inf"))
            times = [at for board in self._boards.values() if (at := board.next_ms()) is not None]
            wait_s = min(look_at - time.monotonic(), (min(times) - now) / 1000 if times else float("inf"))
            try:
                async with asyncio.timeout(None if wait_s == float("inf") else max(0.001, wait_s)):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()

    def _give_out(self, type: str) -> float:
        """Give out what can be of one type; returns when to look for agents, if some still wait."""
        queue, hands = self._queues[type], self._hands.setdefault(type, Hands())
        while len(queue) and hands.free:
            board, record = queue.take()
            id = record.request.id
            if board.live.get(id) is not record or record.state != "queued" or not board.shard.reading:
                continue  # It has ended meanwhile, or is another owner's.
            agent = hands.take(id)
            record.tries += 1
            giving = self._giving.setdefault(board.shard.name, set())
            task = self._begin(self._give(board, record, agent))
            giving.add(task)
            task.add_done_callback(giving.discard)
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

    async def _give(self, board: Board, record: TaskRecord, agent: str) -> None:
        """Send an agent the message of a task, then record that it has it."""
        request, client = record.request, self._fleet.client
        place = TaskPlace(board.shard.name, request.id, record.step, record.tries, record.waiting)
        headers = {TASK_HEADER: msgspec.json.encode(place).decode(), ID_HEADER: message_id(record)}
        fields = (agent, request.steps[record.step].name, record.body, SYSTEM.now_us(), request.sender)
        message = (*fields, TO_TASK, 0, headers, request.until_us)
        try:
            await client.producer.send(client.inbox(agent, request.priority), message)
        except SwellError as error:
            self._of(record).release(agent, request.id)
            if board.live.get(request.id) is record:
                failure = Failure("handler_failed", f"task {request.id} cannot be sent to {agent}: {error}", agent)
                board.end(record, "failed", failure=failure)
            return
        board.given(record, agent)


def message_id(record: TaskRecord) -> str:
    """What the message of a task can be cancelled by."""
    return f"{_MESSAGE}{record.request.id}.{record.step}"
