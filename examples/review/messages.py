"""What the agents of a review say to each other. Paths and findings travel, never the text of files.

coordinator --explore--> researcher --explore--> researcher ...      one message a folder
researcher  --listed---> coordinator
coordinator --read-----> researcher                                  one message a unit: a few files
researcher  --surveyed-> coordinator
            --measure--> analyst  --review--> reviewer --(ask check)--> another analyst
            --inspect--> tester   --review--> reviewer --(ask check)--> another tester
reviewer    --reviewed-> coordinator
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from examples.review.analysis import Entry, Look, Survey
from examples.review.findings import Finding, Verdict

Role = Literal["researcher", "analyst", "tester", "reviewer"]

#: Shares of a fleet's agents, in the order in which the types are spawned.
SHARES: dict[Role, float] = {"reviewer": 0.2, "analyst": 0.3, "tester": 0.3, "researcher": 0.2}
#: Fewer agents could not cross-check: a finding needs a second analyst or tester.
MIN_AGENTS = 9


class Job(Struct, frozen=True):
    """What the coordinator is started with.

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


class Crew(Struct, frozen=True):
    """All agents of one type in a fleet: their keys are `{prefix}-0000` and so on."""

    prefix: str
    size: int


class Fleet(Struct, frozen=True):
    """What every agent of a run is started with: where the files are, and how to reach the others."""

    root: str
    coordinator: str
    crews: dict[str, Crew]

    def address(self, role: Role, number: int) -> str:
        """The agent that has its turn at `number`; counting up goes round the crew."""
        crew = self.crews[role]
        return f"{role}/{crew.prefix}-{number % crew.size:04d}"

    def another(self, role: Role, number: int, author: str) -> str:
        """An agent of a crew other than `author`."""
        chosen = self.address(role, number)
        return chosen if chosen != author else self.address(role, number + 1)


class Folder(Struct, frozen=True):
    """Body of `explore`: a folder, relative to the tree."""

    folder: str


class Listing(Struct, frozen=True, omit_defaults=True):
    """Body of `listed`: what a folder holds, or why it cannot be listed.

    Attributes:
        sent: messages it took to handle the folder, this one included.
    """

    folder: str
    folders: list[str] = []
    files: list[Entry] = []
    error: str = ""
    sent: int = 0


class Unit(Struct, frozen=True):
    """Body of `read`, `measure` and `inspect`: a few files that go through the fleet together."""

    number: int
    paths: list[str]


class Surveyed(Struct, frozen=True):
    """Body of `surveyed`: what a researcher read."""

    unit: int
    surveys: list[Survey]
    sent: int


class Claims(Struct, frozen=True):
    """Body of `review`: what one agent found in the files of a unit."""

    unit: int
    role: Role
    author: str
    looks: list[Look]
    sent: int


class Check(Struct, frozen=True):
    """One item of the body of `check`: findings in a file that somebody else shall confirm or dispute."""

    path: str
    findings: list[Finding]


class Reviewed(Struct, frozen=True, omit_defaults=True):
    """Body of `reviewed`: the findings of one role in the files of a unit, and what the second look said.

    Attributes:
        verdicts: for each look, for each of its findings.
        ask_s: from asking the second agent to its answer, seconds; 0 if there was nothing to ask.
        sent: messages since the researcher's, this one included.
    """

    unit: int
    role: Role
    author: str
    looks: list[Look]
    verdicts: list[list[Verdict]]
    checker: str = ""
    ask_s: float = 0.0
    sent: int = 0


class CrewProgress(Struct, frozen=True):
    """How far the spawning of one type is."""

    role: Role
    wave: int
    waves: int
    ready: int
    count: int
    elapsed_s: float
    ready_p95_s: float


class Status(Struct, frozen=True):
    """The answer to `status`: how far the run is.

    Attributes:
        state: if `failed`, `reason` says why.
        plans: ids of the plans that spawned the fleet.
        unfinished: files given up, and folders that cannot be listed.
    """

    state: Literal["recruiting", "reviewing", "done", "failed"]
    reason: str
    crews: list[CrewProgress]
    plans: list[str]
    folders: int
    files: int
    finished: int
    unfinished: int
    findings: int
    disputed: int


def crew_sizes(agents: int) -> dict[Role, int]:
    """How many of each type a fleet of that size has, beside its coordinator.

    Raises:
        ValueError: fewer than `MIN_AGENTS` are asked for.
    """
    if agents < MIN_AGENTS:
        raise ValueError(f"{agents} agents cannot cross-check each other: at least {MIN_AGENTS} are needed")
    sizes: dict[Role, int] = {role: max(int((agents - 1) * share), 1) for role, share in SHARES.items()}
    sizes["analyst"] += agents - 1 - sum(sizes.values())
    return sizes
