"""One process's messages for one shard, from the call that gave them until the server has them.

    message --> line --> open batch --> sealed batch --> appended
               (not encoded)  |             |
                              +-------------+--> taken out again: its sender would not wait longer for room

A sender may limit its wait for room. What it gave can be taken out as long as the server certainly has not written it
and never will: it is in line, or in a batch that was never sent, or the server has answered each sending of that batch
with a refusal. The batch keeps its place and number without it. A batch that was sent and not answered is *doubtful*
from then on: the server may have written it, or may yet (the bytes can be on their way), so nothing is taken out of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from swell.codec import Gathered, MessageBuffer
from swell.errors import Busy, SwellError, WireError

#: Batches that may gather for one shard before its senders wait.
LANE_BATCHES = 8
#: Bounds of the wait that a refused sender is advised, seconds.
LEAST_ADVICE_S = 0.1
MOST_ADVICE_S = 30.0


class Batch:
    """Messages gathered for one shard, and who waits for them.

    Attributes:
        payload: what is sent; empty while the batch is open.
        waiters: senders, told when it is appended.
        calls: askers, told only if it cannot be.
        runs: those of its messages whose senders limit their wait; None if there are none.
        doubtful: whether it was sent and not answered.
    """

    __slots__ = ("buffer", "calls", "doubtful", "payload", "runs", "seq", "waiters")

    def __init__(self) -> None:
        self.buffer = MessageBuffer()
        self.waiters: list[asyncio.Future[None]] = []
        self.calls: list[asyncio.Future[Any]] = []
        self.runs: list[Run] | None = None
        self.doubtful = False
        self.seq = 0
        self.payload = b""


class Run:
    """Messages of one sender with a limit, one behind another in one batch, or one in line.

    Attributes:
        future: None when they are appended, else the error. An asker's is its answer's: nobody tells it of success.
        asked: whether it is an asker's.
        batch: where they are; None in line.
        start: where they begin in the batch's buffer, bytes.
        size: bytes.
        numbers: the sender's numbers of these messages.
        overdue: whether the sender will not wait any longer for room.
    """

    __slots__ = ("asked", "batch", "future", "numbers", "overdue", "size", "start")

    def __init__(self, future: asyncio.Future[Any], asked: bool, overdue: bool) -> None:
        self.future = future
        self.asked = asked
        self.overdue = overdue
        self.batch: Batch | None = None
        self.start = 0
        self.size = 0
        self.numbers: list[int] = []


class Place:
    """A message, or a series, in line.

    `future` is the sender's or (`asked`) the asker's; `turn` is given the batch that the message is put into.

    A sender with a limit has a `run` for each message in line; `number` is the message's then.
    """

    __slots__ = ("asked", "future", "message", "number", "run", "turn")

    def __init__(self, message: tuple[Any, ...] | Gathered, future: asyncio.Future[Any], asked: bool) -> None:
        self.message = message
        self.future = future
        self.asked = asked
        self.run: Run | None = None
        self.number = 0
        self.turn: asyncio.Future[Batch] = asyncio.get_running_loop().create_future()


class Lane:
    """One inbox's batches, oldest first; the newest is still open.

    Attributes:
        most: unsettled messages that the shard may hold for them to be appended.
        room: the line of those that wait for room.
        limited: all runs whose senders limit their wait, and for one in line its place.
        failures: times in a row that the oldest batch was refused for lack of room; 0 if the last one was taken.
        not_before: when to ask again, monotonic seconds; 0 for at once.
        used_at: when something of it was sent last, monotonic seconds.
        depth: the shard's unsettled messages, as of the last refusal.
        reason: why the server has no room for anything at all; empty if it is the shard that has none.
    """

    __slots__ = (
        "_excess",
        "_falls",
        "_full",
        "_full_since",
        "batches",
        "depth",
        "failures",
        "limited",
        "most",
        "name",
        "not_before",
        "producer",
        "reason",
        "room",
        "seq",
        "used_at",
    )

    def __init__(self, name: str, producer: str, most: int) -> None:
        self.name = name
        self.most = most
        self.producer = producer
        self.seq = 0
        self.batches: deque[Batch] = deque()
        self.room: deque[Place] = deque()
        self.limited: dict[Run, Place | None] = {}
        self.failures = 0
        self.not_before = 0.0
        self.used_at = time.monotonic()
        self.depth = 0
        self.reason = ""
        self._full = False
        self._full_since = (0.0, 0)
        self._falls = 0.0
        self._excess = 0

    def add(self, message: tuple[Any, ...] | Gathered) -> Batch | None:
        """Put a message, or a series of them, into the newest batch, or a new one; None if the lane is full."""
        batches = self.batches
        if batches:
            batch = batches[-1]
            if not batch.payload and batch.buffer.add(message):
                return batch
            if len(batches) >= LANE_BATCHES:
                return None
        batch = Batch()
        fits = batch.buffer.add(message)
        assert fits, "a series is larger than a batch may be"
        batches.append(batch)
        return batch

    def add_limited(self, message: tuple[Any, ...], run: Run, number: int) -> Run | None:
        """Put a message into a batch so that it can be taken out again; None if the lane is full.

        Args:
            message: itself.
            run: of the same sender; it grows if the message comes to stand right behind it.
            number: the sender's own for the message.

        Returns:
            the run that the message belongs to: `run`, or a new one if that is in another batch.
        """
        before = len(self.batches[-1].buffer.data) if self.batches and not self.batches[-1].payload else 0
        batch = self.add(message)
        if batch is None:
            return None
        if batch.buffer.count == 1:
            before = 0
        if run.batch is not None and (run.batch is not batch or run.start + run.size != before or run.future.done()):
            run = Run(asyncio.get_running_loop().create_future(), run.asked, run.overdue)
        if run.batch is None:
            run.batch, run.start = batch, before
            batch.runs = batch.runs or []
            batch.runs.append(run)
            self.limited[run] = None
        run.size += len(batch.buffer.data) - before
        run.numbers.append(number)
        return run

    def let_in(self) -> None:
        """Put the messages that wait in line into batches, in order, as far as there is room."""
        room = self.room
        while room:
            place = room[0]
            if not place.turn.done():
                try:
                    batch = self._let_in(place)
                except WireError as error:
                    place.turn.set_exception(error)
                else:
                    if batch is None:
                        return
                    place.turn.set_result(batch)
            room.popleft()

    def _let_in(self, place: Place) -> Batch | None:
        if place.run is not None:
            assert isinstance(place.message, tuple)  # Who limits the wait sends nothing gathered.
            run = self.add_limited(place.message, place.run, place.number)
            return run.batch if run is not None else None
        batch = self.add(place.message)
        if batch is not None:
            (batch.calls if place.asked else batch.waiters).append(place.future)
        return batch

    # Room, and the lack of it.

    def is_full(self, now: float) -> bool:
        """Whether room is lacking as far as is known: what was refused is still here, or was a moment ago."""
        return self._full or (self.failures > 0 and now < self.not_before)

    def taken(self, batch: Batch) -> None:
        """The server has the oldest batch."""
        self.failures = 0
        self.not_before = 0.0
        self._full = False
        self.batches.popleft()
        for waiter in batch.waiters:
            if not waiter.done():
                waiter.set_result(None)
        if batch.runs is not None:
            self._taken(batch.runs)
        self.let_in()

    def _taken(self, runs: list[Run]) -> None:
        for run in runs:
            self.limited.pop(run, None)
            run.batch = None
            if not run.asked and not run.future.done():
                run.future.set_result(None)

    def refused(self, depth: int, excess: int, now: float) -> None:
        """The server has no room for the oldest batch.

        Args:
            depth: unsettled messages of the shard.
            excess: messages by which they and the batch pass the limit; 0 if others were first in line.
            now: monotonic seconds.
        """
        if now > self.not_before + MOST_ADVICE_S:
            self.failures = 0  # Nobody has asked for a while: how long it was full before says nothing.
        if not self.failures:
            self._full_since = (now, depth)
        began, first = self._full_since
        self._falls = (first - depth) / (now - began) if now > began else 0.0
        self._excess = excess
        self.depth = depth
        self.reason = ""
        self._full = True
        self.failures += 1

    def out_of_memory(self, reason: str, now: float) -> None:
        """The server has no memory for anything."""
        self.refused(0, 0, now)
        self.reason = reason

    def busy(self, now: float) -> Busy:
        """What a sender is told that does not wait any longer.

        The wait advised is as long as the shard has been full up to now, or shorter if its depth falls so fast that
        there will be room sooner.
        """
        lasted = now - self._full_since[0] if self.failures else 0.0
        room_in = self._excess / self._falls if self._falls > 0 else lasted
        advice = min(max(min(lasted, room_in), LEAST_ADVICE_S), MOST_ADVICE_S)
        return Busy(self.name, self.depth, advice, self.reason)

    # Taking out.

    def take_out(self, run: Run, error: SwellError) -> None:
        """Take messages out of their batch, which must be neither doubtful nor on its way, and tell their sender."""
        batch = run.batch
        assert batch is not None
        assert batch.runs is not None
        assert not batch.doubtful
        batch.buffer.remove(run.start, run.size, len(run.numbers))
        batch.runs.remove(run)
        for other in batch.runs:
            if other.start > run.start:
                other.start -= run.size
        if batch.payload:
            self._unseal(batch)
        if not batch.buffer.count:
            self.batches.remove(batch)
            self._full = self._full and bool(self.batches)
        del self.limited[run]
        tell((run.future,), error)

    def _unseal(self, first: Batch) -> None:
        """This batch and those behind it get their numbers anew, the same as long as none of them is empty.

        None behind a batch that is not doubtful is: what is sent always begins with the oldest.
        """
        behind = False
        for batch in self.batches:
            behind = behind or batch is first
            if behind and batch.payload:
                batch.payload = b""
        self.seq = first.seq - 1

    def give_up(self, run: Run, error: SwellError) -> None:
        """Tell a sender that nobody knows what becomes of its messages; they stay where they are."""
        del self.limited[run]
        tell((run.future,), error)

    def stand(self, place: Place) -> None:
        """A sender joins the line."""
        self.room.append(place)
        if place.run is not None:
            self.limited[place.run] = place

    def leave(self, place: Place) -> None:
        """A sender leaves the line."""
        if place in self.room:
            self.room.remove(place)
        if place.run is not None and place.run.batch is None:
            self.limited.pop(place.run, None)

    def fail(self, batch: Batch, error: SwellError) -> None:
        """Give a batch up: its senders are told."""
        self.batches.remove(batch)
        self._tell_all(batch, error)

    def end(self, error: SwellError) -> int:
        """Give everything up; returns how many messages that were."""
        left = sum(batch.buffer.count for batch in self.batches)
        left += sum(place.message.count if isinstance(place.message, Gathered) else 1 for place in self.room)
        for batch in self.batches:
            self._tell_all(batch, error)
        tell((place.turn for place in self.room), error)
        self.limited.clear()
        self.batches.clear()
        self.room.clear()
        return left

    def _tell_all(self, batch: Batch, error: SwellError) -> None:
        tell((*batch.waiters, *batch.calls), error)
        for run in batch.runs or ():
            self.limited.pop(run, None)
            tell((run.future,), error)


def tell(waiters: Iterable[asyncio.Future[Any]], error: SwellError) -> None:
    """Give an error to all that still wait."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
            waiter.exception()  # A sender that was cancelled never asks: it is not an error unheard.
