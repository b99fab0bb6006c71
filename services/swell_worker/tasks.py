"""Tasks at their homes: recorded, given to agents that are free, and kept when they have ended.

    $task --> recorded, queued --given to an agent--> running --$task_ended--> done / failed, told, kept, removed
                   ^                                     |
                   +--- the agent is no more; next step -+        $task_cancel, its time is over: told, kept, removed

What is recorded is written with the end of the message that caused it. A task is recorded as running once its agent's
message is durable: a worker that dies between the two lets another agent run it too, and the first outcome counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import SYSTEM, now_ms
from swell.codec import decode, raw
from swell.errors import SwellError, WireError
from swell.later import Cancel
from swell.task import PREFIX, TaskEnded, TaskPlace, TaskQuestion, TaskRecord, TaskRequest, TaskState, digest, home_of
from swell.wire import (
    CANCEL,
    DONE,
    FAILED,
    ID_HEADER,
    NIL,
    TASK_HEADER,
    TASK_LISTEN,
    TO_SHARD,
    TO_TASK,
    Failure,
    Message,
)
from swell.working import MOST_LISTED, least_busy
from swell_worker.crews import Crew, Ref
from swell_worker.executor import Failed
from swell_worker.home import Home
from swell_worker.outcomes import Outcomes
from swell_worker.timers import Timers

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: Bytes of bodies and results that one home holds, and calls that wait for one task.
MOST_BYTES = 64 << 20
MOST_WAITING = 100
_ENDED = ("done", "failed", "cancelled", "expired")


class Tasks:
    """All tasks of the homes that this worker owns.

    Args:
        fleet: answers those who ask.

    Attributes:
        outcomes: what agents here made of tasks, on its way to their homes.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.outcomes = Outcomes(fleet)
        self._fleet = fleet
        self._homes: dict[str, Home] = {}
        self._crews: dict[str, Crew] = {}
        self._timers: Timers[tuple[str, str, int]] = Timers(self._due)
        self._group: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[None]] = set()

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which this works."""
        self._group = group
        self._begin(self._timers.run())
        self.outcomes.attach(self._begin)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._group is not None
        task = self._group.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def end(self) -> None:
        """Cancel whatever still runs."""
        for task in self._running:
            task.cancel()

    def queued(self) -> float:
        """Tasks that wait for an agent."""
        return float(sum(crew.waiting for crew in self._crews.values()))

    # Shards.

    def opened(self, shard: OwnedShard, records: dict[str, bytes]) -> None:
        """A shard is ours: go on with its tasks."""
        home = self._homes[shard.name] = Home(shard)
        self.outcomes.opened(shard, records)
        for id, encoded in records.items():
            if not id.startswith(PREFIX):
                continue
            try:
                record = decode(encoded, TaskRecord)
            except WireError as error:
                log.error("task cannot be read: %s", error, extra={"record": id})
                continue
            home.hold(record)
            if record.state == "queued":
                self._queue(home, record)
            elif record.state == "running":
                self._crew(record).hold(record.agent, self._ref(home, record))
            else:
                self._time(home, record, record.ended_ms + round(record.request.keep_s * 1000))
        self._give_all()

    async def closing(self, shard: OwnedShard) -> None:
        """A shard is handed over: what is being given to agents is given, and recorded."""
        home = self._homes.get(shard.name)
        if home is not None:
            if home.giving:
                await asyncio.wait(set(home.giving))
            if self._homes.get(shard.name) is home:
                self._drop(home)
        self.outcomes.closed(shard)

    def lost(self, shard: OwnedShard) -> None:
        """A shard is no longer ours."""
        home = self._homes.get(shard.name)
        if home is not None and home.shard is shard:
            self._drop(home)
        self.outcomes.closed(shard)

    def _drop(self, home: Home) -> None:
        del self._homes[home.shard.name]
        for crew in self._crews.values():
            crew.drop(home.shard.name)
        self._timers.drop(lambda what: what[0] == home.shard.name)

    # Requests.

    def submit(self, entry: Entry, index: int, message: Message) -> None:
        """Record a task, or join the one that is there under its id."""
        home = self._homes[entry.shard.name]
        try:
            request = decode(message.body, TaskRequest)
            self._check(home, request)
        except SwellError as error:
            self._refuse(entry, index, message, Failed("wrong_body", str(error)))
            return
        there = home.tasks.get(request.id)
        if there is not None:
            if there.digest != digest(request):
                reason = f"task {request.id!r} is another request: give this one another key"
                self._refuse(entry, index, message, Failed("wrong_body", reason))
            else:
                self._join(home, there, entry, index, message)
            return
        if len(home.tasks) >= self._fleet.client.max_depth or home.size >= MOST_BYTES:
            reason = (
                f"shard {home.shard.name} holds {len(home.tasks)} tasks of {home.size >> 20} MiB, and takes no more"
            )
            self._refuse(
                entry, index, message, Failed("too_many_tasks", f"{reason}: submit later, or keep them shorter")
            )
            return
        record = TaskRecord(structs.replace(request, body=NIL), digest(request), body=request.body, since_ms=now_ms())
        if message.reply_to:
            record.waiting = [(message.reply_to, message.call)]
        self._fleet.recorder.count("tasks", request.steps[0].type)
        home.hold(record)
        home.keep(record)
        entry.ack(index)
        self._queue(home, record)
        self._give_all()

    def _check(self, home: Home, request: TaskRequest) -> None:
        if not request.steps or home_of(request.id, self._fleet.client.shards) != home.shard.name:
            raise WireError(f"task {request.id!r} has no step, or another home than shard {home.shard.name}")

    def _refuse(self, entry: Entry, index: int, message: Message, failed: Failed) -> None:
        """Whoever asks is told; a task for which nobody waits is a dead letter, so that it is not lost in silence."""
        self._fleet.end_dead(None, entry, index, message, failed)

    def _join(self, home: Home, record: TaskRecord, entry: Entry, index: int, message: Message) -> None:
        """Somebody waits for a task."""
        caller = (message.reply_to, message.call)
        if not message.reply_to or caller in record.waiting:
            pass
        elif record.state in _ENDED:
            self._tell(record, [caller])
        elif len(record.waiting) >= MOST_WAITING:
            reason = f"{MOST_WAITING} calls wait for task {record.request.id!r}, and no more may"
            self._refuse(entry, index, message, Failed("too_many_wait", reason))
            return
        else:
            record.waiting = [*record.waiting, caller]
            home.keep(record)
            if record.state == "running":
                listen = TaskPlace(home.shard.name, record.request.id, record.step, record.tries, [caller])
                self._begin(self._to_agent(record, (TO_SHARD, TASK_LISTEN, listen, SYSTEM.now_us())))
        entry.ack(index)

    def wait(self, entry: Entry, index: int, message: Message) -> None:
        """Tell who asks what became of a task, now or when it ends."""
        found = self._asked(entry, index, message)
        if found is not None:
            self._join(*found, entry, index, message)

    def cancel(self, entry: Entry, index: int, message: Message) -> None:
        """End a task; whoever asks is told whether there was one that had not ended."""
        found = self._asked(entry, index, message)
        if found is None:
            return
        home, record = found
        if record.state not in _ENDED:
            agent = record.agent if record.state == "running" else ""
            self._end(home, record, "cancelled", Failure("cancelled", f"task {record.request.id!r} was cancelled"))
            if agent:
                what = Cancel(agent, PREFIX + record.request.id)
                self._begin(self._to_agent(record, (TO_SHARD, CANCEL, what, SYSTEM.now_us())))
            self._fleet.reply(message, True)
        else:
            self._fleet.reply(message, False)
        entry.ack(index)

    def _asked(self, entry: Entry, index: int, message: Message) -> tuple[Home, TaskRecord] | None:
        try:
            id = decode(message.body, TaskQuestion).id
        except SwellError as error:
            self._refuse(entry, index, message, Failed("wrong_body", str(error)))
            return None
        home = self._homes[entry.shard.name]
        record = home.tasks.get(id)
        if record is None:
            failure = Failure("unknown_task", f"there is no task {id!r}: it never was, or is kept no longer")
            if message.reply_to:
                self._fleet.tell(message.reply_to, message.call, FAILED, raw(failure))
            entry.ack(index)
            return None
        return home, record

    def ended(self, entry: Entry, index: int, message: Message) -> None:
        """An agent has ended a step of a task; what is known already, or too late, changes nothing."""
        try:
            ended = decode(message.body, TaskEnded)
        except SwellError as error:
            self._refuse(entry, index, message, Failed("wrong_body", str(error)))
            return
        entry.ack(index)
        home = self._homes[entry.shard.name]
        record = home.tasks.get(ended.id)
        gone = ended.failure is not None and ended.failure.kind == "unknown_agent"
        ref = (home.shard.name, ended.id, ended.step)
        for crew in self._crews.values():
            crew.release(ended.agent, ref, gone=gone)
        if (
            record is not None
            and record.state not in _ENDED
            and (record.step, record.tries) == (ended.step, ended.tries)
        ):
            self._went_on(home, record, ended, gone=gone)
        self._give_all()

    def _went_on(self, home: Home, record: TaskRecord, ended: TaskEnded, *, gone: bool) -> None:
        if gone:
            again = structs.replace(record, state="queued", agent="")
        elif ended.failure is not None:
            self._end(home, record, "expired" if ended.failure.kind == "expired" else "failed", ended.failure)
            return
        elif record.step + 1 == len(record.request.steps):
            self._end(home, record, "done", None, ended.result)
            return
        else:
            again = structs.replace(record, state="queued", agent="", step=record.step + 1, tries=0, body=ended.result)
        home.hold(again)
        home.keep(again)
        self._queue(home, again)

    def _end(
        self, home: Home, record: TaskRecord, state: TaskState, failure: Failure | None, result: msgspec.Raw = NIL
    ) -> None:
        """A task has its outcome: whoever waits is told, and it is kept for a while."""
        at_ms = now_ms()
        last = structs.replace(
            record, state=state, failure=failure, result=result, body=NIL, waiting=[], ended_ms=at_ms
        )
        home.hold(last)
        home.keep(last)
        self._tell(last, record.waiting)
        type = record.request.steps[record.step].type
        self._fleet.recorder.count(f"tasks_{state}", type)
        self._fleet.recorder.latency("task", type).record(max(0, at_ms - record.since_ms) * 1000)
        self._time(home, last, at_ms + round(record.request.keep_s * 1000))

    def _tell(self, record: TaskRecord, callers: list[tuple[str, int]]) -> None:
        for process, call in callers:
            if record.failure is None:
                self._fleet.tell(process, call, DONE, record.result)
            else:
                self._fleet.tell(process, call, FAILED, raw(record.failure))

    # Time.

    def _time(self, home: Home, record: TaskRecord, at_ms: int) -> None:
        self._timers.add(at_ms, (home.shard.name, record.request.id, at_ms))

    def _due(self, what: tuple[str, str, int]) -> None:
        """A task was kept long enough, or it is too late to begin it."""
        home = self._homes.get(what[0])
        record = home.tasks.get(what[1]) if home is not None else None
        if home is None or record is None:
            return
        if record.state in _ENDED:
            if now_ms() >= record.ended_ms + round(record.request.keep_s * 1000):
                home.forget(what[1])
                home.shard.record(PREFIX + what[1], None)
        elif record.state == "queued":
            self._end(home, record, "expired", Failure("expired", f"no agent was free for task {what[1]!r} in time"))

    # Giving.

    def _crew(self, record: TaskRecord) -> Crew:
        return self._crews.setdefault(record.request.steps[record.step].type, Crew())

    def _ref(self, home: Home, record: TaskRecord) -> Ref:
        return home.shard.name, record.request.id, record.step

    def _queue(self, home: Home, record: TaskRecord) -> None:
        if record.request.until_us:
            self._time(home, record, -(-record.request.until_us // 1000))
        self._crew(record).queue(self._ref(home, record), record.request.priority)

    def _give_all(self) -> None:
        """Give what waits to whoever is free; look for agents where nobody is."""
        for type, crew in list(self._crews.items()):
            for ref, agent in crew.pairs():
                home = self._homes.get(ref[0])
                record = home.tasks.get(ref[1]) if home is not None else None
                if home is None or record is None or record.state != "queued" or record.step != ref[2]:
                    continue  # It ended while it waited.
                if not home.shard.reading:
                    continue  # Its next owner gives it.
                crew.take(ref)
                given = structs.replace(record, state="running", agent=agent, tries=record.tries + 1)
                home.hold(given)
                task = self._begin(self._give(home, given))
                home.giving.add(task)
                task.add_done_callback(home.giving.discard)
            wait_s = crew.search_in_s()
            if wait_s is not None and not self._fleet.ending:
                crew.searching = True
                self._begin(self._search(type, crew, wait_s))
            elif crew.unused:
                del self._crews[type]

    async def _search(self, type: str, crew: Crew, wait_s: float) -> None:
        """Look for agents that can be asked, the least busy first."""
        if wait_s:
            await asyncio.sleep(wait_s)
        found: list[str] = []
        try:
            found = await least_busy(self._fleet.client, type, MOST_LISTED)
        except SwellError as error:
            log.warning("agents for tasks were not found: %s", error, extra={"type": type})
        crew.found(found)
        self._give_all()

    async def _give(self, home: Home, record: TaskRecord) -> None:
        """Send an agent its message, and record that it has it."""
        request, step = record.request, record.request.steps[record.step]
        place = TaskPlace(home.shard.name, request.id, record.step, record.tries, record.waiting)
        headers = {ID_HEADER: PREFIX + request.id, TASK_HEADER: msgspec.json.encode(place).decode()}
        head = (record.agent, step.name, record.body, SYSTEM.now_us(), request.sender, TO_TASK, 0)
        try:
            await self._to_agent(record, (*head, headers, request.until_us))
        except SwellError as error:
            log.warning("task cannot be sent: %s", error, extra={"task": request.id})
            if self._homes.get(home.shard.name) is home and home.tasks.get(request.id) is record:
                self._crew(record).release(record.agent, self._ref(home, record))
                self._end(home, record, "failed", Failure("wrong_body", str(error)))
            return
        now = home.tasks.get(request.id)
        if now is not None and now.state == "running" and (now.step, now.tries) == (record.step, record.tries):
            home.keep(now)

    async def _to_agent(self, record: TaskRecord, message: tuple[Any, ...]) -> None:
        """The one place where what concerns a task's agent is sent: behind each other, in the inbox of its priority."""
        client = self._fleet.client
        await client.producer.send(client.inbox(record.agent, record.request.priority), message)
