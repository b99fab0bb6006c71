"""Which task is next, and who is free for it: decisions only.

queued, by priority --next--> an agent of the type that is free, the least busy one as of when we looked
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from swell.priority import PRIORITIES
from swell_worker.mailbox import MOST_PASSED

_T = TypeVar("_T")

#: How long until agents are looked for again while somebody waits for one; seconds. With some known, who are all at
#: work, there is less to be gained.
LOOK_S = 0.25
LOOK_AGAIN_S = 2.0


class Given(NamedTuple):
    """Which message of which task an agent has: that of a task's step and try, of the task's home."""

    home: str
    id: str
    step: int
    tries: int
    agent: str


class Ranked(Generic[_T]):
    """What waits, by priority; what was passed over MOST_PASSED times is next, so nothing starves."""

    def __init__(self) -> None:
        self._lines: list[OrderedDict[str, _T]] = [OrderedDict() for _ in PRIORITIES]
        self._passed = [0] * len(PRIORITIES)

    def __len__(self) -> int:
        return sum(map(len, self._lines))

    def put(self, id: str, one: _T, rank: int) -> None:
        """Put one at the end of its line."""
        self._lines[rank][id] = one

    def take(self) -> _T:
        """The next one; there must be one."""
        there = [rank for rank, line in enumerate(self._lines) if line]
        chosen = next((rank for rank in reversed(there) if self._passed[rank] >= MOST_PASSED), there[0])
        self._passed[chosen] = 0
        for rank in there:
            self._passed[rank] += rank > chosen
        return self._lines[chosen].popitem(last=False)[1]

    def drop(self, id: str, rank: int) -> None:
        """One does not wait any more, if it did."""
        self._lines[rank].pop(id, None)


class Hands:
    """The agents of one type, as one worker's dispatcher knows them: it gives each one task at a time.

    Attributes:
        free: those that have none of ours, the least busy first.
        busy: those that have one, and which.
    """

    def __init__(self) -> None:
        self.free: deque[str] = deque()
        self.busy: dict[str, Given] = {}
        self._known: set[str] = set()
        self._looked = float("-inf")

    def found(self, agents: Iterable[str]) -> None:
        """We have looked: these can be asked, the least busy first."""
        self._looked = time.monotonic()
        agents = list(agents)
        self._known = set(agents)
        self.free = deque(agent for agent in agents if agent not in self.busy)

    def look_at(self) -> float:
        """When to look for agents (again), monotonic seconds."""
        return self._looked + (LOOK_AGAIN_S if self._known else LOOK_S)

    def take(self) -> str:
        """Whoever is free and is to get a task, see `keep`; somebody must be."""
        return self.free.popleft()

    def keep(self, given: Given) -> None:
        """An agent gets a task, or has one that an owner before us gave it."""
        self.busy[given.agent] = given

    def release(self, given: Given, *, gone: bool = False) -> None:
        """An agent has ended with a task; or it is `gone`, and gets none any more."""
        agent = given.agent
        if self.busy.get(agent) != given:
            return
        del self.busy[agent]
        if gone:
            self._known.discard(agent)
        elif agent in self._known:
            self.free.appendleft(agent)  # It has just answered: of the others we know less.

    def lost(self, home: str) -> None:
        """A home is no longer ours: another owner hears how what its tasks' agents have ends."""
        for given in [given for given in self.busy.values() if given.home == home]:
            self.release(given)
