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
from typing import TYPE_CHECKING

from swell.agent import Agent
from swell.app import AgentType
from swell.backoff import RESTART
from swell.instruments import Recorder
from swell.logs import visible

if TYPE_CHECKING:
    from swell.app import App

log = logging.getLogger(__name__)

#: Instances of all types that are being prepared ahead of time at one moment.
MOST_PREPARING = 16
#: How long takes are counted together, seconds.
WINDOW_S = 10.0
#: How often a pool that has too many lets one go, seconds.
SHRINK_S = 1.0


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
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._ended = False

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

    async def close(self) -> None:
        """Prepare no more, and let go what was not taken."""
        self._ended = True
        tasks = [*self._preparing, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        left = [(pool.type, agent) for pool in self._pools.values() for agent in pool.ready]
        for pool in self._pools.values():
            pool.ready.clear()
        await asyncio.gather(*(_discard(type, agent) for type, agent in left))

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
                    await _discard(pool.type, pool.ready.pop(0))
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

    async def _prepare(self, pool: Pool) -> None:
        """Prepare one instance; if that fails, the pool waits before it tries again."""
        try:
            agent = pool.type.cls()
            async with asyncio.timeout(pool.type.timeout):
                await agent.prepare()
        except Exception as error:  # noqa: BLE001 - whatever the user's set-up raises
            pool.failures += 1
            pool.filled = True
            pool.not_before = time.monotonic() + RESTART.wait_s(pool.failures)
            self._recorder.count("pool_failures", pool.type.name)
            if pool.failures == 1:
                log.warning("warm agent of type %s could not be prepared: %s", pool.type.name, _said(error))
        else:
            pool.failures = 0
            pool.ready.append(agent)
        finally:
            pool.preparing -= 1
            self._news.set()


def _said(error: Exception) -> str:
    return "it took longer than its time limit" if isinstance(error, TimeoutError) else visible(repr(error))


async def _discard(type: AgentType, agent: Agent) -> None:
    """Let go of an instance that nobody took."""
    try:
        async with asyncio.timeout(type.timeout):
            await agent.discarded()
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises, it is gone
        log.warning("warm agent of type %s could not be let go: %s", type.name, _said(error))
