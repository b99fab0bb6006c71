"""Resizing a type: as many agents as were asked for, by starting the difference, or ending it, in waves.

    $resize --> wait for plans of the type --> count who is there --fewer--> a plan, recorded as the command ends
                                                       |--as many--> done
                                                       |--more--> whom to end, recorded --wave--> ... --> done
                                                       +--more, and too many cannot end--> aborted, nobody ended

It says what is to be, not what is to be done, so a leader that dies in between leaves it to the next, who counts again;
only whom to end is remembered, for some of them may have been asked to end already.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Protocol
from weakref import WeakValueDictionary

from swell.client import Client
from swell.clock import now_ms
from swell.codec import raw
from swell.errors import SwellError, UnknownAgent
from swell.registry import AgentView, agents_of
from swell.wire import DONE, PROGRESS, PlanProgress, PlanRequest, PlanState, ResizeRequest
from swell_manager.admission import MAX_AGENTS, Refusal, check
from swell_manager.answers import Answers, KeptAnswer, digest, record_id
from swell_manager.commands import Command
from swell_manager.plans import NAMED_FAILURES, PlanRun
from swell_manager.termination import silent_shards, terminate, until_available

#: Agents that do not count: they have ended, or are about to.
_GOING = ("stopped", "failed", "terminating")
#: Agents that lose nothing and hold up nobody when they end.
_IDLE = ("ready", "idle", "passive")
#: Agents that are held; what waits for one of them, and an end behind it, waits until it is resumed.
_HELD = ("paused", "quarantined", "draining")


class Leader(Protocol):
    """What the manager that leads does for us."""

    def begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Carry a command out beside the others."""
        ...

    async def is_known(self, command: Command, type: str) -> bool:
        """Whether a worker runs a type, or none lives; else the command is refused."""
        ...

    async def take_plan(self, command: Command, request: PlanRequest) -> None:
        """Take a plan in the place of the command that asked for it, or refuse that."""
        ...


class Resizing:
    """Resizes types, one request for a type at a time.

    Args:
        client: asks agents, reads records.
        answers: where it is remembered whom to end.
        runs: the plans under way.
        leader: carries commands and plans out.
    """

    def __init__(self, client: Client, answers: Answers, runs: Mapping[str, PlanRun], leader: Leader) -> None:
        self._client = client
        self._answers = answers
        self._runs = runs
        self._leader = leader
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def take(self, command: Command) -> None:
        """Begin to carry a request out, or refuse it."""
        request = command.body(ResizeRequest)
        if request is None:
            return
        try:
            if not 0 <= request.count <= MAX_AGENTS:
                raise Refusal("count", f"{request.count} is not between 0 and {MAX_AGENTS}")
            check(_plan_of(command, request, 1))
        except Refusal as refusal:
            command.refuse("wrong_body", str(refusal), field=refusal.field)
            return
        self._leader.begin(self._carry_out(command, request))

    async def _carry_out(self, command: Command, request: ResizeRequest) -> None:
        id = record_id(command, "")
        began = time.monotonic()
        if not await self._leader.is_known(command, request.type):
            return
        command.reply(PROGRESS, raw(_progress(command, request, "running", began)))
        lock = self._locks.setdefault(request.type, asyncio.Lock())
        async with lock:
            kept = self._answers.find(id)
            if kept is None:
                there = await self._there(request.type)
                if len(there) < request.count:
                    await self._leader.take_plan(command, _plan_of(command, request, request.count - len(there)))
                    return
                if len(there) == request.count:
                    command.done(_progress(command, request, "done", began))
                    return
                ending = chosen(there, len(there) - request.count)
                if any(map(_stuck, ending)):
                    command.done(_unable(_progress(command, request, "aborted", began, len(ending)), there, ending))
                    return
                kept = KeptAnswer(digest(request), now_ms(), [view.id for view in ending])
                self._answers.keep(command.entry.shard, id, kept)
                await command.recorded()
            await self._shrink(command, request, kept.targets, began)
            self._answers.forget(command.entry.shard, id)
            command.ack()

    async def _there(self, type: str) -> list[AgentView]:
        """The agents of a type that live and are not about to end, when no plan of the type is under way."""
        while True:
            while running := [run for run in self._of(type) if not run.over.is_set()]:
                await running[0].over.wait()
            # Behind this, the records name all agents whose birth was ever asked for.
            await silent_shards(self._client)
            views = await until_available(lambda: agents_of(self._client, type, None, 2 * MAX_AGENTS, ""))
            if not self._of(type):
                return [view for view in views if view.state not in _GOING]
            await asyncio.sleep(0)

    def _of(self, type: str) -> list[PlanRun]:
        return [run for run in self._runs.values() if run.kept.request.type == type]

    async def _shrink(self, command: Command, request: ResizeRequest, targets: Sequence[str], began: float) -> None:
        """End agents, wave by wave, and tell how far it is; one that has ended already counts."""
        failures: dict[str, SwellError] = {}
        size = request.wave_size
        progress = _progress(command, request, "running", began, len(targets))
        for start in range(0, len(targets), size):
            if start and request.pause_s:
                await asyncio.sleep(request.pause_s)
            wave = targets[start : start + size]
            _, failed = await terminate(self._client, wave)
            failures |= {id: error for id, error in failed.items() if not isinstance(error, UnknownAgent)}
            progress.wave = start // size + 1
            progress.failed = len(failures)
            progress.ready = start + len(wave) - len(failures)
            progress.elapsed_s = time.monotonic() - began
            progress.failures = {id: str(error) for id, error in list(failures.items())[:NAMED_FAILURES]}
            command.reply(PROGRESS, raw(progress))
        progress.state = "aborted" if failures else "done"
        if failures:
            id, error = next(iter(failures.items()))
            progress.reason = f"{len(failures)} agents did not confirm that they ended ({id}: {error})"
        command.reply(DONE, raw(progress))


