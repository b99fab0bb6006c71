"""Topics on the whole system: the example, the command line and HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from swell import Client
from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S, Service
from tests.integration.test_worker import spawn

Start = Callable[..., Service]
ROOT = Path(__file__).parents[2]


async def run(
    words: list[str], server: RealServer, namespace: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join([str(ROOT), *sys.path]), "NO_COLOR": "1"}
    environ |= {"SWELL_REDIS": server.url, "SWELL_NAMESPACE": namespace}
    command = [sys.executable, "-m", *words]
    options = {"capture_output": True, "text": True, "timeout": PATIENCE_S, "env": environ, "cwd": ROOT, "input": stdin}
    return await asyncio.to_thread(subprocess.run, command, **options)


async def seen(client: Client, count: int) -> list[int]:
    async with asyncio.timeout(PATIENCE_S):
        while len(found := await client.ask("waiter/1", "all", None, list[int])) < count:
            await asyncio.sleep(0.02)
    return found


async def test_the_command_line_subscribes_publishes_and_broadcasts(
    client: Client, start: Start, valkey: RealServer, namespace: str
) -> None:
    await start("worker").ready()
    await spawn(client, "waiter/1")
    for words, says in (
        (["subscribe", "waiter/1", "n.*", "add", "--where", " >= 3"], "is not FIELD OPERATOR VALUE"),
        (["publish", "n.*", "3"], "only subscriptions may have it"),
        (["subscribe", "waiter/1", "n.*", "adds"], "did you mean 'add'"),
    ):
        ended = await run(["swell", *words], valkey, namespace)
        assert ended.returncode != 0
        assert says in ended.stderr
    for words in (["subscribe", "waiter/1", "n.*", "add"], ["publish", "n.x", "3"], ["broadcast", "add", "4"]):
        ended = await run(["swell", *words], valkey, namespace)
        assert ended.returncode == 0, ended.stderr
    assert await seen(client, 2) == [3, 4]
    ended = await run(["swell", "subscriptions", "--json"], valkey, namespace)
    (one,) = json.loads(ended.stdout)
    assert (one["agent"], one["topic"], one["handler"]) == ("waiter/1", "n.*", "add")
    codes = [
        (await run(["swell", "unsubscribe", "waiter/1", "n.*", "add"], valkey, namespace)).returncode for _ in "12"
    ]
    assert codes == [0, 1]


async def test_http_subscribes_publishes_and_broadcasts(client: Client, start: Start) -> None:
    await start("worker").ready()
    manager = start("manager")
    await manager.ready()
    await spawn(client, "waiter/1")
    async with httpx.AsyncClient(base_url=await manager.url() + "/v1") as http:
        wanted = {"agent": "waiter/1", "topic": "n.**", "handler": "add", "where": {"op": "gt", "value": 2}}
        assert (await http.post("/subscriptions", json=wanted)).json() == {"changed": True}
        for value in (1, 3):
            answer = await http.post("/topics/n.x", json={"body": value}, headers={"Idempotency-Key": f"k{value}"})
            assert answer.status_code == 202, answer.text
        await http.post("/topics/n.x", json={"body": 3}, headers={"Idempotency-Key": "k3"})
        assert (await http.post("/broadcast", json={"name": "add", "body": 4, "type": "waiter"})).status_code == 202
        assert await seen(client, 2) == [3, 4]
        (one,) = (await http.get("/subscriptions", params={"agent": "waiter/1"})).json()
        assert one["where"] == {"op": "gt", "value": 2}
        assert (await http.post("/subscriptions", json={**wanted, "end": True})).json() == {"changed": True}
        refused = await http.post("/topics/n..x", json={"body": 3})
        assert (refused.status_code, refused.json()["field"]) == (422, "topic")
        refused = await http.post("/subscriptions", json={**wanted, "where": {"op": "like"}})
        assert "none of eq" in refused.json()["detail"]


async def test_the_example_runs_as_its_readme_says(start: Start, valkey: RealServer, namespace: str) -> None:
    for role in ("worker", "manager"):
        await start(role, app="examples.topics.app:app").ready()
    ended = await run(["examples.topics"], valkey, namespace)
    assert ended.returncode == 0, ended.stderr
    readme = (ROOT / "examples/topics/README.md").read_text()
    assert all(f"    {line}\n" in readme for line in ended.stdout.splitlines())
    assert len(ended.stdout.splitlines()) == 3
