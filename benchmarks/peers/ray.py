"""Ray: calls of one actor in a process of its own. No server, nothing durable."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ray

from benchmarks.peers.contract import Facts, Meter

FACTS = Facts(
    title="Ray (actor calls)",
    package="ray",
    delivery="at most once (`max_task_retries` 0, the default); nothing is durable",
    after_kill="the call fails at the caller; with the caller gone it is lost",
    order="per caller and actor (a synchronous actor)",
    asks="the call's object reference, awaited",
    worker=False,
    tuned={
        "actor.method.remote": "one call a message; `ray.get` of 1,000 references at once",
        "num_cpus": "2; no dashboard, no usage statistics",
    },
    note="no Redis: Ray's own processes carry the calls; nothing is written to disk",
)


class Receiver:
    """Takes messages in its own process."""

    def __init__(self) -> None:
        self._meter = Meter()

    def take(self, payload: str) -> None:
        """One way."""
        self._meter.take(payload)

    def echo(self, payload: str) -> str:
        """There and back."""
        return payload

    def account(self) -> dict[str, Any]:
        """What was taken."""
        return self._meter.account()


def work(url: str) -> None:
    """There is no worker process beside the one that Ray starts."""
    raise NotImplementedError


class RaySender:
    """A driver with one actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def send_all(self, payloads: Sequence[str]) -> None:
        """Many calls, awaited together."""
        ray.get([self._actor.take.remote(payload) for payload in payloads])

    async def send(self, payload: str) -> None:
        """One call."""
        await self._actor.take.remote(payload)

    async def ask(self, payload: str) -> str:
        """One call and its result."""
        return str(await self._actor.echo.remote(payload))

    async def account(self) -> dict[str, Any]:
        """What the actor took."""
        seen: dict[str, Any] = await self._actor.account.remote()
        return seen

    async def left(self) -> int:
        """Every call was awaited."""
        return 0


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[RaySender]:
    """Start Ray on this machine."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    actor = ray.remote(Receiver).remote()
    try:
        yield RaySender(actor)
    finally:
        ray.shutdown()
