"""What the conformance suite needs of a server beyond the broker's contract: time, strangers' writes, a last look."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from redis.asyncio import Redis

from swell.bus.broker import Append, Broker, Delivered, Lease, Outcome, Settlement
from swell.bus.memory import MemoryBroker, MemoryServer
from swell.priority import split

#: For leases that must not lapse while a test runs, milliseconds.
LONG_MS = 600_000
#: For leases that the test waits to see lapse, milliseconds.
SHORT_MS = 50
#: For waits that something else in the test ends, milliseconds.
BLOCK_MS = 60_000
#: Depth limit where it does not matter.
ROOM = 1_000_000
#: A wait of the test itself that is longer than this has failed, seconds.
PATIENCE_S = 20.0


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.us = 1_800_000_000_000_000

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1_000_000


class Backend(Protocol):
    """A server, with a namespace that no other test uses."""

    namespace: str

    def connect(self, namespace: str | None = None) -> Broker:
        """A broker as another process would have it."""
        ...

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Let the server's time pass until the condition holds."""
        ...

    async def inject(self, shard: str, fields: dict[str, bytes]) -> str:
        """Write an entry into an inbox as a stranger would; returns its id."""
        ...

    async def set_back(self, milliseconds: int) -> None:
        """Have leases and heartbeats as they are after the server's clock was set back."""
        ...

    async def finish(self) -> None:
        """Look for what should not be there, and close all connections."""
        ...


class MemoryBackend:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.clock = FakeClock()
        self.server = MemoryServer(self.clock)

    def connect(self, namespace: str | None = None) -> Broker:
        return MemoryBroker(self.server, namespace or self.namespace)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():
            self.clock.us += 1000

    async def inject(self, shard: str, fields: dict[str, bytes]) -> str:
        return self.server.inject(self.namespace, shard, fields.get("b", b""))

    async def set_back(self, milliseconds: int) -> None:
        self.clock.us -= milliseconds * 1000

    async def finish(self) -> None:
        pass


class RedisBackend:
    """A real server, Redis or Valkey."""

    #: Keys that live without a TTL, as the docstring of swell.keys says; each of a shard, or of the namespace.
    LASTING_OF_SHARD = frozenset(
        {"inbox", "lease", "ledger", "partial", "deliveries", "agents", "dead", "due", "later", "tasks"}
    )
    LASTING = frozenset({"meta", "members", "info"})
    #: What shared facts leave for as long as there are some, and what tells that there were.
    LASTING_OF_FACTS = frozenset({"data", "names", "due", "changes", "meta"})

    def __init__(self, url: str, namespace: str) -> None:
        self.namespace = namespace
        self._url = url
        self._namespaces: set[str] = set()
        self._brokers: list[Broker] = []
        self._client: Any = Redis.from_url(url, protocol=2)

    def connect(self, namespace: str | None = None) -> Broker:
        from swell.bus.redis import RedisBroker

        namespace = namespace or self.namespace
        self._namespaces.add(namespace)
        broker = RedisBroker(self._url, namespace)
        self._brokers.append(broker)
        return broker

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():
                pass  # Each question is a round trip, so the loop turns.

    async def inject(self, shard: str, fields: dict[str, bytes]) -> str:
        id: bytes = await self._client.xadd(f"swell:{self.namespace}:{{{shard}}}:inbox", fields)
        return id.decode()

    async def set_back(self, milliseconds: int) -> None:
        async for key in self._client.scan_iter(f"swell:{self.namespace}:*:lease"):
            await self._client.hincrby(key, "expires", milliseconds)
        async for key in self._client.scan_iter(f"swell:{self.namespace}:members:*"):
            for name in await self._client.zrange(key, 0, -1):
                await self._client.zincrby(key, milliseconds, name)
        async for key in self._client.scan_iter(f"swell:{self.namespace}:*:facts:held:*"):
            for name in await self._client.zrange(key, 0, -1):
                await self._client.zincrby(key, milliseconds, name)

    async def finish(self) -> None:
        try:
            async for key in self._client.scan_iter("*"):
                await self._check(key.decode())
        finally:
            for broker in self._brokers:
                await broker.close()
            await self._client.flushall()
            await self._client.aclose()

    async def _check(self, key: str) -> None:
        prefix, namespace, kind, *rest = key.split(":")
        assert (prefix, namespace in self._namespaces) == ("swell", True), f"{key} is outside of the namespaces in use"
        lasting = rest[0] in self.LASTING_OF_SHARD if kind.startswith("{") else kind in self.LASTING
        if rest and rest[0] == "facts":
            lasting = len(rest) == 2 and rest[1] in self.LASTING_OF_FACTS
        assert lasting or await self._client.pttl(key) != -1, f"{key} lives for ever"
        if rest and rest[0] in ("partial", "deliveries"):
            for id in await self._client.hkeys(key):
                inbox = ":".join((prefix, namespace, kind, "inbox", *rest[1:]))
                assert await self._client.xrange(inbox, id, id), f"{key} remembers {id!r}, which is settled"


