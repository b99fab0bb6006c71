"""What a client asks of many agents, or of whichever is free: `ask_many` and `map`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, TypeVar

from swell.errors import WrongBody
from swell.looking import Looking
from swell.priority import Priority
from swell.publishing import Publishing
from swell.quorum import Answers, bodies_of, gather
from swell.tasks import MOST_AGENTS, Crew, Outcome, outcomes

_T = TypeVar("_T")
#: Agents that one page of a listing holds at most.
MOST_LISTED = 10_000
#: States of agents that can be asked something.
ASKABLE = frozenset({"ready", "idle", "working", "waiting", "passive"})


class Working(Publishing):
    """What a client has agents do, without choosing one itself or with many at once."""

    async def ask_many(
        self,
        agents: Iterable[str] | Mapping[str, Any],
        name: str,
        body: Any = None,
        type: type[_T] | Any = Any,
        *,
        quorum: int | None = None,
        timeout: float = 30.0,
        sender: str = "",
        priority: Priority = "normal",
    ) -> Answers[_T]:
        """Ask many agents at once; returns when enough have answered, with the answers, the errors and who was silent.

        Whoever has not answered by then is asked no longer: messages that were not begun are not handled, handlers that
        run are cancelled. An agent that fails is no error of the call.

        Args:
            agents: `type/key` of each; or a mapping from each id to a body of its own.
            name: the handler.
            body: for all of them; None with a mapping.
            type: what results are decoded as.
            quorum: answers wanted; all, if None. If so many cannot come any more, it returns when all have ended.
            timeout: limit, seconds.
            sender: the agent that asks, if one does.
            priority: as for `ask`.

        Raises:
            WrongBody: there is no agent, or more than 100,000, or the quorum is larger than their number.
        """
        asked = bodies_of(agents, body, quorum)

        async def ask(id: str, body: Any) -> _T:
            answer: _T = await self.ask(id, name, body, type, timeout=timeout, sender=sender, priority=priority)
            return answer

        return await gather(asked, ask, quorum, timeout)

    def map(
        self,
        type: str,
        name: str,
        bodies: Iterable[Any],
        result: type[_T] | Any = Any,
        *,
        timeout: float = 30.0,
        ordered: bool = False,
        max_in_flight: int = MOST_AGENTS,
    ) -> AsyncIterator[Outcome[_T]]:
        """Have the agents of a type do something with each body: whoever is free takes the next.

            async for outcome in client.map("resizer", "resize", paths, Size):
                print(outcome.place, outcome.result)

        At most one body for each agent is under way, or ended and not taken from the iterator, so thousands of bodies
        take no more memory than the agents they are given to. An agent that fails is an outcome, no error of the call.
        Left early (`aclose`), it cancels what is under way.

        Args:
            type: of the agents. Those that are there when it begins; others if all of them have ended.
            name: the handler.
            bodies: taken one by one, when somebody is free.
            result: what results are decoded as.
            timeout: limit for each, seconds; it begins when an agent is given the body.
            ordered: whether outcomes come in the order of the bodies, or as they come.
            max_in_flight: agents that are given work, the least busy ones.

        Raises:
            UnknownAgent: no agent of the type can be asked.
            WrongBody: `max_in_flight` is not between 1 and 10,000.
        """
        if not 1 <= max_in_flight <= MOST_LISTED:
            said = f"max_in_flight: {max_in_flight} is not between 1 and {MOST_LISTED:,}"
            raise WrongBody("", said, field="max_in_flight")

        async def ask(id: str, body: Any) -> _T:
            answer: _T = await self.ask(id, name, body, result, timeout=timeout)
            return answer

        crew = Crew(lambda: self._least_busy(type, max_in_flight), type)
        return outcomes(crew, bodies, ask, ordered=ordered)

    async def _least_busy(self, type: str, most: int) -> list[str]:
        return await least_busy(self, type, most)


async def least_busy(client: Looking, type: str, most: int) -> list[str]:
    """The agents of a type that can be asked something, the least busy first."""
    views = [view for view in await client.agents(type, limit=MOST_LISTED) if view.state in ASKABLE]
    views.sort(key=lambda view: (view.queued, view.state == "working"))
    return [view.id for view in views[:most]]
