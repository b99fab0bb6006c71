"""Full shards, a server out of memory or away, as those see it who send over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from swell import Client
from swell.bus.broker import Lease, Outcome, Settlement
from swell.codec import decode, decode_batch
from tests.conftest import RealServer
from tests.integration.senders import DEPTH
from tests.integration.services import PATIENCE_S, Service
from tests.integration.test_manager import http, serve_on

Start = Callable[..., Service]


def messages(*ids: str) -> list[dict[str, Any]]:
    return [{"to": id, "name": "note", "body": number} for number, id in enumerate(ids)]


async def post(session: httpx.AsyncClient, path: str, body: object, wait: float) -> httpx.Response:
    return await session.post(path, json=body, params={"wait": wait})


async def test_full_shards_are_429_and_what_was_appended_is_told_exactly(client: Client, start: Start) -> None:
    here, elsewhere = (
        "child/0",
        next(f"child/{n}" for n in range(1, 99) if client.shard(f"child/{n}") != client.shard("child/0")),
    )
    async with http(start("manager", max_depth=DEPTH)) as session:
        filled = await post(session, "/v1/messages", messages(*[here] * DEPTH), 0)
        assert (filled.status_code, filled.json()) == (202, {"sent": DEPTH})
        for wait in (0, 0.05):
            refused = await post(session, "/v1/messages", messages(here, elsewhere, here, elsewhere), wait)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            said = refused.json()
            assert (said["type"], said["shard"]) == ("urn:swell:busy", client.shard(here))
            assert (said["sent"], said["unsent"]) == (2, [0, 2])
        asked = await post(session, f"/v1/agents/{here}/ask", {"name": "note", "timeout": 5}, 0)
        assert (asked.status_code, asked.json()["type"]) == (429, "urn:swell:busy")
        assert "sent" not in asked.json()
        assert (await post(session, "/v1/messages", messages(here), 61)).status_code == 400
    sent = {ledger.shard: ledger.sent for ledger in await client.ledger()}
    assert (sent[client.shard(here)], sent[client.shard(elsewhere)]) == (DEPTH, 4)


@pytest.fixture
def sender(valkey: RealServer, namespace: str) -> Iterator[Callable[[str, str], None]]:
    """Start a process that sends to an agent, in one of the manners of `senders`; killed when the test ends."""
    started: list[subprocess.Popen[bytes]] = []

    def start(manner: str, agent: str) -> None:
        command = [sys.executable, "-m", "tests.integration.senders", valkey.url, namespace, manner, agent]
        started.append(subprocess.Popen(command))

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_a_process_that_floods_a_shard_and_one_that_sends_singles_take_turns(
    client: Client, sender: Callable[[str, str], None]
) -> None:
    agent = "child/0"
    shard = client.shard(agent)
    lease = await client.broker.acquire(shard, "reader", 600_000)
    assert isinstance(lease, Lease)

    async def next_sender() -> tuple[str, list[int]]:
        """Settle the oldest entry; returns whose it was, and the numbers in it."""
        async with asyncio.timeout(PATIENCE_S):
            while not (read := await client.broker.read("reader", [shard], 1, 1000)):
                pass
        (entry,) = read
        messages = decode_batch(entry.payload, entry.count).messages
        await client.broker.settle([Settlement(lease, [Outcome(entry.id, entry.count)])])
        return messages[0].name, [decode(message.body, int) for message in messages]

    sender("flood", agent)
    seen: dict[str, list[int]] = {"flood": [], "singles": []}
    for _ in range(4):
        name, numbers = await next_sender()
        seen[name] += numbers
    sender("singles", agent)
    while not seen["singles"]:
        name, numbers = await next_sender()
        seen[name] += numbers
    turns = []
    for _ in range(40):
        name, numbers = await next_sender()
        seen[name] += numbers
        turns.append(name)
    longest = max(len(list(turn)) for _, turn in itertools.groupby(turns))
    assert longest <= 4, turns
    assert all(numbers == list(range(len(numbers))) for numbers in seen.values())


async def test_the_same_request_under_the_same_key_sends_its_messages_once(client: Client, start: Start) -> None:
    async with http(start("manager", max_depth=DEPTH)) as session:
        few = messages(*(f"child/{number}" for number in range(100)))
        for expected in ({"sent": 100}, {"sent": 100, "repeated": True}):
            answer = await session.post("/v1/messages", json=few, headers={"Idempotency-Key": "monday"})
            assert (answer.status_code, answer.json()) == (202, expected)
        many = messages(*(f"child/{number % 7}" for number in range(5000)))
        for again in range(2):
            refused = await session.post(
                "/v1/messages", json=many, params={"wait": 0}, headers={"Idempotency-Key": "tuesday"}
            )
            assert refused.status_code == 429
            sent = sum(ledger.sent for ledger in await client.ledger() if ledger.shard.isdigit())
            assert sent == 100 + refused.json().get("sent", 0), again
        wrong = await session.post("/v1/messages", json=few, headers={"Idempotency-Key": "a b"})
        assert (wrong.status_code, wrong.json().get("field")) == (422, "key"), wrong.text


async def test_a_server_out_of_memory_is_429_and_one_that_is_away_503(start: Start, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve_on(port, tmp_path)
    try:
        async with http(start("manager", redis=f"redis://127.0.0.1:{port}/0")) as session:
            async with Client.connect(f"redis://127.0.0.1:{port}/0") as operator:
                link = operator.broker._link("query")  # type: ignore[attr-defined]
                await link.call("CONFIG", "SET", "maxmemory", "1")
                full = await post(session, "/v1/messages", messages("child/0"), 0)
                assert (full.status_code, full.json()["type"]) == (429, "urn:swell:busy")
                assert "out of memory" in full.json()["detail"]
                assert int(full.headers["retry-after"]) >= 1
                await link.call("CONFIG", "SET", "maxmemory", "0")
                assert (await post(session, "/v1/messages", messages("child/0"), 10)).status_code == 202
            server.kill()
            server.wait()
            away = await post(session, "/v1/messages", messages("child/0"), 0)
            assert away.status_code == 503
            assert int(away.headers["retry-after"]) >= 1
            assert "appended" in away.json()["detail"]
    finally:
        server.kill()
        server.wait()
