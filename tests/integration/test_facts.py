"""Shared facts as users meet them: agents, command line, HTTP, the example."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import quote

import httpx

from swell import Client
from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S, Service

Start = Callable[..., Service]


def environ(url: str, namespace: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
    return kept | {"SWELL_REDIS": url, "SWELL_NAMESPACE": namespace}


async def run(url: str, namespace: str, *words: str, stdin: str = "") -> tuple[int, str, str]:
    """`python -m ...` to its end: exit code, output, errors."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        env=environ(url, namespace),
        input=stdin,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stdout, done.stderr


async def test_the_command_line_gets_puts_swaps_lists_watches_and_deletes(
    client: Client, valkey: RealServer, namespace: str
) -> None:
    async def swell(*words: str, stdin: str = "") -> tuple[int, str, str]:
        return await run(valkey.url, namespace, "swell", *words, stdin=stdin)

    version = json.loads((await swell("facts", "put", "config/a", '{"size": 3}', "--json"))[1])["version"]
    assert (await swell("facts", "get", "config/a"))[:2] == (0, '{"size":3}\n')
    code, _, said = await swell("facts", "swap", "config/a", "7", "1")
    assert (code, f"'config/a' has version {version}" in said) == (1, True)
    assert (await swell("facts", "swap", "config/a", str(version), "-", stdin="[1]"))[0] == 0
    await client.facts.put("config/b", "\x1b]0;owned\x07", ttl=3600)
    await client.facts.put("config/c", {1: b"\xff"})
    code, shown, _ = await swell("facts", "list", "config/")
    assert (code, "\x1b" in shown) == (0, False)
    assert [line.split()[0] for line in shown.splitlines()] == ["key", "config/a", "config/b", "config/c"]
    found = json.loads((await swell("--json", "facts", "list", "config/", "--limit", "1"))[1])
    assert [(one["key"], one["value"], one["expires_s"]) for one in found] == [("config/a", [1], None)]
    told = (await swell("facts", "watch", "--prefix", "config/", "--count", "3", "--json"))[1].splitlines()
    assert [json.loads(line)["kind"] for line in told] == ["there"] * 3
    assert (await swell("facts", "delete", "config/a"))[:2] == (0, "deleted\n")
    assert (await swell("facts", "delete", "config/a"))[0] == 1
    code, _, said = await swell("facts", "get", "config/a")
    assert (code, "there is no fact 'config/a'" in said) == (1, True)
    code, _, said = await swell("facts", "put", "k", "1", "--ttl", "0")
    assert (code, said) == (2, "swell: ttl: 0.0 is not between 0.001 and 315,360,000 seconds\n")
    code, _, said = await swell("facts", "put", "$worker/foo", "1")
    assert (code, "key: '$worker/foo': names that begin with $ are the system's own" in said) == (2, True)


async def test_the_command_line_shows_who_holds_what(client: Client, valkey: RealServer, namespace: str) -> None:
    async with client.facts.lock("deploy") as held, client.facts.semaphore("gpu", 2):
        _, shown, _ = await run(valkey.url, namespace, "swell", "locks", "--json")
        locks = {one["name"]: one for one in json.loads(shown)}
        assert (locks["deploy"]["kind"], locks["gpu"]["limit"]) == ("lock", 2)
        assert locks["deploy"]["holders"][0]["token"] == held.token
        _, shown, _ = await run(valkey.url, namespace, "swell", "locks")
        assert re.search(rf"lock +deploy +{re.escape(held.owner)} +{held.token} ", shown)
    assert (await run(valkey.url, namespace, "swell", "locks"))[1] == "nothing is held\n"


async def test_facts_over_http(client: Client, start: Start) -> None:
    manager = start("manager")
    await manager.ready()
    async with httpx.AsyncClient(base_url=await manager.url() + "/v1", timeout=PATIENCE_S) as http:
        made = await http.put("/facts/config/limits", json={"value": {"rate": 5}, "version": 0})
        assert made.status_code == 200
        version = made.json()["version"]
        again = await http.put("/facts/config/limits", json={"value": 1, "version": 0})
        assert (again.status_code, again.json()["type"]) == (409, "urn:swell:fact-conflict")
        assert (again.json()["key"], again.json()["version"]) == ("config/limits", version)
        shown = (await http.get("/facts/config/limits")).json()
        assert shown == {
            "key": "config/limits", "version": version, "value": {"rate": 5}, "expires_s": None, "value_hex": ""
        }  # fmt: skip
        await http.put("/facts/config/ttl", json={"value": 1, "ttl": 60})
        listed = (await http.get("/facts", params={"prefix": "config/", "limit": 10})).json()
        assert [one["key"] for one in listed] == ["config/limits", "config/ttl"]
        for wrong in (
            await http.put("/facts/k", json={"value": 1, "ttl": -1}),
            await http.put("/facts/" + "k" * 600, json={"value": 1}),
            await http.put("/facts/$worker/foo", json={"value": 1}),
            await http.delete("/facts/%24worker/foo"),
            await http.get("/watch"),
        ):
            assert wrong.status_code == 422
        assert (await http.put("/facts/k", json={"ttl": 1})).status_code == 400
        odd = ["/k", "k/", "k//k", "k k?", "%2F"]
        for key in odd:
            assert (await http.put("/facts/" + quote(key), json={"value": key})).json()["key"] == key
            assert (await http.get("/facts/" + quote(key))).json()["value"] == key
        assert [fact.key for fact in await client.facts.list()] == sorted([*odd, "config/limits", "config/ttl"])
        for key in odd:
            assert (await http.delete("/facts/" + quote(key))).status_code == 200
        events: list[str] = []
        async with http.stream("GET", "/watch", params={"prefix": "config/"}) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    events.append(line.removeprefix("event: "))
                if len(events) == 2:
                    await http.delete("/facts/config/ttl", params={"version": listed[1]["version"]})
                if len(events) == 3:
                    break
        assert events == ["there", "there", "deleted"]
        assert (await http.delete("/facts/config/ttl")).status_code == 404
        assert (await http.get("/facts/config/ttl")).status_code == 404
        async with client.facts.lock("deploy") as held:
            (lock,) = (await http.get("/locks")).json()
            assert (lock["name"], lock["holders"][0]["owner"]) == ("deploy", held.owner)
        # Who still watches does not keep the manager from stopping.
        async with http.stream("GET", "/watch", params={"prefix": ""}) as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("event: there")
            stopping = asyncio.create_task(manager.stop())
            async for _ in lines:
                pass
        assert await stopping == 0


async def test_the_example_elects_one_and_counts_all(
    client: Client, start: Start, valkey: RealServer, namespace: str
) -> None:
    app = "examples.facts.app:app"
    for service in (start("manager"), start("worker", app=app), start("worker", app=app)):
        await service.ready()
    code, shown, said = await run(valkey.url, namespace, "examples.facts")
    assert code == 0, said
    assert re.search(r"^member/round-\w+-\d was elected and reports a total of 50$", shown, re.M)
    assert "10 members agree on 1 report\n" in shown
    assert await client.facts.list() == []
    assert await client.facts.locks() == []
