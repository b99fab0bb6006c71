"""What a client asks of many agents, or of whichever is free while it waits: `ask_many` and `map`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from swell.errors import WrongBody
from swell.expiry import expiry
from swell.priority import Priority, inbox_of
from swell.publishing import Publishing
from swell.quorum import Answers, bodies_of, gather
from swell.tasks import Crew, Outcome, outcomes

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
        ttl: float | None = None,
        deadline: datetime | None = None,
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
            ttl: as for `ask`; whoever had not begun by then is among the errors, with `Expired`.
            deadline: as for `ask`.
            priority: as for `ask`.

        Raises:
            WrongBody: there is no agent, or more than 100,000, or the quorum is larger than their number, or another
                argument cannot be; the text says which.
        """
        asked = bodies_of(agents, body, quorum)
        expiry(ttl, deadline)
        inbox_of("", priority)
        terms: dict[str, Any] = {"sender": sender, "ttl": ttl, "deadline": deadline, "priority": priority}

        async def ask(id: str, body: Any) -> _T:
            answer: _T = await self.ask(id, name, body, type, timeout=timeout, **terms)
            return answer

        return await gather(asked, ask, quorum, timeout)

    def _map(
        self,
        work: tuple[str, str, Any],
        bodies: Iterable[Any],
        limits: tuple[float, int],
        *,
        ordered: bool,
        priority: Priority,
    ) -> AsyncIterator[Outcome[Any]]:
        """See `Client.map`: type, handler and type of result; time limit and agents at most."""
        type, name, result = work
        timeout, most = limits
        if not 1 <= most <= MOST_LISTED:
            said = f"max_in_flight: {most} is not between 1 and {MOST_LISTED:,}"
            raise WrongBody("", said, field="max_in_flight")

        async def ask(id: str, body: Any) -> Any:
            return await self.ask(id, name, body, result, timeout=timeout, priority=priority)

        return outcomes(Crew(lambda: self._least_busy(type, most), type), bodies, ask, ordered=ordered)

    async def _least_busy(self, type: str, most: int) -> list[str]:
        views = [view for view in await self.agents(type, limit=MOST_LISTED) if view.state in ASKABLE]
        views.sort(key=lambda view: (view.queued, view.state == "working"))
        return [view.id for view in views[:most]]
