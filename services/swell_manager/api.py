"""The manager's HTTP: plans, agents, messages, and what the system knows of itself.

Every manager answers, leading or not: a request becomes a message to whom it concerns, through one `Client`. Errors are
raised as they are; `swell.http` makes problem documents of them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Router, delete, get, post
from litestar.di import Provide
from litestar.exceptions import HTTPException, NotFoundException
from litestar.params import Parameter
from litestar.response import ServerSentEvent, ServerSentEventMessage
from litestar.types import ControllerRouterHandler
from msgspec import Meta, Struct

from swell.bus.broker import Ledger
from swell.client import Client, Plan
from swell.codec import raw
from swell.errors import BrokerUnavailable, CallError, UnknownAgent, WrongBody
from swell.expiry import expiry
from swell.gather import Terms, stamped
from swell.keys import SEGMENT
from swell.later import check_name, for_later
from swell.priority import Priority
from swell.registry import AgentView, agent_of
from swell.wire import (
    LATER,
    TO_SHARD,
    AgentState,
    OnAbort,
    Pacing,
    PlanProgress,
    PlanRequest,
    Terminated,
    WorkerInfo,
)
from swell_manager import holds, letters, locks, shared_facts, tasks, timetable, topics

#: Messages of one request.
MOST_MESSAGES = 10_000
#: Agents of one page.
MOST_AGENTS = 10_000
MOST_ASK_S = 300.0

#: How long a request waits for room, or for the server, unless it says otherwise; seconds.
WAIT_S = 5.0
IdempotencyKey = Annotated[str | None, Parameter(header="Idempotency-Key")]
Wait = Annotated[float, Parameter(ge=0, le=60)]


class NewPlan(Struct, forbid_unknown_fields=True):
    """Agents to be started in waves; see `swell.wire.PlanRequest`. `args` is any JSON value, given to `started`."""

    type: str
    count: int = 0
    keys: list[str] = []
    wave_size: int = 100
    max_in_flight: int = 200
    pacing: Pacing = "sliding"
    pause_s: float = 0.0
    abort_ratio: float = 0.1
    on_abort: OnAbort = "rollback"
    timeout_s: float = 30.0
    args: Any = None


class NewMessage(Struct, forbid_unknown_fields=True):
    """One message: to which agent (`type/key`), which handler, and any JSON value as its body.

    It expires `ttl` seconds after it was taken, or at `deadline` (RFC 3339, with a time zone). It is sent `delay`
    seconds later, or at the moment `at`; `ttl` counts from then. With an `id` it can be cancelled. Messages of a more
    urgent `priority` are read and handled first.
    """

    to: str
    name: str
    body: Any = None
    ttl: float | None = None
    deadline: datetime | None = None
    delay: float | None = None
    at: datetime | None = None
    id: str = ""
    priority: Priority = "normal"


class Question(Struct, forbid_unknown_fields=True):
    """A message whose result is waited for, at most `timeout` seconds; the others are as for messages."""

    name: str
    body: Any = None
    timeout: Annotated[float, Meta(gt=0, le=MOST_ASK_S)] = 30.0
    ttl: float | None = None
    deadline: datetime | None = None
    id: str = ""
    priority: Priority = "normal"


class Result(Struct):
    """What the handler returned."""

    result: Any


class Sent(Struct, omit_defaults=True):
    """How many messages were taken; all of them are durable. `repeated`: all of them had been, by the same key."""

    sent: int
    repeated: bool = False


class ShardView(Struct):
    """A shard's lease: `owner` is empty if nobody has it."""

    shard: str
    owner: str
    epoch: int
    remaining_ms: int


class Account(Struct):
    """A shard's ledger: `balanced` says that sent = acked + dead + expired + depth, and that depth is what is there."""

    shard: str
    balanced: bool
    sent: int
    acked: int
    dead: int
    expired: int
    depth: int
    duplicate: int
    refused: int
    stale: int
    rewinds: int
    foreign: int
    replayed: int
    dropped: int
    scheduled: int
    present: int
    entries: int


