"""SAQ: a Redis list moved job by job with BLMOVE, a key for each job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis
from saq import Queue, Worker

from benchmarks.peers.contract import Facts, meter, run

CONCURRENCY = 100
POLL_S = 0.005

FACTS = Facts(
    title="SAQ (Redis lists)",
    package="saq",
    delivery="at least once for jobs with retries: removed from `active` after the job",
    after_kill="swept and tried again, if `retries` is above 1, after `heartbeat` or `timeout` (10 s by default)",
    order="none beyond the order of starts",
    asks="`Queue.apply`, which polls the job",
    bulk=100,
    tuned={
        "Queue.enqueue": "gathered, 100 at once: `Queue.batch` and `Queue.map` gather too",
        "max_concurrent_ops": "100 (20 by default)",
        "concurrency": f"{CONCURRENCY} (10 by default)",
        "retries": "3 (1 by default, which gives a job up that the sweep takes for lost)",
        "ttl": "-1 for one-way jobs: no result is kept",
        "poll_interval": f"{POLL_S} s for results (0.5 by default)",
        "redis[hiredis]": "as its extra installs it",
    },
)


async def _take(_: object, *, payload: str) -> None:
    meter.take(payload)


async def _echo(_: object, *, payload: str) -> str:
    return payload


def work(url: str) -> None:
    """Be a worker."""

    async def main() -> None:
        queue = Queue.from_url(url, max_concurrent_ops=CONCURRENCY)
        functions: list[Any] = [("take", _take), ("echo", _echo)]
        await Worker(queue, functions, concurrency=CONCURRENCY).start()

    run(main())


class SaqSender:
    """A queue that only enqueues."""

    def __init__(self, queue: Queue, redis: Redis) -> None:
        self._queue, self._redis = queue, redis

    async def send_all(self, payloads: Sequence[str]) -> None:
        """As many calls at once as given."""
        await asyncio.gather(*map(self.send, payloads))

    async def send(self, payload: str) -> None:
        """One job."""
        await self._queue.enqueue("take", payload=payload, ttl=-1, retries=3)

    async def ask(self, payload: str) -> str:
        """One job and its result."""
        return str(await self._queue.apply("echo", poll_interval=POLL_S, payload=payload, ttl=60))

    async def left(self) -> int:
        """Not finished: scheduled, queued or active."""
        return int(await self._redis.zcard("saq:default:incomplete"))


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[SaqSender]:
    """Connect."""
    queue = Queue.from_url(url, max_concurrent_ops=CONCURRENCY)
    await queue.connect()
    async with Redis.from_url(url) as redis:
        yield SaqSender(queue, redis)
    await queue.disconnect()
