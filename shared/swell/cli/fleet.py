"""`swell spawn` and `swell terminate`: the fleet grows in waves, and shrinks."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from swell.cli import BEGAN, FAILED
from swell.cli.show import as_json, clean, console, duration, whole
from swell.cli.talk import check_agent, parse_json
from swell.cli.target import Target, connected
from swell.errors import CallTimeout, ConfigError, SwellError
from swell.wire import OnAbort, Pacing, PlanProgress

if TYPE_CHECKING:
    from swell.client import Client, Plan

#: Failed agents that are named when a plan ends.
_FAILURES_SHOWN = 5


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Waves:
    """How a plan goes about it."""

    wave_size: Annotated[int, Parameter(help="Agents started together.")] = 100
    max_in_flight: Annotated[int, Parameter(help="Agents that may be starting at one moment.")] = 200
    pacing: Annotated[
        Pacing, Parameter(help="barrier: a wave ends before the next begins; sliding: keep max-in-flight starting.")
    ] = "sliding"
    pause: Annotated[float, Parameter(help="The wait between waves, seconds.")] = 0.0
    abort_ratio: Annotated[float, Parameter(help="Failed / started above which the plan aborts; 1 never does.")] = 0.1
    on_abort: Annotated[OnAbort, Parameter(help="rollback: terminate what the plan started; keep: leave it.")] = (
        "rollback"
    )
    timeout: Annotated[float, Parameter(help="Limit for each agent's start, seconds.")] = 30.0


async def spawn(
    type: Annotated[str, Parameter(help="The agents' type.")],
    count: Annotated[int | None, Parameter(help="How many; 1 unless keys are given.")] = None,
    /,
    *,
    key: Annotated[tuple[str, ...], Parameter(negative="", help="Name an agent instead of counting; may repeat.")] = (),
    args: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="What `started` receives, as JSON.")] = None,
    waves: Waves = Waves(),
    target: Target = Target(),  # noqa: B008
) -> int:
    """Start agents in waves and wait until they are ready; exit code 1 if the plan ends otherwise."""
    if count is not None and key:
        raise ConfigError("count", "give a count or keys, not both")
    if count is not None and count < 1:
        raise ConfigError("count", f"{count} must be at least 1")
    given = parse_json("args", args)
    async with connected(target) as client:
        await warn_without(client, "manager", "worker")
        try:
            plan = await client.spawn(
                type,
                count or 0,
                keys=key,
                wave_size=waves.wave_size,
                max_in_flight=waves.max_in_flight,
                pacing=waves.pacing,
                pause=waves.pause,
                abort_ratio=waves.abort_ratio,
                on_abort=waves.on_abort,
                timeout=waves.timeout,
                args=given,
            )
        except CallTimeout as error:
            raise untaken(error) from error
        last = await follow(plan, bar=not target.json)
    return report(last, time.monotonic() - BEGAN, target.json)


async def warn_without(client: Client, *roles: str) -> None:
    """Say on stderr that nobody of a role lives, and that we wait."""
    for role in roles:
        if not await client.workers(role):
            sys.stderr.write(f"swell: no {role} is alive; waiting for one (start `swell up` or `swell {role}`)\n")


def untaken(error: CallTimeout) -> SwellError:
    """Nobody took a command; it lies in the stream, so it is not over."""
    return SwellError(
        f"no manager answered within {error.timeout_s:g} s; the request is durable and is carried out by the next one: "
        "start `swell up` or `swell manager` if none is alive"
    )


async def follow(plan: Plan, bar: bool) -> PlanProgress:
    """Show a plan's progress on stderr until it ends; returns the last one."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    ]
    with Progress(
        *columns, console=console(stderr=True), transient=True, disable=not (bar and sys.stderr.isatty())
    ) as shown:
        task = shown.add_task("", total=plan.progress.count, detail="")
        async for progress in plan:
            detail = f"{progress.failed} failed, wave {progress.wave} of {progress.waves}"
            what = f"{progress.type} {'ended' if progress.ending else 'ready'}"
            shown.update(task, description=what, completed=progress.ready, total=progress.count, detail=detail)
    return plan.progress


def report(last: PlanProgress, took_s: float, for_programs: bool) -> int:
    """Say how a plan ended; returns the exit code."""
    if for_programs:
        as_json(whole(last) | {"command_to_ready_s": took_s})
    else:
        for id, reason in list(last.failures.items())[:_FAILURES_SHOWN]:
            sys.stderr.write(f"swell: {id} did not {'end' if last.ending else 'start'}: {clean(reason)}\n")
        failed = f", {last.failed:,} failed" if last.failed else ""
        if last.state == "done" and last.ending:
            waves = f"{last.waves:,} wave{'s' if last.waves != 1 else ''}"
            console().print(f"{last.ready:,} {last.type} ended in {duration(took_s)} from the command, {waves}")
        elif last.state == "done":
            console().print(
                f"{last.ready:,} {last.type} ready in {duration(took_s)} from the command{failed}; "
                f"the plan took {duration(last.elapsed_s)}, P95 of a start {duration(last.ready_p95_s)}, "
                f"{last.waves:,} wave{'s' if last.waves != 1 else ''}; plan {last.id}"
            )
        else:
            reason = f": {clean(last.reason)}" if last.reason else ""
            what = "ended" if last.ending else "ready"
            sys.stderr.write(f"swell: plan {last.id} {last.state}{reason} ({last.ready:,} were {what}{failed})\n")
    return 0 if last.state == "done" else FAILED


async def terminate(
    *ids: Annotated[str, Parameter(help="Agents, type/key.")],
    type: Annotated[str, Parameter(help="All agents of this type.")] = "",
    plan: Annotated[str, Parameter(help="All agents of this plan.")] = "",
    key: Annotated[str, Parameter(help="Names the command: again under the same key it ends nobody.")] = "",
    target: Target = Target(),  # noqa: B008
) -> int:
    """End agents: by id, by type, or all of a plan. What was sent to them before is handled first."""
    if sum((bool(ids), bool(type), bool(plan))) != 1:
        raise ConfigError("terminate", "give exactly one of: ids, --type, --plan")
    for id in ids:
        check_agent(id)
    async with connected(target) as client:
        await warn_without(client, "manager", "worker")
        try:
            ended = await client.terminate(*ids, type=type, plan=plan, key=key)
        except CallTimeout as error:
            raise untaken(error) from error
    if target.json:
        as_json(whole(ended))
    else:
        for id, reason in ended.failed.items():
            sys.stderr.write(f"swell: {id} was not ended: {clean(reason)}\n")
        console().print(f"{ended.terminated:,} agents ended")
    return FAILED if ended.failed else 0
