"""Priorities on the whole system: a backlog, the example, the command line and HTTP."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from swell import Client
from tests.conftest import RealServer
from tests.integration.fleet import Note
from tests.integration.test_topics import ROOT, Start, run
from tests.integration.test_worker import spawn

BACKLOG = 100_000


@pytest.mark.timeout(300)
async def test_a_critical_question_is_answered_while_a_backlog_of_normal_messages_has_hardly_moved(
    client: Client, start: Start
) -> None:
    await start("worker").ready()
    agents = [f"notary/{number}" for number in range(50)]
    await spawn(client, *agents)
    sending = asyncio.ensure_future(
        client.send_many((agents[n % 50], "note", Note("bulk", n // 50)) for n in range(BACKLOG))
    )
    await sending
    before = await depth(client)
    answers = [await client.ask(agent, "note", Note("urgent", 0), priority="critical") for agent in agents[:20]]
    after = await depth(client)
    assert len(answers) == 20
    # Had they waited behind the backlog of their agents, hardly anything of it would be left.
    assert before > BACKLOG / 4, "the backlog was gone before it was asked: send more"
    assert after > before / 4
    await asyncio.wait({asyncio.ensure_future(_settled(client))}, timeout=120)
    ledgers = [one for one in await client.ledger() if one.shard.isdigit()]
    assert sum(one.depth + one.dead for one in ledgers) == 0


async def depth(client: Client) -> int:
    return sum(one.ledger.depth for one in await client.broker.glance(client.shard_names))


async def _settled(client: Client) -> None:
    while await depth(client):
        await asyncio.sleep(0.05)


async def test_the_command_line_and_http_take_a_priority(
    client: Client, start: Start, valkey: RealServer, namespace: str
) -> None:
    await start("worker").ready()
    manager = start("manager")
    await manager.ready()
    await spawn(client, "waiter/1")
    for words in (
        ["send", "waiter/1", "add", "1", "--priority", "critical"],
        ["send", "waiter/1", "add", "2", "--priority", "low", "--delay", "0"],
        ["ask", "waiter/1", "add", "3", "--priority", "high"],
        ["broadcast", "add", "4", "--priority", "high"],
    ):
        ended = await run(["swell", *words], valkey, namespace)
        assert ended.returncode == 0, ended.stderr
    ended = await run(["swell", "send", "waiter/1", "add", "5", "--priority", "urgent"], valkey, namespace)
    assert ended.returncode != 0
    assert "critical" in ended.stderr
    async with httpx.AsyncClient(base_url=await manager.url() + "/v1") as http:
        messages = [{"to": "waiter/1", "name": "add", "body": 6, "priority": "critical"}]
        assert (await http.post("/messages", json=messages)).status_code == 202
        asked = await http.post("/agents/waiter/1/ask", json={"name": "add", "body": 7, "priority": "low"})
        assert asked.status_code == 200, asked.text
        refused = await http.post("/messages", json=[{**messages[0], "priority": "urgent"}])
        assert refused.status_code == 400
        assert "[0].priority: Invalid enum value 'urgent'" in refused.json()["detail"]
    await _settled(client)
    assert sorted(await client.ask("waiter/1", "all", None, list[int])) == [1, 2, 3, 4, 6, 7]


async def test_a_dead_letter_comes_back_with_the_priority_that_it_had(client: Client, start: Start) -> None:
    await start("worker").ready()
    await client.send("waiter/1", "add", 1, priority="high")
    async with asyncio.timeout(20):
        while not (letters := await client.letters.list()):
            await asyncio.sleep(0.02)
    assert re.fullmatch(r"\d+\.high:\d+-\d+:0", letters[0].id)
    assert await client.letters.get(letters[0].id) is not None
    await spawn(client, "waiter/1")
    ended = await client.letters.replay(letters[0].id)
    assert (ended.done, ended.gone, ended.refused) == (1, [], {})
    async with asyncio.timeout(20):
        while await client.ask("waiter/1", "all", None, list[int]) != [1]:
            await asyncio.sleep(0.02)


async def test_the_example_runs_as_its_readme_says(start: Start, valkey: RealServer, namespace: str) -> None:
    for role in ("worker", "manager"):
        await start(role, app="examples.priorities.app:app").ready()
    ended = await run(["examples.priorities"], valkey, namespace)
    assert ended.returncode == 0, ended.stderr
    numbers = [int(number) for number in re.findall(r"\d+", ended.stdout)]
    assert numbers[1] < numbers[2] == numbers[0]
    readme = (ROOT / "examples/priorities/README.md").read_text()
    shape = re.sub(r"\d+", "N", ended.stdout)
    assert all(f"    {line}\n" in re.sub(r"\d+", "N", readme) for line in shape.splitlines())
