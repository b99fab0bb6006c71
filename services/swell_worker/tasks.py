"""The tasks whose home is one of a worker's shards: those that come, what is asked of them, and what ends.

    $task --> board --> an agent that is free: its message is appended --> running, recorded --$task_ended--> board

What a board knows is changed here, when a message has come or time has passed; who is given a task is decided in
`task_giving`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from swell.backoff import RECONNECT
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import now_ms
from swell.codec import decode
from swell.errors import SwellError
from swell.priority import PRIORITIES
from swell.task import MOST_STEPS, PREFIX, TaskEnded, TaskQuestion, TaskRecord, TaskRequest, digest
from swell.wire import NIL, Failure, Message
from swell_worker.executor import Failed
from swell_worker.task_board import Board
from swell_worker.task_giving import Giving
from swell_worker.task_queue import Given

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: Processes that may wait for one task.
MOST_WAITING = 64


class Tasks:
    """All tasks of one worker.

    Args:
        fleet: whose.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._boards: dict[str, Board] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._giving = Giving(fleet, self._begin, self._news)
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
        return len(self._giving)

    # Shards that come and go.

    def opened(self, shard: OwnedShard, records: Mapping[str, bytes]) -> None:
        """A shard is ours, with its tasks and the outcomes that it keeps."""
        board = self._boards[shard.name] = Board(self, shard)
        board.load(records)
        self._news.set()

    async def closing(self, shard: OwnedShard) -> None:
        """A shard is handed over."""
        await self._giving.closing(shard.name)
        self.lost(shard)

    def lost(self, shard: OwnedShard) -> None:
        """A shard is no longer ours."""
        board = self._boards.get(shard.name)
        if board is not None and board.shard is shard:
            del self._boards[shard.name]
            self._giving.lost(board)

    # What boards ask of us.

    def queue(self, board: Board, record: TaskRecord) -> None:
        """A task waits for an agent."""
        self._giving.queue(board, record)

    def unqueue(self, record: TaskRecord) -> None:
        """A task does not wait any more."""
        self._giving.unqueue(record)

    def held(self, given: Given) -> None:
        """An agent has a task that an owner before us gave it."""
        self._giving.held(given)

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
            # A copy: what was decoded holds all of the batch that it came in.
            record = TaskRecord(request, digest(request), body=request.body.copy(), since_ms=now_ms(), waiting=waiting)
            request.body = NIL
            board.begin(record)
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
            given = board.holder(record)
            agent = given.agent if given is not None else ""
            board.end(record, "cancelled", failure=Failure("cancelled", f"task {question.id} was cancelled", agent))
            if given is not None:
                self._giving.cancel(record, given)
        self._fleet.reply(message, record is not None)
        entry.ack(index)

    def ended(self, entry: Entry, index: int, message: Message) -> None:
        """An agent's worker says what came of a step."""
        board = self._boards[entry.shard.name]
        ended = self._fleet.read(entry, index, message, TaskEnded)
        if ended is None:
            return
        given = Given(entry.shard.name, ended.id, ended.step, ended.tries, ended.agent)
        gone = ended.failure is not None and ended.failure.kind == "unknown_agent"
        self._giving.release(given, gone=gone)
        record = board.live.get(ended.id)
        if record is None or ended.step != record.step:
            pass  # It was told before, or nobody wants to know.
        elif not gone:
            board.heard(record, ended)
        elif board.holder(record) == given:
            board.again(record)
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
                board = self._boards[entry.shard.name]
                board.write(record)
                if (given := board.holder(record)) is not None:
                    self._giving.listen(given, waiter)
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
            self._fleet.refuse(message, _unknown(id, entry.inbox.name))
        elif wanted not in ("", record.digest):
            self._other(record, entry, index, message)
            return
        elif message.reply_to:
            board.tell(record, message.reply_to, message.call)
        entry.ack(index)

    async def _run(self) -> None:
        """Give tasks to whoever is free, and end what is too late, until cancelled."""
        while True:
            now = float(now_ms())
            for board in list(self._boards.values()):
                board.pass_time(now)
            look_at = self._giving.give_out()
            times = [at for board in self._boards.values() if (at := board.next_ms()) is not None]
            wait_s = min(look_at - time.monotonic(), (min(times) - now) / 1000 if times else float("inf"))
            try:
                async with asyncio.timeout(None if wait_s == float("inf") else max(0.001, wait_s)):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()


def _unknown(id: str, inbox: str) -> Failure:
    reason = f"there is no task {id!r}: it never was, or was forgotten"
    return Failure("unknown_task", reason, detail={"inbox": inbox})
