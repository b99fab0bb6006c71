"""Every test here runs against each broker there is, in a namespace of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import cast

import pytest

from swell.bus.broker import Broker
from tests.conformance.backends import AuditedBroker, Backend, MemoryBackend, RedisBackend


@pytest.fixture(params=["memory", "valkey", "redis", "redis8", "valkey81"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """The server. Valkey is reached over TCP and Redis over a Unix socket, so that both ways are tried."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    if request.param == "memory":
        yield MemoryBackend(namespace)
        return
    pytest.importorskip("swell.bus.redis")
    server = request.getfixturevalue(request.param)
    urls = {
        "valkey": lambda: server.url,
        "redis": lambda: server.unix_url,
        "redis8": lambda: server,
        "valkey81": lambda: server,
    }
    real = RedisBackend(urls[request.param](), namespace)
    yield real
    await real.finish()


@pytest.fixture
async def broker(backend: Backend) -> Broker:
    """The first process's connection; the ledger is audited after each of its writes."""
    broker = cast("Broker", AuditedBroker(backend.connect()))
    await broker.open(4)
    return broker


@pytest.fixture
async def other(backend: Backend, broker: Broker) -> Broker:
    """Another process's connection to the same namespace."""
    other = cast("Broker", AuditedBroker(backend.connect()))
    await other.open(4)
    return other
