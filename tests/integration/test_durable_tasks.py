"""Tasks on the whole system: the example, the command line and HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx

from swell import Client
from tests.conftest import RealServer
from tests.integration.services import Service
from tests.integration.test_topics import ROOT, run
from tests.integration.test_worker import spawn

Start = Callable[..., Service]


async def test_the_command_line_runs_lists_follows_and_cancels(
    client: Client, start: Start, valkey: RealServer, namespace: str
) -> None:
    await start("worker").ready()
    await spawn(client, "notary/1", "notary/2")
    note = '{"sender": "me", "seq": 4}'
    ended = await run(["swell", "run", "notary", "note_twice", note], valkey, namespace)
    assert (ended.returncode, ended.stdout) == (0, "8\n"), ended.stderr
    ended = await run(["swell", "run", "notary", "note_twice", note, "--key", "k", "--detach"], valkey, namespace)
    assert ended.stdout == "k\n"
    ended = await run(["swell", "tasks", "follow", "k", "--json"], valkey, namespace)
    assert json.loads(ended.stdout) == {"id": "k", "result": 8}
    ended = await run(["swell", "tasks", "list", "--json"], valkey, namespace)
    assert [view["state"] for view in json.loads(ended.stdout)] == ["done", "done"]
    assert (await run(["swell", "tasks", "cancel", "k"], valkey, namespace)).returncode == 1
    ended = await run(["swell", "tasks", "cancel", "nothing"], valkey, namespace)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "there is no task 'nothing': it never was" in ended.stderr
    ended = await run(["swell", "tasks", "list", "--state", "bogus"], valkey, namespace)
    assert ended.returncode == 2
    assert "state: 'bogus' must be one of queued, running, done" in ended.stderr
    ended = await run(["swell", "tasks", "show", "nothing"], valkey, namespace)
    assert ended.returncode == 1
    assert "there is no task 'nothing'" in ended.stderr
    ended = await run(["swell", "ask-many", "process", "--type", "notary", "--quorum", "2"], valkey, namespace)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["answers"].keys() == {"notary/1", "notary/2"}


async def test_the_command_line_chains_maps_and_asks_with_terms(
    client: Client, start: Start, valkey: RealServer, namespace: str
) -> None:
    await start("worker").ready()
    await spawn(client, "waiter/1")

    async def swell(*words: str, stdin: str = "") -> tuple[int, str]:
        ended = await run(["swell", *words], valkey, namespace, stdin)
        assert not ended.stderr
        return ended.returncode, ended.stdout

    chain = ("run", "waiter", "add", "1", "--then", "waiter.all", "--then", "waiter.all", "--json")
    code, said = await swell(*chain, "--key", "c", "--priority", "critical", "--deadline", "2100-01-01T00:00:00Z")
    assert (code, json.loads(said)) == (0, {"id": "c", "result": [1]})
    view = await client.show_task("c")
    assert view is not None
    assert (view.steps, view.priority, view.state) == (3, "critical", "done")

    terms = ("--durable", "--key", "m", "--priority", "high", "--ttl", "60", "--keep", "600")
    code, said = await swell("map", "waiter", "add", *terms, stdin="2\n3\n4\n")
    assert (code, sorted(json.loads(line)["place"] for line in said.splitlines())) == (0, [0, 1, 2])
    assert sorted(one.id for one in await client.tasks() if one.priority == "high") == ["m.0", "m.1", "m.2"]
    assert sorted(await client.ask("waiter/1", "all", None, list[int])) == [1, 2, 3, 4]
    code, said = await swell("map", "waiter", "add", "--priority", "low", stdin="5\n")
    assert (code, json.loads(said)["agent"]) == (0, "waiter/1")

    question = ("ask-many", "add", "waiter/1", "6", "--priority", "high")
    code, said = await swell(*question, "--ttl", "60")
    assert (code, json.loads(said)["answers"]) == (0, {"waiter/1": None})
    code, said = await swell(*question, "--deadline", "2020-01-01T00:00:00Z")
    assert (code, "expired" in json.loads(said)["errors"]["waiter/1"]) == (1, True)
    for command in (("send", "waiter/1", "add", "7"), ("publish", "orders.1", "7"), ("broadcast", "add", "7")):
        assert (await swell(*command, "--deadline", "2020-01-01T00:00:00Z"))[0] == 0
    ended = await run(["swell", "ask", "waiter/1", "add", "7", "--deadline", "2020-01-01T00:00:00Z"], valkey, namespace)
    assert (ended.returncode, "expired" in ended.stderr) == (1, True)
    assert await client.ask("waiter/1", "all", None, list[int]) == [*range(1, 7)]


async def test_http_submits_shows_follows_and_cancels(client: Client, start: Start) -> None:
    await start("worker").ready()
    manager = start("manager")
    await manager.ready()
    await spawn(client, "notary/1")
    async with httpx.AsyncClient(base_url=await manager.url() + "/v1", timeout=30) as http:
        wanted = {"type": "notary", "handler": "note_twice", "body": {"sender": "me", "seq": 3}}
        answer = await http.post("/tasks", json=wanted, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()) == (202, {"id": "k"}), answer.text
        told = await http.get("/tasks/k/events")
        assert "event: result" in told.text
        assert "data: 6" in told.text
        assert (await http.get("/tasks/k")).json()["state"] == "done"
        await http.post(
            "/tasks", json={"type": "waiter", "handler": "add", "body": 1}, headers={"Idempotency-Key": "n"}
        )
        assert [one["id"] for one in (await http.get("/tasks", params={"state": "queued"})).json()] == ["n"]
        assert (await http.delete("/tasks/n")).json() == {"cancelled": True}
        assert (await http.delete("/tasks/n")).json() == {"cancelled": False}
        assert "event: error" in (await http.get("/tasks/n/events")).text
        assert (await http.get("/tasks/other")).status_code == 404
        unknown = await http.delete("/tasks/other")
        assert (unknown.status_code, unknown.json()["detail"][:24]) == (404, "there is no task 'other'")
        bogus = await http.get("/tasks", params={"state": "bogus"})
        assert (bogus.status_code, bogus.json()["field"]) == (422, "state")
        refused = await http.post("/tasks", json={**wanted, "keep": -1})
        assert (refused.status_code, refused.json()["field"]) == (422, "keep")
        chain = {"type": "waiter", "handler": "add", "body": 1, "then": [["waiter", "all"]], "priority": "low"}
        await http.post("/tasks", json=chain, headers={"Idempotency-Key": "chain"})
        assert (await http.delete("/tasks/chain")).json() == {"cancelled": True}, "also if it was not read yet"
        found = (await http.get("/tasks/chain")).json()
        assert (found["steps"], found["priority"], found["state"]) == (2, "low", "cancelled")
        assert (await http.delete("/tasks/other")).status_code == 404
        assert "UnknownTask" in (await http.get("/tasks/other/events")).text
        asked = await http.post("/ask_many", json={"agents": ["notary/1", "notary/9"], "name": "process"})
        assert asked.json()["answers"].keys() == {"notary/1"}
        assert "never spawned" in asked.json()["errors"]["notary/9"]
        question = {"agents": ["notary/1"], "name": "process", "priority": "critical"}
        assert (await http.post("/ask_many", json={**question, "ttl": 60})).json()["answers"].keys() == {"notary/1"}
        late = await http.post("/ask_many", json={**question, "deadline": "2020-01-01T00:00:00Z"})
        assert "expired" in late.json()["errors"]["notary/1"]
        refused = await http.post("/ask_many", json={**question, "ttl": 0})
        assert (refused.status_code, refused.json()["field"]) == (422, "ttl")


async def test_the_example_runs_as_its_readme_says(start: Start, valkey: RealServer, namespace: str) -> None:
    for role in ("worker", "manager"):
        await start(role, app="examples.tasks.app:app").ready()
    ended = await run(["examples.tasks"], valkey, namespace)
    assert ended.returncode == 0, ended.stderr
    readme = (ROOT / "examples/tasks/README.md").read_text()
    assert all(f"    {line}\n" in readme for line in ended.stdout.splitlines())
    assert len(ended.stdout.splitlines()) == 7
