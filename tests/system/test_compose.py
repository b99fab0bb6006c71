"""`docker compose up` as people deploy it: what is up, what is closed, what dies and comes back, what is kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.system.deployment import PATIENCE_S, ROOT, Deployment, deployed

pytestmark = pytest.mark.timeout(900)
OURS = ("manager", "bus-worker", "metrics")
PORTS = {"manager": 8700, "bus-worker": 8702, "metrics": 8701}
VALKEY = {"SWELL_SERVER_IMAGE": "valkey/valkey:8.1", "SWELL_SERVER_USER": "valkey", "SWELL_SERVER": "valkey"}
#: Fields that every log line of ours has; docs/guide.md.
FIELDS = {"timestamp", "level", "event", "logger", "service", "process"}


def nothing_lost(account: Mapping[str, Any], **bounds: int) -> None:
    """The account of a load: every message once and in order, no call failed, every ledger balances."""
    assert account["errors"] == []
    assert account["handled"] == account["sent"] > 0
    assert account["out_of_order"] == 0
    assert account["balanced"] is True
    assert account["asks"] > 0
    print(account)


async def test_it_is_up_healthy_closed_and_logs_json() -> None:
    async with deployed() as one:
        print(one.now("ps"))
        for service, port in PORTS.items():
            said = await one.do("exec", "-T", service, "swell-ready", str(port))
            assert json.loads(said)["checks"], service
        for service in (*OURS, "redis"):
            found = await one.inspect(service)
            host, config = found["HostConfig"], found["Config"]
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert "no-new-privileges:true" in host["SecurityOpt"], service
            assert config["User"] not in ("", "root", "0"), service
            bindings = host["PortBindings"] or {}
            published = {binding["HostIp"] for ports in bindings.values() for binding in ports}
            assert published == ({"127.0.0.1"} if service in ("manager", "metrics") else set()), service
            assert not any("SECRET" in v and v.partition("=")[2] for v in config["Env"]), service
        inspected = await one.inspect("manager")
        # The drain ends before the engine would kill.
        drain = next(v.partition("=")[2] for v in inspected["Config"]["Env"] if v.startswith("SWELL_DRAIN_S="))
        assert float(drain) < inspected["Config"]["StopTimeout"]
        assert (await one.http(one.manager, "/v1/workers"))[0] == 200
        one.token, token = "", one.token
        assert (await one.http(one.manager, "/v1/workers"))[0] == 401
        one.token = token
        for line in one.logs(*OURS):
            assert line.keys() >= FIELDS, line
        assert token not in one.now("logs")
        began = time.monotonic()
        await one.do("stop")
        print(f"stopped after {time.monotonic() - began:.1f} s")
        codes = json.loads(await one.docker("inspect", *await one.containers_all(OURS)))
        assert {container["State"]["ExitCode"] for container in codes} == {0}


@pytest.mark.parametrize("settings", [{}, VALKEY], ids=["redis8", "valkey81"])
async def test_workers_scale_die_and_the_server_dies_under_load_and_no_call_fails(settings: dict[str, str]) -> None:
    async with deployed(**settings) as one:
        async with one.load(40) as account:
            await one.do("up", "--wait", "--no-recreate", "--scale", "bus-worker=4")
            workers = (await one.http(one.manager, "/v1/workers?role=worker"))[1]
            assert len(workers) == 4
            await asyncio.sleep(3)
            (victim, *_) = await one.containers("bus-worker")
            await one.docker("kill", victim)
            await asyncio.sleep(5)
            await one.docker("start", victim)
            (server,) = await one.containers("redis")
            await one.docker("kill", server)
            await asyncio.sleep(1)
            await one.docker("start", server)
            await one.healthy()
            (server,) = await one.containers("redis")
            await one.docker("pause", server)
            await asyncio.sleep(4)
            await one.docker("unpause", server)
            await one.healthy()
        nothing_lost(account)


async def test_every_service_is_recreated_under_load_and_no_call_fails() -> None:
    async with deployed("--scale", "bus-worker=2") as one:
        async with one.load(30) as account:
            for service in ("bus-worker", "manager", "metrics", "redis"):
                scale = ["--scale", "bus-worker=2"] if service == "bus-worker" else []
                await one.do("up", "--wait", "--no-deps", "--force-recreate", *scale, service)
                await one.healthy()
        nothing_lost(account)


async def test_a_call_under_way_when_its_worker_or_the_server_is_killed_is_answered_by_the_next() -> None:
    async with deployed("--scale", "bus-worker=2") as one:
        status, plan = await one.http(one.manager, "/v1/plans", {"type": "tally", "keys": ["a"]})
        assert status == 202, plan
        for service in ("bus-worker", "redis"):
            began = time.monotonic()
            asking = asyncio.ensure_future(
                one.http(one.manager, "/v1/agents/tally/a/ask", {"name": "slow", "body": 3.0, "timeout": 60})
            )
            await asyncio.sleep(1)
            # Whichever worker hosts it: both go, one after the other, or the server does.
            for container in (await one.containers(service))[:2]:
                await one.docker("kill", container)
                await one.docker("start", container)
            answer = await asking
            assert answer == (200, {"result": "done"}) or answer == (200, "done"), answer
            print(f"{service} killed: answered after {time.monotonic() - began:.1f} s")
            await one.healthy()


async def test_the_review_job_runs_against_it_over_http_and_through_the_client() -> None:
    tree = "/opt/swell/lib/python3.13/site-packages/redis"
    async with deployed(SWELL_APP="examples.review.app:app") as one:
        began = time.monotonic()
        said = await one.inside("-m", "examples.review", tree, "--agents", "60", "--out", "/tmp/review", python=True)
        print(said[-900:], f"client: {time.monotonic() - began:.1f} s")
        assert "files reviewed: 100.00%" in said
        # The same from outside, over HTTP alone.
        job = {"run": "http", "root": tree, "out": "/tmp/review", "agents": 60, "wave_size": 50}
        status, _ = await one.http(one.manager, "/v1/plans", {"type": "coordinator", "keys": ["http"]})
        assert status == 202
        task = {"type": "coordinator", "handler": "review", "body": job}
        status, submitted = await one.http(one.manager, "/v1/tasks", task)
        assert status == 202, submitted
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status, view = await one.http(one.manager, f"/v1/tasks/{submitted['id']}")
                if view.get("state") not in ("queued", "running"):
                    break
                await asyncio.sleep(0.5)
        assert (status, view["state"]) == (200, "done"), view
        assert await balanced(one)


async def test_the_data_is_backed_up_and_restored(tmp_path: Path) -> None:
    async with deployed() as one:
        status, _ = await one.http(one.manager, "/v1/plans", {"type": "tally", "keys": ["kept"]})
        assert status == 202
        for number in range(100):
            assert (await one.http(one.manager, "/v1/messages", [_add(number)]))[0] in (200, 202)
        before = await _seen(one)
        assert before["handled"] == 100
        await one.do("stop")
        await one.docker(*_tar(one, tmp_path, "czf /backup/data.tgz -C /data ."))
        await one.docker(*_tar(one, tmp_path, "rm"))
        await one.docker(*_tar(one, tmp_path, "xzf /backup/data.tgz -C /data"))
        await one.do("up", "--wait")
        assert await _seen(one) == before
        assert (await one.http(one.manager, "/v1/messages", [_add(100)]))[0] in (200, 202)
        assert (await _seen(one))["handled"] == 101
        assert await balanced(one)


async def balanced(one: Deployment) -> bool:
    """Whether every ledger balances, as the manager tells."""
    status, ledgers = await one.http(one.manager, "/v1/ledger")
    assert status == 200
    return all(ledger["balanced"] for ledger in ledgers)


def _add(number: int) -> dict[str, Any]:
    return {"to": "tally/kept", "name": "add", "body": number}


def _tar(one: Deployment, directory: Path, what: str) -> list[str]:
    """The commands of docs/operations.md."""
    mounts = ["--volume", f"{one.project}_data:/data", "--volume", f"{directory}:/backup"]
    command = "find /data -mindepth 1 -delete" if what == "rm" else f"tar {what}"
    return ["run", "--rm", "--user", "0", "--entrypoint", "sh", *mounts, "swell:0.1.0", "-c", command]


async def _seen(one: Deployment) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, answer = await one.http(one.manager, "/v1/agents/tally/kept/ask", {"name": "seen", "timeout": 30})
            if status == 200:
                found: dict[str, Any] = answer.get("result", answer)
                return found
            await asyncio.sleep(0.5)


@pytest.mark.parametrize(
    "settings",
    [
        VALKEY,
        {"SWELL_TLS": "on"},
        {"SWELL_APPENDFSYNC": "always", "SWELL_DURABILITY": "fsync"},
    ],
    ids=["valkey", "tls", "fsync"],
)
async def test_the_settings_of_the_server_hold(settings: dict[str, str]) -> None:
    async with deployed(**settings) as one:
        async with one.load(5, rate=500) as account:
            pass
        nothing_lost(account)
        if "SWELL_TLS" in settings:
            assert "rediss://" in await one.do("exec", "-T", "manager", "cat", "/run/swell/redis_url")
            said = await one.inside("doctor", "--json")
            assert json.loads(said)["ok"] is True
            assert "TLS, verified" in said


async def test_agents_of_your_own_by_mounting_and_by_an_image_built_from_ours() -> None:
    folder = ROOT / "examples" / "compose"
    async with deployed(SWELL_APPS=str(folder), SWELL_APP="greeter:app") as one:
        assert await _greeted(one) == "Hello, Ada"
    async with deployed() as one:  # Ours is built, then theirs from it.
        await one.docker("build", "--quiet", "--tag", "swell-greeter", str(folder))
    compose = ["--file", str(ROOT / "compose.yaml"), "--file", str(folder / "compose.image.yaml")]
    environ = {"SWELL_GREETER_IMAGE": "swell-greeter", "COMPOSE_FILE": ":".join(compose[1::2])}
    async with deployed(**environ) as one:
        assert await _greeted(one) == "Hello, Ada"


async def _greeted(one: Deployment) -> Any:
    assert (await one.http(one.manager, "/v1/plans", {"type": "greeter", "keys": ["1"]}))[0] == 202
    status, answer = await one.http(
        one.manager, "/v1/agents/greeter/1/ask", {"name": "greet", "body": "Ada", "timeout": 30}
    )
    assert status == 200, answer
    return answer["result"] if isinstance(answer, dict) else answer
