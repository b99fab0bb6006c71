"""The manager's HTTP for messages at times to come."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import delete, get, post
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from swell.client import Client
from swell.errors import WrongBody
from swell.keys import SEGMENT
from swell.later import Scheduled
from swell.priority import Priority

#: Entries of one answer.
MOST_SCHEDULED = 10_000


class NewSchedule(Struct, forbid_unknown_fields=True):
    """Send `to` (`type/key`) a message `handler` with this `body`: exactly one of `cron`, `every` and `at` says when.

    `cron` has five fields, in UTC; `every` is seconds, 1 or more; `at` is RFC 3339 with a time zone, for once. Each
    message expires `ttl` seconds after it was due.
    """

    name: str
    to: str
    handler: str
    body: Any = None
    cron: str = ""
    every: float | None = None
    at: datetime | None = None
    ttl: float | None = None
    priority: Priority = "normal"


@post("/schedules", status_code=201, summary="Send an agent a message at times to come")
async def add_schedule(client: Client, data: NewSchedule) -> Scheduled:
    """Store a schedule, in the place of the agent's one of that name; answers when it is due first."""
    type, slash, key = data.to.partition("/")
    if not (slash and SEGMENT.match(type) and SEGMENT.match(key)):
        raise WrongBody("", f"to: {data.to!r} is not 'type/key'", field="to")
    if not data.handler or data.handler.startswith("$"):
        raise WrongBody("", f"handler: {data.handler!r} is not the name of a handler", field="handler")
    when: dict[str, Any] = {"cron": data.cron, "every": data.every, "at": data.at}
    return await client.schedule(
        data.name, data.to, data.handler, data.body, ttl=data.ttl, priority=data.priority, **when
    )


@get("/schedules", summary="What waits for its time")
async def list_scheduled(
    client: Client, limit: Annotated[int, Parameter(ge=1, le=MOST_SCHEDULED)] = 100
) -> list[Scheduled]:
    """Schedules, and single messages that were sent for later: those that are due first."""
    return await client.scheduled(limit)


@delete("/schedules/{type:str}/{key:str}/{name:str}", status_code=200, summary="Remove a schedule")
async def remove_schedule(client: Client, type: str, key: str, name: str) -> dict[str, bool]:
    """Remove the schedule `name` of an agent."""
    if not await client.unschedule(name, f"{type}/{key}"):
        raise NotFoundException(f"{type}/{key} has no schedule {name!r}")
    return {"removed": True}


#: All routes of this file, under /v1.
ROUTES: list[ControllerRouterHandler] = [add_schedule, list_scheduled, remove_schedule]
