"""Warm agents: instances whose slow set-up is done before anybody asks for them.

    prepare (16 at a time, beside the work) --> ready: [instance] [instance] ... --take--> an agent is born or restarted
        ^                                                                          |
        +-- fewer than wanted: the pool's least, or as many as were taken lately, at most its most

What was taken lately is counted in windows of ten seconds, and the pool is as large as the larger of the present one
and the one before; what is too much is let go, one a second. A set-up that fails is tried again ever more slowly, and
until one succeeds agents are prepared when they are born, so that each plan is told what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from swell.agent import Agent
from swell.app import AgentType
from swell.backoff import RESTART
from swell.instruments import Recorder
from swell.logs import visible

if TYPE_CHECKING:
    from swell.app import App

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Instances of all types that are being prepared ahead of time at one moment.
MOST_PREPARING = 16
#: How long takes are counted together, seconds.
WINDOW_S = 10.0
#: How often a pool that has too many lets one go, seconds.
SHRINK_S = 1.0
#: How long a worker that stops lets its pools let go at least, however long its drain took, seconds.
LET_GO_S = 1.0


class Pool:
    """The warm instances of one type.

    Attributes:
        type: which.
        ready: prepared and not taken, the newest last.
        preparing: how many are being prepared.
        filled: whether it has had all that it wants, once; or cannot.
    """

    def __init__(self, type: AgentType) -> None:
        self.type = type
        self.ready: list[Agent] = []
        self.preparing = 0
        self.filled = False
        self.failures = 0
        self.not_before = 0.0
        self._window = time.monotonic()
        self._taken = 0
        self._taken_before = 0

    def take(self) -> Agent | None:
        """The instance that was prepared last, if there is one; either way somebody wanted one."""
        self._roll()
        self._taken += 1
        return self.ready.pop() if self.ready else None

    @property
    def wanted(self) -> int:
        """How many it should hold."""
        self._roll()
        least, most = self.type.warm
        return min(most, max(least, self._taken, self._taken_before))

    @property
    def missing(self) -> int:
        """How many have to be prepared; less than 0 if it has too many."""
        return self.wanted - len(self.ready) - self.preparing

    def failed(self, error: Exception) -> None:
        """A set-up has failed; those that were begun with it and fail, too, make the wait no longer."""
        self.filled = True
        now = time.monotonic()
        if now >= self.not_before:
            self.failures += 1
            self.not_before = now + RESTART.wait_s(self.failures)
            if self.failures == 1:
                log.warning("warm agent of type %s could not be prepared: %s", self.type.name, _said(error))

    def _roll(self) -> None:
        windows = int((time.monotonic() - self._window) / WINDOW_S)
        if windows:
            self._taken_before = self._taken if windows == 1 else 0
            self._taken = 0
            self._window += windows * WINDOW_S


class Pools:
    """The pools of one worker.

    Args:
        app: whose types.
        recorder: counts hits and misses.
    """

    def __init__(self, app: App, recorder: Recorder) -> None:
        self._pools = {type.name: Pool(type) for type in app.types.values() if type.warm[1]}
        self._recorder = recorder
        self._group: asyncio.TaskGroup | None = None
        self._preparing: set[asyncio.Task[None]] = set()
        self._discarding: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which instances are prepared; it begins at once."""
        if self._pools:
            self._group = group
            self._task = group.create_task(self._run())

    def ready(self) -> tuple[bool, str]:
        """Whether each pool has been full once, or could not be filled, and how we know."""
        for pool in self._pools.values():
            if not pool.filled:
                return False, f"{pool.type.name}: {len(pool.ready)} of {pool.wanted} warm"
        return True, ", ".join(f"{name}: {len(pool.ready)} warm" for name, pool in self._pools.items()) or "no pools"

    def count(self) -> int:
        """Warm instances of all types."""
        return sum(len(pool.ready) for pool in self._pools.values())

    def take(self, type: AgentType) -> Agent | None:
        """A warm instance; None if there is none, or the type has no pool."""
        pool = self._pools.get(type.name)
        if pool is None:
            return None
        agent = pool.take()
        self._recorder.count("pool_hits" if agent is not None else "pool_misses", type.name)
        self._news.set()
        return agent

    async def close(self, within_s: float) -> None:
        """Prepare no more, and let go what was not taken; what takes longer than this is cancelled."""
        if self._task is None:
            return
        began = time.monotonic()
        preparing = {*self._preparing, self._task}
        for task in preparing:
            task.cancel()
        await asyncio.wait(preparing, timeout=within_s)
        for pool in self._pools.values():
            while pool.ready:
                self._discard(pool)
        if self._discarding:
            _, late = await asyncio.wait(self._discarding, timeout=max(0.0, began + within_s - time.monotonic()))
            for task in late:
                task.cancel()

    def drop(self) -> None:
        """Let go of what is left, at once."""
        for pool in self._pools.values():
            while pool.ready:
                pool.ready.pop()._swell_dropped()

    async def _run(self) -> None:
        """Fill and shrink until cancelled."""
        assert self._group is not None
        while True:
            now = time.monotonic()
            wait_s: float | None = None
            for pool in self._pools.values():
                while pool.missing > 0 and now >= pool.not_before and self._busy < MOST_PREPARING:
                    self._begin(pool)
                if pool.missing <= 0 and not pool.preparing:
                    pool.filled = True
                if pool.missing > 0 and now < pool.not_before:
                    wait_s = min(wait_s or WINDOW_S, pool.not_before - now)
                if pool.missing < 0 and pool.ready:
                    self._discard(pool)
                    wait_s = min(wait_s or WINDOW_S, SHRINK_S)
                elif pool.wanted > pool.type.warm[0]:
                    wait_s = min(wait_s or WINDOW_S, SHRINK_S)  # What was taken lately is forgotten some time.
            self._news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass

    @property
    def _busy(self) -> int:
        """Instances that are being prepared."""
        return sum(pool.preparing for pool in self._pools.values())

    def _begin(self, pool: Pool) -> None:
        assert self._group is not None
        pool.preparing += 1
        task = self._group.create_task(self._prepare(pool))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    def _discard(self, pool: Pool) -> None:
        """Let go of the instance that waited longest, beside everything else."""
        assert self._group is not None
        task = self._group.create_task(_let_go(pool.type, pool.ready.pop(0)))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _prepare(self, pool: Pool) -> None:
        """Prepare one instance; if that fails, the pool waits before it tries again."""
        try:
            agent = await _limited(pool.type, made(pool.type))
        except Exception as error:  # noqa: BLE001 - whatever the user's set-up raises
            self._recorder.count("pool_failures", pool.type.name)
            pool.failed(error)
        else:
            pool.failures = 0
            pool.ready.append(agent)
        finally:
            pool.preparing -= 1
            self._news.set()


async def made(type: AgentType) -> Agent:
    """An instance that is set up as far as it can be without being anybody; one that cannot be is let go."""
    agent = type.cls()
    if type.prepares:
        try:
            await agent.prepare()
        except BaseException:
            agent._swell_dropped()
            raise
    return agent


def _said(error: Exception) -> str:
    return "it took longer than its time limit" if isinstance(error, TimeoutError) else visible(repr(error))


async def _limited(type: AgentType, work: Awaitable[_T]) -> _T:
    """Await what a user wrote, within the time limit of its type.

    What it raises comes out as an `Exception`, so that no set-up can end its worker, nor its pool.

    Raises:
        asyncio.CancelledError: this task was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    try:
        async with asyncio.timeout(type.timeout):
            return await work
    except asyncio.CancelledError:
        if task.cancelling():
            raise
        raise RuntimeError("something that it awaited was cancelled") from None
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise RuntimeError(repr(error)) from error


async def _let_go(type: AgentType, agent: Agent) -> None:
    """Let go of an instance that nobody took."""
    try:
        await _limited(type, agent.discarded())
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises, it is gone
        log.warning("warm agent of type %s could not be let go: %s", type.name, _said(error))
    finally:
        agent._swell_dropped()
