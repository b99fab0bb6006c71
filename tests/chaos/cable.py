"""The network between a process and the server, under a test's hands: cut, silent, or slow."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 18


class Cable:
    """Forwards connections to a server.

    Args:
        url: of the server, redis://host:port/database.

    Attributes:
        url: what the process is given instead.
        delay_s: how long each piece waits on its way, seconds.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._path = parts.path
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._whole = asyncio.Event()
        self._whole.set()
        self._refusing = False
        self._dropping = False
        self.delay_s = 0.0
        self.url = ""

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._path}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        self._whole.set()
        for _ in range(3):
            await asyncio.sleep(0)

    def cut(self) -> None:
        """Reset all connections and refuse new ones, until `mend`."""
        self._refusing = True
        self.reset()

    def swallow(self) -> None:
        """Let nothing through, and tell nobody, until `mend`."""
        self._whole.clear()

    def drop_answers(self) -> None:
        """Let requests through and lose what comes back, until `mend`; what was connected is then reset."""
        self._dropping = True

    def reset(self) -> None:
        """Reset all connections; new ones may come."""
        for writer in list(self._open):
            writer.transport.abort()

    def mend(self) -> None:
        """Be a good network again."""
        if self._dropping:
            # An answer is missing in what is connected: nothing that comes now belongs to what was asked.
            self._dropping = False
            self.reset()
        self._refusing = False
        self.delay_s = 0.0
        self._whole.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self._refusing:
                return
            back, forth = await asyncio.open_connection(*self._to, limit=CHUNK_BYTES)
            self._open.add(forth)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, forth))
                    group.create_task(self._pump(back, writer, answers=True))
            finally:
                self._open.discard(forth)
                forth.transport.abort()
        except* OSError:
            pass  # The server is away, or somebody hung up: so does the other side.
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._whole.wait()
            if answers and self._dropping:
                continue
            writer.write(chunk)
            with contextlib.suppress(ConnectionResetError):
                await writer.drain()
        raise ConnectionResetError("one side hung up")
