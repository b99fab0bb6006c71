"""taskiq with taskiq-redis: Redis Streams with a consumer group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from redis.asyncio import Redis
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.contract import Facts, meter, run

CONCURRENCY = 100
#: The default of 0.2 s would be the round trip's time.
CHECK_S = 0.005
QUEUE = "taskiq"

FACTS = Facts(
    title="taskiq (Redis Streams)",
    package="taskiq",
    delivery="at least once: XACK after the result is saved",
    after_kill="claimed by another worker after `idle_timeout` (10 min by default)",
    order="none beyond the order of starts",
    asks="the caller polls the result key",
    bulk=100,
    tuned={
        "kiq": "gathered, 100 at once: there is no bulk call",
        "max_async_tasks": f"{CONCURRENCY}, the receiver's default",
        "max_prefetch": "1,000",
        "xread_count": "1,000 (100 by default)",
        "result_backend": "none for one-way tasks (their broker has none); Redis for round trips",
        "check_interval": f"{CHECK_S} s for results (0.2 by default)",
        "maxlen": "not set: acknowledged entries stay in the stream",
        "validate_params": "False (`--no-parse`)",
    },
)


def _broker(url: str, queue: str) -> RedisStreamBroker:
    return RedisStreamBroker(url, queue_name=queue, consumer_id="0", xread_count=1000)


def _tasks(url: str):  # type: ignore[no-untyped-def]
    # Two brokers, so that one-way tasks save no result and round trips do.
    one_way = _broker(url, QUEUE)
    answering = _broker(url, QUEUE + "-ask").with_result_backend(
        RedisAsyncResultBackend(url, keep_results=False, result_ex_time=60)
    )

    @one_way.task(task_name="take")
    async def take(payload: str) -> None:
        meter.take(payload)

    @answering.task(task_name="echo")
    async def echo(payload: str) -> str:
        return payload

    return one_way, answering, take, echo


def work(url: str) -> None:
    """Be a worker: the receiver that `taskiq worker` runs, for both brokers in one process."""

    async def receive() -> None:
        one_way, answering, _, _ = _tasks(url)
        options = {"max_async_tasks": CONCURRENCY, "max_prefetch": 1000, "run_startup": True}
        async with asyncio.TaskGroup() as group:
            for broker in (one_way, answering):
                group.create_task(run_receiver_task(broker, validate_params=False, **options))

    run(receive())


class TaskiqSender:
    """Two brokers."""

    def __init__(self, take, echo, redis: Redis) -> None:  # type: ignore[no-untyped-def]
        self._take, self._echo, self._redis = take, echo, redis

    async def send_all(self, payloads: Sequence[str]) -> None:
        """As many calls at once as given."""
        await asyncio.gather(*(self._take.kiq(payload) for payload in payloads))

    async def send(self, payload: str) -> None:
        """One task."""
        await self._take.kiq(payload)

    async def ask(self, payload: str) -> str:
        """One task and its result."""
        task = await self._echo.kiq(payload)
        result = await task.wait_result(check_interval=CHECK_S, timeout=30)
        answer: str = result.return_value
        return answer

    async def left(self) -> int:
        """Delivered and not acknowledged, or not delivered."""
        groups = await self._redis.xinfo_groups(QUEUE)
        return sum(group["pending"] + (group["lag"] or 0) for group in groups)


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[TaskiqSender]:
    """Connect."""
    one_way, answering, take, echo = _tasks(url)
    await one_way.startup()
    await answering.startup()
    async with Redis.from_url(url) as redis:
        yield TaskiqSender(take, echo, redis)
    await one_way.shutdown()
    await answering.shutdown()
