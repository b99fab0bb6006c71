"""Celery on Redis: a list popped with BRPOP, unacknowledged messages in a hash."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import Celery

from benchmarks.peers.contract import Facts, meter

ASKERS = 100
PREFETCH = 1000

FACTS = Facts(
    title="Celery (Redis list)",
    package="celery",
    delivery="at least once with `task_acks_late`, as here (by default acknowledged before the task)",
    after_kill="restored to the list after `visibility_timeout` (1 h by default)",
    order="of the list within one worker; not after a restore",
    asks="`AsyncResult.get`: pub/sub of the result backend",
    tuned={
        "apply_async(producer=)": "one producer kept open: there is no bulk call",
        "--pool solo": "the fastest pool for tasks that do nothing: no hand-over to a thread or a process",
        "worker_prefetch_multiplier": f"{PREFETCH} (4 by default)",
        "task_ignore_result": "True for one-way tasks",
        "task_acks_late": "True, so that the guarantee is the same",
        "worker_disable_rate_limits": "True",
        "--without-gossip --without-mingle --without-heartbeat": "",
        "get": f"on {ASKERS} threads",
    },
)


def _app(url: str) -> tuple[Celery, Any, Any]:
    app = Celery("peers", broker=url, backend=url)
    app.conf.update(
        worker_prefetch_multiplier=PREFETCH,
        task_acks_late=True,
        worker_disable_rate_limits=True,
        worker_hijack_root_logger=False,
        result_expires=60,
        broker_connection_retry_on_startup=True,
        broker_pool_limit=ASKERS,
        redis_max_connections=None,
    )

    @app.task(name="take", ignore_result=True)
    def take(payload: str) -> None:
        meter.take(payload)

    @app.task(name="echo")
    def echo(payload: str) -> str:
        return payload

    return app, take, echo


def work(url: str) -> None:
    """Be a worker."""
    app, _, _ = _app(url)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    app.worker_main(["worker", "--pool", "solo", *quiet])


class CelerySender:
    """An application that only sends."""

    def __init__(self, app: Celery, take: Any, echo: Any, producer: Any) -> None:
        self._app, self._take, self._echo, self._producer = app, take, echo, producer
        self._threads = ThreadPoolExecutor(ASKERS)

    async def send_all(self, payloads: Sequence[str]) -> None:
        """One after another."""
        for payload in payloads:
            self._take.apply_async((payload,), producer=self._producer)

    async def send(self, payload: str) -> None:
        """One message."""
        self._take.apply_async((payload,), producer=self._producer)

    def _round_trip(self, payload: str) -> str:
        return str(self._echo.apply_async((payload,)).get(timeout=30))

    async def ask(self, payload: str) -> str:
        """One message and its result, on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._round_trip, payload)

    async def left(self) -> int:
        """In the list, or delivered and not acknowledged."""
        client = self._producer.connection.default_channel.client
        return int(client.llen("celery")) + int(client.hlen("unacked"))


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[CelerySender]:
    """Connect."""
    app, take, echo = _app(url)
    with app.producer_or_acquire() as producer:
        yield CelerySender(app, take, echo, producer)
