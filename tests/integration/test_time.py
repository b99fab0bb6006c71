"""Messages that expire and messages for later on the whole system: client, command line and HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from swell import Cancelled, Client, Expired
from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S, Service
from tests.integration.test_worker import spawn

Start = Callable[..., Service]
Swell = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def swell(valkey: RealServer, namespace: str) -> Swell:
    """The command line, in this test's namespace."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "swell", *words, "--redis", valkey.url, "--namespace", namespace]
        environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "NO_COLOR": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environ)

    return run


async def until(client: Client, condition: Callable[[list[int]], bool]) -> list[int]:
    """What `waiter/1` has seen, once the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition(seen := await client.ask("waiter/1", "all", None, list[int])):
            await asyncio.sleep(0.02)
    return seen


async def test_messages_for_later_are_handled_when_they_are_due(client: Client, start: Start) -> None:
    await start("worker").ready()
    await spawn(client, "waiter/1")
    began = time.monotonic()
    await client.send("waiter/1", "add", 3, delay=0.6)
    await client.send("waiter/1", "add", 2, at=datetime.now(UTC) + timedelta(seconds=0.3))
    await client.send("waiter/1", "add", 1)
    await client.send("waiter/1", "add", 99, delay=0.1, deadline=LONG_AGO)
    await client.schedule("tick", "waiter/1", "add", 7, every=1)
    assert await until(client, lambda seen: len(seen) >= 4) == [1, 2, 3, 7]
    assert 1.0 <= time.monotonic() - began < PATIENCE_S
    assert await client.unschedule("tick", "waiter/1")
    assert await client.scheduled() == []
    with pytest.raises(Expired):
        await client.ask("waiter/1", "all", deadline=LONG_AGO)
    assert sum(ledger.expired for ledger in await client.ledger()) == 2


async def test_what_waits_is_taken_over_with_its_shard(client: Client, start: Start) -> None:
    first = start("worker")
    await first.ready()
    await spawn(client, "waiter/1")
    await client.schedule("once", "waiter/1", "add", 1, at=datetime.now(UTC) + timedelta(seconds=1))
    first.kill()
    await start("worker").ready()
    assert await until(client, lambda seen: seen != []) == [1]


async def test_over_http_and_from_the_command_line(client: Client, start: Start, swell: Swell) -> None:
    await start("worker").ready()
    manager = start("manager")
    await manager.ready()
    await spawn(client, "waiter/1")
    async with httpx.AsyncClient(base_url=await manager.url() + "/v1") as http:
        message: dict[str, Any] = {"to": "waiter/1", "name": "add"}
        sent = [
            {**message, "body": 1, "ttl": 60},
            {**message, "body": 99, "deadline": "2020-01-01T00:00:00Z"},
            {**message, "body": 2, "delay": 0.2},
        ]
        assert (await http.post("/messages", json=sent)).json() == {"sent": 3}
        refused = await http.post("/messages", json=[{**message, "ttl": -1}])
        assert (refused.status_code, refused.json()["field"]) == (422, "ttl")
        refused = await http.post("/messages", json=[{**message, "at": "2027-01-01T00:00:00"}])
        assert (refused.status_code, refused.json()["field"]) == (422, "at")
        late = await http.post("/agents/waiter/1/ask", json={"name": "all", "deadline": "2020-01-01T00:00:00Z"})
        assert (late.status_code, late.json()["type"]) == (504, "urn:swell:expired")
        assert await until(client, lambda seen: len(seen) == 2) == [1, 2]
        # A schedule.
        new = {"name": "daily", "to": "waiter/1", "handler": "add", "body": 3, "cron": "0 9 * * *"}
        added = await http.post("/schedules", json=new)
        assert (added.status_code, added.json()["cron"]) == (201, "0 9 * * *")
        refused = await http.post("/schedules", json=new | {"cron": "99 9 * * *"})
        assert (refused.status_code, refused.json()["field"]) == (422, "cron")
        assert (await http.post("/schedules", json=new | {"handler": "$terminate"})).status_code == 422
        assert [one["id"] for one in (await http.get("/schedules")).json()] == ["daily"]
        assert (await http.delete("/schedules/waiter/1/daily")).json() == {"removed": True}
        assert (await http.delete("/schedules/waiter/1/daily")).status_code == 404
    # The same by commands.
    sent_later = await asyncio.to_thread(swell, "send", "waiter/1", "add", "4", "--delay", "0.2", "--ttl", "60")
    assert sent_later.returncode == 0, sent_later.stderr
    added = await asyncio.to_thread(swell, "schedule", "add", "tick", "waiter/1", "add", "5", "--every", "3600")
    assert (added.returncode, "tick: waiter/1 is sent 'add' first at" in added.stdout) == (0, True), added.stderr
    listed = await asyncio.to_thread(swell, "schedule", "list", "--json")
    assert [one["id"] for one in json.loads(listed.stdout) if one["schedule"]] == ["tick"]
    removed = await asyncio.to_thread(swell, "schedule", "remove", "tick", "waiter/1")
    assert removed.returncode == 0, removed.stderr
    assert (await asyncio.to_thread(swell, "schedule", "remove", "tick", "waiter/1")).returncode == 1
    assert await until(client, lambda seen: len(seen) == 3) == [1, 2, 4]


async def test_messages_are_cancelled_while_they_wait_and_while_they_are_handled(
    client: Client, start: Start, swell: Swell
) -> None:
    await start("worker").ready()
    manager = start("manager")
    await manager.ready()
    await spawn(client, "waiter/1")
    running = asyncio.ensure_future(client.ask("waiter/1", "wait", 98, id="running"))
    shard = client.shard("waiter/1")
    async with asyncio.timeout(PATIENCE_S):
        while (await client.broker.ledger(shard)).depth == 0:
            await asyncio.sleep(0.01)
    await client.send("waiter/1", "add", 99, id="behind")
    await client.send("waiter/1", "add", 99, delay=60, id="later")
    async with httpx.AsyncClient(base_url=await manager.url() + "/v1") as http:
        gone = await http.delete("/agents/waiter/1/messages/behind")
        assert (gone.status_code, gone.json()) == (200, {"cancelled": True})
        assert (await http.delete("/agents/waiter/1/messages/behind")).status_code == 404
    ended = await asyncio.to_thread(swell, "cancel", "waiter/1", "later", "--json")
    assert json.loads(ended.stdout)["cancelled"] is True
    ended = await asyncio.to_thread(swell, "cancel", "waiter/1", "later")
    assert (ended.returncode, "there is no message 'later' of waiter/1" in ended.stderr) == (1, True)
    assert await client.cancel_message("waiter/1", "running")
    with pytest.raises(Cancelled):
        await running
    # Whoever no longer waits for an answer takes the message back.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.ask("waiter/1", "wait", 98)
    assert await client.ask("waiter/1", "all", None, list[int]) == []
    assert await client.scheduled() == []
    async with asyncio.timeout(PATIENCE_S):
        while sum(ledger.expired for ledger in await client.ledger()) < 3:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("send", "a/1", "x", "--ttl", "0"), "ttl: 0 must be more than 0"),
        (
            ("send", "a/1", "x", "--ttl", "1", "--deadline", "2027-01-01T00:00:00Z"),
            "give --ttl or --deadline, not both",
        ),
        (("ask", "a/1", "x", "--deadline", "noon"), "deadline: 'noon' must be like"),
        (("run", "a", "x", "1", "--then", "judge"), "then: 'judge' must be TYPE.HANDLER"),
        (("map", "a", "x", "--key", "k", "--ttl", "3"), "durable: only tasks have --key, --ttl: give --durable"),
        (("send", "a/1", "x", "--at", "tomorrow"), "at: 'tomorrow' must be like"),
        (("send", "a/1", "x", "--at", "2027-01-01T00:00:00"), "must be like 2027-01-31T09:00:00Z"),
        (("cancel", "a/1"), "give either an agent and the id of its message, or --plan"),
        (("schedule", "add", "tick", "a/1", "x"), "give exactly one of cron, every and at"),
        (("schedule", "add", "tick", "a/1", "x", "--cron", "* *"), "must have five fields"),
    ],
)
def test_wrong_values_are_named(swell: Swell, words: tuple[str, ...], says: str) -> None:
    ended = swell(*words)
    assert ended.returncode in (1, 2)
    assert says in ended.stderr


async def test_the_example_runs_as_its_readme_says(start: Start, valkey: RealServer, namespace: str) -> None:
    for role in ("worker", "manager"):
        await start(role, app="examples.time.app:app").ready()
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join([str(ROOT), *sys.path])}
    environ |= {"SWELL_REDIS": valkey.url, "SWELL_NAMESPACE": namespace}
    command = [sys.executable, "-m", "examples.time"]
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE_S, env=environ, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
    brewed, late, removed = ended.stdout.splitlines()
    assert brewed == "brewed mint, green; ready: mint, green; looked 2 times"
    assert late.startswith("too late: 'log' expired ")
    assert removed == "the schedule is removed: True"
