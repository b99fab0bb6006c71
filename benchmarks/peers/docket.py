"""docket (the distribution pydocket): Redis Streams with a consumer group, Lua for each change of state."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from docket import Docket, Worker

from benchmarks.peers.contract import Facts, meter, run

CONCURRENCY = 100
#: A worker whose slots are all taken sleeps for so long; with the default it starts 400 tasks a second.
CHECK = timedelta(milliseconds=5)
#: redis-py refuses commands beyond 100 connections, and each running task holds one or more.
CONNECTIONS = "?max_connections=400"

FACTS = Facts(
    title="docket (Redis Streams)",
    package="pydocket",
    delivery="at least once: acknowledged in one script after the task",
    after_kill="redelivered after `redelivery_timeout` (5 min by default)",
    order="none beyond the order of starts",
    asks="`Execution.get_result`: pub/sub of the state, then the stored result",
    tuned={
        "Docket.add_many": "1,000 tasks in a pipeline (`chunk_size`)",
        "concurrency": f"{CONCURRENCY} (10 by default)",
        "message_batch": "1,000, the default: a read may fill every slot",
        "execution_ttl": "0 for one-way tasks: their records are deleted when they end",
        "minimum_check_interval": "5 ms (250 by default): a worker whose slots are all taken sleeps for so long",
        "url": "max_connections=400: with the default of 100 of redis-py tasks fail at this concurrency",
    },
)


async def take(payload: str) -> None:
    """One way."""
    meter.take(payload)


async def echo(payload: str) -> str:
    """There and back."""
    return payload


@contextlib.asynccontextmanager
async def _dockets(url: str) -> AsyncIterator[tuple[Docket, Docket]]:
    # Two, so that one-way tasks leave no record and round trips do.
    async with (
        Docket(name="oneway", url=url + CONNECTIONS, execution_ttl=timedelta(0)) as one_way,
        Docket(name="asks", url=url + CONNECTIONS, execution_ttl=timedelta(seconds=60)) as asks,
    ):
        one_way.register(take)
        asks.register(echo)
        yield one_way, asks


def work(url: str) -> None:
    """Be a worker of both dockets."""

    async def serve(docket: Docket) -> None:
        async with Worker(docket, concurrency=CONCURRENCY, minimum_check_interval=CHECK) as worker:
            await worker.run_forever()

    async def main() -> None:
        async with _dockets(url) as dockets, asyncio.TaskGroup() as group:
            for docket in dockets:
                group.create_task(serve(docket))

    run(main())


class DocketSender:
    """Two dockets that only add."""

    def __init__(self, one_way: Docket, asks: Docket) -> None:
        self._one_way, self._asks = one_way, asks

    async def send_all(self, payloads: Sequence[str]) -> None:
        """One pipeline."""
        call = self._one_way.call
        # Each `call` draws a key; tasks that share one are one task.
        await self._one_way.add_many([call(take)(payload) for payload in payloads])

    async def send(self, payload: str) -> None:
        """One task."""
        await self._one_way.add(take)(payload)

    async def ask(self, payload: str) -> str:
        """One task and its result."""
        execution = await self._asks.add(echo)(payload)
        return str(await execution.get_result(timeout=timedelta(seconds=30)))

    async def left(self) -> int:
        """Acknowledged tasks are deleted from the stream."""
        async with self._one_way.redis() as redis:
            return int(await redis.xlen(self._one_way.stream_key))


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[DocketSender]:
    """Connect."""
    async with _dockets(url) as (one_way, asks):
        yield DocketSender(one_way, asks)
