"""FastStream on Redis Streams: a batch subscriber in a consumer group; publishing by pipeline."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from benchmarks.peers.contract import Facts, meter, run

STREAM = "faststream"
ASKS = "faststream-ask"
GROUP = "workers"
WORKERS = 100

FACTS = Facts(
    title="FastStream (Redis Streams, batches)",
    package="faststream",
    delivery="at least once: XACK of the batch after the handler",
    after_kill="stays pending until a subscriber with `min_idle_time` claims it; none by default",
    order="of the stream within one consumer; not after a claim",
    asks="`broker.request`: a pub/sub channel for each request",
    tuned={
        "publish(pipeline=)": "1,000 messages in one pipeline",
        "StreamSub(batch=True, max_records=1000)": "one handler call for up to 1,000 messages, and one XACK",
        "polling_interval": "100 ms: the longest wait of a blocking read",
        "logger": "None",
        "apply_types": "False: no dependency injection, no validation",
        "max_workers": f"{WORKERS} for requests (1 by default)",
        "max_connections": "300: each request holds a connection",
    },
    note="the handler gets lists; a no-op for each of its messages",
)


def _broker(url: str) -> RedisBroker:
    return RedisBroker(url, max_connections=300, logger=None, apply_types=False, log_level=logging.ERROR)


def work(url: str) -> None:
    """Be a FastStream application."""
    broker = _broker(url)
    options = {"group": GROUP, "consumer": "one", "last_id": ">", "polling_interval": 100}

    @broker.subscriber(stream=StreamSub(STREAM, batch=True, max_records=1000, **options))
    async def take(bodies: list[str]) -> None:
        for body in bodies:
            meter.take(body)

    @broker.subscriber(stream=StreamSub(ASKS, max_records=100, **options), max_workers=WORKERS)
    async def echo(body: str) -> str:
        return body

    async def main() -> None:
        async with Redis.from_url(url) as redis:
            for stream in (STREAM, ASKS):
                # From the beginning, so that what is sent while the application starts is not passed over.
                await redis.xgroup_create(stream, GROUP, "0", mkstream=True)
        await FastStream(broker).run()

    run(main())


class FastStreamSender:
    """A broker that only publishes."""

    def __init__(self, broker: RedisBroker, redis: Redis) -> None:
        self._broker, self._redis = broker, redis

    async def send_all(self, payloads: Sequence[str]) -> None:
        """One pipeline."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for payload in payloads:
                await self._broker.publish(payload, stream=STREAM, pipeline=pipeline)
            await pipeline.execute()

    async def send(self, payload: str) -> None:
        """One message."""
        await self._broker.publish(payload, stream=STREAM)

    async def ask(self, payload: str) -> str:
        """One request."""
        answer = await (await self._broker.request(payload, stream=ASKS, timeout=30)).decode()
        return str(answer)

    async def left(self) -> int:
        """Delivered and not acknowledged, or not delivered."""
        groups = await self._redis.xinfo_groups(STREAM)
        return sum(group["pending"] + (group["lag"] or 0) for group in groups)


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[FastStreamSender]:
    """Connect."""
    async with _broker(url) as broker, Redis.from_url(url) as redis:
        yield FastStreamSender(broker, redis)