@post("/plans", status_code=202, summary="Start agents in waves")
async def begin_plan(client: Client, data: NewPlan, key: IdempotencyKey = None) -> PlanProgress:
    """Begin a plan. With an `Idempotency-Key` the same request again joins the plan instead of beginning another."""
    fields = {name: getattr(data, name) for name in data.__struct_fields__ if name != "args"}
    request = PlanRequest(
        id=key or f"{data.type}-{secrets.token_hex(6)}",
        args=raw(data.args),
        **fields,
    )
    plan = await client.submit_plan(request)
    try:
        return await anext(aiter(plan))
    finally:
        plan.forget()


@get("/plans", summary="All plans, the newest first")
async def list_plans(client: Client) -> list[PlanProgress]:
    """Plans under way, and the newest of those that ended."""
    return await client.plans()


@get("/plans/{id:str}", summary="One plan")
async def show_plan(client: Client, id: str) -> PlanProgress:
    """Where a plan is, as of its last checkpoint."""
    return await _plan(client, id)


@delete("/plans/{id:str}", status_code=200, summary="End a running plan")
async def cancel_plan(client: Client, id: str, on_abort: OnAbort = "keep", key: IdempotencyKey = None) -> PlanProgress:
    """Begin nothing more; `rollback` terminates what the plan started. Answers when it has ended."""
    await _plan(client, id)
    try:
        return await client.cancel(id, on_abort, key or "")
    except CallError as error:
        if "state" in error.detail:
            raise HTTPException(status_code=409, detail=str(error)) from None
        raise


@get("/plans/{id:str}/events", summary="Progress as server-sent events")
async def follow_plan(client: Client, id: str) -> ServerSentEvent:
    """Each event `progress` is a plan's progress; the last one is `end`, then the stream closes."""
    await _plan(client, id)
    plan = await client.submit_plan(PlanRequest(id, ""))
    return ServerSentEvent(_events(plan))


async def _events(plan: Plan) -> AsyncIterator[ServerSentEventMessage]:
    try:
        async for progress in plan:
            event = "progress" if progress.state == "running" else "end"
            yield ServerSentEventMessage(data=msgspec.json.encode(progress).decode(), event=event)
    finally:
        plan.forget()


async def _plan(client: Client, id: str) -> PlanProgress:
    found = await client.plan(id)
    if found is None:
        raise NotFoundException(f"there is no plan {id!r}")
    return found


@get("/agents", summary="Agents in the order of their ids")
async def list_agents(
    client: Client,
    type: str = "",
    in_state: Annotated[AgentState | None, Parameter(query="state")] = None,
    limit: Annotated[int, Parameter(ge=1, le=MOST_AGENTS)] = 100,
    after: str = "",
) -> list[AgentView]:
    """A page of agents; the next one begins behind the last id (`after`)."""
    return await client.agents(type, in_state, limit, after)


@get("/agents/{type:str}/{key:str}", summary="One agent")
async def show_agent(client: Client, type: str, key: str) -> AgentView:
    """One agent, with what its worker says of it now."""
    id = f"{type}/{key}"
    found = await agent_of(client, id)
    if found is None:
        raise UnknownAgent(id, f"there is no agent {id}")
    return found


@delete("/agents/{type:str}/{key:str}", status_code=200, summary="End one agent")
async def terminate_agent(client: Client, type: str, key: str, command: IdempotencyKey = None) -> Terminated:
    """End an agent; what was sent to it before is handled first."""
    id = f"{type}/{key}"
    answer = await client.terminate(id, key=command or "")
    if not answer.terminated:
        raise UnknownAgent(id, answer.failed.get(id, f"there is no agent {id}"))
    return answer


@delete("/agents", status_code=200, summary="End all agents of a type or a plan")
async def terminate_agents(client: Client, type: str = "", plan: str = "", key: IdempotencyKey = None) -> Terminated:
    """End agents; give `type` or `plan`. A plan that is running is cancelled first.

    With an `Idempotency-Key` the same request again ends nobody, and is answered the same.
    """
    if bool(type) == bool(plan):
        raise WrongBody("", "give either type or plan", field="type")
    return await client.terminate(type=type, plan=plan, key=key or "")


