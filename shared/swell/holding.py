"""What a client holds back, sets apart and limits: agents, types, workers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from swell.clock import now_ms
from swell.codec import decode
from swell.errors import WrongBody
from swell.holds import (
    HoldAnswer,
    HoldRequest,
    TypeRecord,
    TypeView,
    check_reason,
    check_scope,
    check_type,
    problem_with,
    types_in,
)
from swell.registry import check_where, readable
from swell.where import Where
from swell.wire import HOLD, TO_SHARD
from swell.worker_holds import HoldingWorkers

#: How long the owners of shards may take to do what is asked of them, seconds.
HOLD_TIMEOUT_S = 60.0


class Holding(HoldingWorkers):
    """What a client has held back."""

    async def pause(
        self,
        agent: str = "",
        *,
        type: str = "",
        worker: str = "",
        reason: str = "",
        force: bool = False,
        timeout: float = HOLD_TIMEOUT_S,
    ) -> int:
        """Begin no message of an agent, or of all agents of a type; or have a worker hand over all its shards.

        What waits, and what is sent meanwhile, stays in the stream, in order, and counts for the shard's limit: senders
        are slowed there as always. The pause is kept with the agent's record, or in every shard for the type, also for
        agents that are spawned later. A worker's pause ends with its process; it begins at once, `drain` waits for it.

        Args:
            agent: `type/key`; or
            type: all agents of a type; or
            worker: a process, as `swell workers` shows it.
            reason: for people.
            force: pause the last worker, too; then nothing is handled until one takes shards again.
            timeout: limit for the answers, seconds.

        Returns:
            how many agents it was about, when no handler of theirs runs any more; 0 for a worker.

        Raises:
            WrongBody: not exactly one of the three is given, or the worker does not live, or is the last one.
            UnknownAgent, UnknownType: there is no such agent, or no such type.
            CallTimeout: a handler still runs, or nobody owns a shard now; the request is durable.
        """
        check_scope(agent=agent, type=type, worker=worker)
        if worker:
            await self._hold_worker(worker, check_reason(reason), force)
            return 0
        return await self._hold(HoldRequest("pause", agent, type, check_reason(reason)), timeout)

    async def resume(
        self, agent: str = "", *, type: str = "", worker: str = "", all: bool = False, timeout: float = HOLD_TIMEOUT_S
    ) -> int:
        """Take back a pause, a drain or a quarantine; what waited is handled, in order.

        Args:
            agent: `type/key`; it goes on unless its type is paused; or
            type: the type's pause; agents that are held themselves stay so; or
            worker: a process, as `swell workers` shows it; it takes its share of the shards again.
            all: with a type: its agents that are paused or quarantined themselves, too.
            timeout: limit for the answers, seconds.

        Returns:
            how many agents it was about; 0 for a worker.

        Raises:
            WrongBody: not exactly one of the three is given, or the worker neither lives nor is paused.
            UnknownAgent, UnknownType, CallTimeout: as for `pause`.
        """
        check_scope(agent=agent, type=type, worker=worker)
        if worker:
            await self._release_worker(worker)
            return 0
        if all and not type:
            raise WrongBody("", "all: it is about a type; give one", field="all")
        return await self._hold(HoldRequest("resume", agent, type, all=all), timeout)

    async def drain(
        self,
        agent: str = "",
        *,
        type: str = "",
        worker: str = "",
        reason: str = "",
        force: bool = False,
        timeout: float = HOLD_TIMEOUT_S,
    ) -> int:
        """Pause, once all that was sent before is handled; of a worker, return when it owns no shard any more.

        Agents that are paused or quarantined themselves are not waited for. A worker that dies meanwhile owns nothing
        when its leases have lapsed.

        Args:
            agent: as for `pause`.
            type: as for `pause`.
            worker: as for `pause`.
            reason: as for `pause`.
            force: as for `pause`.
            timeout: limit, seconds; behind it the drain goes on.

        Returns:
            how many agents are paused now; 0 for a worker.

        Raises:
            Cancelled: somebody resumed or paused it meanwhile.
            WrongBody, UnknownAgent, UnknownType, CallTimeout: as for `pause`.
        """
        check_scope(agent=agent, type=type, worker=worker)
        if worker:
            await self._hold_worker(worker, check_reason(reason), force)
            await self._vacant(worker, timeout)
            return 0
        return await self._hold(HoldRequest("drain", agent, type, check_reason(reason)), timeout)

    async def quarantine(
        self,
        type: str = "",
        *,
        where: Where | None = None,
        agent: str = "",
        reason: str = "",
        timeout: float = HOLD_TIMEOUT_S,
    ) -> list[str]:
        """Set agents apart: paused, listed as `quarantined` with the reason, until they are resumed.

            await client.quarantine("reviewer", where=field("restarts") >= 3, reason="keeps crashing")

        Each shard's owner looks at its agents in one instant. A handler that runs is finished.

        Args:
            type: of the agents.
            where: on the fields of `AgentView` (state, queued, handled, restarts, generation, plan, ...) and
                `key`; without one, all of the type.
            agent: `type/key`, instead of a type.
            reason: for people.
            timeout: limit for the answers, seconds.

        Returns:
            who is set apart now: those it holds for, the first 10,000 of each shard.

        Raises:
            WrongBody: the condition cannot be one, or looks at a field that no agent has, or is given with an agent.
            UnknownAgent, UnknownType, CallTimeout: as for `pause`.
        """
        check_scope(type=type, agent=agent)
        if where is not None and agent:
            raise WrongBody("", "where: it is about a type; give one, or leave it out", field="where")
        check = check_where(where) if where is not None else None
        request = HoldRequest("quarantine", agent, type, check_reason(reason), check)
        return sorted(id for answer in await self._ask_holders(request, timeout) for id in answer.agents)

    async def limit(
        self,
        type: str,
        *,
        concurrency: int | None = None,
        rate: float | None = None,
        reset: bool = False,
        timeout: float = HOLD_TIMEOUT_S,
    ) -> None:
        """Limit a type from now on, over the whole fleet; kept until it is changed, whatever its class declares.

        Each worker that lives takes an equal share, the rest of a division goes to the first by name, and each takes
        one at least: a fleet of four workers cannot hold to a `concurrency` below four. A rate may be exceeded by a
        tenth of a second's worth for each worker, or by one message. While workers come and go both may be exceeded for
        as long as a lease.

        Args:
            type: of the agents.
            concurrency: agents in a handler at one moment; 0: any number; None: as it is.
            rate: messages begun in a second; likewise.
            reset: as the class declares, both.
            timeout: limit for the answers, seconds.

        Raises:
            WrongBody: a limit cannot be one, or nothing is to be changed.
            UnknownType, CallTimeout: as for `pause`.
        """
        check_type(type)
        name, problem = problem_with(concurrency, rate)
        if problem:
            raise WrongBody("", f"{name}: {problem}", field=name)
        if reset == (concurrency is not None or rate is not None):
            raise WrongBody("", "give concurrency, rate or both; or reset alone", field="concurrency")
        request = HoldRequest("limit", type=type, concurrency=concurrency, rate=rate, reset=reset, at_ms=now_ms())
        await self._ask_holders(request, timeout)

    async def types(self) -> list[TypeView]:
        """Types that are paused, or limited at run time, by name; what classes declare is in the code."""
        found: dict[str, TypeView] = {}
        newest: dict[str, int] = {}
        for shard in self.shard_names:
            for type, record in readable(types_in(await self.broker.records(shard)), TypeRecord):
                one = found.setdefault(type, TypeView(type, 0, self.shards))
                if record.hold is not None:
                    one.paused += 1
                    one.reason, one.since_ms = record.hold.reason, record.hold.since_ms
                if record.limited_ms >= newest.get(type, 0):
                    newest[type] = record.limited_ms
                    one.concurrency, one.rate = record.concurrency, record.rate
        return [found[type] for type in sorted(found)]

    async def hold_back(self, agent: str, reason: str) -> None:
        """Have an agent paused, without waiting for it: what an agent does with itself."""
        request = HoldRequest("pause", agent, reason=check_reason(reason), at_ms=now_ms())
        await self.append(self.shard(agent), (TO_SHARD, HOLD, request, time.time_ns() // 1000))

    async def _hold(self, request: HoldRequest, timeout: float) -> int:
        return sum(answer.count for answer in await self._ask_holders(request, timeout))

    async def _ask_holders(self, request: HoldRequest, timeout: float) -> list[HoldAnswer]:
        """Ask the owner of an agent's shard, or of every shard for a type; all of them are asked if one fails."""
        shards = [self.shard(request.agent)] if request.agent else self.shard_names
        asked = [self.request(shard, TO_SHARD, HOLD, request, timeout) for shard in shards]
        answers: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [decode(answer, HoldAnswer) for answer in answers]
