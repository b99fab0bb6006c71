"""Request and reply with nothing of Swell in it, as the limit that asks are held against.

    python -m benchmarks.raw_asks REDIS_URL CLIENT    (the process that answers; `raw_asks` starts it)

Two processes and a server. In one, askers each wait for the answer to their request before they make the next; what
they ask while an append is in flight goes as the next batch, with XADD. The other reads with XREADGROUP, decodes,
awaits a coroutine that does nothing for each request, appends all answers of a read to the reply stream with one XADD
and acknowledges with XACK, in one pipeline. No mailboxes, shards, leases, ledger, errors or time limits.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

from msgspec import Raw
from msgspec.msgpack import Decoder, Encoder

from benchmarks.limits import AGENTS, BATCH, PIPELINE, Calls, connect
from swell.histogram import Histogram
from swell.lifecycle import loop_factory, tune_gc

ASKED, ANSWERED = "raw-asked", "raw-answered"

_encode = Encoder().encode
_requests = Decoder(list[tuple[str, str, Raw, int, int]]).decode
_answers = Decoder(list[tuple[int, Raw]]).decode


class Askers:
    """Requests of one process, batched, and who waits for each answer."""

    def __init__(self, url: str, client: str) -> None:
        self.latency = Histogram()
        self._append: Calls = connect(client, url)
        self._read: Calls = connect(client, url)
        self._gathered: list[tuple[str, str, Any, int, int]] = []
        self._wanted = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[Raw]] = {}
        self._number = 0
        self._over = False

    async def asker(self, agent: str, until: float) -> int:
        """Ask one thing after another until then; returns how many were answered."""
        loop = asyncio.get_running_loop()
        count = 0
        while (began := time.perf_counter()) < until:
            number = self._number = self._number + 1
            answer = self._waiting[number] = loop.create_future()
            self._gathered.append((agent, "echo", number, time.time_ns() // 1000, number))
            self._wanted.set()
            await answer
            self.latency.record(int((time.perf_counter() - began) * 1e6))
            count += 1
        return count

    async def append(self) -> None:
        """Append what gathers, until `finish`."""
        while True:
            await self._wanted.wait()
            if self._over:
                return
            self._wanted.clear()
            gathered, self._gathered = self._gathered, []
            batches = [gathered[at : at + BATCH] for at in range(0, len(gathered), BATCH)]
            await self._append.calls([("XADD", ASKED, "*", "b", _encode(batch)) for batch in batches])

    async def read(self) -> None:
        """Give answers to those who wait, until `finish`."""
        after = "0"
        while not self._over:
            read = ("XREAD", "COUNT", PIPELINE, "BLOCK", 200, "STREAMS", ANSWERED, after)
            for id, payload in entries((await self._read.calls([read]))[0]):
                after = id.decode()
                for number, body in _answers(payload):
                    self._waiting.pop(number).set_result(body)

    def finish(self) -> None:
        """Let both end by themselves: redis-py may wait on although it was cancelled."""
        self._over = True
        self._wanted.set()

    async def close(self) -> None:
        """Close the connections."""
        await self._append.close()
        await self._read.close()


def entries(answer: Any) -> list[tuple[bytes, bytes]]:
    """Id and payload of each entry of a read of one stream."""
    if not answer:
        return []
    found = answer[0][1] if isinstance(answer, list) else next(iter(answer.values()))
    if found and found[0] and isinstance(found[0][0], list | tuple):
        found = found[0]
    return [(id, next(iter(fields.values())) if isinstance(fields, dict) else fields[1]) for id, fields in found]


async def answers(url: str, client: str) -> None:
    """Answer until there is nothing to answer for two seconds."""
    read, write = connect(client, url), connect(client, url)
    while True:
        command = ("XREADGROUP", "GROUP", "g", "c", "COUNT", PIPELINE, "BLOCK", 2000, "STREAMS", ASKED, ">")
        found = entries((await read.calls([command]))[0])
        if not found:
            break
        replies = []
        for _, payload in found:
            for _, _, body, _, number in _requests(payload):
                replies.append((number, await echo(body)))
        ids = [id for id, _ in found]
        await write.calls([("XADD", ANSWERED, "*", "b", _encode(replies)), ("XACK", ASKED, "g", *ids)])
    await read.close()
    await write.close()


async def echo(body: Raw) -> Raw:
    """A handler that answers what it is given."""
    return body


async def raw_asks(url: str, client: str = "bare", askers: int = 100, seconds: float = 5.0) -> tuple[float, Histogram]:
    """Run request and reply once.

    Args:
        url: of the server.
        client: one of `benchmarks.limits.CLIENTS`.
        askers: how many ask at a time, each one thing after another.
        seconds: for how long.

    Returns:
        answers a second, and the time of each from its request.
    """
    link = connect("bare", url)
    await link.calls([("DEL", ASKED, ANSWERED), ("XGROUP", "CREATE", ASKED, "g", "0", "MKSTREAM")])
    command = [sys.executable, "-m", "benchmarks.raw_asks", url, client]
    process = await asyncio.to_thread(subprocess.Popen, command)
    asking = Askers(url, client)

    async def ask(until: float) -> int:
        return sum(await asyncio.gather(*(asking.asker(f"echo/{n % AGENTS:04d}", until) for n in range(askers))))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asking.append())
            group.create_task(asking.read())
            await ask(time.perf_counter() + 1.0)
            asking.latency = Histogram()
            began = time.perf_counter()
            count = await ask(began + seconds)
            took = time.perf_counter() - began
            asking.finish()
    finally:
        await asking.close()
        await asyncio.to_thread(process.wait)
    await link.calls([("DEL", ASKED, ANSWERED)])
    await link.close()
    return count / took, asking.latency


if __name__ == "__main__":
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as _runner:
        _runner.run(answers(*sys.argv[1:]))
