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
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from swell.agent import Handler
from swell.app import AgentType
from swell.backoff import RETRY
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.errors import Crash, GiveUp
from swell.wire import AgentRecord, AgentState, Live, Message, Series
from swell_worker.cancellation import Request, caught, dropped, give_up_search
from swell_worker.executor import BodyErrors, Failed, handler_failed, wrong_body
from swell_worker.gates import Gate
from swell_worker.kept_state import KeptState
from swell_worker.mailbox import Waiting
from swell_worker.special import Special
from swell_worker.unhandled import over, over_again

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: How long an agent that is never idle runs before it lets others run, nanoseconds.
TURN_NS = 1_000_000
#: Handlers that start within this time are recorded as if they all had with the last of them: a latency is at most so
#: much too high, never too low.
START_RUN_NS = 50_000


class Cell(Special):
    """One hosted agent.

    Attributes, beside those of `Life`:
        mailbox: series of messages waiting, oldest first; of the first some may have been handled.
        waiting: messages in the mailbox, counting the first series whole.
        parked: (entry, index) of messages that did not fit, oldest first.
        sought: requests to cancel messages that are not in the mailbox, and may be parked.
        resting: whether nothing is to be done.
        settled: the histogram of its type's send-to-settled times.
        gate: what stands between it and its turns, if something does.
        tended: whether something is to be done when its turn ends: it has a gate, or its type lets idle agents go.
    """

    __slots__ = (
        "_count",
        "_handled",
        "_start",
        "_yield_ns",
        "gate",
        "mailbox",
        "parked",
        "resting",
        "settled",
        "sought",
        "tended",
        "waiting",
    )

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
        # Lists, because an empty deque takes 0.7 KiB; both stay short, or are taken from in large pieces.
        self.mailbox: list[Waiting] = []
        self.waiting = 0
        self._yield_ns = 0
        self.parked: list[tuple[Entry, int]] = []
        self.sought: tuple[Request, ...] = ()
        self.resting = True
        self.stand_behind(None)
        self._handled = 0
        self._count = fleet.recorder.counter("handled", type.name)
        self._start = fleet.recorder.latency("start", type.name)
        self.settled = fleet.recorder.latency("settled", type.name)

    def put(self, entry: Entry, index: int, series: Series) -> None:
        """Put a series into the mailbox; its first message has the place `index` in its entry."""
        self.mailbox.append(Waiting(entry, index, series))
        self.waiting += series.count

    def found(self, entry: Entry, index: int, series: Series) -> bool:
        """Whether a message that was parked is one that somebody cancelled; then it has ended."""
        return caught(self._fleet, self, entry, index, series)

    def live(self) -> Live:
        """What is known of it now."""
        state: AgentState = self.record.state
        if state == "ready":
            if self.gate is not None and self.gate.state is not None:
                state = self.gate.state
            elif not self.resting:
                state = "working"
            elif self.mailbox or self.parked:
                state = "waiting"
            elif self.type.idle_after is not None and not self.running:
                state = "passive"
            elif self._handled:
                state = "idle"
        reason = self.record.hold.reason if self.record.hold is not None else ""
        return Live(state, self.behind + len(self.parked), self._handled, reason)

    @property
    def behind(self) -> int:
        """Messages in the mailbox that were not begun."""
        return self.waiting - (self.mailbox[0].begun if self.mailbox else 0)

    @property
    def wants_turn(self) -> bool:
        """Whether there is something to do: a message, or a start that does not wait for one."""
        start = self._agent is None and self.record.state == "ready" and self.type.idle_after is None
        return start or bool(self.mailbox or self.parked)

    def stand_behind(self, gate: Gate | None) -> None:
        """Have its turns decided by this from now on."""
        self.gate = gate
        self.tended = gate is not None or self.type.idle_after is not None

    def hurry(self) -> None:
        """Look at the gate before another message of a series is begun."""
        self._yield_ns = 0

    async def turn(self) -> None:
        """Handle what waits, until nothing does or the shard is no longer ours. The caller has set `task`."""
        fleet = self._fleet
        self.timed_out = self.cancels = 0
        try:
            if self._agent is None and self.record.state == "ready":
                await self._restart()
            await self._drain()
            while self.parked and self.shard.reading and (self.gate is None or self._opens(self.gate)):
                await fleet.unpark(self)
                if self.sought and not self.parked:
                    give_up_search(fleet, self)
                await self._drain()
        except asyncio.CancelledError:
            # Not ours to end with, if a handler cancelled the task that it ran in: what waits goes on in another one.
            self._calm()
        finally:
            self.task = None
            fleet.ended(self)

    def _opens(self, gate: Gate) -> bool:
        return not self.mailbox and gate.opens(self)

    async def _drain(self) -> None:
        """Go through the mailbox, series by series."""
        mailbox, calls, shard = self.mailbox, self.type.calls, self.shard
        self._yield_ns = time.monotonic_ns() + TURN_NS
        while mailbox:
            one = mailbox[0]
            series = one.series
            if one.begun == series.count:
                del mailbox[0]
                self.waiting -= series.count
                continue
            if time.monotonic_ns() >= shard.trusted_until_ns:
                self._fleet.distrust(shard)
                return
            if series.expires_us and over(self, one):
                continue
            if self.gate is not None:
                if series.count > 1:
                    self.separate(one)
                    continue
                if not self.gate.passes(self, one):
                    return
            call = calls.get(series.name)
            if call is not None and self._agent is not None:
                await self._handle(one, *call)
            elif series.count > 1:
                self.separate(one)
            else:
                one.begun = 1
                await self._special(one.entry, one.index, series.message(0))

    async def _handle(
        self, one: Waiting, function: Callable[..., Awaitable[Any]], decode_all: Callable[[Raw], list[Any]] | None
    ) -> None:
        """The hot path: a message that its handler takes and returns from costs no more than this loop.

        It ends when the series is through, when the shard is not ours any more, and when a handler has failed: the
        rest is handled by what the agent is after that.
        """
        shard, fleet, clock, agent = self.shard, self._fleet, time.monotonic_ns, self._agent
        entry, series, index = one.entry, one.series, one.index
        flags, count, sent_us = entry.flags, series.count, series.sent_us
        if decode_all is not None and not one.bodies:
            try:
                one.bodies = decode_all(series.bodies)
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # noqa: BLE001 - a body's own checks are the user's code
                if count > 1:
                    self.separate(one)
                else:
                    one.begun = 1
                    await self._failed(entry, index, series.message(0), error)
                return
        # Messages that begin right behind each other are recorded together: the first at once, the others (`begun`)
        # when so much time has passed that it shows. `told`: up to which place the ends are counted.
        bodies = one.bodies
        begun = until = now = 0
        place = told = one.begun
        try:
            while place < count:
                before, now = now, clock()
                if now >= self._yield_ns:
                    await asyncio.sleep(0)
                    now = clock()
                    self._yield_ns = now + TURN_NS
                    if one.begun != place or (self.gate is not None and self.gate.closed):
                        return  # It was cancelled, or its agent is held, meanwhile.
                if now >= shard.trusted_until_ns:
                    now = before
                    return
                if now < until:
                    begun += 1
                else:
                    if begun:
                        self._start.record((before + fleet.wall_ns) // 1000 - sent_us, begun)
                        begun = 0
                    if place > told:
                        self._acked(entry, place - told)
                        told = place
                    until = now + START_RUN_NS
                    self._start.record((now + fleet.wall_ns) // 1000 - sent_us)
                one.begun = place + 1
                self.runs += 1
                self.busy = True
                try:
                    result = await (function(agent, bodies[place]) if bodies else function(agent))
                except (KeyboardInterrupt, GeneratorExit):
                    raise
                except BaseException as error:  # noqa: BLE001 - it becomes the message's outcome, sys.exit() too
                    self._acked(entry, place - told)
                    told = place
                    await self._failed(entry, index + place, series.message(place), error)
                    return
                self.busy = False
                if series.reply_to:
                    self._handled += 1
                    self._count.n += 1
                    told += 1
                    fleet.answer(self, entry, index + place, series, result)
                else:
                    flags[index + place] = 1
                place += 1
        finally:
            if begun:
                self._start.record((now + fleet.wall_ns) // 1000 - sent_us, begun)
            if place > told:
                self._acked(entry, place - told)

    def _acked(self, entry: Entry, count: int) -> None:
        """Messages were handled, and their flags are set."""
        self._handled += count
        self._count.n += count
        entry.ended(count)

    def separate(self, one: Waiting) -> None:
        """Put what is left of a series back into the mailbox, each message by itself: one is not as the others."""
        self.waiting -= one.begun
        left = list(enumerate(one.series.singles(), one.index))[one.begun :]
        self.mailbox[:1] = [Waiting(one.entry, index, single) for index, single in left]

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
        last = failed.attempts >= self.type.max_attempts or isinstance(error, GiveUp)
        if last:
            self._fleet.end_dead(self, entry, index, message, failed)
            if self.type.quarantine_after is not None:
                self._fleet.oversight.holds.died(self, self._handled, failed.reason)
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
