"""`swell bench`: measure this machine, or a deployment."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli.show import as_json, console, table
from swell.cli.target import Target, advised, resolve
from swell.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from swell.bench.parts import Tell
    from swell.bench.result import Result
    from swell.bench.system import System


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """What is measured: with --redis a deployment, else a system of its own that is started and ended."""

    workers: Annotated[int, Parameter(help="Workers of the system of its own.")] = 1
    aof: Annotated[bool, Parameter(help="Whether its server keeps an append-only file (everysec).")] = True
    shards: Annotated[int, Parameter(help="Shards of its namespace.")] = 8
    plot: Annotated[Path | None, Parameter(help="Write the histogram, or the course over time, as SVG.")] = None


Agents = Annotated[int, Parameter(help="Agents that are spawned for it.")]
Body = Annotated[int, Parameter(help="Bytes of a body, about.")]


async def throughput(
    *,
    messages: Annotated[int, Parameter(help="How many.")] = 1_000_000,
    agents: Agents = 100,
    body: Body = 100,
    senders: Annotated[int, Parameter(help="Calls of send_many at a time.")] = 1,
    where: Where = Where(),
    target: Target = Target(),  # noqa: B008
) -> int:
    """Messages as fast as it goes, until the last is handled."""
    _check(messages=(messages, agents * senders), agents=(agents, 1), body=(body, 0), senders=(senders, 1))

    async def part(system: System, tell: Tell) -> Result:
        from swell.bench import parts

        return await parts.throughput(system, messages=messages, agents=agents, body=body, senders=senders, tell=tell)

    return await _measure(part, where, target)


async def latency(
    *,
    rate: Annotated[tuple[int, ...], Parameter(help="Messages a second; several are measured in turn.")] = (
        500,
        5_000,
        10_000,
    ),
    seconds: Annotated[float, Parameter(help="How long each.")] = 5.0,
    agents: Agents = 100,
    body: Body = 100,
    where: Where = Where(),
    target: Target = Target(),  # noqa: B008
) -> int:
    """Due time to handler, each message sent when it is due (open loop)."""
    _check(rate=(min(rate, default=0), 1), seconds=(seconds, 0.1), agents=(agents, 1), body=(body, 0))

    async def part(system: System, tell: Tell) -> Result:
        from swell.bench import parts

        return await parts.latency(system, rates=rate, seconds=seconds, agents=agents, body=body, tell=tell)

    return await _measure(part, where, target)


async def ask(
    *,
    askers: Annotated[int, Parameter(help="Questions under way at a time.")] = 100,
    seconds: Annotated[float, Parameter(help="How long.")] = 5.0,
    agents: Agents = 100,
    body: Body = 100,
    where: Where = Where(),
    target: Target = Target(),  # noqa: B008
) -> int:
    """Round trips: ask, handler, answer."""
    _check(askers=(askers, 1), seconds=(seconds, 0.1), agents=(agents, 1), body=(body, 0))

    async def part(system: System, tell: Tell) -> Result:
        from swell.bench import parts

        return await parts.ask(system, askers=askers, seconds=seconds, agents=agents, body=body, tell=tell)

    return await _measure(part, where, target)


async def spawn(
    *,
    agents: Agents = 10_000,
    singles: Annotated[int, Parameter(help="Spawns of one agent.")] = 50,
    where: Where = Where(),
    target: Target = Target(),  # noqa: B008
) -> int:
    """From the request until agents are ready: one, 100 at once, many."""
    _check(agents=(agents, 1), singles=(singles, 1))

    async def part(system: System, tell: Tell) -> Result:
        from swell.bench import parts

        return await parts.spawn(system, singles=singles, agents=agents, tell=tell)

    return await _measure(part, where, target)


async def fanout(
    *,
    agents: Agents = 10_000,
    rounds: Annotated[int, Parameter(help="How often.")] = 10,
    body: Body = 100,
    where: Where = Where(),
    target: Target = Target(),  # noqa: B008
) -> int:
    """One message to each of many agents, until the last has handled it."""
    _check(agents=(agents, 1), rounds=(rounds, 1), body=(body, 0))

    async def part(system: System, tell: Tell) -> Result:
        from swell.bench import parts

        return await parts.fanout(system, agents=agents, rounds=rounds, body=body, tell=tell)

    return await _measure(part, where, target)


async def memory(
    *,
    agents: Agents = 10_000,
    where: Where = Where(),
    target: Target = Target(),  # noqa: B008
) -> int:
    """What an idle agent costs."""
    _check(agents=(agents, 100))

    async def part(system: System, tell: Tell) -> Result:
        from swell.bench import parts

        return await parts.memory(system, agents=agents, tell=tell)

    return await _measure(part, where, target)


async def soak(
    *,
    rate: Annotated[int, Parameter(help="Messages a second.")] = 10_000,
    seconds: Annotated[float, Parameter(help="How long.")] = 60.0,
    every: Annotated[float, Parameter(help="A row for each so many seconds.")] = 10.0,
    agents: Agents = 100,
    body: Body = 100,
    where: Where = Where(),
    target: Target = Target(),  # noqa: B008
) -> int:
    """A rate for a long time: latency, memory and success over time."""
    _check(rate=(rate, 1), seconds=(seconds, 1), every=(every, 1), agents=(agents, 1), body=(body, 0))

    async def part(system: System, tell: Tell) -> Result:
        from swell.bench import parts

        return await parts.soak(system, rate=rate, seconds=seconds, every_s=every, agents=agents, body=body, tell=tell)

    return await _measure(part, where, target)


def _check(**bounds: tuple[float, float]) -> None:
    for name, (value, least) in bounds.items():
        if value < least:
            raise ConfigError(name, f"{value:g} must be at least {least:g}")


def system_of(where: Where, target: Target) -> AbstractAsyncContextManager[System]:
    """What is measured: a system of its own, unless the target names one."""
    from swell.bench import system

    _check(workers=(where.workers, 1), shards=(where.shards, 1))
    system.settle_down()
    if target.redis is None and target.namespace is None and target.data_dir is None:
        return system.own(where.workers, aof=where.aof, shards=where.shards)
    return system.theirs(resolve(target).settings)


async def _measure(part: Callable[[System, Tell], Awaitable[Result]], where: Where, target: Target) -> int:
    """Run a part with progress; print what it found. Exit code 1 if a message was lost, doubled or out of order."""
    from rich.progress import Progress

    shown = sys.stderr.isatty() and not target.json
    try:
        with Progress(console=console(stderr=True), transient=True, disable=not shown) as progress:
            bar = progress.add_task("starting", total=None)
            async with system_of(where, target) as system:
                progress.update(bar, description="measuring")
                result = await part(system, lambda done, of: progress.update(bar, completed=done, total=of))
    except BrokerError as error:
        raise advised(error, "--redis" if target.redis else "this run") from error
    if where.plot is not None:
        await asyncio.to_thread(_plot, result, where.plot)
    if target.json:
        as_json({**_plain(result), "ok": not result.failed, "problems": result.delivery.problems})
    else:
        _print(result)
    return FAILED if result.failed else 0


def _plain(result: Result) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(result, str_keys=True)
    return found


def _print(result: Result) -> None:
    from swell.bench.result import bars

    out = console()
    out.print(f"{result.part}: " + ", ".join(f"{name} {value:,.6g}" for name, value in result.figures.items()))
    if result.rows:
        columns = list(result.rows[0])
        table(columns, ([_cell(row[name]) for name in columns] for row in result.rows), "")
    if result.buckets:
        table(("up to", "messages", ""), bars(result.buckets), "")
    found = result.delivery
    out.print(
        f"sent {found.sent:,}, handled {found.handled:,}, settled {found.settled:,}, twice {found.duplicated:,}, "
        f"out of order {found.reordered:,}, dead {found.dead:,}, ledgers {'' if found.balanced else 'do not '}balance"
    )
    for problem in found.problems:
        out.print(f"FAILED: {problem}", style="bold red")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.split('-')[0]} {mib:g}" for name, mib in value.items())
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"


def _plot(result: Result, path: Path) -> None:
    from swell.bench.plot import plot_result

    plot_result(result, path)
