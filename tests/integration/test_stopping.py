"""Stopping when the server does not help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swell import Client
from swell.embedded import find_binary
from tests.conftest import start_server, stop_server
from tests.integration.services import Service
from tests.integration.test_worker import spawn

Start = Callable[..., Service]


@pytest.mark.parametrize("role", ["worker", "manager", "metrics"])
async def test_a_service_whose_server_has_died_still_ends_within_its_drain_and_says_what_it_left(
    role: str, start: Start, tmp_path: Path
) -> None:
    drain_s = 3
    server = await asyncio.to_thread(start_server, find_binary(), tmp_path)
    try:
        service = start(role, redis=server.url, drain_s=drain_s, lease_ms=60_000)
        await service.ready()
    finally:
        stop_server(server)
    began = time.monotonic()
    assert await service.stop() == 0
    # One deadline for all steps: if each had its own, it would be two of them at least.
    assert time.monotonic() - began < 2 * drain_s
    (left,) = [line["messages"] for line in service.logged() if "messages" in line]
    assert left >= 1  # Its last report at least.


async def test_a_handler_that_never_ends_does_not_keep_its_worker_from_ending(client: Client, start: Start) -> None:
    first = start("worker", drain_s=1)
    await first.ready()
    await spawn(client, "waiter/1", "gate/1", "waiter/2")
    await client.send("waiter/1", "wait", 7)
    await client.ask("waiter/2", "all")
    assert await first.stop() == 0
    (left,) = [line for line in first.logged() if line["level"] == "error"]
    assert left["entries"] == {client.shard("waiter/1"): 1}
    # The next worker reads the message again.
    second = start("worker")
    await second.ready()
    await client.send("gate/1", "open", "1")
    assert await client.ask("waiter/1", "all", None, list[int]) == [7]
