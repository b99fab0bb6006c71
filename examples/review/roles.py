"""The agents that do the work. None keeps anything between two tasks, so any may be restarted at any time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from examples.review.analysis import Look, Survey, inspect_file, list_folder, measure_file, survey_file
from examples.review.findings import Verdict
from examples.review.messages import Check, Folder, Listing, Reviewed, Role, Unit
from examples.review.second_look import second_look
from swell import Agent, GiveUp, handler

#: Files from this size on are looked at in a thread, so that the worker's loop goes on meanwhile. For smaller ones
#: the thread would cost more than it saves: both share one interpreter lock.
THREAD_BYTES = 131_072
#: How long a reviewer waits for each task of a unit, seconds; three in a row are below the time limit of its handler.
STEP_TIMEOUT_S = 100.0

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


class Researcher(Agent):
    """Lists folders and reads files."""

    @handler
    async def folder(self, body: Folder) -> Listing:
        """List a folder."""
        try:
            return Listing(*list_folder(body.root, body.folder))
        except OSError as error:
            raise GiveUp(f"{body.folder or body.root}: {error.strerror}") from None

    @handler
    async def read(self, body: Unit) -> list[Survey]:
        """Read a unit's files."""
        return [await look_at(body.root, path, survey_file) for path in body.paths]


class Checker(Agent):
    """What analysts and testers have in common: each is asked whether the findings of the others hold."""

    @handler
    async def check(self, body: Check) -> list[list[Verdict]]:
        """Look at files a second time, for these findings alone."""
        return [await look_at(body.root, one.path, second_look, one.findings) for one in body.looks]


class Analyst(Checker):
    """Measures functions and looks for missing docstrings."""

    @handler
    async def measure(self, body: Unit) -> list[Look]:
        """Measure a unit's files."""
        return [await look_at(body.root, path, measure_file) for path in body.paths]


class Tester(Checker):
    """Looks for likely bugs."""

    @handler
    async def inspect(self, body: Unit) -> list[Look]:
        """Inspect a unit's files."""
        return [await look_at(body.root, path, inspect_file) for path in body.paths]


class Reviewer(Agent):
    """Has a unit read and looked at, and each finding confirmed or disputed by an agent of another type."""

    @handler
    async def review(self, body: Unit) -> Reviewed:
        """Review a unit: read it; then, at once, an analyst and a tester look, and each checks the other."""
        surveys = await self._run("researcher", "read", body, list[Survey])
        sound = Unit(body.root, [survey.path for survey in surveys if survey.fault is None])
        faulty = [Look(survey.path, [survey.fault]) for survey in surveys if survey.fault is not None]
        reviewed = Reviewed(surveys, [], [], [], tasks=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._check(body.root, faulty, "tester", reviewed))
            if sound.paths:
                group.create_task(self._look(sound, "analyst", "measure", "tester", reviewed))
                group.create_task(self._look(sound, "tester", "inspect", "analyst", reviewed))
        return reviewed

    async def _look(self, unit: Unit, role: Role, name: str, checker: Role, reviewed: Reviewed) -> None:
        looks = await self._run(role, name, unit, list[Look])
        reviewed.tasks += 1
        await self._check(unit.root, looks, checker, reviewed)

    async def _check(self, root: str, looks: list[Look], checker: Role, reviewed: Reviewed) -> None:
        doubtful = [look for look in looks if look.findings]
        given: list[list[Verdict]] = []
        if doubtful:
            began = time.monotonic()
            given = await self._run(checker, "check", Check(root, doubtful), list[list[Verdict]])
            reviewed.asks_s.append(time.monotonic() - began)
            reviewed.tasks += 1
        verdicts = iter(given)
        reviewed.looks += looks
        reviewed.verdicts += [next(verdicts) if look.findings else [] for look in looks]

    async def _run(self, role: Role, name: str, body: Unit | Check, result: type[_T]) -> _T:
        found: _T = await self.client.run(role, name, body, result, timeout=STEP_TIMEOUT_S)
        return found
