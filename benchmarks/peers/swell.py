"""Swell itself, by its public API: a client, and a worker with 100 agents."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Sequence

from benchmarks.peers.contract import Facts, meter
from swell import Agent, App, Client, handler

FACTS = Facts(
    title="Swell",
    package="swell",
    delivery="at least once; exactly one settlement, after the handler",
    after_kill="handled by the next owner once the lease (2 s here) has lapsed, in order, beside what comes meanwhile",
    order="per sender and agent",
    asks="reply stream of the asker, batched",
    tuned={
        "client.send_many": "one acknowledgement for many messages",
        "agents": "100, which handle beside each other",
        "uvloop": "as the services run by default",
    },
    note="each message is addressed to one of 100 agents, counted in a ledger and refused by a full shard",
    bulk=100_000,
)
NAMESPACE = "peers"
AGENTS = [f"receiver/{n:04d}" for n in range(100)]
app = App("peers")


@app.agent("receiver")
class Receiver(Agent):
    """Takes messages."""

    @handler
    async def take(self, body: str) -> None:
        """One way."""
        meter.take(body)

    @handler
    async def echo(self, body: str) -> str:
        """There and back."""
        return body


def work(url: str) -> None:
    """Be a worker service."""
    from swell import config, lifecycle
    from swell_worker.app import main

    os.environ |= {
        "SWELL_REDIS": url,
        "SWELL_NAMESPACE": NAMESPACE,
        "SWELL_APP": "benchmarks.peers.swell:app",
        "SWELL_PORT": "0",
        "SWELL_LEASE_MS": "2000",
        "SWELL_LOG_LEVEL": "error",
    }

    async def service(stop: asyncio.Event) -> None:
        await main(config.load(), stop)

    lifecycle.run(service)


class SwellSender:
    """A client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next = itertools.cycle(AGENTS)

    async def send_all(self, payloads: Sequence[str]) -> None:
        """One call for all."""
        agents = itertools.cycle(AGENTS)
        await self._client.send_many((agent, "take", payload) for agent, payload in zip(agents, payloads, strict=False))

    async def send(self, payload: str) -> None:
        """One message."""
        await self._client.send(next(self._next), "take", payload)

    async def ask(self, payload: str) -> str:
        """One round trip."""
        return await self._client.ask(next(self._next), "echo", payload, str)

    async def left(self) -> int:
        """What no ledger has as settled."""
        from swell.keys import METRICS

        # The shard `metrics` is left out: no metrics service runs here that would settle the worker's reports.
        return sum(ledger.depth for ledger in await self._client.ledger() if ledger.shard != METRICS)


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[SwellSender]:
    """A client, once its agents are there."""
    from benchmarks.kill import spawn

    async with Client.connect(url, namespace=NAMESPACE) as client:
        await spawn(client, "receiver", len(AGENTS))
        yield SwellSender(client)
