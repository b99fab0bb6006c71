"""What a user calls: spawn, send, ask, terminate, and look.

async with Client.connect("redis://127.0.0.1:6379", namespace="reviews") as client:
plan = await client.spawn("reviewer", count=1000, wave_size=100)
async for progress in plan:
print(progress.ready, "of", progress.count)
verdict = await client.ask("reviewer/0007", "review", Review(path="a.py"), Verdict, timeout=5)
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from swell.alerts import RECORD, Alert, read_record
from swell.bus.broker import Broker, LeaseState, Ledger
from swell.codec import decode, raw
from swell.config import Settings
from swell.dead import Letters
from swell.errors import CallTimeout, WrongBody
from swell.facts import Facts
from swell.instruments import Recorder
from swell.keys import CONTROL, METRICS
from swell.lifecycle import process_name
from swell.plan import Plan
from swell.quorum import Answers, bodies_of, gather
from swell.registry import AgentView, agents_of, readable
from swell.tasks import MOST_AGENTS, Crew, Outcome, outcomes
from swell.timetable import Timetable
from swell.wire import (
    LIVE,
    PLAN,
    PLAN_CANCEL,
    TERMINATE_MANY,
    TO_CONTROL,
    TO_SHARD,
    AgentState,
    LiveAnswer,
    LiveQuery,
    OnAbort,
    Pacing,
    PlanCancel,
    PlanProgress,
    PlanRecord,
    PlanRequest,
    Terminated,
    TerminateMany,
    WorkerInfo,
)

#: How long `connect` tries before it says that the server cannot be reached, seconds.
CONNECT_TIMEOUT_S = 5.0
#: How long what was given to a client that closes may take to be appended, seconds.
FINISH_TIMEOUT_S = 10.0
#: How long the manager may take to answer that it has begun a plan, or to end agents, seconds.
COMMAND_TIMEOUT_S = 60.0

_T = TypeVar("_T")
#: Agents that one page of a listing holds at most.
MOST_LISTED = 10_000
#: States of agents that can be asked something.
ASKABLE = frozenset({"ready", "idle", "working"})


class Client(Timetable):
    """A process's way into a namespace. Make one with `Client.connect`.

    What it sends and asks is `swell.messenger`, what it schedules `swell.timetable`; here are its connection, plans,
    and what the namespace knows of itself.
    """

    def __init__(self, broker: Broker, process: str, max_depth: int, recorder: Recorder) -> None:
        super().__init__(broker, process, max_depth, recorder)
        self.letters = Letters(self, max_depth)
        self.facts = Facts(self)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def connect(cls, redis: str = "", *, namespace: str = "", settings: Settings | None = None) -> Client:
        """A client for `async with`; the connection is made on entering.

        Args:
            redis: URL of the server; by default that of the settings.
            namespace: the tenant; by default that of the settings.
            settings: all settings; by default read from the environment.

        Raises:
            ConfigError: the URL or the namespace is malformed. On entering:
            BrokerUnavailable: the server does not answer within 5 s.
            BrokerRefused: it is too old, or does not let us in.
        """
        from swell.bus.redis import RedisBroker
        from swell.config import load

        settings = settings or load({"redis": redis or None, "namespace": namespace or None})
        process = process_name("client")
        broker = RedisBroker(settings.redis, settings.namespace, process, settings.durability)
        client = cls(broker, process, settings.max_depth, Recorder(process))
        client.shards = settings.shards
        return client

    async def __aenter__(self) -> Self:
        try:
            self.shards = await self.broker.open(self.shards)
        except BaseException:
            await self.broker.close()
            raise
        self._group = await asyncio.TaskGroup().__aenter__()
        self.start(self._group)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._group is not None
        try:
            await self.finish()
        finally:
            try:
                await self._group.__aexit__(None, None, None)
            finally:
                await self.broker.close()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run the producer and the reader of replies in a service's own task group (the broker is open already)."""
        running = (self.producer.run(), self.caller.run(), self.facts.run())
        self._tasks = [group.create_task(part) for part in running]

    async def finish(self, timeout_s: float = FINISH_TIMEOUT_S) -> None:
        """Append what was given to us, within `timeout_s` seconds, then stop. Cancelled, it stops at once."""
        self.producer.close()
        try:
            await asyncio.wait(self._tasks[:1], timeout=timeout_s)
        finally:
            for task in self._tasks:
                task.cancel()

    # Plans.

    async def ask_many(
        self,
        agents: Iterable[str] | Mapping[str, Any],
        name: str,
        body: Any = None,
        type: type[_T] | Any = Any,
        *,
        quorum: int | None = None,
        timeout: float = 30.0,
        sender: str = "",
    ) -> Answers[_T]:
        """Ask many agents at once; returns when enough have answered, with the answers, the errors and who was silent.

        Whoever has not answered by then is asked no longer: messages that were not begun are not handled, handlers that
        run are cancelled. An agent that fails is no error of the call.

        Args:
            agents: `type/key` of each; or a mapping from each id to a body of its own.
            name: the handler.
            body: for all of them; None with a mapping.
            type: what results are decoded as.
            quorum: answers wanted; all, if None. If so many cannot come any more, it returns when all have ended.
            timeout: limit, seconds.
            sender: the agent that asks, if one does.

        Raises:
            WrongBody: there is no agent, or more than 100,000, or the quorum is larger than their number.
        """
        asked = bodies_of(agents, body, quorum)

        async def ask(id: str, body: Any) -> _T:
            answer: _T = await self.ask(id, name, body, type, timeout=timeout, sender=sender)
            return answer

        return await gather(asked, ask, quorum, timeout)

    async def run(
        self, type: str, name: str, body: Any = None, result: type[_T] | Any = Any, *, timeout: float = 30.0
    ) -> _T:
        """Have the least busy agent of a type do something.

        Args:
            type: of the agent.
            name: the handler.
            body: anything msgspec can encode.
            result: what the result is decoded as.
            timeout: limit, seconds.

        Raises:
            UnknownAgent: no agent of the type can be asked.
            CallTimeout, HandlerFailed, WrongBody, UnknownHandler: as for `ask`.
        """

        async def ask(id: str) -> _T:
            answer: _T = await self.ask(id, name, body, result, timeout=timeout)
            return answer

        return await Crew(lambda: self._least_busy(type, MOST_AGENTS), type).perform(ask)

    def map(
        self,
        type: str,
        name: str,
        bodies: Iterable[Any],
        result: type[_T] | Any = Any,
        *,
        timeout: float = 30.0,
        ordered: bool = False,
        max_in_flight: int = MOST_AGENTS,
    ) -> AsyncIterator[Outcome[_T]]:
        """Have the agents of a type do something with each body: whoever is free takes the next.

            async for outcome in client.map("resizer", "resize", paths, Size):
                print(outcome.place, outcome.result)

        At most one body for each agent is under way, or ended and not taken from the iterator, so thousands of bodies
        take no more memory than the agents they are given to. An agent that fails is an outcome, no error of the call.
        Left early (`aclose`), it cancels what is under way.

        Args:
            type: of the agents. Those that are there when it begins; others if all of them have ended.
            name: the handler.
            bodies: taken one by one, when somebody is free.
            result: what results are decoded as.
            timeout: limit for each, seconds; it begins when an agent is given the body.
            ordered: whether outcomes come in the order of the bodies, or as they come.
            max_in_flight: agents that are given work, the least busy ones.

        Raises:
            UnknownAgent: no agent of the type can be asked.
            WrongBody: `max_in_flight` is not between 1 and 10,000.
        """
        if not 1 <= max_in_flight <= MOST_LISTED:
            said = f"max_in_flight: {max_in_flight} is not between 1 and {MOST_LISTED:,}"
            raise WrongBody("", said, field="max_in_flight")

        async def ask(id: str, body: Any) -> _T:
            answer: _T = await self.ask(id, name, body, result, timeout=timeout)
            return answer

        crew = Crew(lambda: self._least_busy(type, max_in_flight), type)
        return outcomes(crew, bodies, ask, ordered=ordered)

    async def _least_busy(self, type: str, most: int) -> list[str]:
        views = [view for view in await self.agents(type, limit=MOST_LISTED) if view.state in ASKABLE]
        views.sort(key=lambda view: (view.queued, view.state == "working"))
        return [view.id for view in views[:most]]

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
        return await self.submit(request)

    async def submit(self, request: PlanRequest) -> Plan:
        """Hand a plan to the manager. See `spawn`."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await self.caller.opened(COMMAND_TIMEOUT_S)
                call = self.caller.begin()
                plan = Plan(request, self.caller, call)
                try:
                    message = (TO_CONTROL, PLAN, request, time.time_ns() // 1000, "", self.process, call.number)
                    await self.producer.send(CONTROL, message)
                    await plan.accepted()
                except BaseException:
                    plan.forget()
                    raise
                return plan
        except TimeoutError:
            raise CallTimeout("the manager", PLAN, COMMAND_TIMEOUT_S) from None

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

    # Looking.

    @property
    def shard_names(self) -> list[str]:
        """The agents' shards."""
        return [str(k) for k in range(self.shards)]

    async def agents(
        self, type: str = "", state: AgentState | None = None, limit: int = 100, after: str = ""
    ) -> list[AgentView]:
        """Agents in the order of their ids, behind `after`, with what their workers say of them now.

        Args:
            type: only this type.
            state: only this state; without one, all agents but those that were stopped.
            limit: at most so many, 1..10,000.
            after: the last id of the page before.
        """
        return await agents_of(self, type, state, limit, after)

    async def live(self, shard: str, ids: list[str], timeout: float = 2.0) -> LiveAnswer:
        """Ask the owner of a shard what the given agents are doing now.

        Raises:
            CallTimeout: nobody owns the shard now.
        """
        return decode(await self.request(shard, TO_SHARD, LIVE, LiveQuery(ids), timeout), LiveAnswer)

    async def workers(self, role: str = "worker") -> list[WorkerInfo]:
        """All live processes of a role: worker, manager or metrics."""
        said = {member.process: member.info for member in await self.broker.members(role)}
        return [info for _, info in readable(said, WorkerInfo)]

    async def alerts(self) -> list[Alert]:
        """Alerts that fire, or were resolved within the last minutes, as the metrics service wrote them down last."""
        return read_record(await self.broker.record(METRICS, RECORD)).alerts

    async def leases(self) -> list[LeaseState]:
        """Who owns which shard."""
        return await self.broker.leases([*self.shard_names, CONTROL, METRICS])

    async def ledger(self) -> list[Ledger]:
        """The account of every shard, each audited in one instant."""
        return [await self.broker.ledger(shard) for shard in (*self.shard_names, CONTROL, METRICS)]


__all__ = ["AgentView", "Client", "Plan"]
