"""Alerts with real services: a worker is killed, a webhook is away for a while, the watcher itself dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from swell import Client
from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S, Service

Start = Callable[..., Service]


class Receiver:
    """A small HTTP server that keeps what it was told; `answer` is what it answers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.requests = 0
        self.answer = b"204 No Content\r\n"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        body = json.loads(await reader.readexactly(int(fields["Content-Length"])))
        self.requests += 1
        if self.answer.startswith(b"2"):
            self.told += [
                (fields.get("Authorization", ""), alert | {"of": body["namespace"]}) for alert in body["alerts"]
            ]
        writer.write(b"HTTP/1.1 " + self.answer + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    def states(self, name: str) -> list[str]:
        """The states of an alert in the order told."""
        return [alert["state"] for _, alert in self.told if alert["name"] == name]


async def state_when(service: Service, name: str, *states: str) -> dict[str, Any]:
    """An alert, once it is in one of these states."""
    url = await service.url()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, alerts = await service.get(url + "/v1/alerts")
            if status == 200:
                alert: dict[str, Any] = next(one for one in alerts if one["name"] == name)
                if alert["state"] in states:
                    return alert
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.05)


def run(namespace: str, redis: str, *command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "swell", *command, "--redis", redis, "--namespace", namespace]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE_S)


async def test_a_killed_worker_fires_and_is_resolved_and_all_of_it_is_told_although_receiver_and_watcher_were_away(
    client: Client, start: Start, namespace: str, valkey: RealServer
) -> None:
    receiver = Receiver()
    watching = {
        "alert_webhook": f"http://127.0.0.1:{receiver.port}/hook/secret-path",
        "alert_secret": "tell-me",
        "alerts": "role_missing=off",
    }
    worker = start("worker")
    await worker.ready()
    metrics = start("metrics", **watching)
    await metrics.ready()
    # A shard `control` that nobody owns fires too; it waits for the manager below.
    await state_when(metrics, "shard_unowned", "pending", "firing")
    worker.kill()
    second = start("worker")
    await second.ready()
    taken = await state_when(metrics, "takeovers", "firing")
    assert taken["value"] >= 1
    unowned = await state_when(metrics, "shard_unowned", "firing")
    assert "control" in unowned["where"]
    _, text = await metrics.get(await metrics.url() + "/metrics")
    assert 'swell_alert_firing{name="takeovers",severity="warning"} 1.0' in text
    assert 'swell_shard_owned{shard="control"} 0.0' in text
    assert 'swell_shard_owned{shard="0"} 1.0' in text
    assert 'swell_ledger_lapsed_total{shard="0"} 1.0' in text
    # Nobody was told yet; the watcher dies, another goes on, and tells.
    metrics.kill()
    assert "secret-path" not in metrics.log.read_text()
    assert "the webhook was not told: http://127.0.0.1" in metrics.log.read_text()
    heir = start("metrics", **watching)
    async with receiver.listening():
        await until(lambda: "firing" in receiver.states("takeovers"))
        await until(lambda: "firing" in receiver.states("shard_unowned"))
        shown = await asyncio.to_thread(run, namespace, valkey.url, "alerts", "--json")
        listed = json.loads(shown.stdout)
        assert shown.returncode == 1  # A critical one fires.
        assert listed["watched"] is True
        assert {"takeovers", "shard_unowned"} <= {one["name"] for one in listed["alerts"]}
        assert {alert.name for alert in await client.alerts()} >= {"takeovers", "shard_unowned"}
        doctor = await asyncio.to_thread(run, namespace, valkey.url, "doctor")
        assert "FAIL  alert shard_unowned: messages of these shards wait" in doctor.stdout
        manager = start("manager")
        await manager.ready()
        await state_when(heir, "shard_unowned", "resolved")
        await until(lambda: "resolved" in receiver.states("shard_unowned"))
        # Each change once: nothing was lost on the way here, so nothing had to be told twice.
        assert receiver.states("shard_unowned") == ["firing", "resolved"]
        # The heir counts what happens since it watches: a quiet while is enough for it.
        assert receiver.states("takeovers") in (["firing"], ["firing", "resolved"])
        assert {(token, alert["of"]) for token, alert in receiver.told} == {("Bearer tell-me", namespace)}


@pytest.mark.parametrize("answer", [b"503 Busy\r\n", b"302 Found\r\nLocation: http://127.0.0.1:1/\r\n"])
async def test_a_receiver_that_refuses_is_told_again_and_a_redirect_is_not_followed(
    start: Start, client: Client, answer: bytes
) -> None:
    receiver = Receiver()
    receiver.answer = answer
    async with receiver.listening():
        metrics = start("metrics", alert_webhook=f"http://127.0.0.1:{receiver.port}/", alerts="shard_unowned=off")
        await state_when(metrics, "role_missing", "firing")
        await until(lambda: receiver.requests >= 2)
        assert receiver.told == []
        receiver.answer = b"200 OK\r\n"
        await until(lambda: bool(receiver.told))
        assert receiver.states("role_missing") == ["firing"]
        assert f"answered {answer[:3].decode()}" in metrics.log.read_text()


async def test_an_instance_that_stands_by_says_who_watches(start: Start) -> None:
    first = start("metrics")
    await first.ready()
    await state_when(first, "role_missing", "pending", "firing")
    second = start("metrics")
    await second.ready()
    status, problem = await second.get(await second.url() + "/v1/alerts")
    assert status == 503
    assert await first.url() in problem["detail"]
    _, text = await second.get(await second.url() + "/metrics")
    assert "swell_alert_firing{" not in text
    assert "swell_shard_owned{" not in text
