"""streaQ: Redis Streams, one task a message, its data in a key of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from streaq import Worker

from benchmarks.peers.contract import Facts, meter

CONCURRENCY = 32

FACTS = Facts(
    title="streaQ (Redis Streams)",
    package="streaq",
    delivery="at least once: XACK and XDEL after the task",
    after_kill="claimed by another worker after `idle_timeout` (60 s by default)",
    order="none beyond the order of starts",
    asks="pub/sub channel of the task, or its result key",
    tuned={
        "Worker.enqueue_many": "1,000 tasks in one pipeline",
        "concurrency": f"{CONCURRENCY} (16 by default); 100 was slower",
        "prefetch": "1,000, so that reads bring many tasks",
        "ttl": "0 for one-way tasks: no result is kept",
        "silent": "True: nothing is logged for each task",
        "anyio_kwargs": "use_uvloop",
        "redis_kwargs": "max_connections 256: with the default of 64, 100 callers that wait for results stand still",
    },
)


def _worker(url: str) -> Worker[None]:
    return Worker(
        redis_url=url,
        concurrency=CONCURRENCY,
        prefetch=1000,
        anyio_kwargs={"use_uvloop": True},
        # Each caller that waits for a result holds a connection; with 64 (the default) 100 askers stand still.
        redis_kwargs={"max_connections": 256},
    )


def _tasks(worker: Worker[None]):  # type: ignore[no-untyped-def]
    @worker.task(ttl=0, silent=True, name="take")
    async def take(payload: str) -> None:
        meter.take(payload)

    @worker.task(ttl=60, silent=True, name="echo")
    async def echo(payload: str) -> str:
        return payload

    return take, echo


def work(url: str) -> None:
    """Be a worker."""
    worker = _worker(url)
    _tasks(worker)
    worker.run_sync()


class StreaqSender:
    """A worker object that only enqueues."""

    def __init__(self, worker: Worker[None]) -> None:
        self._worker = worker
        self._take, self._echo = _tasks(worker)

    async def send_all(self, payloads: Sequence[str]) -> None:
        """One pipeline."""
        await self._worker.enqueue_many([self._take.enqueue(payload) for payload in payloads])

    async def send(self, payload: str) -> None:
        """One task."""
        await self._take.enqueue(payload)

    async def ask(self, payload: str) -> str:
        """One task and its result."""
        task = await self._echo.enqueue(payload)
        answer: str = (await task.result(30)).result
        return answer

    async def left(self) -> int:
        """Finished tasks are deleted from the stream."""
        return int(await self._worker.queue_size())


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[StreaqSender]:
    """Connect."""
    worker = _worker(url)
    async with worker:
        yield StreaqSender(worker)
