"""The manager that leads: commands from the shard `control`, plans under way, and what is remembered of them.

    $plan            admit, record, ack --> PlanRun          joined if its id is known
    $cancel          verdict --> the PlanRun ends, and answers when it has
    $terminate_many  targets recorded, ended --> ack         repeated by the next leader if we die in between
    $resize          a plan, or targets recorded and ended --> ack: `resizing.py`

Leading is owning `control`: its records, read at takeover, are all that the next leader needs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine

from msgspec import Struct

from swell.bus.broker import Inheritance
from swell.bus.consumer import Consumer
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.client import Client
from swell.clock import now_ms
from swell.codec import decode, encode, raw
from swell.errors import UnknownAgent
from swell.instruments import Recorder
from swell.keys import SEGMENT
from swell.wire import (
    DONE,
    PLAN,
    PLAN_CANCEL,
    PROGRESS,
    RESIZE,
    TERMINATE_MANY,
    Batch,
    Message,
    PlanCancel,
    PlanProgress,
    PlanRequest,
    TerminateMany,
)
from swell_manager.admission import Refusal, check, fill, only_joins, same_plan
from swell_manager.answers import Answers, KeptAnswer, digest, record_id
from swell_manager.commands import Command
from swell_manager.plans import KeptPlan, PlanRun, without_keys
from swell_manager.resizing import Resizing
from swell_manager.termination import absent, living, summary, terminate, until_available

log = logging.getLogger(__name__)

#: Plans that ended and are remembered, the newest.
KEEP_PLANS = 200
#: Commands that may be under way before no more are read.
MOST_COMMANDS = 256
#: Askers that may repeat one command while it is carried out.
MOST_REPEATS = 256


class Control:
    """The `Host` of the shard `control`.

    Args:
        client: asks agents, reads records.
        recorder: counts plans.
    """

    def __init__(self, client: Client, recorder: Recorder) -> None:
        self._client = client
        self._recorder = recorder
        self._consumer: Consumer | None = None
        self._group: asyncio.TaskGroup | None = None
        self._shard: OwnedShard | None = None
        self._runs: dict[str, PlanRun] = {}
        self._ended: dict[str, KeptPlan] = {}
        self._next_keys: dict[str, int] = {}
        self._types: set[str] = set()
        #: What is under way: plans, and commands that take more than a turn of the loop.
        self._tasks: set[asyncio.Task[None]] = set()
        #: Those of them that are ending agents now.
        self._ending: set[asyncio.Task[None]] = set()
        self._answers = Answers()
        #: Commands that came again while they are carried out, by their record's id.
        self._repeats: dict[str, list[Command]] = {}
        self._commands = 0
        self._resizing = Resizing(client, self._answers, self._runs, self)

    def attach(self, consumer: Consumer, group: asyncio.TaskGroup) -> None:
        """Give the consumer whose host this is, and the group in which plans run."""
        self._consumer = consumer
        self._group = group

    @property
    def leading(self) -> bool:
        """Whether this manager owns `control`."""
        return self._shard is not None

    # Host: what the consumer tells us.

    async def opened(self, shard: OwnedShard, inherited: Inheritance) -> None:
        """See `Host.opened`: go on with every plan that has not ended."""
        self._shard = shard
        self._answers.load(inherited.records)
        kept = []
        for id, record in inherited.records.items():
            kind, _, name = id.partition("/")
            if kind == "plan":
                kept.append(decode(record, KeptPlan))
            elif kind == "next":
                self._next_keys[name] = decode(record, int)
        for plan in sorted(kept, key=lambda plan: plan.began_ms):
            if plan.progress.state == "running":
                log.info("plan taken over", extra={"plan": plan.request.id, "waves_ended": plan.since.waves})
                run = self._run_of(plan)
                run.resumed = True
                self._start(run)
            else:
                self._ended[plan.request.id] = without_keys(plan)

    def deliver(self, entry: Entry, batch: Batch) -> None:
        """See `Host.deliver`."""
        assert self._consumer is not None
        for index, message in enumerate(batch.messages):
            if entry.flags[index]:
                continue  # Settled by the leader before us.
            command = Command(entry, index, message, self._consumer.settler)
            if message.name == PLAN:
                self._plan(command)
            elif message.name == PLAN_CANCEL:
                self._cancel(command)
            elif message.name == TERMINATE_MANY:
                self._terminate(command)
            elif message.name == RESIZE:
                self._resizing.take(command)
            else:
                command.refuse("unknown_handler", f"the manager has no command {message.name!r}")

    def poisoned(self, entry: Entry, index: int, message: Message, reason: str) -> None:
        """Give a command up whose handling killed one manager after another; see `swell.bus.careful`."""
        assert self._consumer is not None
        Command(entry, index, message, self._consumer.settler).refuse("poison", reason)

    async def closing(self, shard: OwnedShard) -> None:
        """See `Host.closing`: checkpoints are recorded, the rest is the next leader's.

        Agents that are being ended are ended by us: the next leader would begin again, find none, and answer that.
        """
        for run in self._runs.values():
            run.keep()
        ending = set(self._ending)
        tasks = self._drop(ending) | ending
        if tasks:
            await asyncio.wait(tasks)

    def lost(self, shard: OwnedShard) -> None:
        """See `Host.lost`."""
        self._drop()

    def room(self, rank: int) -> bool:
        """See `Host.room`."""
        return self._commands < MOST_COMMANDS

    def _drop(self, spared: Collection[asyncio.Task[None]] = ()) -> set[asyncio.Task[None]]:
        """Lead no more; returns what is still ending. What is `spared` goes on."""
        tasks = self._tasks.difference(spared)
        for task in tasks:
            task.cancel()
        self._shard = None
        self._runs.clear()
        self._ended.clear()
        self._next_keys.clear()
        self._answers.clear()
        return tasks

    # Plans.

    def _plan(self, command: Command) -> None:
        request = command.body(PlanRequest)
        if request is None:
            return
        if request.id in self._runs or request.id in self._ended:
            self._join(command, request)
            return
        if only_joins(request):
            command.refuse("unknown_plan", f"there is no plan {request.id!r}", plan=request.id)
            return
        try:
            check(request)
        except Refusal as refusal:
            command.refuse("wrong_body", str(refusal), field=refusal.field)
            return
        if request.type in self._types:
            self._admit(command, request)
        else:
            self.begin(self.take_plan(command, request))

    async def take_plan(self, command: Command, request: PlanRequest) -> None:
        """Admit a plan of a type we have not seen yet, if it may be one."""
        if not await self.is_known(command, request.type):
            return
        if request.id in self._runs or request.id in self._ended:
            self._join(command, request)  # It came twice, and the other was quicker.
        else:
            self._admit(command, request)

    async def is_known(self, command: Command, type: str) -> bool:
        """Whether a type may be one; if workers are there and none of them runs it, the command is refused.

        While no worker is there at all a plan is taken: its agents wait for one within their time limit.
        """
        workers = await until_available(self._client.workers)
        self._types = {type for worker in workers for type in worker.types}
        if not workers or type in self._types:
            return True
        reason = f"no worker runs agents of type {type!r}, only {', '.join(sorted(self._types))}"
        command.refuse("unknown_type", reason, type=type)
        return False

    def _admit(self, command: Command, request: PlanRequest) -> None:
        """Take a plan: its record, its type's count and the end of its message are one settle."""
        assert self._shard is not None
        asked = digest(request)
        request, next_key = fill(request, self._next_keys.get(request.type, 0))
        self._next_keys[request.type] = next_key
        self._shard.record(f"next/{request.type}", encode(next_key))
        progress = PlanProgress(request.id, request.type, "running", request.count)
        waiting = [command.waiter] if command.waiter is not None else []
        run = self._run_of(KeptPlan(request, progress, waiting, now_ms(), digest=asked))
        run.keep()
        command.reply(PROGRESS, raw(run.progress()))
        command.ack()
        self._start(run)

    def _join(self, command: Command, request: PlanRequest) -> None:
        """The plan is known: whoever asks for it waits for it, or hears how it ended."""
        run = self._runs.get(request.id)
        kept = run.kept if run is not None else self._ended[request.id]
        other = not only_joins(request) and kept.digest not in ("", digest(request))
        if other or not same_plan(kept.request, request):
            known = f"{kept.request.count} agents of type {kept.request.type!r}"
            reason = f"id: plan {request.id!r} is known, of {known}, and was asked for otherwise; choose another id"
            command.refuse("wrong_body", reason, field="id")
        elif run is None:
            command.reply(DONE, raw(kept.progress))
            command.ack()
        elif command.waiter is not None and not run.join(command.waiter):
            command.refuse("too_many", f"too many processes wait for plan {request.id!r} already")
        else:
            command.ack()

    def _cancel(self, command: Command) -> None:
        request = command.body(PlanCancel)
        if request is None:
            return
        if not self._key_fits(command, request, request.key):
            return
        id = record_id(command, request.key)
        run = self._runs.get(request.id)
        if run is None:
            ended = self._ended.get(request.id)
            if ended is None:
                command.refuse("unknown_plan", f"there is no plan {request.id!r}", plan=request.id)
            elif self._answers.find(id) is not None:
                command.done(ended.progress)  # It was this command that ended it.
            else:
                state = ended.progress.state
                command.refuse("plan_ended", f"plan {request.id!r} has ended: {state}", plan=request.id, state=state)
            return
        if command.waiter is not None and not run.join(command.waiter):
            command.refuse("too_many", f"too many processes wait for plan {request.id!r} already")
            return
        run.cancel(request.on_abort)
        if request.key:
            assert self._shard is not None
            self._answers.keep(self._shard, id, KeptAnswer(digest(request), now_ms()))
        command.ack()

    def _run_of(self, kept: KeptPlan) -> PlanRun:
        assert self._shard is not None
        assert self._consumer is not None
        return PlanRun(kept, self._shard, self._consumer.settler, self._client, self._recorder)

    def _start(self, run: PlanRun) -> None:
        self._runs[run.id] = run
        self._begin(self._carry_out(run))

    async def _carry_out(self, run: PlanRun) -> None:
        await run.run()
        # No await from here on: the record of the end and our memory of it change together.
        del self._runs[run.id]
        self._ended[run.id] = without_keys(run.kept)
        while len(self._ended) > KEEP_PLANS:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            assert self._shard is not None
            self._shard.record(f"plan/{oldest}", None)

    # Ending agents.

    def _terminate(self, command: Command) -> None:
        request = command.body(TerminateMany)
        if request is None:
            return
        if sum((bool(request.ids), bool(request.type), bool(request.plan))) != 1:
            command.refuse("wrong_body", "give exactly one of ids, type and plan", field="ids")
            return
        if not self._key_fits(command, request, request.key):
            return
        id = record_id(command, request.key)
        kept = self._answers.find(id)
        if kept is not None and kept.result is not None:
            command.done(kept.result)
        elif id not in self._repeats:
            self._repeats[id] = []
            self.begin(self._carry_out_terminate(command, request, id)).add_done_callback(
                lambda _: self._repeats.pop(id, None)
            )
        elif len(self._repeats[id]) < MOST_REPEATS:
            self._repeats[id].append(command)
        else:
            command.refuse("too_many", f"too many processes wait for what has the key {request.key!r} already")

    def _key_fits(self, command: Command, request: Struct, key: str) -> bool:
        """Whether a key may be one, and did not come with another request; else the command is refused."""
        kept = self._answers.find(record_id(command, key))
        if key and not SEGMENT.match(key):
            command.refuse("wrong_body", f"key: {key!r} is not 1 to 128 letters, digits, '.', '_' or '-'", field="key")
        elif kept is not None and kept.digest != digest(request):
            command.refuse("wrong_body", f"key: {key!r} came with another request; choose another key", field="key")
        else:
            return True
        return False

    async def _carry_out_terminate(self, command: Command, request: TerminateMany, id: str) -> None:
        """End the agents; acked only then, so that a leader that dies in between leaves it to the next.

        Whom we end is on record before, so that the next leader counts those that we ended.
        """
        shard, kept = self._shard, self._answers.find(id)
        assert shard is not None
        assert self._consumer is not None
        dead_leaders = kept is not None
        if kept is None:
            kept = await self._targets(request)
            self._answers.keep(shard, id, kept)
            await self._consumer.settler.flush()
        task = asyncio.current_task()
        assert task is not None
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        ended, failed = await terminate(self._client, kept.targets, request.plan)
        if dead_leaders:
            lived = set(kept.targets).difference(kept.absent)
            gone = [one for one, error in failed.items() if one in lived and isinstance(error, UnknownAgent)]
            ended += len(gone)
            failed = {one: error for one, error in failed.items() if one not in gone}
        result = summary(kept.before + ended, failed)
        if request.key:
            self._answers.keep(shard, id, KeptAnswer(kept.digest, kept.at_ms, result=result))
        else:
            self._answers.forget(shard, id)
        for one in (command, *self._repeats.pop(id, ())):
            one.done(result)

    async def _targets(self, request: TerminateMany) -> KeptAnswer:
        """Whom a request is about; a plan that runs is ended first."""
        kept = KeptAnswer(digest(request), now_ms())
        run = self._runs.get(request.plan)
        if run is not None:
            # It would start more behind our back. What it rolls back is what was asked to be ended.
            run.cancel("rollback")
            await run.over.wait()
            kept.before = run.rolled_back
        if request.ids:
            kept.targets = list(dict.fromkeys(request.ids))
            kept.absent = await absent(self._client, kept.targets)
        else:
            kept.targets = await living(self._client, type=request.type, plan=request.plan)
        return kept

    # Tasks.

    def begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Carry out a command beside the others; too many at once stop the reading."""
        self._commands += 1
        task = self._begin(work)
        task.add_done_callback(self._command_ended)
        return task

    def _command_ended(self, _: asyncio.Task[None]) -> None:
        self._commands -= 1
        assert self._consumer is not None
        self._consumer.resume()

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        assert self._group is not None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
