"""The coordinator: spawns the fleet in waves, sends out the work in small units, and writes the report.

    recruiting --all crews ready--> reviewing --worklist complete--> done
        |                               |
        +--a plan aborts----------------+--the tree cannot be listed, the report not written--> failed

It is told nothing about files but results, a few files in one message, and does nothing with them but count.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from examples.review import report
from examples.review.journal import Assembled, Began, Heard, Journal, Line
from examples.review.messages import (
    SHARES,
    Crew,
    CrewProgress,
    Fleet,
    Folder,
    Job,
    Listing,
    Reviewed,
    Role,
    Status,
    Surveyed,
    crew_sizes,
)
from examples.review.worklist import Worklist
from swell import Agent, handler
from swell.errors import CallError, PlanAborted

#: Units under way for each analyst. Fewer would leave agents without work, more would let questions wait behind it.
UNITS_PER_ANALYST = 0.5


class Coordinator(Agent):
    """Runs one review. Its key is the run's name."""

    job: Job

    async def started(self, args: Job) -> None:
        """Begin, or go on where the journal ends if an earlier worker began.

        Raises:
            OSError: the journal cannot be written into the report's folder.
        """
        self.job = args
        self._sizes = crew_sizes(args.agents)
        self._worklist = Worklist(max(int(self._sizes["analyst"] * UNITS_PER_ANALYST), 4))
        self._tally = report.Tally()
        self._fleet: Fleet | None = None
        self._crews: dict[Role, CrewProgress] = {}
        self._ask_s: list[float] = []
        self._unlisted: list[str] = []
        self._messages = 0
        self._began_s = 0.0
        self._state: Literal["recruiting", "reviewing", "done", "failed"] = "recruiting"
        self._reason = ""
        self._report: report.Report | None = None
        self._journal = Journal(Path(args.out) / f".journal-{args.run}.jsonl")
        for line in self._journal.lines():
            self._take(line)
        if not self._began_s:
            self._hear(Began(time.time()))

    async def stopped(self) -> None:
        """The run is over: its journal is of no more use."""
        self._journal.remove()

    @handler
    async def recruit(self) -> None:
        """Spawn one type of agents, then tell oneself to go on; in between, questions are answered."""
        if self._fleet is not None or self._state != "recruiting":
            return
        fleet = self._planned_fleet()
        missing = [role for role in SHARES if role not in self._crews]
        if missing and not await self._spawn(missing[0], fleet):
            return
        if len(missing) > 1:
            await self._send([(self.id, "recruit", None)])
            return
        # Sent before it is written down: after a crash in between it is sent again, and the folder is known by then.
        await self._send([(fleet.address("researcher", 0), "explore", Folder(""))])
        self._hear(Assembled(fleet, list(self._crews.values())))

    @handler
    async def listed(self, listing: Listing) -> None:
        """Take what a folder holds."""
        if listing.error and not listing.folder:
            self._fail(f"the tree cannot be listed: {listing.error}")
            return
        await self._heard(Heard(listing=listing))

    @handler
    async def surveyed(self, body: Surveyed) -> None:
        """Take what a researcher read."""
        await self._heard(Heard(surveyed=body))

    @handler
    async def reviewed(self, body: Reviewed) -> None:
        """Take findings with their verdicts."""
        await self._heard(Heard(reviewed=body))

    @handler
    async def status(self) -> Status:
        """Say how far the run is. Whoever asks also makes the clock of overdue work tick."""
        await self._advance()
        totals = self._tally.totals
        return Status(
            state=self._state,
            reason=self._reason,
            crews=list(self._crews.values()),
            plans=[self._plan_id(role) for role in self._crews],
            folders=self._worklist.folders,
            files=self._worklist.files,
            finished=self._worklist.finished,
            unfinished=len(self._worklist.unfinished) + len(self._unlisted),
            findings=totals.findings,
            disputed=totals.disputed,
        )

    @handler
    async def summary(self) -> report.Report | None:
        """The report without its single findings; None while there is none."""
        return self._report

    def _planned_fleet(self) -> Fleet:
        crews = {str(role): Crew(self.job.run, size) for role, size in self._sizes.items()}
        return Fleet(self.job.root, self.id, crews)

    async def _spawn(self, role: Role, fleet: Fleet) -> bool:
        crew = fleet.crews[role]
        try:
            plan = await self.spawn(
                role,
                # After a crash this message comes again; the same id then joins the plan that is there.
                id=self._plan_id(role),
                keys=[f"{crew.prefix}-{number:04d}" for number in range(crew.size)],
                wave_size=self.job.wave_size,
                abort_ratio=0.0,  # every address must answer
                args=fleet,
            )
            async for progress in plan:
                self._crews[role] = CrewProgress(
                    role=role,
                    wave=progress.wave,
                    waves=progress.waves,
                    ready=progress.ready,
                    count=progress.count,
                    elapsed_s=progress.elapsed_s,
                    ready_p95_s=progress.ready_p95_s,
                )
            await plan.wait()
        except (PlanAborted, CallError) as error:
            self._fail(f"agents of type {role} could not be spawned: {error}")
            return False
        return True

    def _plan_id(self, role: Role) -> str:
        return f"{role}-{self.job.run}"

    async def _heard(self, line: Heard) -> None:
        self._hear(line)
        await self._advance()

    def _hear(self, line: Line) -> None:
        self._journal.add(line)
        self._take(line)

    def _take(self, line: Line) -> None:
        """Change the state by one line of the journal, just written or read again."""
        if isinstance(line, Began):
            self._began_s = line.at_s
        elif isinstance(line, Assembled):
            self._fleet = line.fleet
            self._crews = {crew.role: crew for crew in line.crews}
            self._state = "reviewing"
        elif line.listing is not None:
            if self._worklist.listed(line.listing):
                self._messages += line.listing.sent
                if line.listing.error:
                    self._unlisted.append(line.listing.error)
        elif line.surveyed is not None:
            new = self._worklist.surveyed(line.surveyed)
            self._messages += line.surveyed.sent if new else 0
            for survey in new:
                self._tally.surveyed(survey)
        elif line.reviewed is not None:
            self._take_reviewed(line.reviewed)

    def _take_reviewed(self, body: Reviewed) -> None:
        new = self._worklist.reviewed(body, time.monotonic())
        if new:
            self._messages += body.sent
            if body.checker:
                self._ask_s.append(body.ask_s)
        for index in new:
            self._tally.reviewed(body.looks[index], body.verdicts[index])

    async def _advance(self) -> None:
        """Send out what may go, and end the run when nothing is left."""
        if self._state != "reviewing" or self._fleet is None:
            return
        units = self._worklist.send_out(time.monotonic())
        if units:
            await self._send([(self._fleet.address("researcher", unit.number), "read", unit) for unit in units])
        elif self._worklist.complete:
            self._finish(self._fleet)

    async def _send(self, messages: list[tuple[str, str, Any]]) -> None:
        self._messages += await self.send_many(messages)

    def _finish(self, fleet: Fleet) -> None:
        worklist = self._worklist
        figures = report.FleetFigures(
            agents=1 + sum(crew.size for crew in fleet.crews.values()),
            crews=[
                report.CrewFigures(crew.role, crew.ready, crew.waves, crew.elapsed_s, crew.ready_p95_s * 1000)
                for crew in self._crews.values()
            ],
            seconds=time.time() - self._began_s,
            units=worklist.units,
            messages=self._messages,
            results=report.latency(worklist.latencies_s),
            asks=report.latency(self._ask_s),
            duplicates=worklist.duplicates,
            resent=worklist.resent,
            success_ratio=worklist.finished / worklist.files if worklist.files else 1.0,
        )
        done = self._tally.report(
            self.job.root, worklist.files, worklist.finished, sorted([*worklist.unfinished, *self._unlisted]), figures
        )
        try:
            report.write(Path(self.job.out), done, self._tally.confirmed)
        except OSError as error:
            self._fail(f"the report cannot be written to {self.job.out}: {error.strerror}")
            return
        self._report = done
        self._state = "done"

    def _fail(self, reason: str) -> None:
        self._state = "failed"
        self._reason = reason
