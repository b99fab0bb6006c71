"""BullMQ's Python package: lists and Lua scripts, a hash for each job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bullmq import Job, Queue, QueueEvents, Worker

from benchmarks.peers.contract import Facts, meter, run

CONCURRENCY = 20
NAME = "peers"

FACTS = Facts(
    title="BullMQ for Python (lists, Lua)",
    package="bullmq",
    delivery="at least once: moved to completed after the job, under a lock of the job",
    after_kill="stalled when its lock has expired (`lockDuration` 30 s), then run again",
    order="FIFO by start with one worker",
    asks="`QueueEvents` (a stream of events): `completed:<id>` carries the result",
    bulk=500,
    tuned={
        "Queue.addBulk": "500 jobs in one transaction",
        "concurrency": f"{CONCURRENCY} (1 by default); 100 was slower",
        "removeOnComplete": "True: finished jobs are not kept",
        "drainDelay": "5 s, the default: the blocking wait for a new job",
    },
)
OPTIONS = {"removeOnComplete": True, "removeOnFail": True}


def work(url: str) -> None:
    """Be a worker."""

    async def process(job: Job, _: str) -> str | None:
        payload: str = job.data["p"]
        if job.name == "echo":
            return payload
        meter.take(payload)
        return None

    async def main() -> None:
        worker = Worker(NAME, process, {"connection": url, "concurrency": CONCURRENCY, "autorun": False})
        await worker.run()

    run(main())


class BullSender:
    """A queue, and its events for the answers."""

    def __init__(self, queue: Queue, events: QueueEvents) -> None:
        self._queue = queue
        self._waiting: dict[str, asyncio.Future[str]] = {}
        # Answers can come before the caller knows the id of its job.
        self._early: dict[str, str] = {}
        self._asking = 0
        events.on("completed", self._completed)

    def _completed(self, args: dict[str, Any], _: str) -> None:
        if (future := self._waiting.pop(args["jobId"], None)) is not None:
            future.set_result(args["returnvalue"])
        elif self._asking:
            self._early[args["jobId"]] = args["returnvalue"]

    async def send_all(self, payloads: Sequence[str]) -> None:
        """One transaction."""
        await self._queue.addBulk([{"name": "take", "data": {"p": payload}, "opts": OPTIONS} for payload in payloads])

    async def send(self, payload: str) -> None:
        """One job."""
        await self._queue.add("take", {"p": payload}, OPTIONS)

    async def ask(self, payload: str) -> str:
        """One job and its result."""
        self._asking += 1
        try:
            job = await self._queue.add("echo", {"p": payload}, OPTIONS)
            if job.id in self._early:
                return self._early.pop(job.id)
            future = self._waiting[job.id] = asyncio.get_running_loop().create_future()
            return await asyncio.wait_for(future, 30)
        finally:
            self._asking -= 1

    async def left(self) -> int:
        """Waiting or active."""
        counts = await self._queue.getJobCounts("waiting", "active", "delayed")
        return sum(counts.values())


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[BullSender]:
    """Connect."""
    queue = Queue(NAME, {"connection": url})
    events = QueueEvents(NAME, {"connection": url})
    yield BullSender(queue, events)
    await events.close()
    await queue.close()
