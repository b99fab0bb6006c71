"""`swell pause`, `resume`, `drain`, `quarantine`, `limit`, `resize`, `types`: the lifecycle from the command line."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter

from swell.cli import BEGAN
from swell.cli.fleet import follow, report, untaken, warn_without
from swell.cli.look import ago
from swell.cli.show import as_json, clean, console, table, whole
from swell.cli.talk import parse_json
from swell.cli.target import Target, connected
from swell.clock import now_ms
from swell.errors import CallTimeout, ConfigError
from swell.where import parse_where

#: How long a drain is waited for unless said otherwise, seconds.
DRAIN_S = 300.0
Agent = Annotated[str, Parameter(help="An agent, type/key.")]
Type = Annotated[str, Parameter(help="All agents of this type.")]
Worker = Annotated[str, Parameter(help="A worker process, as `swell workers` shows it: its shards.")]
Reason = Annotated[str, Parameter(help="For people; shown with the agents.")]
Force = Annotated[bool, Parameter(negative="", help="The last worker, too: then nothing is handled.")]
Timeout = Annotated[float, Parameter(help="How long to wait, seconds; the request goes on behind that.")]


async def pause(
    agent: Agent = "",
    /,
    *,
    type: Type = "",
    worker: Worker = "",
    reason: Reason = "",
    force: Force = False,
    timeout: Timeout = 60.0,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Begin no message of an agent or a type, or have a worker own no shard; handlers that run are finished."""
    _check(agent, type, worker)
    async with connected(target) as client:
        count = await client.pause(agent, type=type, worker=worker, reason=reason, force=force, timeout=timeout)
    _tell("paused", count, target.json, agent=agent, type=type, worker=worker)


async def resume(
    agent: Agent = "",
    /,
    *,
    type: Type = "",
    worker: Worker = "",
    all: Annotated[
        bool, Parameter(negative="", help="With a type: its agents that are paused or quarantined themselves, too.")
    ] = False,
    timeout: Timeout = 60.0,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Take a pause, a drain or a quarantine back; what waited is handled, in order."""
    _check(agent, type, worker)
    async with connected(target) as client:
        count = await client.resume(agent, type=type, worker=worker, all=all, timeout=timeout)
    _tell("resumed", count, target.json, agent=agent, type=type, worker=worker)


async def drain(
    agent: Agent = "",
    /,
    *,
    type: Type = "",
    worker: Worker = "",
    reason: Reason = "",
    force: Force = False,
    timeout: Timeout = DRAIN_S,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Pause once all that was sent before is handled; of a worker, wait until it owns no shard."""
    _check(agent, type, worker)
    async with connected(target) as client:
        count = await client.drain(agent, type=type, worker=worker, reason=reason, force=force, timeout=timeout)
    _tell("drained", count, target.json, agent=agent, type=type, worker=worker)


def _check(agent: str, type: str, worker: str) -> None:
    if sum(map(bool, (agent, type, worker))) != 1:
        raise ConfigError("agent", "give exactly one of: AGENT, --type, --worker")


def _tell(done: str, count: int, for_programs: bool, **about: str) -> None:
    if for_programs:
        as_json({"done": done, "agents": count} | about)
        return
    what = clean(next(filter(None, about.values())))
    detail = f": {count:,} agent{'s' if count != 1 else ''}" if about["type"] else ""
    console().print(f"{what} {done}{detail}")


async def quarantine(
    type: Annotated[str, Parameter(help="The agents' type; or one agent, type/key.")],
    /,
    *,
    where: Annotated[
        tuple[str, ...],
        Parameter(help="Only agents whose fields this holds for, as 'restarts >= 3'; several are joined by `and`."),
    ] = (),
    reason: Reason = "",
    timeout: Timeout = 60.0,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Set agents apart until they are resumed, and list them; `swell agents --json` shows the fields."""
    condition = parse_where(where)
    agent = type if "/" in type else ""
    async with connected(target) as client:
        found = await client.quarantine(
            "" if agent else type, where=condition, agent=agent, reason=reason, timeout=timeout
        )
    if target.json:
        as_json({"agents": found})
    else:
        table(("agent",), [(one,) for one in found], f"no agent of type {clean(type)} is concerned")


async def limit(
    type: Annotated[str, Parameter(help="The agents' type.")],
    /,
    *,
    concurrency: Annotated[int | None, Parameter(help="Agents in a handler at one moment; 0: any number.")] = None,
    rate: Annotated[float | None, Parameter(help="Messages begun in a second; 0: any number.")] = None,
    reset: Annotated[bool, Parameter(negative="", help="As the class declares.")] = False,
    timeout: Timeout = 60.0,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Limit a type, over the whole fleet, from now on; what is not given stays as it is."""
    async with connected(target) as client:
        await client.limit(type, concurrency=concurrency, rate=rate, reset=reset, timeout=timeout)
        found = [one for one in await client.types() if one.type == type]
    if target.json:
        as_json({"type": type, "limits": whole(found[0]) if found else None})
    else:
        says = _limits(found[0].concurrency, found[0].rate) if found else "as declared"
        console().print(f"{clean(type)} limited: {says}")


async def types(*, target: Target = Target()) -> None:  # noqa: B008
    """List types that are paused, or limited at run time; what classes declare is in the app."""
    async with connected(target) as client:
        found = await client.types()
    if target.json:
        as_json([whole(one) for one in found])
        return
    now = now_ms()
    rows = [
        (
            one.type,
            f"{one.paused} of {one.shards} shards" if one.paused else "",
            ago(now - one.since_ms) if one.paused else "",
            one.reason,
            _limits(one.concurrency, one.rate),
        )
        for one in found
    ]
    table(("type", "paused", "for", "reason", "limits"), rows, "no type is paused, or limited at run time")


def _limits(concurrency: int | None, rate: float | None) -> str:
    says = []
    if concurrency is not None:
        says.append(f"{concurrency} at once" if concurrency else "any number at once")
    if rate is not None:
        says.append(f"{rate:g} a second" if rate else "any rate")
    return ", ".join(says) or "as declared"


async def resize(
    type: Annotated[str, Parameter(help="The agents' type.")],
    count: Annotated[int, Parameter(help="How many there are to be.")],
    /,
    *,
    wave_size: Annotated[int, Parameter(help="Agents started, or ended, together.")] = 100,
    max_in_flight: Annotated[int, Parameter(help="Agents that may be starting at one moment.")] = 200,
    pause: Annotated[float, Parameter(help="The wait between waves, seconds.")] = 0.0,
    abort_ratio: Annotated[float, Parameter(help="Failed / started above which it ends early; 1 never does.")] = 0.1,
    timeout: Annotated[float, Parameter(help="Limit for each agent's start, seconds.")] = 30.0,
    args: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="What `started` receives, as JSON.")] = None,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Have so many agents of a type: start the difference, or end it, in waves, and wait; again, it changes nothing."""
    given = parse_json("args", args)
    async with connected(target) as client:
        await warn_without(client, "manager", "worker")
        try:
            plan = await client.resize(
                type,
                count,
                wave_size=wave_size,
                max_in_flight=max_in_flight,
                pause=pause,
                abort_ratio=abort_ratio,
                timeout=timeout,
                args=given,
            )
        except CallTimeout as error:
            raise untaken(error) from error
        last = await follow(plan, bar=not target.json)
    if last.state == "done" and not last.count and not target.json:
        console().print(f"there are {count:,} {clean(type)} already")
        return 0
    return report(last, time.monotonic() - BEGAN, target.json)