@post("/messages", status_code=202, summary="Send messages")
async def send_messages(
    client: Client, data: list[NewMessage], wait: Wait = WAIT_S, key: IdempotencyKey = None
) -> Sent:
    """Send messages, in order; when this answers 202, all of them are durable, and the agents will handle them.

    429 says that shards were still full after `wait` seconds, 503 that the server was away. Then `sent` of them are
    durable; `unsent` lists the places of those that were not appended, and never will be.

    With an `Idempotency-Key` the same request again, within a day, appends what is missing and nothing twice.
    """
    if len(data) > MOST_MESSAGES:
        raise WrongBody("", f"{len(data)} messages are more than {MOST_MESSAGES}: send them in parts", field="")
    now_us = time.time_ns() // 1000
    messages = []
    for at, message in enumerate(data):
        type, slash, name = message.to.partition("/")
        if not (slash and SEGMENT.match(type) and SEGMENT.match(name)):
            raise WrongBody("", f"[{at}].to: {message.to!r} is not 'type/key'", field=f"[{at}].to")
        _check_name(message.name, f"[{at}].name")
        id = check_name(f"[{at}].id", message.id) if message.id else ""
        terms = Terms("", expiry(message.ttl, message.deadline), id)
        fields = stamped(message.to, message.name, message.body, now_us, terms)
        if message.delay is not None or message.at is not None:
            body = (message.to, message.name, raw(message.body))
            fields = (TO_SHARD, LATER, for_later(body, (message.delay, message.at), terms, message.priority), now_us)
        messages.append((client.inbox(message.to, message.priority), fields))
    return Sent(*await client.deliver(messages, wait, key))


@post("/agents/{type:str}/{key:str}/ask", status_code=200, summary="Ask an agent")
async def ask_agent(client: Client, type: str, key: str, data: Question, wait: Wait = WAIT_S) -> Result:
    """Send a message and wait for what its handler returns. `wait` is as for messages, and part of `timeout`."""
    _check_name(data.name, "name")
    answer: Any = await client.ask(
        f"{type}/{key}",
        data.name,
        data.body,
        timeout=data.timeout,
        wait=wait,
        ttl=data.ttl,
        deadline=data.deadline,
        id=data.id,
        priority=data.priority,
    )
    return Result(answer)


@delete("/agents/{type:str}/{key:str}/messages/{id:str}", status_code=200, summary="Cancel a message")
async def cancel_message(client: Client, type: str, key: str, id: str) -> dict[str, bool]:
    """End the agent's message that was sent with this `id`, waiting or being handled; 404 if there is none."""
    if not await client.cancel_message(f"{type}/{key}", id):
        raise NotFoundException(f"{type}/{key} has no message {id!r} that waits or is being handled")
    return {"cancelled": True}


def _check_name(name: str, field: str) -> None:
    """Names that begin with `$` are the system's own: whoever may send messages may not command it."""
    if not name or name.startswith("$"):
        raise WrongBody("", f"{field}: {name!r} is not the name of a handler", field=field)


@get("/workers", summary="Processes that live")
async def list_workers(client: Client, role: Literal["worker", "manager", "metrics"] = "worker") -> list[WorkerInfo]:
    """The live processes of a role."""
    return await client.workers(role)


@get("/shards", summary="Who owns which shard")
async def list_shards(client: Client) -> list[ShardView]:
    """The lease of every shard."""
    return [ShardView(*lease) for lease in await client.leases()]


@get("/ledger", summary="Every shard's account")
async def list_ledger(client: Client) -> list[Account]:
    """The ledger of every shard, each audited in one instant."""
    return [_account(ledger) for ledger in await client.ledger()]


def _account(ledger: Ledger) -> Account:
    fields = [name for name in Account.__struct_fields__ if name != "balanced"]
    return Account(balanced=ledger.balanced, **{name: getattr(ledger, name) for name in fields})


def routes(client: Client) -> Sequence[ControllerRouterHandler]:
    """All routes under /v1, answered through one client."""
    handlers: list[ControllerRouterHandler] = [
        *(begin_plan, list_plans, show_plan, cancel_plan, follow_plan),
        *(list_agents, show_agent, terminate_agent, terminate_agents),
        *(send_messages, ask_agent, cancel_message, list_workers, list_shards, list_ledger),
        *holds.ROUTES,
        *letters.ROUTES,
        *timetable.ROUTES,
        *topics.ROUTES,
        *tasks.ROUTES,
        *shared_facts.ROUTES,
        *locks.ROUTES,
    ]

    def opened() -> Client:
        if not client.shards:
            raise BrokerUnavailable("the server has not answered since this manager started")
        return client

    return [Router("/v1", route_handlers=handlers, dependencies={"client": Provide(opened, sync_to_thread=False)})]
