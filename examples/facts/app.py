"""The app: agents of type `member`, which count together and elect the one that reports."""

from __future__ import annotations

from msgspec import Struct

from swell import Agent, App, FactConflict, handler

app = App("facts")


class Round(Struct):
    """One round: its name, how many take part, and how often each counts."""

    name: str
    members: int
    visits: int


class Report(Struct):
    """What the elected one wrote: the total it found, who it is, and the token of its term."""

    total: int
    by: str
    term: int


@app.agent("member", timeout=60)
class Member(Agent):
    """Takes part in rounds."""

    @handler
    async def take_part(self, body: Round) -> Report:
        """Count, wait for the others, then have the elected one report."""
        for _ in range(body.visits):
            await self.count(f"{body.name}/total")
        await self.facts.barrier(f"{body.name}/counted", body.members).wait()
        async with self.facts.leader(body.name) as term:
            # All of them come here, one after another; the first one finds no report. Should its term have been lost
            # meanwhile, the fence keeps it from writing beside the next leader.
            report = await self.facts.get(f"{body.name}/report", Report)
            if report is None:
                total = await self.facts.get(f"{body.name}/total", int)
                written = Report(total.value if total is not None else 0, self.id, term.token)
                await self.facts.create(f"{body.name}/report", written, ttl=3600, fence=term)
                return written
        return report.value

    async def count(self, key: str) -> None:
        """Add one to a shared counter: read it, and swap it unless somebody else was quicker."""
        while True:
            fact = await self.facts.get(key, int)
            try:
                if fact is None:
                    await self.facts.create(key, 1)
                else:
                    await self.facts.swap(key, fact.version, fact.value + 1)
            except FactConflict:
                continue
            return
