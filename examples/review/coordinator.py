"""The coordinator: one task that spawns the fleet in waves, has each unit of files reviewed, and writes the report.

It keeps nothing. If it dies, its task begins anew elsewhere: the plans and the tasks that it submits have keys, so it
joins those that are there, and takes the results of those that have ended.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

from examples.review import report
from examples.review.analysis import Entry
from examples.review.messages import (
    SHARES,
    CrewProgress,
    Folder,
    Job,
    Listing,
    Reviewed,
    Role,
    Status,
    Unit,
    crew_sizes,
)
from swell import Agent, GiveUp, handler
from swell.errors import CallError, PlanAborted
from swell.tasks import Outcome

#: A unit is closed when it holds so many files or bytes: small enough for a fraction of a second of work.
UNIT_FILES = 8
UNIT_BYTES = 65_536
#: Units under way for each analyst. Fewer would leave agents without work, more would let questions wait behind it.
UNITS_PER_ANALYST = 0.5
#: How long a folder or a unit may take, its retries included, seconds.
UNIT_TIMEOUT_S = 900.0
#: Between two parts that say how far the run is, seconds: what an eye can follow.
TELL_S = 0.25


class Coordinator(Agent):
    """Runs reviews, one at a time."""

    @handler
    async def review(self, job: Job) -> report.Report:
        """Review a tree: emits `Status`, writes the report, and returns it without its single findings."""
        return await _Run(self, job).review()


class _Run:
    """One run of the handler."""

    def __init__(self, agent: Agent, job: Job) -> None:
        self._agent = agent
        self._job = job
        self._began = time.time()
        self._told = 0.0
        self._status = Status([])
        self._tally = report.Tally()
        self._sizes = crew_sizes(job.agents)
        self._window = max(int(self._sizes["analyst"] * UNITS_PER_ANALYST), 4)
        self._unlisted: list[str] = []
        self._tasks = 0
        self._results_s: list[float] = []
        self._asks_s: list[float] = []

    async def review(self) -> report.Report:
        for role in SHARES:
            await self._spawn(role)
        files = await self._list()
        self._status.files = len(files)
        await self._tell(now=True)
        units = list(units_of(files))
        failed = await self._review("units", units)
        lost = await self._review("files", [[path] for unit in failed for path in units[unit]])
        again = [path for unit in failed for path in units[unit]]
        unfinished = sorted([*(again[place] for place in lost), *self._unlisted])
        await self._tell(now=True)
        done = self._tally.report(
            self._job.root, len(files), self._status.finished, unfinished, self._figures(len(units), len(failed))
        )
        try:
            report.write(Path(self._job.out), done, self._tally.confirmed)
        except OSError as error:
            raise GiveUp(f"the report cannot be written to {self._job.out}: {error.strerror}") from None
        return done

    async def _spawn(self, role: Role) -> None:
        crew = CrewProgress(role, count=self._sizes[role])
        self._status.crews.append(crew)
        try:
            plan = await self._agent.spawn(
                role,
                id=f"{role}-{self._job.run}",
                keys=[f"{self._job.run}-{number:04d}" for number in range(crew.count)],
                wave_size=self._job.wave_size,
                abort_ratio=0.0,
            )
            async for progress in plan:
                crew.wave, crew.waves, crew.ready = progress.wave, progress.waves, progress.ready
                crew.elapsed_s, crew.ready_p95_s = progress.elapsed_s, progress.ready_p95_s
                await self._tell(now=True)
            await plan.wait()
        except (PlanAborted, CallError) as error:
            raise GiveUp(f"agents of type {role} could not be spawned: {error}") from None

    async def _list(self) -> list[Entry]:
        """All files of the tree, one level of its folders after another."""
        files: list[Entry] = []
        level, depth = [""], 0
        while level:
            below: list[str] = []
            bodies = (Folder(self._job.root, folder) for folder in level)
            outcomes: AsyncIterator[Outcome[Listing]] = self._agent.client.map(
                "researcher",
                "folder",
                bodies,
                Listing,
                durable=True,
                key=f"{self._job.run}-level-{depth}",
                ordered=True,
                timeout=UNIT_TIMEOUT_S,
            )
            async for outcome in outcomes:
                if outcome.error is None:
                    files += outcome.result.files
                    below += outcome.result.folders
                elif not level[outcome.place]:
                    raise GiveUp(f"the tree cannot be listed: {outcome.error}")
                else:
                    self._unlisted.append(str(outcome.error))
            self._tasks += len(level)
            level, depth = below, depth + 1
        return files

    async def _review(self, name: str, units: list[list[str]]) -> list[int]:
        """Have units reviewed; returns the places of those that failed."""
        failed: list[int] = []
        began: dict[int, float] = {}

        def bodies() -> Iterator[Unit]:
            for place, paths in enumerate(units):
                began[place] = time.monotonic()
                yield Unit(self._job.root, paths)

        outcomes: AsyncIterator[Outcome[Reviewed]] = self._agent.client.map(
            "reviewer",
            "review",
            bodies(),
            Reviewed,
            durable=True,
            key=f"{self._job.run}-{name}",
            max_in_flight=self._window,
            timeout=UNIT_TIMEOUT_S,
        )
        async for outcome in outcomes:
            if outcome.error is not None:
                failed.append(outcome.place)
                continue
            self._take(outcome.result)
            self._results_s.append(time.monotonic() - began.pop(outcome.place))
            await self._tell()
        return sorted(failed)

    def _take(self, reviewed: Reviewed) -> None:
        for survey in reviewed.surveys:
            self._tally.surveyed(survey)
        for look, verdicts in zip(reviewed.looks, reviewed.verdicts, strict=True):
            self._tally.reviewed(look, verdicts)
        self._tasks += 1 + reviewed.tasks
        self._asks_s += reviewed.asks_s
        self._status.finished += len(reviewed.surveys)
        self._status.findings = self._tally.totals.findings
        self._status.disputed = self._tally.totals.disputed

    async def _tell(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._told >= TELL_S:
            self._told = time.monotonic()
            await self._agent.emit(self._status)

    def _figures(self, units: int, retried: int) -> report.FleetFigures:
        status = self._status
        return report.FleetFigures(
            agents=1 + sum(crew.ready for crew in status.crews),
            crews=[
                report.CrewFigures(crew.role, crew.ready, crew.waves, crew.elapsed_s, crew.ready_p95_s * 1000)
                for crew in status.crews
            ],
            seconds=time.time() - self._began,
            units=units,
            tasks=self._tasks,
            results=report.latency(self._results_s),
            asks=report.latency(self._asks_s),
            retried=retried,
            success_ratio=status.finished / status.files if status.files else 1.0,
        )


def units_of(files: Iterable[Entry]) -> Iterator[list[str]]:
    """Files in units of at most `UNIT_FILES` and, unless one file alone is larger, `UNIT_BYTES`."""
    paths: list[str] = []
    size = 0
    for entry in files:
        if paths and (len(paths) == UNIT_FILES or size + entry.bytes > UNIT_BYTES):
            yield paths
            paths, size = [], 0
        paths.append(entry.path)
        size += entry.bytes
    if paths:
        yield paths
