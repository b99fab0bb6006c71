"""A webhook's receiver that never ends its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from swell import Client
from tests.integration.services import Service
from tests.integration.test_alerts import state_when


async def test_a_receiver_that_never_ends_its_answer_holds_up_neither_the_next_try_nor_the_end(
    start: Callable[..., Service], client: Client
) -> None:
    asked = 0
    twice = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            twice.set()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while not reader.at_eof():
                writer.write(b"HTTP/1.1 200 OK\r\nX: " if asked == 1 else b"x")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await reader.read(4096)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    metrics = start("metrics", alert_webhook=f"http://127.0.0.1:{port}/", alerts="shard_unowned=off")
    await state_when(metrics, "role_missing", "firing")
    async with asyncio.timeout(30):
        await twice.wait()
    assert await metrics.stop() == 0
    assert "no whole answer within 10 s" in metrics.log.read_text()
    server.close()
