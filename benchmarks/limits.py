"""The raw path: what the same work costs with nothing of Swell in it, as the limit that Swell is held against.

Two processes and a server. One encodes messages and appends them in batches of 256 with bare pipelined XADD; the other
reads with XREADGROUP, decodes, puts each message into one of 100 mailboxes, awaits a coroutine that does nothing for
each, and acknowledges with XACK. No shards, leases, ledger or sequence numbers; no order checked, nothing deleted.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import deque

from swell.bus.link import Link
from swell.codec import MessageBuffer, decode_batch
from swell.lifecycle import loop_factory, tune_gc
from swell.wire import Message

AGENTS = 100
BATCH = 256
#: Batches in one pipeline of appends, and in one read.
PIPELINE = 8
STREAM = "raw"


async def produce(url: str, messages: int, pad: str) -> None:
    """Append `messages` messages."""
    link = Link(url, "raw:append")
    ids = [f"counter/{n:04d}" for n in range(AGENTS)]
    number = 0
    while number < messages:
        commands = []
        for _ in range(PIPELINE):
            buffer = MessageBuffer()
            now_us = time.time_ns() // 1000
            while number < messages and buffer.add((ids[number % AGENTS], "add", (number // AGENTS, 0, pad), now_us)):
                number += 1
            if not buffer.count:
                break
            commands.append(("XADD", STREAM, "*", "n", buffer.count, "b", buffer.batch("raw", 1)))
        await link.calls(commands)
    await link.close()


async def nothing(message: Message) -> None:
    """A handler that does nothing."""


async def consume(url: str, messages: int) -> float:
    """Handle `messages` messages; returns the seconds since the first was read."""
    read, ack = (Link(url, name) for name in ("raw:read", "raw:ack"))
    mailboxes: dict[str, deque[Message]] = {f"counter/{n:04d}": deque() for n in range(AGENTS)}
    began = 0.0
    handled = 0
    while handled < messages:
        answer = await read.call(
            *("XREADGROUP", "GROUP", "g", "c", "COUNT", PIPELINE, "BLOCK", 5000, "STREAMS", STREAM, ">"), wait_s=5
        )
        if not answer:
            raise TimeoutError("the raw producer stopped")
        began = began or time.perf_counter()
        ids = []
        for id, fields in answer[0][1]:
            ids.append(id)
            for message in decode_batch(fields[3], int(fields[1])).messages:
                mailboxes[message.to].append(message)
        for mailbox in mailboxes.values():
            while mailbox:
                await nothing(mailbox.popleft())
                handled += 1
        await ack.call("XACK", STREAM, "g", *ids)
    took = time.perf_counter() - began
    await read.close()
    await ack.close()
    return took


async def raw(url: str, messages: int, pad: str) -> float:
    """Run the raw path once; returns messages a second."""
    link = Link(url, "raw")
    await link.calls([("DEL", STREAM), ("XGROUP", "CREATE", STREAM, "g", "0", "MKSTREAM")])
    producer = subprocess.Popen([sys.executable, "-m", "benchmarks.limits", url, str(messages), pad])
    try:
        rate = messages / await consume(url, messages)
    finally:
        producer.wait()
    await link.call("DEL", STREAM)
    await link.close()
    return rate


if __name__ == "__main__":
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(produce(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
