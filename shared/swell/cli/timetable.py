"""`swell schedule add`, `list` and `remove`: messages at times to come."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli.show import as_json, console, table, whole
from swell.cli.talk import Body, Name, To, Ttl, Urgency, check_agent, check_ttl, parse_json, parse_moment
from swell.cli.target import Target, connected

Schedule = Annotated[str, Parameter(help="The name of the schedule.")]


async def add(
    name: Schedule,
    to: To,
    handler: Name,
    body: Body = None,
    /,
    *,
    cron: Annotated[str, Parameter(help="Five fields, in UTC: minute hour day month weekday.")] = "",
    every: Annotated[float | None, Parameter(help="The interval, seconds, 1 or more.")] = None,
    at: Annotated[str | None, Parameter(help="A moment in ISO 8601 with a time zone: sent once.")] = None,
    ttl: Ttl = None,
    priority: Urgency = "normal",
    target: Target = Target(),  # noqa: B008
) -> None:
    """Send an agent a message at times to come; replaces the agent's schedule of the same name."""
    check_agent(to)
    check_ttl(ttl)
    moment = parse_moment("at", at)
    value = parse_json("body", body)
    async with connected(target) as client:
        when: dict[str, Any] = {"cron": cron, "every": every, "at": moment}
        found = await client.schedule(name, to, handler, value, ttl=ttl, priority=priority, **when)
    if target.json:
        as_json(whole(found))
    else:
        console().print(f"{name}: {to} is sent {handler!r} first at {_time(found.due_ms)}")


async def list_scheduled(
    *,
    limit: Annotated[int, Parameter(help="At most so many, those that are due first.")] = 100,
    target: Target = Target(),  # noqa: B008
) -> None:
    """List what waits for its time: schedules, and single messages that were sent for later."""
    async with connected(target) as client:
        found = await client.scheduled(limit)
    if target.json:
        as_json([whole(one) for one in found])
        return
    rows = [
        (
            one.id,
            one.to,
            one.name,
            _time(one.due_ms),
            one.cron or (f"every {one.every_s:g} s" if one.every_s else "once"),
        )
        for one in found
    ]
    table(("name", "agent", "handler", "next", "when"), rows, "nothing waits for its time")


async def remove(
    name: Schedule,
    to: To,
    /,
    *,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Remove an agent's schedule; exit code 1 if there is none of that name."""
    check_agent(to)
    async with connected(target) as client:
        removed = await client.unschedule(name, to)
    if target.json:
        as_json({"name": name, "to": to, "removed": removed})
    elif removed:
        console().print(f"{name} of {to} is removed")
    else:
        sys.stderr.write(f"swell: {to} has no schedule {name!r}\n")
    return 0 if removed else FAILED


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
