"""Work for whichever agent of a type is free.

    bodies --one at a time--> free agents --ask--> outcomes --> the caller's loop
                 ^                |
                 +----------------+  an agent that has answered takes the next

Each agent has one task of a call at a time, so a slow one holds up nothing but its own. A task whose agent ended goes
to another. A task is durable while an agent has it; what was not given out yet is the caller's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from swell.errors import SwellError, UnknownAgent

_T = TypeVar("_T")
#: Agents that one call gives work to, unless it says otherwise.
MOST_AGENTS = 1_000


@dataclass(frozen=True, slots=True)
class Outcome(Generic[_T]):
    """What came of one task.

    Attributes:
        place: its body's place in what was given, from 0.
        agent: who had it; empty if there was nobody.
        error: why there is no result; None if there is.
    """

    place: int
    agent: str
    error: SwellError | None
    _result: _T | None = None

    @property
    def result(self) -> _T:
        """What the handler returned.

        Raises:
            SwellError: it did not; see `error`.
        """
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value]


#: Does something with a place and a body.
One = Callable[[int, Any], Coroutine[Any, Any, Outcome[_T]]]


class Crew:
    """The agents that have work of one call, and those that are free.

    Args:
        find: the ids of the agents that can be asked, the least busy first.
        type: theirs, for errors.
    """

    def __init__(self, find: Callable[[], Awaitable[list[str]]], type: str) -> None:
        self._find = find
        self._type = type
        self._free: asyncio.Queue[str | None] = asyncio.Queue()
        self._known: set[str] = set()
        self._looking = asyncio.Lock()
        self._gone = False
        self.size = 0

    async def look(self) -> None:
        """Find agents, if we have none (any more).

        Raises:
            UnknownAgent: there is none.
        """
        async with self._looking:
            if not self.size and not self._gone:
                for id in await self._find():
                    if id not in self._known:
                        self._known.add(id)
                        self._free.put_nowait(id)
                        self.size += 1
                self._gone = not self.size
            if self._gone:
                raise UnknownAgent("", f"no agent of type {self._type!r} can be asked: spawn some")

    async def perform(self, ask: Callable[[str], Awaitable[_T]]) -> _T:
        """Have the next agent that is free do something; if it has ended, another.

        Raises:
            UnknownAgent: nobody is left.
            SwellError: the agent failed.
        """
        while True:
            if not self.size:
                await self.look()
            agent = await self._free.get()
            if agent is None:
                if not self.size:
                    self._free.put_nowait(None)  # For the others that wait.
                continue
            try:
                result = await ask(agent)
            except UnknownAgent:
                self.size -= 1
                if not self.size:
                    self._free.put_nowait(None)  # Whoever waits looks for others.
                continue
            except BaseException:
                self._free.put_nowait(agent)
                raise
            self._free.put_nowait(agent)
            return result


def outcomes(
    crew: Crew, bodies: Iterable[Any], ask: Callable[[str, Any], Awaitable[_T]], *, ordered: bool
) -> AsyncIterator[Outcome[_T]]:
    """Give bodies to the crew as it gets free; at most as many are under way, or wait to be taken, as it has agents."""

    async def one(place: int, body: Any) -> Outcome[_T]:
        agent = ""

        async def asked(id: str) -> _T:
            nonlocal agent
            agent = id
            return await ask(id, body)

        try:
            result = await crew.perform(asked)
        except SwellError as error:
            return Outcome(place, agent, error)
        return Outcome(place, agent, None, result)

    return _of_crew(crew, bodies, one, ordered=ordered)


async def _of_crew(crew: Crew, bodies: Iterable[Any], one: One[_T], *, ordered: bool) -> AsyncIterator[Outcome[_T]]:
    await crew.look()
    async with aclosing(bounded(bodies, one, crew.size, ordered=ordered)) as found:
        async for outcome in found:
            yield outcome


async def bounded(
    bodies: Iterable[Any], one: One[_T], most: int, *, ordered: bool
) -> AsyncGenerator[Outcome[_T], None]:
    """Do `one` thing with each body and its place; at most `most` are under way, or wait to be taken.

    Left early, it cancels what is under way.
    """
    given: Iterator[tuple[int, Any]] = enumerate(bodies)
    ended: asyncio.Queue[asyncio.Task[Outcome[_T]]] = asyncio.Queue()
    line: deque[asyncio.Task[Outcome[_T]]] = deque()
    running: set[asyncio.Task[Outcome[_T]]] = set()
    try:
        while True:
            while len(running) < most and (next_one := next(given, None)) is not None:
                task = asyncio.ensure_future(one(*next_one))
                running.add(task)
                if ordered:
                    line.append(task)
                else:
                    task.add_done_callback(ended.put_nowait)
            if not running:
                return
            task = line.popleft() if ordered else await ended.get()
            yield await task
            running.discard(task)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
