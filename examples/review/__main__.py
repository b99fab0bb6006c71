"""The command: start a coordinator on a running Swell, watch it, and show what its fleet found."""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from msgspec import convert
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.review.analysis import default_tree
from examples.review.findings import RULES
from examples.review.messages import SHARES, Job, Status, crew_sizes
from examples.review.report import Report
from swell import Task
from swell.cli.target import Target, connected
from swell.errors import HandlerFailed, PlanAborted, SwellError, UnknownType

#: Without any news for so long, the run is given up, seconds.
STALLED_S = 180.0
START_HINT = "start the system with:  swell up --app examples.review.app:app"

cli = cyclopts.App(name="python -m examples.review", help="Review a Python source tree with a fleet of agents.")


class ReviewFailed(Exception):
    """The run ended without a whole report; the text says why."""


@cli.default
def review(
    tree: Annotated[Path | None, cyclopts.Parameter(help="The tree; by default the standard library.")] = None,
    *,
    redis: Annotated[
        str | None, cyclopts.Parameter(help="URL of the server; by default that of the running `swell up`.")
    ] = None,
    namespace: Annotated[
        str | None, cyclopts.Parameter(help="The tenant; by default that of the running `swell up`.")
    ] = None,
    agents: Annotated[int, cyclopts.Parameter(help="Agents in all, 9 at least.")] = 400,
    wave_size: Annotated[int, cyclopts.Parameter(help="Agents started together.")] = 50,
    out: Annotated[Path, cyclopts.Parameter(help="Folder for report.md and report.json.")] = Path("out/review"),
) -> int:
    """Review TREE and write report.md and report.json; the exit status is 0 if every file was reviewed."""
    console = Console()
    root = (tree or Path(default_tree())).resolve()
    run = secrets.token_hex(4)
    try:
        if not root.is_dir():
            raise ReviewFailed(f"{root} is not a folder")
        if wave_size < 1:
            raise ReviewFailed(f"a wave of {wave_size} agents; at least 1 is needed")
        crew_sizes(agents)
        job = Job(run, str(root), str(out.resolve()), agents, wave_size)
        report = asyncio.run(_run(console, job, Target(redis=redis, namespace=namespace)))
    except (ReviewFailed, ValueError) as error:
        return _failed(str(error))
    except UnknownType as error:
        return _failed(f"{error}\nThe workers run another app; {START_HINT}")
    except SwellError as error:
        return _failed(f"{error}\nIs Swell running? If not, {START_HINT}")
    except KeyboardInterrupt:
        return _failed("interrupted")
    _show(console, report, out)
    if report.unfinished:
        return _failed(f"{len(report.unfinished)} files or folders could not be reviewed; the report names them")
    return 0


async def _run(console: Console, job: Job, target: Target) -> Report:
    """Spawn a coordinator, have it review, show how far it is, and end all agents of the run.

    Raises:
        ReviewFailed: there is no report.
    """
    plans = [f"{role}-{job.run}" for role in ("coordinator", *SHARES)]
    async with connected(target) as client:
        task = None
        try:
            await (await client.spawn("coordinator", id=plans[0], keys=[job.run])).wait()
            task = await client.submit("coordinator", "review", job, key=f"review-{job.run}")
            await _follow(console, task)
            return await task.result(Report)
        except (PlanAborted, HandlerFailed) as error:
            raise ReviewFailed(str(error)) from None
        finally:
            if task is not None and not task.done:
                await task.cancel()
            # An interrupted run may not have begun all of its plans; ending none of them is an answer too.
            for id in plans:
                if await client.plan(id) is not None:
                    await client.terminate(plan=id)


async def _follow(console: Console, task: Task) -> None:
    """Show what the coordinator emits until it is done.

    Raises:
        ReviewFailed: it has emitted nothing for `STALLED_S`.
    """
    parts = aiter(task)
    with _Display(console) as display:
        try:
            while True:
                async with asyncio.timeout(STALLED_S):
                    display.show(convert(await anext(parts), Status))
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ReviewFailed(
                f"nothing has moved for {STALLED_S:g} s; see `swell tasks list` and `swell ledger`"
            ) from None


class _Display:
    """Bars on a terminal; off a terminal, a line when a crew is ready and for each tenth of the files."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._said: set[str] = set()

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, status: Status) -> None:
        """Show how far the run is."""
        for crew in status.crews:
            note = f"wave {crew.wave} of {crew.waves}"
            self._bar(f"{crew.role}s", crew.ready, crew.count, note)
            if crew.ready == crew.count:
                self._say(f"{crew.count} {crew.role}s ready in {crew.waves} waves, {crew.elapsed_s:.2f} s")
        if status.files:
            note = f"{status.findings:,} findings, {status.disputed:,} disputed"
            self._bar("files", status.finished, status.files, note)
            tenth = 10 * status.finished // status.files
            if tenth:
                self._say(f"{tenth}0% of the files found so far", f": {status.finished:,} of {status.files:,}, {note}")

    def _bar(self, name: str, completed: int, total: int, note: str) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, note="")
        self._progress.update(self._bars[name], completed=completed, total=total, note=note)

    def _say(self, what: str, more: str = "") -> None:
        if not self._console.is_terminal and what not in self._said:
            self._said.add(what)
            self._console.print(what + more, highlight=False, soft_wrap=True)


def _show(console: Console, report: Report, out: Path) -> None:
    totals, fleet = report.totals, report.fleet
    rules = Table("rule", "severity", "confirmed", "disputed", title="Findings", title_justify="left")
    for name in sorted(report.rules, key=lambda name: list(RULES).index(name)):
        rule = report.rules[name]
        rules.add_row(name, rule.severity, f"{rule.confirmed:,}", f"{rule.disputed:,}")
    files = Table("file", "score", "errors", "warnings", "notes", title="Worst files", title_justify="left")
    for file in report.worst_files[:10]:
        files.add_row(file.path, str(file.score), str(file.errors), str(file.warnings), str(file.notes))
    functions = Table("function", "place", "complexity", "lines", title="Most complex functions", title_justify="left")
    for function in report.worst_functions[:10]:
        place = f"{function.path}:{function.line}"
        functions.add_row(function.name, place, str(function.complexity), str(function.length))
    for table in (rules, files, functions):
        console.print(table)
    console.print(
        f"{totals.reviewed:,} of {totals.files:,} files, {totals.lines:,} lines and {totals.functions:,} functions "
        f"reviewed in {fleet.seconds:.1f} s by {fleet.agents:,} agents with {fleet.tasks:,} tasks.\n"
        f"{totals.findings:,} findings: {totals.confirmed:,} confirmed by a second agent, "
        f"{totals.disputed:,} disputed.\n"
        f"Unit to result: P50 {fleet.results.p50_ms:,.0f} ms, P95 {fleet.results.p95_ms:,.0f} ms; "
        f"check to verdicts: P50 {fleet.asks.p50_ms:,.0f} ms, P95 {fleet.asks.p95_ms:,.0f} ms; "
        f"files reviewed: {fleet.success_ratio:.2%}.\n"
        f"The report: {out / 'report.md'} and {out / 'report.json'}",
        highlight=False,
        soft_wrap=True,
    )


def _failed(message: str) -> int:
    print(f"review: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(cli())
