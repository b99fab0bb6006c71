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
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

import msgspec

from swell.bus.broker import Broker, LeaseState, Ledger
from swell.bus.caller import Caller
from swell.bus.producer import Producer
from swell.codec import decode, raw
from swell.config import Settings
from swell.dead import Letters
from swell.errors import CallTimeout, WireError, WrongBody
from swell.instruments import Recorder
from swell.keys import CONTROL, METRICS, shard_of
from swell.lifecycle import process_name
from swell.plan import Plan
from swell.registry import AgentView, agents_of
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

_T = TypeVar("_T")

#: How long `connect` tries before it says that the server cannot be reached, seconds.
CONNECT_TIMEOUT_S = 5.0
#: How long what was given to a client that closes may take to be appended, seconds.
FINISH_TIMEOUT_S = 10.0
#: `send_many` reads the clock once for so many messages; the first of them is as old as it says, the others younger.
STAMP_EVERY = 32
#: How long the manager may take to answer that it has begun a plan, or to end agents, seconds.
COMMAND_TIMEOUT_S = 60.0


class Client:
    """A process's way into a namespace. Make one with `Client.connect`.

    Attributes:
        process: our name, unique for each start.
        producer: appends everything that this process sends.
        caller: holds the calls of this process that wait for replies.
        shards: number of the namespace's shards.
    """

    def __init__(self, broker: Broker, process: str, max_depth: int, recorder: Recorder) -> None:
        self.broker = broker
        self.process = process
        self.shards = 0
        self.recorder = recorder
        self.producer = Producer(broker, process, max_depth, recorder)
        self.caller = Caller(broker, process)
        self.letters = Letters(self, max_depth)
        self._places: dict[str, str] = {}
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
        self._tasks = [group.create_task(self.producer.run()), group.create_task(self.caller.run())]

    async def finish(self, timeout_s: float = FINISH_TIMEOUT_S) -> None:
        """Append what was given to us, within `timeout_s` seconds, then stop. Cancelled, it stops at once."""
        self.producer.close()
        try:
            await asyncio.wait(self._tasks[:1], timeout=timeout_s)
        finally:
            for task in self._tasks:
                task.cancel()

    # Messages.

    def shard(self, agent: str) -> str:
        """The name of the shard that an agent lives in."""
        place = self._places.get(agent)
        if place is None:
            if len(self._places) >= 200_000:
                self._places.clear()
            place = self._places[agent] = str(shard_of(agent, self.shards))
        return place

    async def send(self, to: str, name: str, body: Any = None, *, sender: str = "") -> None:
        """Send one message; returns when it is durable (see the settings of the server for what that means).

        Messages of one sender to one agent are handled in the order of the calls.

        Args:
            to: `type/key`.
            name: the handler.
            body: anything msgspec can encode; at most 1 MiB encoded.
            sender: the agent that sends, if one does.

        Raises:
            WireError: the body cannot be encoded or is too large.
            BrokerRefused: the server does not take it.
        """
        now_us = time.time_ns() // 1000
        message = (to, name, body, now_us, sender) if sender else (to, name, body, now_us)
        await self.producer.send(self.shard(to), message)

    async def append(self, shard: str, message: tuple[Any, ...]) -> None:
        """Append one message, the fields of `wire.Message`, to a shard by name: for the system's own messages."""
        await self.producer.send(shard, message)

    async def send_many(self, messages: Iterable[tuple[str, str, Any]], *, sender: str = "") -> int:
        """Send (to, name, body) triples, in order, with one acknowledgement for all.

        Returns:
            how many were sent; all of them are durable.

        Raises:
            WireError: a body cannot be encoded or is too large; those before it are sent.
        """
        return await self.producer.send_many(self._stamped(messages, sender))

    def _stamped(self, messages: Iterable[tuple[str, str, Any]], sender: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        shard = self.shard
        places = self._places
        now_us = 0
        for count, (to, name, body) in enumerate(messages):
            if not count % STAMP_EVERY:
                now_us = time.time_ns() // 1000
            place = places.get(to) or shard(to)
            yield place, (to, name, body, now_us, sender) if sender else (to, name, body, now_us)

    async def ask(
        self,
        to: str,
        name: str,
        body: Any = None,
        type: type[_T] | Any = Any,
        *,
        timeout: float = 30.0,
        sender: str = "",
    ) -> _T:
        """Send a message and wait for the handler's result.

        Args:
            to: `type/key`.
            name: the handler.
            body: anything msgspec can encode.
            type: what the result is decoded as.
            timeout: limit, seconds.
            sender: the agent that asks, if one does.

        Raises:
            CallTimeout: no answer in time; the message is durable and may still be handled.
            UnknownAgent, UnknownHandler, WrongBody, HandlerFailed: what the agent's worker answered.
            WireError: the body cannot be encoded, or the result is not of that type.
        """
        answer = await self.request(self.shard(to), to, name, body, timeout, sender)
        try:
            result: _T = msgspec.msgpack.decode(answer, type=type)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise WireError(f"the result of {to} {name!r} is not what was asked for: {error}") from None
        return result

    async def request(self, shard: str, to: str, name: str, body: Any, timeout: float, sender: str = "") -> msgspec.Raw:
        """Send to a shard and wait for the raw result: what `ask` and the commands are made of.

        Raises:
            CallTimeout: no answer within `timeout` seconds.
            CallError: the answer is a failure.
        """
        try:
            if not self.caller.is_open:
                await self.caller.opened(timeout)
            call = self.caller.begin()
            # A bare timer: asyncio.timeout() showed as an eighth of an ask in the profile.
            timer = asyncio.get_running_loop().call_later(timeout, call.expire)
            try:
                message = (to, name, body, time.time_ns() // 1000, sender, self.process, call.number)
                await self.producer.post(shard, message, call.future, timeout)
                return await call.future
            finally:
                timer.cancel()
                self.caller.end(call)
        except TimeoutError:
            raise CallTimeout(to, name, timeout) from None

    # Plans.

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
        plans = [decode(record, PlanRecord) for id, record in records.items() if id.startswith("plan/")]
        return [plan.progress for plan in sorted(plans, key=lambda plan: -plan.began_ms)]

    async def plan(self, id: str) -> PlanProgress | None:
        """One plan, None if there is none of that id."""
        record = await self.broker.record(CONTROL, f"plan/{id}")
        return decode(record, PlanRecord).progress if record is not None else None

    async def cancel(self, id: str, on_abort: OnAbort = "keep") -> PlanProgress:
        """End a running plan; `rollback` terminates what it started.

        Raises:
            CallError: there is no such plan, or it has ended.
        """
        answer = await self.request(CONTROL, TO_CONTROL, PLAN_CANCEL, PlanCancel(id, on_abort), COMMAND_TIMEOUT_S)
        return decode(answer, PlanProgress)

    async def terminate(self, *ids: str, type: str = "", plan: str = "") -> Terminated:
        """End agents, by id, all of a type, or all of a plan. What was sent to them before is handled first.

        Raises:
            WrongBody: not exactly one of ids, type and plan is given.
        """
        if sum((bool(ids), bool(type), bool(plan))) != 1:
            raise WrongBody("", "give exactly one of ids, type and plan", field="ids")
        request = TerminateMany(list(ids), type, plan)
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
        return [decode(member.info, WorkerInfo) for member in await self.broker.members(role)]

    async def leases(self) -> list[LeaseState]:
        """Who owns which shard."""
        return await self.broker.leases([*self.shard_names, CONTROL, METRICS])

    async def ledger(self) -> list[Ledger]:
        """The account of every shard, each audited in one instant."""
        return [await self.broker.ledger(shard) for shard in (*self.shard_names, CONTROL, METRICS)]


__all__ = ["AgentView", "Client", "Plan"]
