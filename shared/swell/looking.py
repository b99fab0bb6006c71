"""What a client can see of its namespace: agents, processes, alerts, leases, accounts."""

from __future__ import annotations

from swell.alerts import RECORD, Alert, read_record
from swell.bus.broker import LeaseState, Ledger
from swell.codec import decode
from swell.keys import CONTROL, METRICS
from swell.priority import Priority, inbox_of
from swell.registry import AgentView, agents_of, readable
from swell.timetable import Timetable
from swell.wire import LIVE, TO_SHARD, AgentState, LiveAnswer, LiveQuery, WorkerInfo


class Looking(Timetable):
    """What a client can look at."""

    @property
    def shard_names(self) -> list[str]:
        """The agents' shards."""
        return [str(k) for k in range(self.shards)]

    async def agents(
        self, type: str = "", state: AgentState | None = None, limit: int = 100, after: str = ""
    ) -> list[AgentView]:
        """Agents in the order of their ids, behind `after`, with what their workers say of them now.

        Args:
            type: only this type.
            state: only this state; without one, all agents but those that were stopped.
            limit: at most so many, 1..10,000.
            after: the last id of the page before.
        """
        return await agents_of(self, type, state, limit, after)

    async def live(
        self, shard: str, ids: list[str], timeout: float = 2.0, *, priority: Priority = "critical"
    ) -> LiveAnswer:
        """Ask the owner of a shard what the given agents are doing now.

        It is not told behind all that they are to do; with a `priority`, behind what was sent before with the same.

        Raises:
            CallTimeout: nobody owns the shard now.
        """
        question = self.request(inbox_of(shard, priority), TO_SHARD, LIVE, LiveQuery(ids), timeout)
        return decode(await question, LiveAnswer)

    async def workers(self, role: str = "worker") -> list[WorkerInfo]:
        """All live processes of a role: worker, manager or metrics."""
        said = {member.process: member.info for member in await self.broker.members(role)}
        return [info for _, info in readable(said, WorkerInfo)]

    async def alerts(self) -> list[Alert]:
        """Alerts that fire, or were resolved within the last minutes, as the metrics service wrote them down last."""
        return read_record(await self.broker.record(METRICS, RECORD)).alerts

    async def leases(self) -> list[LeaseState]:
        """Who owns which shard."""
        return await self.broker.leases([*self.shard_names, CONTROL, METRICS])

    async def ledger(self) -> list[Ledger]:
        """The account of every shard, each audited in one instant."""
        return [await self.broker.ledger(shard) for shard in (*self.shard_names, CONTROL, METRICS)]
