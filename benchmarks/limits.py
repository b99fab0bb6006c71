"""The raw path: what the same work costs with nothing of Swell in it, as the limit that Swell is held against.

Two processes and a server. One encodes messages and appends them in batches of 256 with bare pipelined XADD; the other
reads with XREADGROUP, decodes, puts each message into one of 100 mailboxes (a deque and one wake-up of a task that
waits), awaits a coroutine that does nothing for each, and acknowledges with XACK. No shards, leases, ledger or sequence
numbers; no order checked, no body decoded, nothing deleted.

Two clients: `bare`, the connection that Swell uses itself, and `redis-py`, pipelines of `redis.asyncio`.
"""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from msgspec import Raw, Struct
from msgspec.msgpack import Decoder, Encoder
from redis.asyncio import Redis

from swell.bus.link import Link
from swell.histogram import Histogram
from swell.lifecycle import loop_factory, tune_gc

AGENTS = 100
BATCH = 256
#: Batches in one pipeline of appends, and in one read.
PIPELINE = 8
STREAM = "raw"
CLIENTS = ("bare", "redis-py")


class Calls(Protocol):
    """What both clients do."""

    async def calls(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands together and return their replies."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class RedisPy:
    """`redis.asyncio` as its documentation says: a pipeline for what goes together."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, protocol=2)

    async def calls(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands together and return their replies."""
        if len(commands) == 1:
            answer: Any = await self._redis.execute_command(*commands[0])  # type: ignore[no-untyped-call]
            return [answer]
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        found: list[Any] = await pipeline.execute()
        return found

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()


class Bare:
    """Hiredis and a stream of our own, nothing between."""

    def __init__(self, url: str) -> None:
        self._link = Link(url, "raw")

    async def calls(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands together and return their replies."""
        return await self._link.calls(commands, wait_s=6)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()


def connect(client: str, url: str) -> Calls:
    """A connection of one of CLIENTS."""
    return Bare(url) if client == "bare" else RedisPy(url)


class Item(Struct, array_like=True, gc=False):
    """One message of the raw path: each names its agent and its handler, as Swell's did when the limit was set."""

    to: str
    name: str
    body: Raw
    sent_us: int


_encode_into = Encoder().encode_into
_decode = Decoder(list[Item]).decode


def batch(messages: Iterable[tuple[int, int]], pad: str) -> tuple[Any, ...]:
    """XADD of one batch; a message is its number and when it is due, microseconds since 1970."""
    data = bytearray()
    count = 0
    for number, due_us in messages:
        _encode_into((f"counter/{number % AGENTS:04d}", "add", (number // AGENTS, 0, pad), due_us), data, len(data))
        count += 1
    return "XADD", STREAM, "*", "n", count, "b", struct.pack(">BH", 0xDC, count) + data


async def produce(url: str, client: str, messages: int, pad: str) -> None:
    """Append `messages` messages as fast as it goes."""
    link = connect(client, url)
    number = 0
    while number < messages:
        commands: list[tuple[Any, ...]] = []
        while number < messages and len(commands) < PIPELINE:
            count = min(BATCH, messages - number)
            now_us = time.time_ns() // 1000
            commands.append(batch(((n, now_us) for n in range(number, number + count)), pad))
            number += count
        await link.calls(commands)
    await link.close()


async def produce_at(url: str, client: str, messages: int, pad: str, rate: int) -> None:
    """Append messages each when it is due (open loop): what is due while an append is under way goes with the next."""
    link = connect(client, url)
    began_us = time.time_ns() // 1000
    number = 0
    while number < messages:
        behind = time.time_ns() // 1000 - began_us
        due = min(messages, behind * rate // 1_000_000 + 1)
        if number >= due:
            await asyncio.sleep((number * 1_000_000 / rate - behind) / 1e6)
            continue
        commands: list[tuple[Any, ...]] = []
        while number < due and len(commands) < PIPELINE:
            count = min(BATCH, due - number)
            due_us = ((n, began_us + n * 1_000_000 // rate) for n in range(number, number + count))
            commands.append(batch(due_us, pad))
            number += count
        await link.calls(commands)
    await link.close()


class Mailbox:
    """A deque, and a task that waits until something is in it."""

    def __init__(self, handled: list[int], latency: Histogram | None) -> None:
        self.messages: deque[Item] = deque()
        self.waits: asyncio.Future[None] | None = None
        self._handled = handled
        self._latency = latency

    def put(self, message: Item) -> None:
        """One more message; the task is woken if it waits."""
        self.messages.append(message)
        if self.waits is not None:
            self.waits.set_result(None)
            self.waits = None

    async def run(self) -> None:
        """Handle messages until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            while self.messages:
                message = self.messages.popleft()
                if self._latency is not None:
                    self._latency.record(time.time_ns() // 1000 - message.sent_us)
                await nothing(message)
                self._handled[0] += 1
            self.waits = loop.create_future()
            await self.waits


async def nothing(message: Item) -> None:
    """A handler that does nothing."""


async def consume(url: str, client: str, messages: int, latency: Histogram | None = None) -> float:
    """Handle `messages` messages; returns the seconds since the first was read."""
    read, ack = connect(client, url), connect(client, url)
    handled = [0]
    mailboxes = {f"counter/{n:04d}": Mailbox(handled, latency) for n in range(AGENTS)}
    tasks = [asyncio.ensure_future(mailbox.run()) for mailbox in mailboxes.values()]
    began = 0.0
    while handled[0] < messages:
        command = ("XREADGROUP", "GROUP", "g", "c", "COUNT", PIPELINE, "BLOCK", 5000, "STREAMS", STREAM, ">")
        (answer,) = await read.calls([command])
        if not answer:
            raise TimeoutError("the raw producer stopped")
        began = began or time.perf_counter()
        ids = []
        for id, fields in answer[0][1] if isinstance(answer, list) else next(iter(answer.values())):
            ids.append(id)
            values = list(fields.values()) if isinstance(fields, dict) else fields[1::2]
            for message in _decode(values[1]):
                mailboxes[message.to].put(message)
        await asyncio.sleep(0)
        await ack.calls([("XACK", STREAM, "g", *ids)])
    took = time.perf_counter() - began
    for task in tasks:
        task.cancel()
    await read.close()
    await ack.close()
    return took


async def raw(url: str, messages: int, pad: str, client: str = "bare", rate: int = 0) -> tuple[float, Histogram]:
    """Run the raw path once.

    Args:
        url: of the server.
        messages: how many.
        pad: of each body.
        client: one of CLIENTS.
        rate: messages a second, each when it is due; 0 for as fast as it goes.

    Returns:
        messages a second, and the latencies from due time to handler (of a rate only).
    """
    link = Link(url, "raw")
    await link.calls([("DEL", STREAM), ("XGROUP", "CREATE", STREAM, "g", "0", "MKSTREAM")])
    latency = Histogram()
    arguments = [sys.executable, "-m", "benchmarks.limits", url, client, str(messages), pad, str(rate)]
    producer = await asyncio.to_thread(subprocess.Popen, arguments)
    try:
        took = await consume(url, client, messages, latency if rate else None)
    finally:
        await asyncio.to_thread(producer.wait)
    await link.call("DEL", STREAM)
    await link.close()
    return messages / took, latency


if __name__ == "__main__":
    tune_gc()
    _url, _client, _messages, _pad, _rate = sys.argv[1:]
    with asyncio.Runner(loop_factory=loop_factory()) as _runner:
        if int(_rate):
            _runner.run(produce_at(_url, _client, int(_messages), _pad, int(_rate)))
        else:
            _runner.run(produce(_url, _client, int(_messages), _pad))
