r"""An agent's instance in its worker: born, started anew when it crashed or moved here, ended.

    $spawn --started--> ready --Crash in a handler, or `started` failed at a restart--> waits --started--> ready
       |                  |                                                               |
       +--raised--> failed+--$terminate--> stopped      more crashes than allowed--------+--> failed

A handler's other errors are its message's affair alone (`cell.py`): no sender of bad input can end an agent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from msgspec import Raw

from swell.agent import Agent
from swell.app import AgentType
from swell.backoff import RESTART
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import now_ms
from swell.wire import AgentRecord, AgentState, Series
from swell_worker.executor import BodyErrors, Failed, TimeLimit, decoded, handler_failed, wrong_body
from swell_worker.kept_state import KeptState
from swell_worker.pools import made

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Life:
    """One hosted agent without its mailbox.

    Attributes:
        id: `type/key`.
        type: what its app declares of it.
        shard: where it lives.
        record: its lasting state.
        task: runs while there is something to do.
        busy: whether one of its handlers is running; `runs` counts them. The watchman looks at both.
        watched: which run the watchman saw last, and since when (its own clock, seconds).
        timed_out: the run that the watchman cancelled, 0 if none; `cancels` counts how often it did, for a handler may
            take no notice.
        unwanted: the place of the message that is being handled, and that somebody cancelled.
        asked: the message that is being handled, if somebody waits for its result.
    """

    __slots__ = (
        "_agent",
        "_fleet",
        "_kept",
        "asked",
        "busy",
        "cancels",
        "id",
        "record",
        "runs",
        "shard",
        "task",
        "timed_out",
        "type",
        "unwanted",
        "watched",
    )

    def __init__(self, fleet: Fleet, shard: OwnedShard, id: str, type: AgentType, record: AgentRecord) -> None:
        self.id = id
        self.type = type
        self.shard = shard
        self.record = record
        self.task: asyncio.Task[None] | None = None
        self.busy = False
        self.runs = 0
        self.watched = (0, 0.0)
        self.timed_out = 0
        self.cancels = 0
        self.unwanted: tuple[Entry, int] | None = None
        self.asked: Series | None = None
        self._agent: Agent | None = None
        self._fleet = fleet
        self._kept: KeptState | None = None

    # Running what the user wrote.

    async def _limited(self, work: Awaitable[_T]) -> _T:
        """Await a handler under the watchman's eyes; its cancellation comes out as a `TimeLimit`.

        What else it raises comes out as an `Exception`, so that no handler can end its worker.
        """
        self.runs += 1
        self.busy = True
        try:
            return await work
        except asyncio.CancelledError:
            raise self._cancelled() from None
        except (Exception, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        finally:
            self.busy = False

    def _cancelled(self) -> Exception:
        """A cancellation in a handler: a time-out if it is the watchman's, a failure if the handler made it itself.

        Raises:
            asyncio.CancelledError: this task is to end.
        """
        self.busy = False
        ran_out = self.timed_out == self.runs
        if self._calm() > 0:
            return TimeLimit() if ran_out else RuntimeError("it cancelled its own task")
        return TimeLimit() if ran_out else RuntimeError("something that it awaited was cancelled")

    def interrupt(self) -> None:
        """Cancel the handler that runs, or the wait before it is tried again; a start is left alone."""
        if self.task is not None and self._agent is not None:
            self.cancels += 1
            self.task.cancel()

    def calm(self) -> None:
        """Take back all cancellations of our task; see `_calm`."""
        self._calm()

    def _calm(self) -> int:
        """Take back all cancellations of our task but those of the worker itself.

        They are the watchman's, also those that an earlier handler took no notice of, and what a handler did to the
        task that it runs in.

        Returns:
            how many were not the watchman's.

        Raises:
            asyncio.CancelledError: this task is to end: the shard is not ours any more, or the worker stops.
        """
        task = asyncio.current_task()
        assert task is not None
        others = task.cancelling() - self.cancels
        if others > 0 and (self._fleet.ending or not self.shard.reading):
            raise asyncio.CancelledError
        while task.cancelling():
            task.uncancel()
        self.timed_out = self.cancels = 0
        return others

    async def _wait(self, wait_s: float) -> None:
        """Sleep; a cancellation that a handler left behind in its task ends that early, and nothing else."""
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            self._calm()

    def undo(self) -> None:
        """The handler's message is given up although it returned: its result cannot be sent."""
        if self._kept is not None and self._agent is not None:
            self._kept.undo(self._agent)

    # Birth, crashes, end.

    async def _begin(self, args: Raw) -> Failed | None:
        """Make the agent and run `started`; what went wrong, or None."""
        kept = self._kept
        agent: Agent | None = None
        try:
            decode = self.type.decode_args
            try:  # Before an instance is taken: one that was prepared would be thrown away.
                arguments = () if decode is None else (decoded(decode, args),)
            except BodyErrors as error:
                return wrong_body(self.type.name, "started", error)
            agent = await self._instance()
            agent.id = self.id
            agent._client = self._fleet.client
            # One object for all agents; and not by way of us: an instance is gone when we let go of it.
            agent._emit = self._fleet.emitter
            if kept is not None:
                kept.put_back(agent)
                agent._save = partial(kept.save, agent)
            await self._limited(agent.started(*arguments))
            if kept is not None:
                kept.save(agent)
        except Exception as error:  # noqa: BLE001 - whatever `started` raises becomes the agent's state
            failed = handler_failed("started", 1, error, self.type.timeout)
        else:
            # Handed over or lost meanwhile, it is another worker's affair.
            self._agent = agent if self.shard.reading else None
            return None
        finally:
            if agent is not None and self._agent is not agent:
                agent._swell_dropped()
        failed.kind = "start_failed"
        return failed

    async def _instance(self) -> Agent:
        """An instance that is set up as far as it can be without being anybody: a warm one, or one made now."""
        type, fleet = self.type, self._fleet
        began = time.monotonic_ns()
        agent = fleet.pools.take(type)
        warm = agent is not None
        if agent is None:
            agent = await self._limited(made(type))
        if type.prepares:
            took_us = (time.monotonic_ns() - began) // 1000
            fleet.recorder.latency("warm_start" if warm else "cold_start", type.name).record(took_us)
        return agent

    async def _restart(self) -> None:
        """Start an agent that another worker hosted before, or that was let go, from its record."""
        unreadable = self._kept.unreadable() if self._kept is not None else ""
        if unreadable:
            self._fail(unreadable)
            return
        failed = await (self._begin_again() if self.type.idle_after is None else self._begin_passive())
        if failed is not None:
            await self._revive(failed)

    async def _begin_passive(self) -> Failed | None:
        """Start an agent that was let go: no restart that counts, and nothing of its record changes."""
        async with self._fleet.restarts:
            if not self.shard.reading:
                return None
            failed = await self._begin(self.record.args)
        if failed is None:
            self._fleet.recorder.count("woken", self.type.name)
        return failed

    async def passivate(self) -> None:
        """Let the instance go, after `passivated`; the next message starts another one. Nothing else of it runs."""
        agent, self._agent = self._agent, None
        assert agent is not None
        try:
            await self._limited(agent.passivated())
            if self._kept is not None:
                self._kept.save(agent)
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises, it is let go
            failed = handler_failed("passivated", 1, error, self.type.timeout)
            log.warning("agent was let go all the same: %s", failed.reason, extra={"agent": self.id})
        finally:
            agent._swell_dropped()
        self._fleet.recorder.count("passivated", self.type.name)

    def drop(self) -> None:
        """Let the instance go at once, if there is one."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent._swell_dropped()

    @property
    def running(self) -> bool:
        """Whether there is an instance."""
        return self._agent is not None

    async def _begin_again(self) -> Failed | None:
        """Start it anew when it is its turn; what went wrong, or None."""
        async with self._fleet.restarts:
            if not self.shard.reading:
                return None  # Handed over before its turn came: the next owner starts it.
            failed = await self._begin(self.record.args)
        self.record.restarts += 1
        if failed is None:
            self._keep("ready")
            self._fleet.recorder.count("restarted", self.type.name)
        return failed

    async def _revive(self, failed: Failed) -> None:
        """It crashed: a new instance after a wait, as often as its type allows, then it is `failed`.

        When this returns, the agent runs, or it has failed, or nothing more may be begun in its shard.
        """
        record, limit = self.record, self.type
        while True:
            self.drop()
            self._fleet.recorder.count("crashed", self.type.name)
            if failed.kind == "wrong_body":  # What it was spawned with fits its class no more: no wait mends that.
                self._fail(failed.reason)
                return
            recent = recent_ms(record.restarted_ms, now_ms(), limit.restart_window)
            if len(recent) >= limit.max_restarts:
                times = f"{len(recent)} times within {limit.restart_window:g} s"
                self._fail(f"it crashed after it had been started again {times}: {failed.reason}")
                return
            log.warning("agent crashed, it is started again: %s", failed.reason, extra={"agent": self.id})
            record.restarted_ms = (*recent, now_ms())
            self._fleet.keep(self)
            await self._wait(RESTART.wait_s(len(recent) + 1))
            if time.monotonic_ns() >= self.shard.trusted_until_ns:
                return
            again = await self._begin_again()
            if again is None:
                return
            failed = again

    def _fail(self, reason: str) -> None:
        """Give the agent up; what waits for it, and comes later, is dead."""
        log.error("agent has failed: %s", reason, extra={"agent": self.id})
        self._keep("failed", reason)
        self._fleet.recorder.count("failed", self.type.name)

    async def _stop(self) -> None:
        """Run `stopped` and end."""
        self.record.state = "terminating"
        agent, self._agent = self._agent, None
        reason = ""
        try:
            if agent is not None:
                await self._limited(agent.stopped())
        except Exception as error:  # noqa: BLE001 - an agent that fails to stop well is stopped all the same
            reason = handler_failed("stopped", 1, error, self.type.timeout).reason
        finally:
            if agent is not None:
                agent._swell_dropped()
        self._keep("stopped", reason)
        if self._kept is not None:
            self._kept.delete()
        self._fleet.recorder.count("terminated", self.type.name)

    def _keep(self, state: AgentState, reason: str = "") -> None:
        """Enter a lasting state; it is written with whatever ends in this turn of the loop."""
        record = self.record
        record.state = state
        record.reason = reason
        record.since_ms = now_ms()
        if state in ("stopped", "failed"):
            self._fleet.events.gone(self)
            self._fleet.oversight.holds.gone(cast("Cell", self))
        self._fleet.keep(self)


def recent_ms(times_ms: Sequence[int], now: int, window_s: float) -> list[int]:
    """Those of these times (milliseconds since 1970) that lie within the window before `now`.

    A clock that was set back makes them lie ahead: those count as long as they are not further off than the window.
    """
    return [at for at in times_ms if abs(now - at) < window_s * 1000]
