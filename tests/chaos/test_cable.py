"""The network under the tests' hands does what it says."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError

from tests.chaos.cable import Cable
from tests.conftest import RealServer


def connect(cable: Cable) -> Redis:
    return Redis.from_url(cable.url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=0.5)


async def test_a_cable_carries_much_and_is_cut_and_mended(valkey: RealServer) -> None:
    async with Cable(valkey.url) as cable, connect(cable) as redis:
        assert await redis.echo(b"x" * 10_000_000) == b"x" * 10_000_000
        cable.cut()
        with pytest.raises(ConnectionError):
            await redis.ping()
        with pytest.raises(ConnectionError):
            await redis.ping()
        cable.mend()
        assert await redis.ping()


async def test_a_cable_swallows_and_delivers_later_and_is_slow(valkey: RealServer) -> None:
    async with Cable(valkey.url) as cable, connect(cable) as redis:
        assert await redis.ping()
        cable.swallow()
        with pytest.raises(TimeoutError):
            await redis.ping()
        cable.mend()
        cable.delay_s = 0.1
        began = asyncio.get_running_loop().time()
        assert await redis.ping()
        assert asyncio.get_running_loop().time() - began > 0.1
