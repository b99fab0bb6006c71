"""Spawns members, lets them count together and elect the one that reports, and shows the report.

swell up --workers 2 --app examples.facts.app:app    in one terminal
python -m examples.facts                             in another
"""

from __future__ import annotations

import asyncio
import secrets
import sys

from examples.facts.app import Report, Round
from swell import Client, SwellError
from swell.cli.target import Target, connected

MEMBERS, VISITS = 10, 5


async def show(client: Client, key: str) -> None:
    """Print the fact when it is there; nobody polls for it."""
    async for change in client.facts.watch(key, Report):
        if change.value is not None:
            print(f"{change.value.by} was elected and reports a total of {change.value.total}")
            return


async def take_part(client: Client, member: str, body: Round) -> Report:
    """One member's part."""
    report: Report = await client.ask(member, "take_part", body, Report, timeout=60)
    return report


async def main() -> None:
    """Spawn, count, elect, show."""
    async with connected(Target()) as client:
        body = Round(f"round-{secrets.token_hex(3)}", MEMBERS, VISITS)
        keys = [f"{body.name}-{number}" for number in range(MEMBERS)]
        plan = await client.spawn("member", keys=keys)
        await plan.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(show(client, f"{body.name}/report"))
            asked = [group.create_task(take_part(client, f"member/{key}", body)) for key in keys]
        reports = {answer.result().by for answer in asked}
        print(f"{len(asked)} members agree on {len(reports)} report")
        await client.facts.delete(f"{body.name}/total")
        await client.facts.delete(f"{body.name}/report")
        await client.terminate(plan=plan.id)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SwellError as error:
        sys.exit(f"facts: {error}")
