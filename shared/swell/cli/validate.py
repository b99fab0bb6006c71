"""`swell validate`: scenarios with targets."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli.bench import Where, system_of
from swell.cli.show import as_json, console, table
from swell.cli.target import Target, advised
from swell.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from swell.validate.running import Measured
    from swell.validate.scenarios import Scenario


async def validate(
    *names: Annotated[str, Parameter(help="Scenarios; all but the long ones if none is named.")],
    all: Annotated[bool, Parameter(negative="", help="The long ones too (five minutes).")] = False,
    quick: Annotated[bool, Parameter(negative="", help="A tenth of each: to try things, not to validate.")] = False,
    report: Annotated[Path | None, Parameter(help="Write a Markdown report.")] = None,
    csv: Annotated[Path | None, Parameter(help="Write the targets as CSV.")] = None,
    where: Where = Where(),  # noqa: B008
    target: Target = Target(),  # noqa: B008
) -> int:
    """Run scenarios and hold what was measured against their targets; exit code 1 if one is missed."""
    from swell.validate.report import as_csv, as_document, as_markdown, verdict
    from swell.validate.scenarios import LONG, SCENARIOS

    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise ConfigError("scenario", f"there is no scenario {unknown[0]!r}, only {', '.join(SCENARIOS)}")
    chosen = [one for name, one in SCENARIOS.items() if name in names or (not names and (all or name not in LONG))]
    done = await _run([one.quick() if quick else one for one in chosen], where, target)
    if report is not None:
        await asyncio.to_thread(report.write_text, as_markdown(done, quick=quick))
    if csv is not None:
        await asyncio.to_thread(csv.write_text, as_csv(done))
    if target.json:
        as_json(as_document(done, quick=quick))
    else:
        _print(done, quick)
    return 0 if verdict(done) else FAILED


async def _run(chosen: list[Scenario], where: Where, target: Target) -> list[tuple[Scenario, Measured]]:
    """Run each on a system of its own, unless it is the user's."""
    from rich.progress import Progress

    from swell.validate.running import run

    done = []
    shown = sys.stderr.isatty() and not target.json
    try:
        with Progress(console=console(stderr=True), transient=True, disable=not shown) as progress:
            for at, scenario in enumerate(chosen):
                bar = progress.add_task(f"{scenario.name} ({at + 1} of {len(chosen)})", total=None)
                async with system_of(where, target) as system:
                    measured = await run(system, scenario, partial(_tell, progress, bar))
                progress.remove_task(bar)
                done.append((scenario, measured))
    except BrokerError as error:
        raise advised(error, "--redis" if target.redis else "this run") from error
    return done


def _tell(progress: Progress, bar: TaskID, done: float, of: float) -> None:
    progress.update(bar, completed=done, total=of)


def _print(done: list[tuple[Scenario, Measured]], quick: bool) -> None:
    from swell.validate.report import lines, number, verdict

    rows = [
        (line.scenario, line.what, number(line.target), number(line.measured), "met" if line.met else "MISSED")
        for pair in done
        for line in lines(*pair)
    ]
    table(("scenario", "what", "target", "measured", ""), rows, "nothing was run")
    out = console()
    for scenario, measured in done:
        for problem in measured.delivery.problems:
            out.print(f"FAILED: {scenario.name}: {problem}", style="bold red")
    sent = sum(measured.delivery.sent for _, measured in done)
    handled = sum(measured.delivery.handled for _, measured in done)
    words = "all targets are met" if verdict(done) else "not all targets are met"
    out.print(f"sent {sent:,}, handled {handled:,}: {words}" + (" (quick: validates nothing)" if quick else ""))
