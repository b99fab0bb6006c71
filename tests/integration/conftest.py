"""A namespace of its own for each test, a client in it, and services that end with the test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from swell import Client
from tests.conftest import RealServer
from tests.integration.services import Service

Start = Callable[..., Service]


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def start(valkey: RealServer, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """Start a service by its role; whatever still runs when the test ends is killed."""
    started: list[Service] = []

    def start(role: str, redis: str = valkey.url, **settings: object) -> Service:
        service = Service(role, redis, namespace, tmp_path, **settings)
        started.append(service)
        return service

    yield start
    for service in started:
        service.kill()


@pytest.fixture
async def client(valkey: RealServer, namespace: str) -> AsyncIterator[Client]:
    async with Client.connect(valkey.url, namespace=namespace) as client:
        yield client
        # Whatever a test did: every ledger balances at its end.
        unbalanced = [ledger for ledger in await client.ledger() if not ledger.balanced]
        assert not unbalanced
