"""One plan on its way: agents are started by waves, progress is told, and every step that matters is recorded first.

    accepted --recorded--> running --all ended--------------------------------> done
                             |  too many failed, or cancelled
                             +--verdict recorded--> winding up --recorded--> aborted, cancelled
                                                    rollback: what the plan started is terminated
                                                    keep:     what is starting may end

The record says enough for any manager to go on: a worker answers a repeated `$spawn` of the same plan with "already
there", so the next leader repeats what was begun behind the last checkpoint; a verdict is carried out again from its
beginning, which changes nothing the second time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec
from msgspec import Raw, field

from swell.bus.settler import Settler
from swell.bus.shard import OwnedShard
from swell.client import Client
from swell.clock import now_ms
from swell.codec import decode, encode, raw
from swell.errors import SwellError, WireError
from swell.histogram import Histogram
from swell.instruments import Recorder
from swell.wire import (
    DONE,
    PROGRESS,
    SPAWN,
    OnAbort,
    PlanProgress,
    PlanRecord,
    PlanState,
    SpawnAgent,
    Spawned,
)
from swell_manager.calls import Answer, Question, ask_each
from swell_manager.termination import living, roll_back
from swell_manager.waves import Checkpoint, Waves

log = logging.getLogger(__name__)

#: Progress is told, and a checkpoint recorded, at most this often, seconds (a wave's end is told at once).
TELL_EVERY_S = 0.1
#: Failed agents that the progress names.
NAMED_FAILURES = 10
#: Processes that may wait for one plan.
MOST_WAITING = 256


class KeptPlan(PlanRecord):
    """A plan's record with what only managers read.

    Attributes:
        since: where the next leader goes on.
        verdict: `aborted` or `cancelled` once that is decided, else `running`.
        begun: agents begun when the verdict was given.
        digest: of the request as it came, to tell another one under the same id.
    """

    since: Checkpoint = field(default_factory=Checkpoint)
    verdict: PlanState = "running"
    begun: int = 0
    digest: str = ""


class PlanRun:
    """A plan in the hands of the manager that leads.

    Args:
        kept: its record; `request.keys` is filled in.
        shard: `control`, while it is ours; what is recorded there after it was lost is never written.
        settler: writes records and replies.
        client: asks the agents.
        recorder: counts plans by how they ended.

    Attributes:
        kept: the record, kept up to date.
        rolled_back: agents that were terminated because the plan did not go through.
        over: set when the plan has ended.
        resumed: whether another manager began it.
    """

    def __init__(self, kept: KeptPlan, shard: OwnedShard, settler: Settler, client: Client, recorder: Recorder) -> None:
        self.kept = kept
        self.rolled_back = 0
        self.over = asyncio.Event()
        self.resumed = False
        self._shard = shard
        self._settler = settler
        self._client = client
        self._recorder = recorder
        self._waves = Waves(kept.request, kept.since)
        self._reason = kept.progress.reason
        settled = set(self._ids(range(self._waves.begun)))
        self._failures = {id: reason for id, reason in kept.progress.failures.items() if id in settled}
        self._latency = Histogram()
        self._began_at = time.monotonic() - max(0, now_ms() - kept.began_ms) / 1000
        self._news = asyncio.Event()
        self._changed = self._wave_ended = self._unkept = False
        self._told_at = self._kept_at = time.monotonic()

    @property
    def id(self) -> str:
        """The plan's id."""
        return self.kept.request.id

    def join(self, waiter: tuple[str, int]) -> bool:
        """One more process waits for progress and the end. False if too many do already."""
        if waiter in self.kept.waiting:
            return True
        if len(self.kept.waiting) >= MOST_WAITING:
            return False
        self.kept.waiting.append(waiter)
        self.keep()
        self._settler.replies.add(*waiter, PROGRESS, raw(self.progress()))
        return True

    def cancel(self, on_abort: OnAbort) -> None:
        """End it as an abort would; without effect if that is decided already."""
        self._judge("cancelled", "cancelled", on_abort)

    def keep(self) -> None:
        """Record it as it is now, with the messages that end in this turn of the loop."""
        self.kept.progress = self.progress()
        self.kept.since = self._waves.checkpoint
        self._shard.record(f"plan/{self.id}", encode(self.kept))
        self._unkept = False
        self._kept_at = time.monotonic()

    def progress(self, state: PlanState = "running") -> PlanProgress:
        """Where it is now."""
        waves = self._waves
        return PlanProgress(
            id=self.id,
            type=self.kept.request.type,
            state=state,
            count=waves.count,
            wave=waves.wave,
            waves=waves.waves,
            ready=waves.ready,
            failed=waves.failed,
            in_flight=waves.in_flight if state == "running" else 0,
            elapsed_s=round(time.monotonic() - self._began_at, 6),
            ready_p95_s=self._latency.quantile_us(0.95) / 1e6,
            reason=self._reason,
            failures=self._failures,
        )

    async def run(self) -> None:
        """Carry it out to its end. Cancelled, it stops as it is; the next leader goes on from the record."""
        await self._settler.flush()
        if self.kept.verdict == "running":
            await self._start_agents()
        verdict = self.kept.verdict
        if verdict != "running":
            await self._wind_up()
        self._finish("done" if verdict == "running" else verdict)

    # Starting agents.

    async def _start_agents(self) -> None:
        """Begin agents as the waves allow, until all have ended or a verdict stops it."""
        waves, kept = self._waves, self.kept
        asking: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while not waves.over:
                if waves.aborting:
                    self._judge("aborted", self._why(), kept.request.on_abort)
                judged = kept.verdict != "running"
                if judged and (kept.request.on_abort == "rollback" or not waves.in_flight):
                    break
                chunk = range(0) if judged or self._lapsed else waves.begin(time.monotonic())
                if chunk:
                    task = group.create_task(self._ask(chunk))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
                else:
                    await self._wait_for_news()
            for task in asking:
                task.cancel()
        if waves.aborting:
            self._judge("aborted", self._why(), kept.request.on_abort)

    @property
    def _lapsed(self) -> bool:
        """Whether the lease is not trusted now: then nothing is begun, the next leader may be rolling back already."""
        return time.monotonic_ns() >= self._shard.trusted_until_ns

    async def _ask(self, chunk: range) -> None:
        """Have the agents of these indexes started, and hear of each how that went."""
        request = self.kept.request
        body = raw(SpawnAgent(request.id, request.args))
        ids = self._ids(chunk)
        began = time.monotonic()

        def ended(at: int, answer: Answer) -> None:
            self._heard(chunk[at], ids[at], answer, time.monotonic() - began)

        await ask_each(self._client, ids, Question(SPAWN, body, request.timeout_s), ended)

    def _heard(self, index: int, id: str, answer: Answer, took_s: float) -> None:
        """An agent has answered, or will not."""
        problem = answer if isinstance(answer, SwellError) else None
        if isinstance(answer, Raw):
            try:
                # One that was there already says nothing of how long agents take to start.
                if not decode(answer, Spawned).already:
                    self._latency.record(int(took_s * 1e6))
            except WireError as error:
                problem = error
        if problem is not None and len(self._failures) < NAMED_FAILURES:
            self._failures[id] = str(problem)
        self._changed = True
        if self._waves.end(index, ready=problem is None):
            self._wave_ended = self._unkept = True
        self._news.set()

    def _ids(self, indexes: range) -> Sequence[str]:
        prefix = self.kept.request.type + "/"
        return [prefix + key for key in self.kept.request.keys[indexes.start : indexes.stop]]

    async def _wait_for_news(self) -> None:
        """Tell what is new, then wait for more, for the end of a pause, or until something may be told again."""
        now = time.monotonic()
        if self._wave_ended or (self._changed and now >= self._told_at + TELL_EVERY_S):
            self._tell()
        if self._unkept and now >= self._kept_at + TELL_EVERY_S:
            self.keep()
        wake = [self._waves.wake_at] if self._waves.wake_at is not None else []
        wake += [self._told_at + TELL_EVERY_S] if self._changed else []
        wake += [self._kept_at + TELL_EVERY_S] if self._unkept else []
        # Either the lease is renewed in time after all, or it is lost and this task with it.
        wake += [now + TELL_EVERY_S] if self._lapsed else []
        self._news.clear()
        try:
            async with asyncio.timeout(min(wake) - now if wake else None):
                await self._news.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        """Tell all who wait how far it is."""
        self._changed = self._wave_ended = False
        self._told_at = time.monotonic()
        if self.kept.waiting:
            body = raw(self.progress())
            for process, call in self.kept.waiting:
                self._settler.replies.add(process, call, PROGRESS, body)

    # Ending.

    def _judge(self, verdict: PlanState, reason: str, on_abort: OnAbort) -> None:
        """Decide, once, that the plan ends before all is ready; recorded, so that the next leader does the same."""
        kept = self.kept
        if kept.verdict != "running" or self.over.is_set():
            return
        kept.verdict = verdict
        kept.begun = self._waves.begun
        kept.request = msgspec.structs.replace(kept.request, on_abort=on_abort)
        self._reason = reason
        self.keep()
        self._news.set()
        log.warning("plan ends early", extra={"plan": self.id, "verdict": verdict, "reason": reason})

    def _why(self) -> str:
        waves = self._waves
        first = next((f"; {id}: {reason}" for id, reason in self._failures.items()), "")
        ended = waves.ready + waves.failed
        ratio = self.kept.request.abort_ratio
        return f"{waves.failed} of {ended} agents failed, abort_ratio is {ratio:g} of {waves.count}{first}"

    async def _wind_up(self) -> None:
        """Do what the verdict asks; it is on record before anything of it is done."""
        await self._settler.flush()
        kept = self.kept
        if kept.request.on_abort == "rollback":
            ended, failed = await roll_back(self._client, self.id, self._ids(range(kept.begun)))
            self.rolled_back = ended
            self._reason += f"; rolled back {ended} agents"
            if failed:
                id, error = next(iter(failed.items()))
                self._reason += f", {len(failed)} did not confirm that they ended ({id}: {error})"
        elif self.resumed:
            # The answers went to the manager before us; the records know who is there.
            self._waves.ready = len(await living(self._client, plan=self.id))

    def _finish(self, state: PlanState) -> None:
        """Record the end and tell it, in one turn; the keys are not needed any more."""
        kept = self.kept
        waiting, kept.waiting = kept.waiting, []
        kept.request = msgspec.structs.replace(kept.request, keys=[])
        kept.progress = self.progress(state)
        self.over.set()
        self._shard.record(f"plan/{self.id}", encode(kept))
        body = raw(kept.progress)
        for process, call in waiting:
            self._settler.replies.add(process, call, DONE, body)
        self._recorder.count("plans_done" if state == "done" else "plans_aborted", kept.request.type)
        log.info("plan ended", extra={"plan": self.id, "state": state, "ready": kept.progress.ready})


def without_keys(plan: KeptPlan) -> KeptPlan:
    """A plan that has ended, as it is remembered: a plan of 10,000 agents holds half a megabyte of names."""
    return msgspec.structs.replace(plan, request=msgspec.structs.replace(plan.request, keys=[]))
