"""A message whose handler failed: run again in place, so that order holds, until it returns or has no attempts left.

failed --wrong body--> dead
|---crash--> the agent is started anew (`life.py`), then the message is tried again
+---wait--> again ... --the last attempt--> dead
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, cast

from swell.agent import Handler
from swell.backoff import RETRY
from swell.bus.entry import Entry
from swell.errors import Crash, GiveUp
from swell.instruments import Counter
from swell.wire import Message
from swell_worker.cancellation import dropped
from swell_worker.executor import BodyErrors, Failed, decoded, handler_failed, wrong_body
from swell_worker.special import Special
from swell_worker.unhandled import over_again

if TYPE_CHECKING:
    from swell_worker.cell import Cell

log = logging.getLogger(__name__)


class Retrying(Special):
    """One hosted agent whose handlers are run again when they fail; its mailboxes are the `Cell`'s."""

    __slots__ = ("_count", "_handled")

    _count: Counter
    _handled: int

    async def _failed(self, entry: Entry, index: int, message: Message, error: BaseException) -> None:
        """An attempt failed: the body does not fit, the handler ran too long, or it raised.

        A kept state goes back to what it was before.
        """
        self.busy = False
        if isinstance(error, asyncio.CancelledError):
            error = self._cancelled()
        handler = self.type.handlers[message.name]
        # A handler may raise the errors of decoding itself; then its body does decode.
        wrong = _wrong(handler, message) if isinstance(error, BodyErrors) else None
        if wrong is not None:
            self._fleet.end_dead(self, entry, index, message, wrong_body(self.type.name, handler.name, wrong))
        else:
            await self._retry(entry, index, message, handler, error)

    def time_out(self, now: float) -> None:
        """Cancel the handler that runs, as the watchman found it; one that takes no notice is cancelled again later."""
        self.watched = (self.runs, now)
        if self.task is not None:
            if self.timed_out == self.runs:
                log.warning("handler takes no notice of its cancellation", extra={"agent": self.id})
            self.timed_out = self.runs
            self.cancels += 1
            self.task.cancel()

    async def _retry(self, entry: Entry, index: int, message: Message, handler: Handler, error: BaseException) -> None:
        """Run a handler that failed again, in place, until it returns or its attempts are used up."""
        attempts = 1
        counters = self._fleet.recorder
        while True:
            if self._kept is not None and self._agent is not None:
                self._kept.put_back(self._agent)
            if dropped(self, entry, index, message):
                return
            counters.count("failed_attempts", self.type.name)
            if attempts >= self.type.max_attempts or isinstance(error, GiveUp) or _is_crash(error):
                failed = handler_failed(handler.name, attempts, error, self.type.timeout)
                if await self._last_or_crash(entry, index, message, failed, error):
                    return
            else:
                await self._wait(RETRY.wait_s(attempts))
            if time.monotonic_ns() >= self.shard.trusted_until_ns or self._agent is None:
                return
            if dropped(self, entry, index, message) or over_again(self, entry, index, message):
                return
            counters.count("retried", self.type.name)
            attempts += 1
            try:
                arguments = (decoded(handler.decode, message.body),) if handler.takes_body else ()
                result = await self._limited(handler.function(self._agent, *arguments))
            except Exception as again:  # noqa: BLE001 - whatever a handler raises becomes its message's outcome
                error = again
            else:
                self._fleet.answer(self, entry, index, message, result)
                self._handled += 1
                self._count.n += 1
                return

    async def _last_or_crash(
        self, entry: Entry, index: int, message: Message, failed: Failed, error: BaseException
    ) -> bool:
        """The attempt was the last one, or the agent crashed in it, or both; returns whether the message has ended."""
        last = failed.attempts >= self.type.max_attempts or isinstance(error, GiveUp)
        if last:
            self._fleet.end_dead(self, entry, index, message, failed)
            if self.type.quarantine_after is not None:
                self._fleet.oversight.holds.died(cast("Cell", self), self._handled, failed.reason)
        if _is_crash(error):
            await self._revive(failed)
            if not last and self.record.state == "failed":
                self._fleet.end_dead(self, entry, index, message, failed)
                return True
        return last

    def end_unhandled(self, entry: Entry, index: int, message: Message, why: Failed) -> None:
        """A message ends without having been handled, for nobody wants it any more."""
        self._fleet.end_unhandled(self, entry, index, message, why)


def _wrong(handler: Handler, message: Message) -> Exception | None:
    """Why the body does not fit the handler; None if it does: then an error of decoding was the handler's own."""
    try:
        handler.decode(message.body)
    except BodyErrors as error:
        return error
    return None


def _is_crash(error: BaseException) -> bool:
    """Whether a handler said that what its agent stands on is broken, alone or among what a task group collected."""
    return isinstance(error, Crash) or (isinstance(error, BaseExceptionGroup) and error.subgroup(Crash) is not None)
