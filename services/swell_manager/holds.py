"""The manager's HTTP for what is held back, set apart, limited and resized."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get, post
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from swell.client import Client
from swell.holds import TypeView
from swell.where import Where
from swell.wire import PlanProgress

#: How long a request waits for the owners of shards unless it says otherwise, and at most; seconds.
WAIT_S = 30.0
MOST_WAIT_S = 300.0
Timeout = Annotated[float, Parameter(gt=0, le=MOST_WAIT_S)]


class Affected(Struct):
    """How many agents a request was about; 0 for a worker."""

    agents: int


class SetApart(Struct):
    """Who is in quarantine by a request, the first 10,000 of each shard."""

    agents: list[str]


class NewQuarantine(Struct, forbid_unknown_fields=True):
    """Which agents of a type are set apart: `where` is a condition on their fields (`swell.where`); without it, all."""

    where: Where | None = None
    reason: str = ""


class NewLimits(Struct, forbid_unknown_fields=True):
    """Limits of a type, over the whole fleet: 0 is no limit, what is left out stays; `reset`: as the class declares."""

    concurrency: int | None = None
    rate: float | None = None
    reset: bool = False


class NewSize(Struct, forbid_unknown_fields=True):
    """How many agents of a type there are to be; the rest as for plans."""

    count: int
    wave_size: int = 100
    max_in_flight: int = 200
    pause_s: float = 0.0
    abort_ratio: float = 0.1
    timeout_s: float = 30.0
    args: Any = None


@post("/agents/{type:str}/{key:str}/pause", status_code=200, summary="Pause an agent")
async def pause_agent(client: Client, type: str, key: str, reason: str = "", timeout: Timeout = WAIT_S) -> Affected:
    """Begin no message of an agent; answers when the handler that runs has returned."""
    return Affected(await client.pause(f"{type}/{key}", reason=reason, timeout=timeout))


@post("/agents/{type:str}/{key:str}/resume", status_code=200, summary="Resume an agent")
async def resume_agent(client: Client, type: str, key: str, timeout: Timeout = WAIT_S) -> Affected:
    """Take an agent's pause, drain or quarantine back."""
    return Affected(await client.resume(f"{type}/{key}", timeout=timeout))


@post("/agents/{type:str}/{key:str}/drain", status_code=200, summary="Drain an agent")
async def drain_agent(client: Client, type: str, key: str, reason: str = "", timeout: Timeout = WAIT_S) -> Affected:
    """Pause an agent once all that was sent before is handled; answers then."""
    return Affected(await client.drain(f"{type}/{key}", reason=reason, timeout=timeout))


@post("/agents/{type:str}/{key:str}/quarantine", status_code=200, summary="Set an agent apart")
async def quarantine_agent(
    client: Client, type: str, key: str, reason: str = "", timeout: Timeout = WAIT_S
) -> SetApart:
    """Set an agent apart until it is resumed."""
    return SetApart(await client.quarantine(agent=f"{type}/{key}", reason=reason, timeout=timeout))


@get("/types", summary="Types that are paused, or limited at run time")
async def list_types(client: Client) -> list[TypeView]:
    """What is held or limited; what classes declare is in the app."""
    return await client.types()


@post("/types/{type:str}/pause", status_code=200, summary="Pause a type")
async def pause_type(client: Client, type: str, reason: str = "", timeout: Timeout = WAIT_S) -> Affected:
    """Begin no message of any agent of a type; answers when the handlers that run have returned."""
    return Affected(await client.pause(type=type, reason=reason, timeout=timeout))


@post("/types/{type:str}/resume", status_code=200, summary="Resume a type")
async def resume_type(client: Client, type: str, all: bool = False, timeout: Timeout = WAIT_S) -> Affected:
    """Take a type's pause or drain back; with `all`, also those of its agents, and their quarantine."""
    return Affected(await client.resume(type=type, all=all, timeout=timeout))


@post("/types/{type:str}/drain", status_code=200, summary="Drain a type")
async def drain_type(client: Client, type: str, reason: str = "", timeout: Timeout = WAIT_S) -> Affected:
    """Pause a type once all that was sent to it before is handled; answers then."""
    return Affected(await client.drain(type=type, reason=reason, timeout=timeout))


@post("/types/{type:str}/quarantine", status_code=200, summary="Set agents of a type apart")
async def quarantine_type(client: Client, type: str, data: NewQuarantine, timeout: Timeout = WAIT_S) -> SetApart:
    """Set those agents apart that a condition holds for, until they are resumed."""
    return SetApart(await client.quarantine(type, where=data.where, reason=data.reason, timeout=timeout))


@post("/types/{type:str}/limits", status_code=200, summary="Limit a type")
async def limit_type(client: Client, type: str, data: NewLimits, timeout: Timeout = WAIT_S) -> dict[str, bool]:
    """Limit how many agents of a type work at one moment, and how many messages begin in a second."""
    await client.limit(type, concurrency=data.concurrency, rate=data.rate, reset=data.reset, timeout=timeout)
    return {"limited": True}


@post("/types/{type:str}/resize", status_code=202, summary="Resize a type")
async def resize_type(client: Client, type: str, data: NewSize) -> PlanProgress:
    """Have so many agents of a type; answers when the manager has begun. Asked again, it changes nothing."""
    plan = await client.resize(
        type,
        data.count,
        wave_size=data.wave_size,
        max_in_flight=data.max_in_flight,
        pause=data.pause_s,
        abort_ratio=data.abort_ratio,
        timeout=data.timeout_s,
        args=data.args,
    )
    plan.forget()
    return plan.progress


@post("/workers/{worker:str}/pause", status_code=200, summary="Have a worker own no shard")
async def pause_worker(client: Client, worker: str, reason: str = "", force: bool = False) -> Affected:
    """Have a worker hand all its shards over; answers at once."""
    return Affected(await client.pause(worker=worker, reason=reason, force=force))


@post("/workers/{worker:str}/resume", status_code=200, summary="Have a worker take shards again")
async def resume_worker(client: Client, worker: str) -> Affected:
    """Take a worker's pause or drain back."""
    return Affected(await client.resume(worker=worker))


@post("/workers/{worker:str}/drain", status_code=200, summary="Drain a worker")
async def drain_worker(
    client: Client, worker: str, reason: str = "", force: bool = False, timeout: Timeout = WAIT_S
) -> Affected:
    """Have a worker hand all its shards over; answers when it owns none."""
    return Affected(await client.drain(worker=worker, reason=reason, force=force, timeout=timeout))


#: All routes of this file, under /v1.
ROUTES: list[ControllerRouterHandler] = [
    *(pause_agent, resume_agent, drain_agent, quarantine_agent, list_types),
    *(pause_type, resume_type, drain_type, quarantine_type, limit_type, resize_type),
    *(pause_worker, resume_worker, drain_worker),
]
