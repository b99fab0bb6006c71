"""dramatiq: lists and Lua scripts, threads that run the actors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.peers.contract import Facts, meter

THREADS = 8
ASKERS = 100

# Read by dramatiq when it is imported.
os.environ.setdefault("dramatiq_queue_prefetch", "1000")

import dramatiq  # noqa: E402
from dramatiq.brokers.redis import RedisBroker  # noqa: E402
from dramatiq.results import Results  # noqa: E402
from dramatiq.results.backends import RedisBackend  # noqa: E402

FACTS = Facts(
    title="dramatiq (lists, Lua)",
    package="dramatiq",
    delivery="at least once: acknowledged after the actor",
    after_kill="queued again by another worker's maintenance after `heartbeat_timeout` (60 s by default)",
    order="none across threads and retries",
    asks="`Message.get_result(block=True)`: blocks on the result's list",
    tuned={
        "Actor.send": "one after another: there is no bulk call and no asyncio client",
        "worker_threads": f"{THREADS}, the default, in one process",
        "dramatiq_queue_prefetch": "1,000 (16 by default)",
        "store_results": "only for round trips",
        "get_result": f"on {ASKERS} threads",
    },
)
_lock = threading.Lock()


def _actors(url: str):  # type: ignore[no-untyped-def]
    broker = RedisBroker(url=url)
    broker.add_middleware(Results(backend=RedisBackend(url=url)))
    dramatiq.set_broker(broker)

    @dramatiq.actor(actor_name="take")
    def take(payload: str) -> None:
        with _lock:
            meter.take(payload)

    @dramatiq.actor(actor_name="echo", store_results=True, result_ttl=60_000)
    def echo(payload: str) -> str:
        return payload

    return broker, take, echo


def work(url: str) -> None:
    """Be a worker process."""
    broker, _, _ = _actors(url)
    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    signal.sigwait({signal.SIGTERM})
    worker.stop()


class DramatiqSender:
    """A broker that only enqueues."""

    def __init__(self, broker, take, echo) -> None:  # type: ignore[no-untyped-def]
        self._broker, self._take, self._echo = broker, take, echo
        self._threads = ThreadPoolExecutor(ASKERS)

    async def send_all(self, payloads: Sequence[str]) -> None:
        """One after another."""
        for payload in payloads:
            self._take.send(payload)

    async def send(self, payload: str) -> None:
        """One message."""
        self._take.send(payload)

    def _round_trip(self, payload: str) -> str:
        return str(self._echo.send(payload).get_result(block=True, timeout=30_000))

    async def ask(self, payload: str) -> str:
        """One message and its result, on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._round_trip, payload)

    async def left(self) -> int:
        """A message's data is deleted when it is acknowledged."""
        return int(self._broker.client.hlen("dramatiq:default.msgs"))


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[DramatiqSender]:
    """Connect."""
    yield DramatiqSender(*_actors(url))
