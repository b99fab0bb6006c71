"""A worker that ends, however it does, drops its agents and lets go of what their types shared."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from swell import Agent, App, Client
from swell.config import Settings
from swell_worker.app import Worker
from tests.conftest import RealServer
from tests.integration.test_worker import spawn

PATIENCE_S = 30.0
app = App("released")


@app.agent("it")
class It(Agent):
    told: ClassVar[list[str]] = []

    @classmethod
    async def _swell_release(cls) -> None:
        cls.told.append("released")


async def test_a_worker_lets_go_of_what_its_types_share(valkey: RealServer, namespace: str, client: Client) -> None:
    It.told.clear()
    settings = Settings(redis=valkey.url, namespace=namespace, port=0, lease_ms=1000)
    stop = asyncio.Event()
    running = asyncio.ensure_future(Worker(settings, app).run(stop))
    async with asyncio.timeout(PATIENCE_S):
        await spawn(client, "it/1")
        assert It.told == []
        stop.set()
        await running
    assert It.told == ["released"]
