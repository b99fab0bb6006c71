"""Dead letters on a real server: shown, replayed exactly once, dropped; by client, command line and HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from swell import Client
from swell.codec import raw
from swell.dead import Filter
from swell.wire import SPAWN, SpawnAgent, Spawned
from tests.conftest import RealServer
from tests.integration.fleet import Order
from tests.integration.services import PATIENCE_S, Service

Start = Callable[..., Service]


@pytest.fixture
async def faulty(client: Client, start: Start) -> str:
    """An agent that fails as often as it is told to; three times in a row is a death."""
    await start("worker").ready()
    await client.request(client.shard("faulty/1"), "faulty/1", SPAWN, SpawnAgent("p", raw(None)), 10)
    return "faulty/1"


async def settled(client: Client) -> None:
    """Return when nothing is left to handle."""
    async with asyncio.timeout(PATIENCE_S):
        while any([(await client.broker.ledger(shard)).depth for shard in client.shard_names]):
            await asyncio.sleep(0.01)


async def totals(client: Client, agent: str) -> dict[str, int]:
    """The account of the agent's shard."""
    ledger = await client.broker.ledger(client.shard(agent))
    assert ledger.balanced
    return {name: getattr(ledger, name) for name in ("sent", "acked", "dead", "depth", "replayed", "dropped")}


async def command(client: Client, *arguments: str) -> tuple[int, str, str]:
    """Run `swell ...` in the client's namespace; returns its exit code and output."""
    url, namespace = client.broker._url, client.broker._keys.namespace  # type: ignore[attr-defined]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
    environ |= {"SWELL_REDIS": url, "SWELL_NAMESPACE": namespace}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "swell", *arguments],
        capture_output=True,
        text=True,
        env=environ,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stdout, done.stderr


async def test_a_message_dies_twice_is_mended_and_handled_with_its_id_and_history_kept(
    client: Client, faulty: str
) -> None:
    await client.send(faulty, "fail", Order(6, "twice"))
    await settled(client)
    (first,) = await client.letters.list()
    assert (first.to, first.kind, first.deaths) == (faulty, "handler_failed", 1)
    assert (await client.letters.replay(first.id)).done == 1
    await settled(client)
    second = await client.letters.get(first.id)
    assert second is not None
    assert (second.id, second.deaths, second.body) == (first.id, 2, {"failures": 6, "text": "twice"})
    assert [(death.kind, death.attempts, death.at_ms) for death in second.history] == [
        ("handler_failed", 3, first.at_ms)
    ]
    assert (await client.letters.replay(where=Filter(agent=faulty))).done == 1
    await settled(client)
    assert await client.letters.list() == []
    # The birth and the last replay were handled; the deaths stay counted.
    expected = {"sent": 4, "acked": 2, "dead": 2, "depth": 0, "replayed": 2, "dropped": 0}
    assert await totals(client, faulty) == expected


async def test_two_clients_that_replay_at_once_have_each_message_handled_once(
    client: Client, faulty: str, valkey: RealServer, namespace: str
) -> None:
    await client.send_many((f"notary/{number}", "note", {"sender": "me", "seq": number}) for number in range(60))
    await settled(client)
    ids = [f"notary/{number}" for number in range(60)]
    asked = [client.request(client.shard(id), id, SPAWN, SpawnAgent("p", raw(None)), 10) for id in ids]
    assert len([Spawned for _ in await asyncio.gather(*asked)]) == 60
    async with Client.connect(valkey.url, namespace=namespace) as other:
        one, two = await asyncio.gather(*(each.letters.replay(where=Filter()) for each in (client, other)))
    assert one.done + two.done == 60
    await settled(client)
    ledgers = [await client.broker.ledger(shard) for shard in client.shard_names]
    assert sum(ledger.dead for ledger in ledgers) == sum(ledger.replayed for ledger in ledgers) == 60
    assert sum(ledger.acked for ledger in ledgers) == 1 + 60 + 60  # Births, and each replay once.


async def test_the_command_line_lists_shows_replays_and_drops(client: Client, faulty: str) -> None:
    evil = "\x1b]0;owned\x07\u202etxet"
    await client.send(faulty, "fail", Order(3, evil))
    await settled(client)
    await client.send("faulty/nobody", "ok")
    await settled(client)
    code, out, _ = await command(client, "dead", "list", "--json")
    listed = json.loads(out)
    assert (code, [one["to"] for one in listed]) == (0, ["faulty/nobody", faulty])
    code, out, _ = await command(client, "--json", "dead", "list", "--agent", faulty, "--since", "1h")
    assert [one["to"] for one in json.loads(out)] == [faulty]
    nobody, died = (one["id"] for one in listed)
    code, out, _ = await command(client, "dead", "show", died)
    assert code == 0
    assert "ValueError" in out
    assert '"failures": 3' in out
    shown = [await command(client, "dead", "list"), (0, out, "")]
    assert not any({"\x1b", "\x07", "\u202e"} & set(text) for _, text, _ in shown)
    assert (await command(client, "dead", "replay"))[0] == 2
    assert (await command(client, "dead", "replay", died, "--kind", "poison"))[0] == 2
    code, out, _ = await command(client, "dead", "replay", died, "0:9-9:0", "--json")
    assert (code, json.loads(out)) == (1, {"done": 1, "gone": ["0:9-9:0"], "busy": [], "refused": {}})
    code, out, _ = await command(client, "dead", "drop", "--kind", "unknown_agent")
    assert (code, out) == (0, "1 dropped\n")
    code, out, error = await command(client, "dead", "show", nobody)
    assert (code, out) == (1, "")
    assert "there is no dead letter" in error
    await settled(client)
    assert (await command(client, "dead", "list"))[1] == "no dead letters\n"
    total = json.loads((await command(client, "ledger", "--check", "--json"))[1])["total"]
    assert (total["dead"], total["replayed"], total["dropped"]) == (2, 1, 1)


