"""The tasks whose home is one shard: what is recorded of them, which wait, and how long the others are kept.

    queued --taken by the dispatcher--> being given --appended--> running --$task_ended--> done, failed, kept, forgotten
      ^                                       |                      |  |
      +------------- agent is gone -----------+----------------------+  +--the next step of a chain--> queued
                                     queued and too late --> expired         $task_cancel --> cancelled

What is being given is recorded as queued. Its agent may have ended with it before we hear that it was appended.
Of those that have ended only their size and time are held in memory; who asks for one is answered from its record.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Raw

from swell.bus.shard import OwnedShard
from swell.clock import now_ms
from swell.codec import decode, encode
from swell.errors import WireError
from swell.task import PREFIX, TaskEnded, TaskRecord
from swell.wire import DONE, FAILED, NIL, Failure
from swell_worker.task_queue import Given

if TYPE_CHECKING:
    from swell_worker.tasks import Tasks

log = logging.getLogger(__name__)

#: Tasks of a shard that have not ended, and bytes of their bodies; more are refused. Results that are the next steps'
#: bodies may add as many bytes.
MOST_TASKS = 65_536
MOST_BYTES = 64 << 20
#: Times that may be noted besides twice those that are needed.
SPARE_TIMES = 64
#: Tasks of a shard that have ended and are kept, and bytes of their results, the newest.
KEEP_ENDED = 10_000
KEEP_BYTES = 32 << 20


class Board:
    """The tasks of one shard.

    Attributes:
        shard: which.
        live: those that have not ended, by id.
        giving: those of them whose message is on its way to an agent.
        kept: those that have: the size of each result, and until when (milliseconds since 1970).
    """

    def __init__(self, tasks: Tasks, shard: OwnedShard) -> None:
        self.shard = shard
        self.live: dict[str, TaskRecord] = {}
        self.giving: dict[str, Given] = {}
        self.kept: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._kept_bytes = 0
        self._bytes = 0
        self._tasks = tasks
        #: When something is to be done with a task: too late to begin it, or kept for long enough (ms since 1970).
        self._times: list[tuple[float, str]] = []

    def load(self, records: Mapping[str, bytes]) -> None:
        """Take over what the owners before us have recorded."""
        ended: list[tuple[int, float, str, int]] = []
        for key, encoded in records.items():
            if not key.startswith(PREFIX):
                continue
            try:
                record = decode(encoded, TaskRecord)
            except WireError as error:
                log.error("record cannot be read: %s", error, extra={"record": key})
                continue
            id = record.request.id
            if record.ended_ms:
                ended.append((record.ended_ms, record.request.keep_s, id, len(record.result)))
            else:
                self._enter(record)
        for ended_ms, keep_s, id, size in sorted(ended):
            self._keep(id, size, ended_ms + keep_s * 1000)

    def _enter(self, record: TaskRecord) -> None:
        self.live[record.request.id] = record
        self._bytes += len(record.body)
        if record.state == "queued":
            self._wait(record)
        else:
            self._tasks.held(self._given(record))

    def _wait(self, record: TaskRecord) -> None:
        """A task waits for an agent (again)."""
        record.state = "queued"
        if record.request.until_us:
            self._note(record.request.until_us / 1000, record.request.id)
        self._tasks.queue(self, record)

    def _leave(self, record: TaskRecord) -> None:
        """A task does not wait any more, or is not on its way any more."""
        given = self.giving.pop(record.request.id, None)
        if given is not None:
            record.agent = given.agent
        elif record.state == "queued":
            self._tasks.unqueue(record)

    def _given(self, record: TaskRecord) -> Given:
        return Given(self.shard.name, record.request.id, record.step, record.tries, record.agent)

    def holder(self, record: TaskRecord) -> Given | None:
        """Which agent has a task that has not ended, or will have it when its message has arrived."""
        return self._given(record) if record.state == "running" else self.giving.get(record.request.id)

    @property
    def full(self) -> bool:
        """Whether no more tasks may come."""
        return len(self.live) >= MOST_TASKS or self._bytes >= MOST_BYTES

    def begin(self, record: TaskRecord) -> None:
        """A task has come."""
        self._enter(record)
        self.write(record)

    def write(self, record: TaskRecord) -> None:
        """Write a record with what ends in this turn of the loop."""
        self.shard.record(PREFIX + record.request.id, encode(record))

    def give(self, record: TaskRecord, agent: str) -> Given:
        """A task that waits is on its way to an agent from now on."""
        record.tries += 1
        given = self._given(record)._replace(agent=agent)
        self.giving[given.id] = given
        return given

    def awaits(self, record: TaskRecord, given: Given) -> bool:
        """Whether a task is still on its way to an agent, and neither has ended with it."""
        return self.live.get(given.id) is record and self.giving.get(given.id) == given

    def given(self, record: TaskRecord, given: Given) -> None:
        """An agent has been sent the task."""
        if self.awaits(record, given):
            del self.giving[given.id]
            record.state, record.agent = "running", given.agent
            self.write(record)

    def again(self, record: TaskRecord) -> None:
        """The agent that should have it has ended: another gets it."""
        self._leave(record)
        self._wait(record)
        self.write(record)

    def heard(self, record: TaskRecord, ended: TaskEnded) -> None:
        """The step that a task is at has ended."""
        self._leave(record)
        record.state, record.agent = "running", ended.agent  # However far we had come with giving it out.
        failure = ended.failure
        if failure is None and record.step + 1 < len(record.request.steps):
            self._go_on(record, ended)
        elif failure is None:
            self.end(record, "done", ended.result)
        elif failure.kind in ("expired", "cancelled"):
            self.end(record, "expired" if failure.kind == "expired" else "cancelled", failure=failure)
        else:
            self.end(record, "failed", failure=failure)

    def _go_on(self, record: TaskRecord, ended: TaskEnded) -> None:
        """The next step of a chain."""
        growth = len(ended.result) - len(record.body)
        if self._bytes + growth > 2 * MOST_BYTES:
            reason = (
                f"step {record.step + 1} of task {ended.id} is done, but shard {self.shard.name} holds {self._bytes} "
                "bytes of tasks: submit fewer at a time, or let steps return references"
            )
            self.end(record, "failed", failure=Failure("too_many_tasks", reason, ended.agent))
            return
        self._bytes += growth
        record.step, record.tries, record.body = record.step + 1, 0, ended.result.copy()  # As in `Tasks.take`.
        self._wait(record)
        self.write(record)

    def end(self, record: TaskRecord, state: str, result: Raw = NIL, failure: Failure | None = None) -> None:
        """A task has ended: whoever waits is told, and it is kept for a while."""
        id = record.request.id
        self._leave(record)
        del self.live[id]
        self._bytes -= len(record.body)
        record.state = state  # type: ignore[assignment]
        record.ended_ms = now_ms()
        record.result, record.failure = result, failure
        record.body = NIL
        waiting, record.waiting = record.waiting, []
        for process, call in waiting:
            self.tell(record, process, call)
        self.write(record)
        self._keep(id, len(result), record.ended_ms + record.request.keep_s * 1000)
        self._tasks.counted(record)

    def tell(self, record: TaskRecord, process: str, call: int) -> None:
        """Tell somebody how a task ended."""
        if record.failure is not None:
            self._tasks.tell(process, call, FAILED, encode(record.failure))
        else:
            self._tasks.tell(process, call, DONE, bytes(record.result))

    def _keep(self, id: str, size: int, until_ms: float) -> None:
        self.kept[id] = size, until_ms
        self._kept_bytes += size
        self._note(until_ms, id)
        while len(self.kept) > KEEP_ENDED or self._kept_bytes > KEEP_BYTES:
            self._forget(next(iter(self.kept)))

    def _forget(self, id: str) -> None:
        self._kept_bytes -= self.kept.pop(id)[0]
        self.shard.record(PREFIX + id, None)

    def _note(self, at_ms: float, id: str) -> None:
        """Look at a task when that time has come."""
        heapq.heappush(self._times, (at_ms, id))
        if len(self._times) > 2 * (len(self.live) + len(self.kept)) + SPARE_TIMES:
            # Most are of tasks that were begun in time, or forgotten before theirs.
            late = [(one.request.until_us / 1000, id) for id, one in self.live.items() if one.request.until_us]
            self._times = late + [(until_ms, id) for id, (_, until_ms) in self.kept.items()]
            heapq.heapify(self._times)

    def next_ms(self) -> float | None:
        """When time is over for the next one, milliseconds since 1970."""
        return self._times[0][0] if self._times else None

    def pass_time(self, now: float) -> None:
        """End what is too late by now (milliseconds since 1970), and forget what was kept for long enough."""
        while self._times and self._times[0][0] <= now:
            _, id = heapq.heappop(self._times)
            record = self.live.get(id)
            if record is None:
                if id in self.kept and self.kept[id][1] <= now:
                    self._forget(id)
            elif self.holder(record) is None and 0 < record.request.until_us / 1000 <= now:
                self.end(record, "expired", failure=too_late(record))


def too_late(record: TaskRecord) -> Failure:
    """Why a task that nobody had begun is not begun any more."""
    return Failure("expired", f"task {record.request.id} expired before an agent was free for it", record.agent)
