r"""One agent in its worker: a bounded mailbox, and a turn (`turns.py`) when there is something in it.

    spawning --started--> ready/idle <--mailbox empty-- working
        |                     |   \--message--> working
        +--raised--> failed   +--$terminate--> terminating --> stopped      crashes: `life.py`

A turn runs handlers one after another, in order. A handler that fails is retried in place: the mailbox waits, so
order holds. When the mailbox is full, further messages are parked: only their places in the stream are kept, and they
are fetched again when the mailbox has drained, so that a slow agent holds up nobody else and memory stays bounded.
Messages of each priority have a mailbox of their own (`mailbox.py`); a series gives way to a more urgent one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from swell.app import AgentType
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.priority import NORMAL, PRIORITIES
from swell.wire import SPAWN, TERMINATE, AgentRecord, AgentState, Live, Series
from swell_worker.cancellation import Request, caught, give_up_search
from swell_worker.gates import Gate
from swell_worker.kept_state import KeptState
from swell_worker.mailbox import Mailbox, Waiting, choose
from swell_worker.retrying import Retrying
from swell_worker.unhandled import over

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: How long an agent that is never idle runs before it lets others run, nanoseconds.
TURN_NS = 1_000_000
#: Handlers that start within this time are recorded as if they all had with the last of them: a latency is at most so
#: much too high, never too low.
START_RUN_NS = 50_000


class Cell(Retrying):
    """One hosted agent.

    Attributes, beside those of `Life`:
        mailbox: its normal messages.
        boxes: its messages of all priorities, by rank; None if there are none but normal ones.
        sought: requests to cancel messages that are not in a mailbox, and may be parked.
        resting: whether nothing is to be done.
        line: the rank of the line in which it waits for its turn; -1 if in none.
        settled: the histogram of its type's send-to-settled times.
        gate: what stands between it and its turns, if something does.
        tended: whether something is to be done when its turn ends: it has a gate, or its type lets idle agents go.
    """

    __slots__ = (
        "_start",
        "_yield_ns",
        "boxes",
        "gate",
        "line",
        "mailbox",
        "resting",
        "settled",
        "sought",
        "tended",
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
        self.mailbox = Mailbox()
        self.boxes: list[Mailbox] | None = None
        self.line = -1
        self._yield_ns = 0
        self.sought: tuple[Request, ...] = ()
        self.resting = True
        self.stand_behind(None)
        self._handled = 0
        self._count = fleet.recorder.counter("handled", type.name)
        self._start = fleet.recorder.latency("start", type.name)
        self.settled = fleet.recorder.latency("settled", type.name)

    def box(self, rank: int) -> Mailbox:
        """The mailbox of a priority."""
        if rank == NORMAL:
            return self.mailbox
        if self.boxes is None:
            self.boxes = [Mailbox() for _ in PRIORITIES]
            self.boxes[NORMAL] = self.mailbox
        return self.boxes[rank]

    @property
    def all_boxes(self) -> Sequence[Mailbox]:
        """All mailboxes that may hold something."""
        return self.boxes or (self.mailbox,)

    @property
    def rank(self) -> int:
        """That of the most urgent message that waits."""
        if self.boxes is None:
            return NORMAL
        return next((rank for rank, box in enumerate(self.boxes) if not box.empty), NORMAL)

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return self.mailbox.empty if self.boxes is None else all(box.empty for box in self.boxes)

    def rest(self) -> None:
        """Nothing is to be done."""
        self.resting = True
        if self.boxes is not None and self.idle:
            self.boxes = None  # Most agents never have messages of another priority again.

    def hurry(self) -> None:
        """Before the next message of a series begins, look whether it may: something more urgent came, or a gate."""
        self._yield_ns = 0

    async def breathe(self) -> None:
        """A handler emits: let others run, unless it has begun a moment ago. It may wait for nothing else."""
        if time.monotonic_ns() >= self._yield_ns:
            await asyncio.sleep(0)
            if self._yield_ns:  # Else something more urgent came, and is looked for when the handler has returned.
                self._yield_ns = time.monotonic_ns() + TURN_NS

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
            elif not self.idle:
                state = "waiting"
            elif self.type.idle_after is not None and not self.running:
                state = "passive"
            elif self._handled:
                state = "idle"
        reason = self.record.hold.reason if self.record.hold is not None else ""
        queued = sum(box.behind + len(box.parked) for box in self.all_boxes)
        return Live(state, queued, self._handled, reason)

    @property
    def wants_turn(self) -> bool:
        """Whether there is something to do: a message, or a start that does not wait for one."""
        start = self._agent is None and self.record.state == "ready" and self.type.idle_after is None
        return start or not self.idle

    def stand_behind(self, gate: Gate | None) -> None:
        """Have its turns decided by this from now on."""
        self.gate = gate
        self.tended = gate is not None or self.type.idle_after is not None

    async def turn(self) -> None:
        """Handle what waits, until nothing does or the shard is no longer ours. The caller has set `task`."""
        fleet = self._fleet
        self.timed_out = self.cancels = 0
        try:
            if self._agent is None and self.record.state == "ready":
                await self._restart()
            while (box := await self._drain()) is not None and self.shard.reading:
                await fleet.unpark(self, box)
                if self.sought and not any(box.parked for box in self.all_boxes):
                    give_up_search(fleet, self)
        except asyncio.CancelledError:
            # Not ours to end with, if a handler cancelled the task that it ran in: what waits goes on in another one.
            self._calm()
        finally:
            self.task = None
            fleet.ended(self)

    async def _drain(self) -> Mailbox | None:
        """Go through the mailboxes, series by series; returns one whose parked ones are next, None if nothing is."""
        calls, shard = self.type.calls, self.shard
        self._yield_ns = time.monotonic_ns() + TURN_NS
        first: Mailbox | None = None
        while True:
            box = first or (self.mailbox if self.boxes is None else self._choose(self.boxes))
            if box is None:
                return None
            line, first = box.line, None
            while line and line[0].begun == line[0].series.count:
                box.waiting -= line.pop(0).series.count
            if not line:
                if box.parked:
                    if self.gate is None or self.gate.opens(self, box):
                        return box
                    first = self._past_gate(self.gate, box)
                if first is None and (box.parked or self.boxes is None):
                    return None
                continue
            one = line[0]
            series = one.series
            if time.monotonic_ns() >= shard.trusted_until_ns:
                self._fleet.distrust(shard)
                return None
            if series.expires_us and over(self, one):
                continue
            if self.gate is not None:
                if series.count > 1:
                    self.separate(one)
                    continue
                if not self.gate.passes(self, box):
                    first = self._past_gate(self.gate, box)
                    if first is None:
                        return None
                    continue
            call = calls.get(series.name)
            if call is not None and self._agent is not None:
                await self._handle(one, *call)
            elif series.count > 1:
                self.separate(one)
            elif series.name == TERMINATE and (
                others := [other for other in self.all_boxes if other.line and other is not box]
            ):
                first = others[0]  # What is here already, of any priority, was sent before.
            else:
                one.begun = 1
                await self._special(one.entry, one.index, series.message(0))

    def _choose(self, boxes: Sequence[Mailbox]) -> Mailbox | None:
        """Whose turn it is; an agent is born before anything else of it, however urgent."""
        if self.record.state == "spawning":
            born = next((box for box in boxes if box.line and box.line[0].series.name == SPAWN), None)
            if born is not None:
                return born
        return choose(boxes)

    def _past_gate(self, gate: Gate, refused: Mailbox) -> Mailbox | None:
        """A mailbox whose next message may be begun although that of `refused` may not; None if there is none."""
        if gate.lets(self, refused):
            return None  # It is not the message: none may be begun now.
        return next((box for box in self.all_boxes if box is not refused and gate.lets(self, box)), None)

    async def _handle(
        self, one: Waiting, function: Callable[..., Awaitable[Any]], decode_all: Callable[[Raw], list[Any]] | None
    ) -> None:
        """The hot path: a message that its handler takes and returns from costs no more than this loop.

        It ends when the series is through, when the shard is not ours any more, when a handler has failed (the rest is
        handled by what the agent is after that), and when something more urgent waits.
        """
        shard, fleet, clock, agent = self.shard, self._fleet, time.monotonic_ns, self._agent
        entry, series, index = one.entry, one.series, one.index
        flags, count, sent_us = entry.flags, series.count, series.sent_us
        self.asked = series if series.reply_to else None
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
        place = told = first = one.begun
        try:
            while place < count:
                before, now = now, clock()
                if now >= self._yield_ns:
                    await asyncio.sleep(0)
                    now = clock()
                    self._yield_ns = now + TURN_NS
                    if one.begun != place or (place > first and self._gives_way(entry.inbox.rank)):
                        return  # It was cancelled, or its agent is held, meanwhile; or something more urgent waits.
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

    def _gives_way(self, rank: int) -> bool:
        """Whether nothing more of a series may be begun now, or something more urgent waits.

        What has its turn handles one message at least.
        """
        if self.gate is not None and self.gate.closed:
            return True
        return self.boxes is not None and any(not box.empty for box in self.boxes[:rank])

    def _acked(self, entry: Entry, count: int) -> None:
        """Messages were handled, and their flags are set."""
        self._handled += count
        self._count.n += count
        entry.ended(count)

    def separate(self, one: Waiting) -> None:
        """Put what is left of a series back into its mailbox, each message by itself: one is not as the others."""
        box = self.box(one.entry.inbox.rank)
        box.waiting -= one.begun
        left = list(enumerate(one.series.singles(), one.index))[one.begun :]
        box.line[:1] = [Waiting(one.entry, index, single) for index, single in left]
