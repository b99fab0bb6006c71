"""The lifecycle on the whole system: the example, the command line and HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

import httpx

from swell import Client
from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S, Service
from tests.integration.test_topics import ROOT, run, seen
from tests.integration.test_worker import spawn

Start = Callable[..., Service]


async def test_the_example_runs_as_its_readme_says(start: Start, valkey: RealServer, namespace: str) -> None:
    for role in ("worker", "manager"):
        await start(role, app="examples.lifecycle.app:app").ready()
    ended = await run(["examples.lifecycle"], valkey, namespace)
    assert ended.returncode == 0, ended.stderr
    readme = (ROOT / "examples/lifecycle/README.md").read_text()
    assert ended.stdout.splitlines() == [line[4:] for line in readme.splitlines() if line.startswith("    ")]


async def test_the_command_line_holds_limits_and_resizes(
    client: Client, start: Start, valkey: RealServer, namespace: str
) -> None:
    worker, other = start("worker"), start("worker")
    for service in (worker, other, start("manager")):
        await service.ready()

    async def swell(*words: str, fails: str = "") -> str:
        ended = await run(["swell", *words], valkey, namespace)
        assert (ended.returncode != 0) == bool(fails), ended.stderr
        assert fails in ended.stderr
        return ended.stdout

    assert "3 waiter ready" in await swell("resize", "waiter", "3", "--wave-size", "2")
    await swell("pause", fails="give exactly one of: AGENT, --type, --worker")
    await swell("pause", "waiter/9999", fails="there is no agent waiter/9999 that lives")
    await swell("limit", "waiter", fails="give concurrency, rate or both")
    await swell("quarantine", "waiter", "--where", ">= 3", fails="is not FIELD OPERATOR VALUE")
    assert "waiter/0001 paused" in await swell("pause", "waiter/0001", "--reason", "looking")
    (view,) = json.loads(await swell("agents", "--state", "paused", "--json"))
    assert (view["id"], view["reason"]) == ("waiter/0001", "looking")
    assert json.loads(await swell("pause", "--type", "waiter", "--json"))["agents"] == 3
    await client.send("waiter/0000", "add", 7)
    (type,) = json.loads(await swell("types", "--json"))
    assert (type["type"], type["paused"]) == ("waiter", 8)
    assert "waiter resumed: 3 agents" in await swell("resume", "--type", "waiter", "--all")
    assert json.loads(await swell("drain", "--type", "waiter", "--json"))["done"] == "drained"
    await swell("resume", "--type", "waiter")
    assert await client.ask("waiter/0000", "all", None, list[int]) == [7]
    assert "waiter/0000" in await swell("quarantine", "waiter", "--where", "handled > 0")
    await swell(
        "quarantine", "waiter", "--where", "handeld > 0", fails="agents have no field 'handeld', only id, type,"
    )
    assert "no agent of type waiter" in await swell("quarantine", "waiter", "--where", "restarts >= 3")
    await swell("resume", "waiter/0000")
    assert "2 at once, 50 a second" in await swell("limit", "waiter", "--concurrency", "2", "--rate", "50")
    assert "2 at once" in await swell("types")
    assert "as declared" in await swell("limit", "waiter", "--reset")
    name = next(info.process for info in await client.workers() if info.pid == worker.pid)
    assert "drained" in await swell("drain", "--worker", name)
    last = next(info.process for info in await client.workers() if info.pid == other.pid)
    await swell("pause", "--worker", last, fails="is the last that takes shards")
    assert {lease.owner for lease in await client.leases() if lease.shard.isdigit()} == {last}
    (told,) = [one for one in json.loads(await swell("workers", "--json")) if one["process"] == name]
    assert told["held"]
    assert re.search(rf"^{name} +worker +yes ", await swell("workers"), re.M)
    assert re.search(rf"^{last} +worker +{other.pid} ", await swell("workers"), re.M)
    await swell("resume", "--worker", "nobody", fails="no worker 'nobody' lives")
    status, ready = await worker.get(await worker.url() + "/readyz")
    assert status == 200
    assert "paused; owns 0 shards" in json.dumps(ready)
    await swell("resume", "--worker", name)
    shrunk = json.loads(await swell("resize", "waiter", "1", "--wave-size", "1", "--json"))
    assert (shrunk["ready"], shrunk["waves"], shrunk["ending"]) == (2, 2, True)
    assert "there are 1 waiter already" in await swell("resize", "waiter", "1")


async def test_http_holds_limits_and_resizes(client: Client, start: Start) -> None:
    worker, other, manager = start("worker"), start("worker"), start("manager")
    for service in (worker, other, manager):
        await service.ready()
    await spawn(client, "waiter/1", "waiter/2")
    async with httpx.AsyncClient(base_url=await manager.url() + "/v1", timeout=PATIENCE_S) as http:

        async def post(path: str, json: object = None, expect: int = 200, **params: str) -> dict[str, object]:
            answer = await http.post(path, json=json, params=params)
            assert answer.status_code == expect, answer.text
            found: dict[str, object] = answer.json()
            return found

        assert await post("/agents/waiter/1/pause", reason="looking") == {"agents": 1}
        await client.send("waiter/1", "add", 1)
        shown = (await http.get("/agents/waiter/1")).json()
        assert (shown["state"], shown["reason"], shown["queued"]) == ("paused", "looking", 1)
        assert await post("/agents/waiter/1/resume") == {"agents": 1}
        assert await seen(client, 1) == [1]
        assert await post("/agents/waiter/1/drain") == {"agents": 1}
        assert await post("/agents/waiter/2/quarantine", reason="odd") == {"agents": ["waiter/2"]}
        assert await post("/types/waiter/resume", all="true") == {"agents": 2}
        where = {"op": "ge", "field": "handled", "value": 1}
        assert await post("/types/waiter/quarantine", {"where": where}) == {"agents": ["waiter/1"]}
        wrong = await post("/types/waiter/quarantine", {"where": where | {"field": "handeld"}}, expect=422)
        assert (wrong["field"], "no field 'handeld'" in str(wrong["detail"])) == ("where", True)
        assert await post("/types/waiter/pause") == {"agents": 2}
        assert await post("/types/waiter/resume", all="true") == {"agents": 2}
        assert await post("/types/waiter/drain", timeout="20") == {"agents": 2}
        assert await post("/types/waiter/limits", {"rate": 5.0}) == {"limited": True}
        (type,) = (await http.get("/types")).json()
        assert (type["type"], type["paused"], type["rate"], type["concurrency"]) == ("waiter", 8, 5.0, None)
        await post("/types/waiter/resume")
        assert (await post("/types/waiter/limits", {}, expect=422))["field"] == "concurrency"
        await post("/types/nobody/pause", expect=404)
        await post("/agents/waiter/3/pause", expect=404)
        name = next(info.process for info in await client.workers() if info.pid == worker.pid)
        assert await post(f"/workers/{name}/drain") == {"agents": 0}
        assert await post(f"/workers/{name}/resume") == {"agents": 0}
        assert await post(f"/workers/{name}/pause") == {"agents": 0}
        assert (await post("/workers/nobody/resume", expect=422))["field"] == "worker"
        assert (await post("/workers/nobody/pause", expect=422))["field"] == "worker"
        plan = await post("/types/waiter/resize", {"count": 5}, expect=202)
        async with asyncio.timeout(PATIENCE_S):
            while len(await client.agents("waiter")) < 5:
                await asyncio.sleep(0.05)
        assert plan["state"] == "running"


async def test_a_resize_survives_the_leader_that_is_killed_in_the_middle(client: Client, start: Start) -> None:
    await start("worker").ready()
    leader = start("manager")
    await leader.ready()
    await start("manager").ready()
    await (await client.resize("waiter", 60)).wait()
    plan = await client.resize("waiter", 10, wave_size=5, pause=0.2)
    async for progress in plan:
        if progress.wave == 3:
            leader.kill()
            break
    last = await plan.wait(PATIENCE_S)
    assert (last.state, last.ready, last.count) == ("done", 50, 50)
    assert len(await client.agents("waiter", limit=1000)) == 10
    plan = await client.resize("waiter", 50, wave_size=5, pause=0.1)
    assert (await plan.wait(PATIENCE_S)).ready == 40
    assert len(await client.agents("waiter", limit=1000)) == 50
