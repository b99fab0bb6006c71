"""The agents that do the work. None keeps anything between two messages, so any may be restarted at any time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeVar

from examples.review.analysis import Look, Survey, inspect_file, list_folder, measure_file, survey_file
from examples.review.findings import Verdict
from examples.review.messages import Check, Claims, Fleet, Folder, Listing, Reviewed, Role, Surveyed, Unit
from examples.review.second_look import second_look
from swell import Agent, handler

#: Files from this size on are looked at in a thread, so that the worker's loop goes on meanwhile. For smaller ones
#: the thread would cost more than it saves: both share one interpreter lock.
THREAD_BYTES = 131_072
#: How long a reviewer waits for the second agent, seconds; below the time limit of its own handler.
ASK_TIMEOUT_S = 20.0

_T = TypeVar("_T")


async def look_at(root: str, path: str, look: Callable[..., _T], *args: Any) -> _T:
    """Run `look(root, path, *args)`, and let the loop turn before the next file."""
    try:
        large = os.stat(os.path.join(root, path)).st_size >= THREAD_BYTES
    except OSError:
        large = False  # `look` says what is wrong with it
    if large:
        return await asyncio.to_thread(look, root, path, *args)
    result = look(root, path, *args)
    await asyncio.sleep(0)
    return result


class FleetAgent(Agent):
    """An agent that knows its fleet."""

    fleet: Fleet

    async def started(self, args: Fleet) -> None:
        """Learn where the files are, and how to reach the others."""
        self.fleet = args


class Researcher(FleetAgent):
    """Lists folders and reads files."""

    @handler
    async def explore(self, body: Folder) -> None:
        """List a folder; hand its folders on to other researchers and report what it holds."""
        try:
            folders, files = list_folder(self.fleet.root, body.folder)
        except OSError as error:
            message = f"{body.folder or self.fleet.root}: {error.strerror}"
            await self.send(self.fleet.coordinator, "listed", Listing(body.folder, error=message, sent=1))
            return
        listing = Listing(body.folder, folders, files, sent=1 + len(folders))
        first = sum(body.folder.encode())  # spreads the folders, in the same way each time
        await self.send_many(
            [
                (self.fleet.coordinator, "listed", listing),
                *(
                    (self.fleet.address("researcher", first + number), "explore", Folder(folder))
                    for number, folder in enumerate(folders, 1)
                ),
            ]
        )

    @handler
    async def read(self, body: Unit) -> None:
        """Read a unit's files; report on them, and hand those that parse on to an analyst and a tester."""
        fleet = self.fleet
        surveys: list[Survey] = [await look_at(fleet.root, path, survey_file) for path in body.paths]
        sound = Unit(body.number, [survey.path for survey in surveys if survey.fault is None])
        faulty = [Look(survey.path, [survey.fault]) for survey in surveys if survey.fault is not None]
        messages: list[tuple[str, str, Any]] = []
        if sound.paths:
            messages.append((fleet.address("analyst", body.number), "measure", sound))
            messages.append((fleet.address("tester", body.number), "inspect", sound))
        if faulty:
            claims = Claims(body.number, "researcher", self.id, faulty, sent=0)
            messages.append((fleet.address("reviewer", body.number), "review", claims))
        report = Surveyed(body.number, surveys, sent=len(messages) + 1)
        await self.send_many([*messages, (fleet.coordinator, "surveyed", report)])


class Checker(FleetAgent):
    """What analysts and testers have in common: each can be asked whether the findings of another hold."""

    @handler
    async def check(self, body: list[Check]) -> list[list[Verdict]]:
        """Look at files a second time, for these findings alone."""
        return [await look_at(self.fleet.root, item.path, second_look, item.findings) for item in body]

    async def report(self, unit: int, role: Role, looks: list[Look]) -> None:
        """Hand what was found on to a reviewer."""
        reviewer = self.fleet.address("reviewer", 2 * unit + (role == "tester"))
        await self.send(reviewer, "review", Claims(unit, role, self.id, looks, sent=1))


class Analyst(Checker):
    """Measures functions and looks for missing docstrings."""

    @handler
    async def measure(self, body: Unit) -> None:
        """Measure a unit's files."""
        looks = [await look_at(self.fleet.root, path, measure_file) for path in body.paths]
        await self.report(body.number, "analyst", looks)


class Tester(Checker):
    """Looks for likely bugs."""

    @handler
    async def inspect(self, body: Unit) -> None:
        """Inspect a unit's files."""
        looks = [await look_at(self.fleet.root, path, inspect_file) for path in body.paths]
        await self.report(body.number, "tester", looks)


class Reviewer(FleetAgent):
    """Has findings confirmed or disputed by an agent that did not make them."""

    @handler
    async def review(self, body: Claims) -> None:
        """Ask another analyst or tester whether the findings hold, and report what it says."""
        loop = asyncio.get_running_loop()
        role: Role = "analyst" if body.role == "analyst" else "tester"
        checker = self.fleet.another(role, body.unit + self.fleet.crews[role].size // 2, body.author)
        doubtful = [Check(look.path, look.findings) for look in body.looks if look.findings]
        answers: list[list[Verdict]] = []
        began = loop.time()
        if doubtful:
            answers = await self.ask(checker, "check", doubtful, list[list[Verdict]], timeout=ASK_TIMEOUT_S)
        ask_s = loop.time() - began
        given = iter(answers)
        report = Reviewed(
            unit=body.unit,
            role=body.role,
            author=body.author,
            looks=body.looks,
            verdicts=[next(given) if look.findings else [] for look in body.looks],
            checker=checker if doubtful else "",
            ask_s=ask_s if doubtful else 0.0,
            sent=body.sent + bool(doubtful) + 1,
        )
        await self.send(self.fleet.coordinator, "reviewed", report)
