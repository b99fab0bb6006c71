"""What the agents of a review ask of each other. Paths and findings travel, never the text of files.

command --review--> coordinator --folder-> researcher                    one task a folder
                                --review-> reviewer --read----> researcher   one task a unit: a few files
                                                    --measure-> analyst  --> check: by a tester
                                                    --inspect-> tester   --> check: by an analyst

All of these are tasks: whoever is free does them, and the result goes back to whoever submitted it.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from examples.review.analysis import Entry, Look, Survey
from examples.review.findings import Verdict

Role = Literal["researcher", "analyst", "tester", "reviewer"]

#: Shares of a fleet's agents, in the order in which the types are spawned.
SHARES: dict[Role, float] = {"reviewer": 0.2, "analyst": 0.3, "tester": 0.3, "researcher": 0.2}
#: With fewer, the shares mean nothing.
MIN_AGENTS = 9


class Job(Struct, frozen=True):
    """Body of the coordinator's `review`.

    Attributes:
        run: unique name of this run; part of all its agents' keys.
        root: the tree, an absolute path.
        out: folder of the report, an absolute path.
        agents: how many in all, the coordinator included.
        wave_size: agents started together.
    """

    run: str
    root: str
    out: str
    agents: int
    wave_size: int


class Folder(Struct, frozen=True):
    """Body of `folder`: a folder, relative to the tree."""

    root: str
    folder: str


class Listing(Struct, frozen=True):
    """What a folder holds."""

    folders: list[str]
    files: list[Entry]


class Unit(Struct, frozen=True):
    """Body of `review`, `read`, `measure` and `inspect`: a few files of a tree that are reviewed together."""

    root: str
    paths: list[str]


class Check(Struct, frozen=True):
    """Body of `check`: findings, file by file, that somebody else shall confirm or dispute."""

    root: str
    looks: list[Look]


class Reviewed(Struct):
    """What came of a unit.

    Attributes:
        surveys: of its files.
        looks: of analysts and testers, or what the researcher could not read.
        verdicts: for each look, for each of its findings.
        asks_s: from submitting each check to its result, seconds.
        tasks: tasks that it took, this one not included.
    """

    surveys: list[Survey]
    looks: list[Look]
    verdicts: list[list[Verdict]]
    asks_s: list[float]
    tasks: int


class CrewProgress(Struct):
    """How far the spawning of one type is."""

    role: Role
    count: int
    ready: int = 0
    wave: int = 0
    waves: int = 0
    elapsed_s: float = 0.0
    ready_p95_s: float = 0.0


class Status(Struct):
    """What the coordinator emits: how far the run is."""

    crews: list[CrewProgress]
    files: int = 0
    finished: int = 0
    findings: int = 0
    disputed: int = 0


def crew_sizes(agents: int) -> dict[Role, int]:
    """How many of each type a fleet of that size has, beside its coordinator.

    Raises:
        ValueError: fewer than `MIN_AGENTS` are asked for.
    """
    if agents < MIN_AGENTS:
        raise ValueError(f"{agents} agents are too few: at least {MIN_AGENTS} are needed")
    sizes: dict[Role, int] = {role: max(int((agents - 1) * share), 1) for role, share in SHARES.items()}
    sizes["analyst"] += agents - 1 - sum(sizes.values())
    return sizes
