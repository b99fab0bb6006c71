"""A real server under a test's hands: it keeps its data on disk, and its port through restarts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from swell.embedded import find_binary

#: A server that does not answer within this has failed, seconds.
PATIENCE_S = 60.0


class KeptServer:
    """A server with an append-only file.

    Args:
        directory: its data; its own.
        settings: of the server, beyond its defaults here.
    """

    def __init__(self, directory: Path, **settings: object) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.directory = directory
        self.settings = {"appendonly": "yes", "appendfsync": "everysec"} | settings
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> KeptServer:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.thaw()
        await self.kill()

    async def start(self, *, wait: bool = True) -> None:
        """Start it, and return when it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "save": ""} | self.settings
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        self.process = await asyncio.create_subprocess_exec(
            str(find_binary()), *arguments, cwd=self.directory, stdout=asyncio.subprocess.DEVNULL
        )
        if wait:
            await self.answers()

    async def answers(self) -> None:
        """Return when it answers."""
        async with Redis.from_url(self.url, protocol=2) as redis, asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(RedisError):
                    if await redis.ping():
                        return
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """SIGKILL."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT, if it runs."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)

    def cut_tail(self, size: int) -> int:
        """Lose the last bytes of what a killed server wrote, as a power failure would; returns how many."""
        (newest,) = (self.directory / "appendonlydir").glob("*.incr.aof")
        kept = max(0, newest.stat().st_size - size)
        lost = newest.stat().st_size - kept
        os.truncate(newest, kept)
        return lost

    async def call(self, *command: object) -> Any:
        """One command."""
        async with Redis.from_url(self.url, protocol=2) as redis:
            return await redis.execute_command(*command)

    async def info(self, section: str) -> dict[str, Any]:
        """A section of INFO."""
        async with Redis.from_url(self.url, protocol=2) as redis:
            found: dict[str, Any] = await redis.info(section)
            return found

    async def used_mib(self) -> float:
        """Memory that it uses for data and buffers."""
        return float((await self.info("memory"))["used_memory"]) / (1 << 20)
