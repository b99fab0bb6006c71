"""The agents that have tasks of this worker's homes, and those that could take one; and the tasks that wait for them.

    queued, most urgent first --+
                                +--> given: (task, agent)        nobody free: look for agents, ever more rarely
    free agents, least busy ----+

An agent has one task of a worker at a time, and the next when it has answered. No I/O here but the search.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from swell.backoff import Backoff
from swell.priority import PRIORITIES, Priority

#: How long after a search that found nobody new the next one may begin: from a fifth of a second to ten seconds.
SEARCH = Backoff(0.2, 10.0)

#: A task: its home, its id, and the step of it that waits.
Ref = tuple[str, str, int]


class Crew:
    """The agents of one type, and the tasks for them.

    Attributes:
        busy: agent -> the task that it has.
        searching: whether agents are being looked for.
    """

    def __init__(self) -> None:
        self.busy: dict[str, Ref] = {}
        self.searching = False
        self._free: deque[str] = deque()
        self._lines: tuple[deque[Ref], ...] = tuple(deque() for _ in PRIORITIES)
        self._fruitless = 0
        self._search_at = 0.0

    def queue(self, ref: Ref, priority: Priority) -> None:
        """A task waits."""
        self._lines[PRIORITIES.index(priority)].append(ref)

    @property
    def waiting(self) -> int:
        """Tasks that wait; those that ended meanwhile are counted until their turn comes."""
        return sum(len(line) for line in self._lines)

    @property
    def unused(self) -> bool:
        """Whether nothing is known of it that matters."""
        return not self.busy and not self.waiting and not self.searching and not self._free

    def pairs(self) -> Iterator[tuple[Ref, str]]:
        """Give tasks to free agents, until one of the two is used up; who takes a pair calls `take` or `skip`."""
        while self._free:
            line = next((line for line in self._lines if line), None)
            if line is None:
                return
            yield line.popleft(), self._free[0]

    def take(self, ref: Ref) -> None:
        """The first free agent has the task."""
        self.busy[self._free.popleft()] = ref

    def hold(self, agent: str, ref: Ref) -> None:
        """A former owner of the task's home has given it to this agent."""
        self.busy[agent] = ref

    def release(self, agent: str, ref: Ref, *, gone: bool = False) -> None:
        """An agent has answered, or (`gone`) is no more."""
        if self.busy.get(agent) == ref:
            del self.busy[agent]
            if not gone:
                self._free.append(agent)

    def found(self, agents: list[str]) -> None:
        """A search has ended: these can be asked, the least busy first."""
        self.searching = False
        fresh = [agent for agent in agents if agent not in self.busy]
        self._fruitless = 0 if fresh else self._fruitless + 1
        self._free = deque(fresh)
        self._search_at = time.monotonic() + (SEARCH.wait_s(self._fruitless) if self._fruitless else 0.0)

    def search_in_s(self) -> float | None:
        """When to look for agents, seconds from now; None if nothing waits, or somebody is free."""
        if self.searching or self._free or not self.waiting:
            return None
        return max(0.0, self._search_at - time.monotonic())

    def drop(self, home: str) -> None:
        """A home is no longer ours."""
        for line in self._lines:
            kept = [ref for ref in line if ref[0] != home]
            line.clear()
            line.extend(kept)
        for agent in [agent for agent, ref in self.busy.items() if ref[0] == home]:
            del self.busy[agent]
