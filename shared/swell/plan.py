"""A plan under way, as its asker follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from swell.bus.caller import Call, Caller
from swell.codec import decode
from swell.errors import PlanAborted
from swell.wire import PlanProgress, PlanRequest


class Plan:
    """A plan under way. Iterate over it for progress, or `await plan.wait()`.

    Attributes:
        id: the plan's id.
        progress: the latest progress.
    """

    def __init__(self, request: PlanRequest, caller: Caller, call: Call) -> None:
        self.id = request.id
        self.progress = PlanProgress(request.id, request.type, "running", request.count)
        self._caller = caller
        self._call = call
        self._news = asyncio.Event()
        call.progress = self.heard
        call.future.add_done_callback(lambda _: self._news.set())

    def heard(self, body: msgspec.Raw) -> None:
        """Progress came."""
        self.progress = decode(body, PlanProgress)
        self._news.set()

    def forget(self) -> None:
        """Listen no more."""
        self._caller.end(self._call)

    async def accepted(self) -> None:
        """Return when the manager has answered for the first time."""
        await self._news.wait()
        if self._call.future.done() and self._call.future.exception() is not None:
            self._call.future.result()

    async def __aiter__(self) -> AsyncIterator[PlanProgress]:
        """Yield progress as it comes; the last one tells how the plan ended.

        Raises:
            CallError: the manager could not go on with the plan.
        """
        while True:
            future = self._call.future
            if future.done():
                self.progress = decode(future.result(), PlanProgress)
                yield self.progress
                return
            self._news.clear()
            yield self.progress
            await self._news.wait()

    async def wait(self, timeout: float | None = None) -> PlanProgress:
        """Return the last progress when the plan has ended.

        Args:
            timeout: limit, seconds; None for none.

        Raises:
            PlanAborted: it ended before all agents were ready.
            TimeoutError: it has not ended in time; it goes on.
        """
        async with asyncio.timeout(timeout):
            async for _ in self:
                pass
        last = self.progress
        if last.state != "done":
            raise PlanAborted(last.id, last.reason or last.state, last.ready, last.failed)
        return last
