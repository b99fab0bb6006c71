"""What a client asks of the manager: agents started in waves, and ended."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

from swell.codec import decode, raw
from swell.errors import CallTimeout, WrongBody
from swell.holding import Holding
from swell.keys import CONTROL
from swell.plan import Plan
from swell.registry import readable
from swell.wire import (
    PLAN,
    PLAN_CANCEL,
    RESIZE,
    TERMINATE_MANY,
    TO_CONTROL,
    OnAbort,
    Pacing,
    PlanCancel,
    PlanProgress,
    PlanRecord,
    PlanRequest,
    ResizeRequest,
    Terminated,
    TerminateMany,
)

#: How long the manager may take to answer that it has begun a plan, or to end agents, seconds.
COMMAND_TIMEOUT_S = 60.0


class Planning(Holding):
    """What a client has the manager do."""

    async def spawn(
        self,
        type: str,
        count: int = 0,
        *,
        keys: Sequence[str] = (),
        wave_size: int = 100,
        max_in_flight: int = 200,
        pacing: Pacing = "sliding",
        pause: float = 0.0,
        abort_ratio: float = 0.1,
        on_abort: OnAbort = "rollback",
        timeout: float = 30.0,
        args: Any = None,
        id: str = "",
    ) -> Plan:
        """Start agents of one type in waves; returns as soon as the manager has the plan.

        Args:
            type: the agents' type.
            count: how many; their keys continue the type's count ("0000", "0001", ...).
            keys: name the agents instead of counting them.
            wave_size: agents started together.
            max_in_flight: agents that may be starting at one moment.
            pacing: `barrier` ends a wave before the next; `sliding` keeps max_in_flight starting.
            pause: the wait between waves, seconds.
            abort_ratio: share of failed starts above which the plan aborts.
            on_abort: `rollback` terminates what was started, `keep` leaves it.
            timeout: limit for each agent's start, seconds.
            args: what each agent's `started` receives.
            id: the plan's id; giving the same one again joins the plan instead of starting another.

        Raises:
            WrongBody: the plan contradicts itself; the text names what to change.
            UnknownType: no worker runs agents of this type.
            CallTimeout: no manager answers.
        """
        request = PlanRequest(
            id=id or f"{type}-{secrets.token_hex(6)}",
            type=type,
            count=count or len(keys) or 1,
            keys=list(keys),
            wave_size=wave_size,
            max_in_flight=max_in_flight,
            pacing=pacing,
            pause_s=pause,
            abort_ratio=abort_ratio,
            on_abort=on_abort,
            timeout_s=timeout,
            args=raw(args),
        )
        return await self.submit_plan(request)

    async def resize(
        self,
        type: str,
        count: int,
        *,
        wave_size: int = 100,
        max_in_flight: int = 200,
        pause: float = 0.0,
        abort_ratio: float = 0.1,
        timeout: float = 30.0,
        args: Any = None,
    ) -> Plan:
        """Have so many agents of a type: the manager starts the difference, or ends it, in waves.

        It says what is to be, so asked again it changes nothing. It waits for plans of the type that are under way.
        Whom it ends: those that are idle first, those that are paused last, among equals the highest keys; each handles
        what was sent to it before. Iterate over what is returned for progress: its `count` is the difference, and if
        `ending`, `ready` counts agents that have ended. What was started stays if it ends early: ask again.

        Args:
            type: the agents' type.
            count: how many there are to be, 0..100,000; failed ones do not count.
            wave_size: agents started, or ended, together.
            max_in_flight: as for `spawn`.
            pause: the wait between waves, seconds.
            abort_ratio: as for `spawn`.
            timeout: as for `spawn`.
            args: as for `spawn`.

        Raises:
            WrongBody, UnknownType, CallTimeout: as for `spawn`.
        """
        request = ResizeRequest(
            type=type,
            count=count,
            wave_size=wave_size,
            max_in_flight=max_in_flight,
            pause_s=pause,
            abort_ratio=abort_ratio,
            timeout_s=timeout,
            args=raw(args),
        )
        plan = await self.submit_plan(PlanRequest("", type), (RESIZE, request))
        plan.id = plan.progress.id
        return plan

    async def submit_plan(self, request: PlanRequest, command: tuple[str, Any] | None = None) -> Plan:
        """Hand a plan to the manager, or another command that becomes one. See `spawn`."""
        name, body = command or (PLAN, request)
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await self.caller.opened(COMMAND_TIMEOUT_S)
                call = self.caller.begin()
                plan = Plan(request, self.caller, call)
                try:
                    message = (TO_CONTROL, name, body, time.time_ns() // 1000, "", self.process, call.number)
                    await self.producer.send(CONTROL, message)
                    await plan.accepted()
                except BaseException:
                    plan.forget()
                    raise
                return plan
        except TimeoutError:
            raise CallTimeout("the manager", name, COMMAND_TIMEOUT_S) from None

    async def plans(self) -> list[PlanProgress]:
        """All plans that the manager remembers, the newest first."""
        records = await self.broker.records(CONTROL)
        kept = {id: record for id, record in records.items() if id.startswith("plan/")}
        plans = [plan for _, plan in readable(kept, PlanRecord)]
        return [plan.progress for plan in sorted(plans, key=lambda plan: -plan.began_ms)]

    async def plan(self, id: str) -> PlanProgress | None:
        """One plan, None if there is none of that id."""
        record = await self.broker.record(CONTROL, f"plan/{id}")
        return decode(record, PlanRecord).progress if record is not None else None

    async def cancel(self, id: str, on_abort: OnAbort = "keep", key: str = "") -> PlanProgress:
        """End a running plan; `rollback` terminates what it started. Repeated under a key, it is answered the same.

        Raises:
            CallError: there is no such plan, or it has ended.
        """
        answer = await self.request(CONTROL, TO_CONTROL, PLAN_CANCEL, PlanCancel(id, on_abort, key), COMMAND_TIMEOUT_S)
        return decode(answer, PlanProgress)

    async def terminate(self, *ids: str, type: str = "", plan: str = "", key: str = "") -> Terminated:
        """End agents, by id, all of a type, or all of a plan. What was sent to them before is handled first.

        Repeated under the same key, by whomever, it ends nobody again, and the answer is the same; the newest 1,000 are
        remembered.

        Raises:
            WrongBody: not exactly one of ids, type and plan is given; or the key came with another request.
        """
        if sum((bool(ids), bool(type), bool(plan))) != 1:
            raise WrongBody("", "give exactly one of ids, type and plan", field="ids")
        request = TerminateMany(list(ids), type, plan, key)
        answer = await self.request(CONTROL, TO_CONTROL, TERMINATE_MANY, request, COMMAND_TIMEOUT_S)
        return decode(answer, Terminated)
