"""One question to many agents, and as many answers as are needed.

ask_many --an ask each--> agents --> answers, errors --enough, or time is over--> Answers
|
+--> what nobody waits for any more is cancelled
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from swell.errors import CallTimeout, SwellError, WrongBody

_T = TypeVar("_T")
#: Agents that one call asks.
MOST_ASKED = 100_000


@dataclass(slots=True)
class Answers(Generic[_T]):
    """What came of a question to many.

    Attributes:
        quorum: how many answers were wanted.
        answers: the results by agent id, the first to come first.
        errors: why those agents did not answer that have failed.
        silent: agents that had neither answered nor failed when it ended, in the order asked.
    """

    quorum: int
    answers: dict[str, _T] = field(default_factory=dict)
    errors: dict[str, SwellError] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        """Whether there were as many answers as were wanted."""
        return len(self.answers) >= self.quorum


def bodies_of(agents: Iterable[str] | Mapping[str, Any], body: Any, quorum: int | None) -> dict[str, Any]:
    """What each agent is asked.

    Args:
        agents: their ids; or a mapping from each id to its own body.
        body: for all, if it is no mapping.
        quorum: answers wanted.

    Raises:
        WrongBody: there is no agent, or too many, a body is given twice, or the quorum cannot be reached.
    """
    if isinstance(agents, str):
        raise WrongBody("", f"agents: {agents!r} is one id; give a list of them", field="agents")
    if isinstance(agents, Mapping):
        if body is not None:
            raise WrongBody("", "body: the agents have bodies of their own; leave it out", field="body")
        asked = dict(agents)
    else:
        asked = dict.fromkeys(agents, body)
    if not 1 <= len(asked) <= MOST_ASKED:
        raise WrongBody("", f"agents: {len(asked):,} ids; give 1 to {MOST_ASKED:,}", field="agents")
    if quorum is not None and not 1 <= quorum <= len(asked):
        raise WrongBody("", f"quorum: {quorum} of {len(asked):,} agents; give 1 to {len(asked):,}", field="quorum")
    return asked


async def gather(
    asked: Mapping[str, Any], ask: Callable[[str, Any], Awaitable[_T]], quorum: int | None, timeout: float
) -> Answers[_T]:
    """Ask all, and return when `quorum` have answered (all, if None), or none is left that could, or time is over.

    Args:
        asked: the body for each agent.
        ask: asks one; cancelled, it takes its message back.
        quorum: answers wanted.
        timeout: limit, seconds.
    """
    found: Answers[_T] = Answers(len(asked) if quorum is None else quorum)
    ended = asyncio.Event()
    left = len(asked)

    async def one(id: str, body: Any) -> None:
        nonlocal left
        try:
            found.answers[id] = await ask(id, body)
        except CallTimeout:
            pass
        except SwellError as error:
            found.errors[id] = error
        left -= 1
        if not left or found.reached:
            ended.set()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(id, body)) for id, body in asked.items()]
        try:
            async with asyncio.timeout(timeout):
                await ended.wait()
        except TimeoutError:
            pass
        found.silent = [id for id in asked if id not in found.answers and id not in found.errors]
        for task in tasks:
            task.cancel()
    return found