def chosen(there: Sequence[AgentView], count: int) -> list[AgentView]:
    """Whom to end: the idle first, then the busy, the held, those that cannot end; among equals the highest keys."""

    def rank(view: AgentView) -> int:
        if view.state in _HELD:
            return 3 if _stuck(view) else 2
        return 0 if view.state in _IDLE and not view.queued else 1

    by_key = sorted(there, key=lambda view: (len(view.id), view.id), reverse=True)
    return sorted(by_key, key=rank)[:count]


def _stuck(view: AgentView) -> bool:
    """Whether an agent cannot end: an end comes behind what waits for it, and that waits until it is resumed."""
    return view.state in _HELD and view.queued > 0


def _unable(progress: PlanProgress, there: Sequence[AgentView], ending: Sequence[AgentView]) -> PlanProgress:
    """How a resize ends that would have to end agents that cannot."""
    stuck = [view for view in ending if _stuck(view)]
    progress.failed = len(stuck)
    progress.failures = {view.id: f"{view.state}, {view.queued} waiting" for view in stuck[:NAMED_FAILURES]}
    least = sum(map(_stuck, there))
    progress.reason = (
        f"{len(stuck)} of the {len(ending)} agents to end cannot: they are paused, quarantined or draining, and"
        f" messages wait for them; none was ended: resume them and resize again, or keep at least {least} agents"
    )
    return progress


def _name(command: Command, request: ResizeRequest) -> str:
    """The id of a resize, and of its plan: the same, however often the command is begun."""
    return f"resize-{request.type[:64]}-{command.entry.id}.{command.index}"


def _plan_of(command: Command, request: ResizeRequest, count: int) -> PlanRequest:
    return PlanRequest(
        id=_name(command, request),
        type=request.type,
        count=count,
        wave_size=request.wave_size,
        max_in_flight=request.max_in_flight,
        pause_s=request.pause_s,
        abort_ratio=request.abort_ratio,
        on_abort="keep",
        timeout_s=request.timeout_s,
        args=request.args,
    )


def _progress(command: Command, request: ResizeRequest, state: PlanState, began: float, count: int = 0) -> PlanProgress:
    return PlanProgress(
        _name(command, request),
        request.type,
        state,
        count,
        waves=math.ceil(count / request.wave_size),
        elapsed_s=time.monotonic() - began,
        ending=count > 0,
    )