async def test_on_a_terminal_it_asks_before_it_acts(client: Client, faulty: str) -> None:
    await client.send("faulty/nobody", "ok")
    await settled(client)
    url, namespace = client.broker._url, client.broker._keys.namespace  # type: ignore[attr-defined]
    arguments = [sys.executable, "-m", "swell", "dead", "drop", "--all", "--redis", url, "--namespace", namespace]
    for answer, code, left in ((b"n\n", 130, 1), (b"y\n", 0, 0)):
        master, terminal = pty.openpty()
        try:
            os.write(master, answer)
            done = await asyncio.to_thread(
                subprocess.run, arguments, stdin=terminal, capture_output=True, text=True, timeout=PATIENCE_S
            )
        finally:
            os.close(master)
            os.close(terminal)
        assert (done.returncode, done.stderr.startswith("drop dead letter ")) == (code, True), done.stderr
        assert len(await client.letters.list()) == left


async def test_http_lists_shows_replays_and_drops(client: Client, faulty: str, start: Start) -> None:
    manager = start("manager")
    await manager.ready()
    await client.send(faulty, "fail", Order(3))
    await settled(client)
    await client.send("faulty/nobody", "ok")
    await settled(client)
    async with httpx.AsyncClient(base_url=await manager.url()) as http:

        async def post(what: str, body: Any) -> tuple[int, Any]:
            answer = await http.post(f"/v1/dead/{what}", json=body)
            return answer.status_code, answer.json()

        page = (await http.get("/v1/dead", params={"limit": 1})).json()
        rest = (await http.get("/v1/dead", params={"after": page[0]["place"]})).json()
        assert [one["to"] for one in page + rest] == ["faulty/nobody", faulty]
        (died,) = (await http.get("/v1/dead", params={"type": "faulty", "reason": "ON PURPOSE", "since": "1h"})).json()
        shown = (await http.get(f"/v1/dead/{died['id']}")).json()
        assert (shown["body"]["failures"], shown["deaths"], shown["history"]) == (3, 1, [])
        assert "ValueError" in shown["traceback"]
        assert await post("replay", {"ids": [died["id"]]}) == (200, {"done": 1, "gone": [], "busy": [], "refused": {}})
        assert (await post("replay", {"ids": [died["id"]]}))[1]["gone"] == [died["id"]]
        assert (await post("drop", {"kind": "unknown_agent"}))[1]["done"] == 1
        for method, path, body, status, said in (
            ("GET", f"/v1/dead/{died['id']}", None, 404, "there is no dead letter"),
            ("GET", "/v1/dead?since=yesterday", None, 400, "since: 'yesterday' is no time"),
            ("GET", "/v1/dead?after=x", None, 400, "is not the `place`"),
            ("GET", "/v1/dead?limit=0", None, 400, "limit"),
            ("POST", "/v1/dead/replay", {}, 422, "give either ids, or filters, or all"),
            ("POST", "/v1/dead/drop", {"ids": ["x"], "all": True}, 422, "give either ids"),
            ("POST", "/v1/dead/drop", {"idz": ["x"]}, 400, "idz"),
        ):
            answer = await http.request(method, path, json=body)
            assert answer.status_code == status, answer.text
            assert answer.headers["content-type"].startswith("application/problem+json")
            assert said in answer.json()["detail"]
        paths = (await http.get("/openapi.json")).json()["paths"]
        assert {"/v1/dead", "/v1/dead/{id}", "/v1/dead/replay", "/v1/dead/drop"} <= set(paths)
        accounts = (await http.get("/v1/ledger")).json()
        assert [sum(account[name] for account in accounts) for name in ("replayed", "dropped")] == [1, 1]
    await settled(client)
    assert await client.letters.list() == []


async def test_http_answers_429_while_the_shard_is_full(client: Client, faulty: str, start: Start) -> None:
    manager = start("manager", max_depth=256)
    await manager.ready()
    await client.request(client.shard("waiter/1"), "waiter/1", SPAWN, SpawnAgent("p", raw(None)), 10)
    await client.send("waiter/1", "nothing")
    await settled(client)
    (letter,) = await client.letters.list()
    await client.send("waiter/1", "wait", 0)
    await client.send_many(("waiter/1", "add", number) for number in range(300))
    async with httpx.AsyncClient(base_url=await manager.url()) as http:
        answer = await http.post("/v1/dead/replay", json={"all": True})
    assert answer.status_code == 429, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert [one.id for one in await client.letters.list()] == [letter.id]