class AuditedBroker:
    """A broker that looks at the ledger after each call that may change it: it must balance at every instant."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def _audit(self, shards: set[str]) -> None:
        for shard in {split(inbox)[0] for inbox in shards}:
            ledger = await self._broker.ledger(shard)
            assert ledger.balanced, f"the ledger does not balance: {ledger}"

    async def append(self, producer: str, appends: list[Append], max_depth: int) -> Any:
        answer = await self._broker.append(producer, appends, max_depth)
        await self._audit({append.shard for append in appends})
        return answer

    async def acquire(self, shard: str, owner: str, lease_ms: int) -> Any:
        answer = await self._broker.acquire(shard, owner, lease_ms)
        await self._audit({shard})
        return answer

    async def release(self, lease: Lease) -> bool:
        answer = await self._broker.release(lease)
        await self._audit({lease.shard})
        return answer

    async def settle(self, settlements: list[Settlement], replies: dict[str, bytes] | None = None) -> Any:
        answer = await self._broker.settle(settlements, replies)
        await self._audit({settlement.lease.shard for settlement in settlements})
        return answer

    async def fire(self, lease: Lease, *nexts: Any) -> Any:
        answer = await self._broker.fire(lease, *nexts)
        await self._audit({lease.shard})
        return answer

    async def replay(self, shard: str, letters: list[tuple[str, bytes]], max_depth: int) -> Any:
        answer = await self._broker.replay(shard, letters, max_depth)
        await self._audit({shard})
        return answer

    async def drop(self, shard: str, ids: list[str]) -> list[bool]:
        answer = await self._broker.drop(shard, ids)
        await self._audit({shard})
        return answer


async def fill(broker: Broker, shard: str, *counts: int, producer: str = "sender", first: int = 1) -> list[bytes]:
    """Append batches of so many messages each, numbered from `first`; returns their payloads."""
    appends = [Append(shard, first + i, count, b"batch %d" % (first + i)) for i, count in enumerate(counts)]
    assert [done.status for done in await broker.append(producer, appends, ROOM)] == ["ok"] * len(counts)
    return [append.payload for append in appends]


async def own(broker: Broker, shard: str, owner: str, lease_ms: int = LONG_MS) -> Lease:
    """Acquire a shard that can be had."""
    lease = await broker.acquire(shard, owner, lease_ms)
    assert isinstance(lease, Lease), lease
    return lease


async def lapse(backend: Backend, broker: Broker, shard: str) -> None:
    """Wait until the server says that the shard's lease has run out."""

    async def lapsed() -> bool:
        (state,) = await broker.leases([shard])
        return state.remaining_ms <= 0

    await backend.until(lapsed)


async def take_over(backend: Backend, broker: Broker, shard: str, owner: str, lease_ms: int = LONG_MS) -> Lease:
    """Acquire a shard as soon as its former lease has lapsed."""
    await lapse(backend, broker, shard)
    return await own(broker, shard, owner, lease_ms)


async def settle(broker: Broker, lease: Lease, *outcomes: Outcome, **records: bytes | None) -> bool:
    """Settle one shard; returns whether the lease was the newest."""
    (valid,), _ = await broker.settle([Settlement(lease, list(outcomes), records)])
    return valid


def payloads(entries: list[Delivered]) -> list[bytes]:
    """The payloads of entries, in order."""
    return [entry.payload for entry in entries]
