"""Calls that wait for an answer: replies come, batched, through one stream of the asking process."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection

from msgspec import Raw

from swell.backoff import RECONNECT
from swell.bus.broker import Broker
from swell.codec import decode, decode_replies
from swell.errors import FAILURES, BrokerError, BrokerUnavailable, CallError, GroupGone, UnknownTask, WireError
from swell.wire import FAILED, PROGRESS, Failure, Reply

log = logging.getLogger(__name__)

BLOCK_MS = 2000
#: How long the stream outlives its process, milliseconds; renewed three times in that span.
REPLIES_TTL_MS = 60_000
#: Behind an entry of more bytes others have a turn.
LARGE_BYTES = 1 << 20


class Call:
    """One call under way: its number, its result to be, and who hears of progress."""

    __slots__ = ("future", "number", "progress")

    def __init__(self, number: int, progress: Callable[[Raw], None] | None) -> None:
        self.number = number
        self.progress = progress
        self.future: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()

    def passes_over(self, error: CallError) -> bool:
        """Whether a failure is not the answer yet."""
        return False

    def expire(self) -> None:
        """The time for an answer is over."""
        if not self.future.done():
            self.fail(TimeoutError())

    def fail(self, error: Exception) -> None:
        """There is no result; whoever awaits the future gets the error."""
        self.future.set_exception(error)
        self.future.exception()  # Whoever was cancelled meanwhile never asks: it is not an error unheard.


class WideCall(Call):
    """A call that went to several inboxes: that a task is unknown is its answer when each of them has said so."""

    __slots__ = ("unheard",)

    def __init__(self, number: int, progress: Callable[[Raw], None] | None, inboxes: Collection[str]) -> None:
        super().__init__(number, progress)
        self.unheard = set(inboxes)

    def passes_over(self, error: CallError) -> bool:
        """See `Call.passes_over`."""
        if not isinstance(error, UnknownTask):
            return False
        self.unheard.discard(str(error.detail.get("inbox", "")))  # It may say so twice, after a takeover.
        return bool(self.unheard)


class Caller:
    """All calls of one process that wait for replies.

    Args:
        broker: where the stream is.
        process: unique for each start; the stream's name.
    """

    def __init__(self, broker: Broker, process: str) -> None:
        self.process = process
        self._broker = broker
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._wanted = asyncio.Event()
        self._opened = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether the server has our stream."""
        return self._opened.is_set()

    async def opened(self, timeout_s: float) -> None:
        """Have the server make our stream; the first call needs it.

        Raises:
            TimeoutError: it could not be made in time.
        """
        self._wanted.set()
        async with asyncio.timeout(timeout_s):
            await self._opened.wait()

    def begin(self, progress: Callable[[Raw], None] | None = None, inboxes: Collection[str] = ()) -> Call:
        """A new call; put its number and our process into the message, then await its future; `end` it in any case.

        Args:
            progress: hears what comes before the answer.
            inboxes: where the message goes, if to several.
        """
        number = next(self._numbers)
        call = Call(number, progress) if len(inboxes) < 2 else WideCall(number, progress, inboxes)
        self._calls[call.number] = call
        return call

    def end(self, call: Call) -> None:
        """Forget a call; an answer that still comes is dropped."""
        self._calls.pop(call.number, None)

    async def run(self) -> None:
        """Read replies until cancelled; nothing is asked of the server before the first call."""
        await self._wanted.wait()
        after = "0"
        failures = 0
        renew_at = 0.0
        while True:
            try:
                if time.monotonic() >= renew_at:
                    if await self._broker.open_replies(self.process, REPLIES_TTL_MS):
                        after = "0"  # Whatever was read of the stream before it.
                        self._fail_all()
                    renew_at = time.monotonic() + REPLIES_TTL_MS / 3000
                    self._opened.set()
                for id, payload in await self._broker.read_replies(self.process, after, BLOCK_MS):
                    after = id
                    self._take(payload)
                    if len(payload) > LARGE_BYTES:
                        await asyncio.sleep(0)  # Whoever iterates takes these parts before the next come.
                failures = 0
            except GroupGone:
                # The server was flushed, or its clock set ahead.
                log.warning("the server has lost our replies", extra={"calls": len(self._calls)})
                renew_at = 0.0
            except BrokerError as error:
                failures += 1
                renew_at = 0.0
                if failures == 1:
                    log.warning("replies wait: %s", error)
                await asyncio.sleep(RECONNECT.wait_s(failures))

    def _fail_all(self) -> None:
        """The stream was made anew: nobody knows which calls under way were answered while there was none.

        Not before it is there: whoever asks again at once might be answered before.
        """
        for call in list(self._calls.values()):
            if not call.future.done():
                call.fail(BrokerUnavailable("the server lost the answer, or will: what was asked may have been done"))

    def _take(self, payload: bytes) -> None:
        try:
            replies = decode_replies(payload)
        except WireError as error:
            log.error("malformed replies: %s", error)
            return
        for reply in replies:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        call = self._calls.get(reply.call)
        if call is None:
            return  # It timed out, or this is the second answer after a takeover.
        if reply.status == PROGRESS:
            if call.progress is not None:
                call.progress(reply.body)
            return
        failed = _error(reply.body) if reply.status == FAILED else None
        if failed is not None and call.passes_over(failed):
            return
        del self._calls[reply.call]
        if call.future.done():
            return
        if failed is not None:
            call.fail(failed)
        else:
            call.future.set_result(reply.body)


def _error(body: Raw) -> CallError:
    """The failure that came as a reply, as the error it is raised as."""
    try:
        failure = decode(body, Failure)
    except WireError as error:
        return CallError("", f"the answer is a failure that cannot be read: {error}")
    failed = FAILURES.get(failure.kind, CallError)(failure.agent, failure.message)
    failed.detail.update(failure.detail)  # Not as arguments: another release may name a field as one of them.
    return failed
