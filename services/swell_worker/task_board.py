"""The tasks whose home is one shard: what is recorded of them, which wait, and how long the others are kept.

    queued --given--> running --$task_ended--> done, failed --kept for a while--> forgotten
      ^                 |  |
      |                 |  +--the next step of a chain--> queued
      +--agent is gone--+            queued and too late --> expired         $task_cancel --> cancelled

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

if TYPE_CHECKING:
    from swell_worker.tasks import Tasks

log = logging.getLogger(__name__)

#: Tasks of a shard that have not ended, and bytes of their bodies; more are refused.
MOST_TASKS = 65_536
MOST_BYTES = 64 << 20
#: Tasks of a shard that have ended and are kept, and bytes of their results, the newest.
KEEP_ENDED = 10_000
KEEP_BYTES = 32 << 20


class Board:
    """The tasks of one shard.

    Attributes:
        shard: which.
        live: those that have not ended, by id.
        kept: those that have: the size of each result, and until when (milliseconds since 1970).
    """

    def __init__(self, tasks: Tasks, shard: OwnedShard) -> None:
        self.shard = shard
        self.live: dict[str, TaskRecord] = {}
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
        id = record.request.id
        self.live[id] = record
        self._bytes += len(record.body)
        if record.request.until_us:
            heapq.heappush(self._times, (record.request.until_us / 1000, id))
        if record.state == "queued":
            self._tasks.queue(self, record)
        else:
            self._tasks.held(record)

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

    def given(self, record: TaskRecord, agent: str) -> None:
        """An agent has been sent the task."""
        if self.live.get(record.request.id) is record and record.state == "queued":
            record.state, record.agent = "running", agent
            self.write(record)

    def again(self, record: TaskRecord) -> None:
        """The agent that should have it has ended: another gets it."""
        record.state = "queued"
        self.write(record)
        self._tasks.queue(self, record)

    def heard(self, ended: TaskEnded) -> None:
        """A step has ended."""
        record = self.live.get(ended.id)
        if record is None or ended.step != record.step:
            return  # It was told before, or nobody wants to know.
        failure = ended.failure
        if failure is None and record.step + 1 < len(record.request.steps):
            self._bytes += len(ended.result) - len(record.body)
            record.step, record.tries, record.body = record.step + 1, 0, ended.result
            self.again(record)
        elif failure is None:
            self.end(record, "done", ended.result)
        elif failure.kind in ("expired", "cancelled"):
            self.end(record, "expired" if failure.kind == "expired" else "cancelled", failure=failure)
        else:
            self.end(record, "failed", failure=failure)

    def end(self, record: TaskRecord, state: str, result: Raw = NIL, failure: Failure | None = None) -> None:
        """A task has ended: whoever waits is told, and it is kept for a while."""
        id = record.request.id
        del self.live[id]
        self._bytes -= len(record.body)
        record.state = state  # type: ignore[assignment]
        record.ended_ms = now_ms()
        record.result, record.failure = result, failure
        record.body = record.request.body = NIL
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
        heapq.heappush(self._times, (until_ms, id))
        while len(self.kept) > KEEP_ENDED or self._kept_bytes > KEEP_BYTES:
            self._forget(next(iter(self.kept)))

    def _forget(self, id: str) -> None:
        self._kept_bytes -= self.kept.pop(id)[0]
        self.shard.record(PREFIX + id, None)

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
            elif record.state == "queued" and record.request.until_us and record.request.until_us / 1000 <= now:
                self.end(record, "expired", failure=too_late(record))


def too_late(record: TaskRecord) -> Failure:
    """Why a task that nobody had begun is not begun any more."""
    return Failure("expired", f"task {record.request.id} expired before an agent was free for it", record.agent)
