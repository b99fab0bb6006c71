"""FastStream on a Redis list: `publish_batch` and a batch subscriber. At most once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from faststream import FastStream
from faststream.redis import ListSub, RedisBroker
from redis.asyncio import Redis

from benchmarks.peers.contract import Facts, meter, run

LIST = "faststream"

FACTS = Facts(
    title="FastStream (Redis list, batches)",
    package="faststream",
    delivery="at most once: LPOP before the handler",
    after_kill="lost",
    order="of the list with one consumer",
    asks="",
    tuned={
        "publish_batch": "1,000 messages in one RPUSH",
        "ListSub(batch=True, max_records=1000)": "one LPOP and one handler call for up to 1,000 messages",
        "polling_interval": "0.005 s (0.1 by default): an empty list is asked again after it",
        "logger": "None",
        "apply_types": "False: no dependency injection, no validation",
    },
    note="there is nothing to acknowledge; the handler gets lists; round trips: see the row of streams",
)


def _broker(url: str) -> RedisBroker:
    return RedisBroker(url, logger=None, apply_types=False, log_level=logging.ERROR)


def work(url: str) -> None:
    """Be a FastStream application."""
    broker = _broker(url)

    @broker.subscriber(list=ListSub(LIST, batch=True, max_records=1000, polling_interval=0.005))
    async def take(bodies: list[str]) -> None:
        for body in bodies:
            meter.take(body)

    run(FastStream(broker).run())


class ListSender:
    """A broker that only publishes."""

    def __init__(self, broker: RedisBroker, redis: Redis) -> None:
        self._broker, self._redis = broker, redis

    async def send_all(self, payloads: Sequence[str]) -> None:
        """One RPUSH."""
        await self._broker.publish_batch(*payloads, list=LIST)

    async def send(self, payload: str) -> None:
        """One message."""
        await self._broker.publish(payload, list=LIST)

    async def ask(self, payload: str) -> str:
        """Not measured here."""
        raise NotImplementedError

    async def left(self) -> int:
        """Not popped yet."""
        return int(await self._redis.llen(LIST))


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[ListSender]:
    """Connect."""
    async with _broker(url) as broker, Redis.from_url(url) as redis:
        yield ListSender(broker, redis)
