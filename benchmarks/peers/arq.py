"""arq: a sorted set that the worker polls, a key for each job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

from benchmarks.peers.contract import Facts, meter, run

MAX_JOBS = 100
POLL_S = 0.005

FACTS = Facts(
    title="arq (sorted set, polled)",
    package="arq",
    delivery="at least once: removed from the queue after the job",
    after_kill="run again when its in-progress key has expired (`job_timeout` + 10 s; 310 s by default)",
    order="by enqueue time (milliseconds), starts only",
    asks="`Job.result`, which polls the result key",
    bulk=100,
    tuned={
        "enqueue_job": "gathered, 100 at once: there is no bulk call",
        "max_jobs": f"{MAX_JOBS} (10 by default)",
        "queue_read_limit": "1,000",
        "poll_delay": f"{POLL_S} s, of the worker for jobs and of the caller for results (0.5 by default)",
        "keep_result": "0 for one-way jobs",
        "log_results": "False",
    },
)


async def _take(_: dict[Any, Any], payload: str) -> None:
    meter.take(payload)


async def _echo(_: dict[Any, Any], payload: str) -> str:
    return payload


def _settings(url: str) -> RedisSettings:
    # Each call of enqueue_job holds a connection.
    return replace(RedisSettings.from_dsn(url), max_connections=300)


def work(url: str) -> None:
    """Be a worker."""

    async def main() -> None:
        worker = Worker(
            functions=[func(_take, name="take", keep_result=0), func(_echo, name="echo", keep_result=60)],
            redis_settings=_settings(url),
            max_jobs=MAX_JOBS,
            queue_read_limit=1000,
            poll_delay=POLL_S,
            log_results=False,
        )
        await worker.async_run()

    run(main())


class ArqSender:
    """A pool that only enqueues."""

    def __init__(self, pool: ArqRedis) -> None:
        self._pool = pool

    async def send_all(self, payloads: Sequence[str]) -> None:
        """As many calls at once as given."""
        await asyncio.gather(*map(self.send, payloads))

    async def send(self, payload: str) -> None:
        """One job."""
        await self._pool.enqueue_job("take", payload)

    async def ask(self, payload: str) -> str:
        """One job and its result."""
        job = await self._pool.enqueue_job("echo", payload)
        assert job is not None
        return str(await job.result(timeout=30, poll_delay=POLL_S))

    async def left(self) -> int:
        """Not finished."""
        return int(await self._pool.zcard(self._pool.default_queue_name))


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[ArqSender]:
    """Connect."""
    pool = await create_pool(_settings(url))
    try:
        yield ArqSender(pool)
    finally:
        await pool.aclose()
