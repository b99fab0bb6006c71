r"""One agent in its worker: a bounded mailbox, and a turn (`turns.py`) when there is something in it.

    spawning --started--> ready/idle <--mailbox empty-- working
        |                     |   \--message--> working
        +--raised--> failed   +--$terminate--> terminating --> stopped      crashes: `life.py`

A turn runs handlers one after another, in order. A handler that fails is retried in place: the mailbox waits, so
order holds. When the mailbox is full, further messages are parked: only their places in the stream are kept, and they
are fetched again when the mailbox has drained, so that a slow agent holds up nobody else and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from swell.agent import Handler
from swell.app import AgentType
from swell.backoff import RETRY
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.codec import decode
from swell.errors import Crash, SwellError
from swell.wire import NIL, SPAWN, TERMINATE, AgentRecord, AgentState, Live, Message, Spawned, TerminateAgent
from swell_worker.executor import BodyErrors, Failed, handler_failed, unknown_handler, wrong_body
from swell_worker.kept_state import KeptState
from swell_worker.life import Life
from swell_worker.shard_agents import decode_spawn, newborn

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: How long an agent that is never idle runs before it lets others run, nanoseconds.
TURN_NS = 1_000_000
#: Handlers that start within this time are recorded as if they all had with the last of them: a latency is at most so
#: much too high, never too low.
START_RUN_NS = 50_000

Item = tuple[Entry, int, Message]


class Cell(Life):
    """One hosted agent.

    Attributes, beside those of `Life`:
        mailbox: messages waiting, oldest first.
        parked: (entry, index) of messages that did not fit, oldest first.
        resting: whether nothing is to be done.
        settled: the histogram of its type's send-to-settled times.
    """

    __slots__ = ("_count", "_handled", "_start", "mailbox", "parked", "resting", "settled")

    def __init__(
        self,
        fleet: Fleet,
        shard: OwnedShard,
        type: AgentType,
        record: AgentRecord,
        snapshot: bytes | None = None,
    ) -> None:
        super().__init__(fleet, shard, f"{record.type}/{record.key}", type, record)
        if type.state is not None:
            self._kept = KeptState(self.id, type.state, shard, snapshot)
        self.mailbox: deque[Item] = deque()
        self.parked: deque[tuple[Entry, int]] = deque()
        self.resting = True
        self._handled = 0
        self._count = fleet.recorder.counter("handled", type.name)
        self._start = fleet.recorder.latency("start", type.name)
        self.settled = fleet.recorder.latency("settled", type.name)

    def live(self) -> Live:
        """What is known of it now."""
        state: AgentState = self.record.state
        if state == "ready":
            state = "working" if not self.resting else "idle" if self._handled else "ready"
        return Live(state, len(self.mailbox) + len(self.parked), self._handled)

    async def turn(self) -> None:
        """Handle what waits, until nothing does or the shard is no longer ours. The caller has set `task`."""
        fleet = self._fleet
        self.timed_out = self.cancels = 0
        try:
            if self._agent is None and self.record.state == "ready":
                await self._restart()
            await self._drain()
            while self.parked and self.shard.reading:
                await fleet.unpark(self)
                await self._drain()
        except asyncio.CancelledError:
            # Not ours to end with, if a handler cancelled the task that it ran in: what waits goes on in another one.
            self._calm()
        finally:
            self.task = None
            fleet.ended(self)

    async def _drain(self) -> None:
        """The hot path: a message that its handler takes and returns from costs no more than this loop."""
        mailbox, shard, fleet, calls = self.mailbox, self.shard, self._fleet, self.type.calls
        take, clock, count = mailbox.popleft, time.monotonic_ns, self._count
        # Messages that were sent at the same moment and begin right behind each other are recorded together: the
        # first at once, the others (`begun`) when something else follows.
        begun = until = now = 0
        sent_us = 0
        yield_ns = clock() + TURN_NS
        try:
            while mailbox:
                began = now
                now = clock()
                if now >= shard.trusted_until_ns:
                    now = began
                    fleet.distrust(shard)
                    return
                entry, index, message = take()
                call = calls.get(message.name)
                agent = self._agent
                if call is None or agent is None:
                    await self._special(entry, index, message)
                    continue
                if message.sent_us == sent_us and now < until:
                    begun += 1
                else:
                    if begun:
                        self._start.record((began + fleet.wall_ns) // 1000 - sent_us, begun)
                        begun = 0
                    sent_us = message.sent_us
                    until = now + START_RUN_NS
                    self._start.record((now + fleet.wall_ns) // 1000 - sent_us)
                function, decode_body = call
                self.runs += 1
                self.busy = True
                try:
                    if decode_body is not None:
                        result = await function(agent, decode_body(message.body))
                    else:
                        result = await function(agent)
                except (KeyboardInterrupt, GeneratorExit):
                    raise
                except BaseException as error:  # noqa: BLE001 - it becomes the message's outcome, sys.exit() too
                    await self._failed(entry, index, message, error)
                else:
                    self.busy = False
                    self._handled += 1
                    count.n += 1
                    if message.reply_to:
                        fleet.answer(self, entry, index, message, result)
                    else:
                        # Entry.ack, without the call.
                        entry.flags[index] = 1
                        left = entry.left = entry.left - 1
                        if left <= entry.parked:
                            shard.quiet(entry)
                if now >= yield_ns:
                    await asyncio.sleep(0)
                    yield_ns = clock() + TURN_NS
        finally:
            if begun:
                self._start.record((now + fleet.wall_ns) // 1000 - sent_us, begun)

    async def _failed(self, entry: Entry, index: int, message: Message, error: BaseException) -> None:
        """An attempt failed: the body does not fit, the handler ran too long, or it raised.

        A kept state goes back to what it was before.
        """
        self.busy = False
        if isinstance(error, asyncio.CancelledError):
            error = self._cancelled()
        handler = self.type.handlers[message.name]
        # A handler may raise the errors of decoding itself; then its body does decode.
        if isinstance(error, BodyErrors) and not _decodes(handler, message):
            self._fleet.end_dead(self, entry, index, message, wrong_body(self.type.name, handler.name, error))
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
            counters.count("failed_attempts", self.type.name)
            if self._kept is not None and self._agent is not None:
                self._kept.put_back(self._agent)
            if attempts >= self.type.max_attempts or _is_crash(error):
                failed = handler_failed(handler.name, attempts, error, self.type.timeout)
                if await self._last_or_crash(entry, index, message, failed, error):
                    return
            else:
                await self._wait(RETRY.wait_s(attempts))
            if time.monotonic_ns() >= self.shard.trusted_until_ns or self._agent is None:
                return
            counters.count("retried", self.type.name)
            attempts += 1
            try:
                arguments = (handler.decode(message.body),) if handler.takes_body else ()
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
        last = failed.attempts >= self.type.max_attempts
        if last:
            self._fleet.end_dead(self, entry, index, message, failed)
        if _is_crash(error):
            await self._revive(failed)
            if not last and self.record.state == "failed":
                self._fleet.end_dead(self, entry, index, message, failed)
                return True
        return last

    def undo(self) -> None:
        """The handler's message is given up although it returned: its result cannot be sent."""
        if self._kept is not None and self._agent is not None:
            self._kept.undo(self._agent)

    # What is not a handler's: birth, end, and messages that come too late.

    async def _special(self, entry: Entry, index: int, message: Message) -> None:
        fleet = self._fleet
        state = self.record.state
        if message.name == SPAWN:
            await self._spawn(entry, index, message)
        elif state in ("stopped", "failed"):
            reason = f"agent {self.id} is {state}" + (f": {self.record.reason}" if self.record.reason else "")
            fleet.end_dead(self, entry, index, message, Failed("unknown_agent", reason))
        elif message.name == TERMINATE:
            await self._terminate(entry, index, message)
        else:
            fleet.end_dead(self, entry, index, message, unknown_handler(self.type, message.name))

    async def _spawn(self, entry: Entry, index: int, message: Message) -> None:
        """Be born, or say that we are there already. The record changes with the message that caused it."""
        fleet = self._fleet
        try:
            request = decode_spawn(message)
        except SwellError as error:
            fleet.end_dead(self, entry, index, message, Failed("wrong_body", str(error)))
            return
        record = self.record
        if self._agent is not None:
            if record.plan == request.plan:
                fleet.answer(self, entry, index, message, Spawned(0.0, already=True))
            else:
                reason = f"agent {self.id} exists already, spawned by plan {record.plan}"
                fleet.end_dead(self, entry, index, message, Failed("already_exists", reason))
            return
        if record.state in ("stopped", "failed"):
            self.record = newborn(self.id, request, record.generation + 1)
        if self._kept is not None:
            self._kept.forget()
        began = time.monotonic()
        failed = await self._begin(request.args)
        if failed is None:
            self._keep("ready")
            fleet.recorder.latency("ready", self.type.name).record(time.time_ns() // 1000 - message.sent_us)
            fleet.recorder.count("spawned", self.type.name)
            fleet.answer(self, entry, index, message, Spawned(time.monotonic() - began))
        else:
            self._keep("failed", failed.reason)
            fleet.recorder.count("failed", self.type.name)
            if self._kept is not None:
                self._kept.delete()  # Of an agent that had this id before.
            fleet.end_dead(self, entry, index, message, failed)

    async def _terminate(self, entry: Entry, index: int, message: Message) -> None:
        """Run `stopped` and end; what comes behind is dead. An agent of another plan than was meant is left alone."""
        try:
            request = TerminateAgent() if message.body == NIL else decode(message.body, TerminateAgent)
        except SwellError as error:
            self._fleet.end_dead(self, entry, index, message, Failed("wrong_body", str(error)))
            return
        if request.plan and request.plan != self.record.plan:
            reason = f"agent {self.id} was spawned by plan {self.record.plan}, not {request.plan}: it was left alone"
            self._fleet.end_dead(self, entry, index, message, Failed("already_exists", reason))
            return
        await self._stop()
        self._fleet.answer(self, entry, index, message, None)


def _decodes(handler: Handler, message: Message) -> bool:
    """Whether the body fits the handler: then an error of decoding was the handler's own."""
    try:
        handler.decode(message.body)
    except BodyErrors:
        return False
    return True


def _is_crash(error: BaseException) -> bool:
    """Whether a handler said that what its agent stands on is broken, alone or among what a task group collected."""
    return isinstance(error, Crash) or (isinstance(error, BaseExceptionGroup) and error.subgroup(Crash) is not None)
