"""Sending by those who wait for room only so long.

    wait over --> room was the trouble   --> taken out of line or batch: Busy, it was not appended
              --> the server is away     --> not sent yet: taken out, NotAppended
              |                              sent and not answered: BrokerUnavailable, it may have been appended
              --> neither                --> it is on its way, and its answer decides: appended, or one of the above

The limit is for the wait, not for the call: a message that is on its way when the wait is over is told of when the
server has answered, or its connection was given up (5 s).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from swell.bus.lane import Batch, Lane, Place, Run, tell
from swell.errors import BrokerUnavailable, Busy, NotAppended, SwellError

if TYPE_CHECKING:
    from swell.bus.producer import Producer


class LimitedSend:
    """One call of a sender that limits its wait.

    Args:
        producer: appends.
        wait_s: the most to wait for room, seconds; 0 or less for not at all.
    """

    def __init__(self, producer: Producer, wait_s: float) -> None:
        self._producer = producer
        self._wait_s = wait_s
        self._overdue = wait_s <= 0
        self._runs: list[tuple[Lane, Run]] = []
        self._newest: dict[Lane, Run] = {}
        self._refused: dict[Lane, SwellError] = {}

    async def send(self, messages: Iterable[tuple[str, tuple[Any, ...]]]) -> int:
        """Append (shard, message) pairs; returns their number when all are durable.

        Those of one shard are appended in the order given; once one of them was refused, none behind it is appended.
        So of the messages to one agent those that were not appended are the last, and sending `Busy.unsent` again, in
        that order, keeps theirs.

        Raises:
            WireError: a message cannot be encoded or is too large; those before it are sent.
            Busy: there was no room for some, which `unsent` lists; the others (`sent`) are durable.
            NotAppended: the server was away; the text says how many are durable, and the others were not appended.
            BrokerUnavailable: the server was away; the text says how many are durable, and how many may be.
            BrokerRefused: the server refuses one of the appends for good.
        """
        unsent: list[int] = []
        timer = None if self._overdue else asyncio.get_running_loop().call_later(self._wait_s, self._expire)
        count = 0
        try:
            try:
                for number, (shard, message) in enumerate(messages):
                    count += 1
                    if not await self._give(self._producer.lane(shard), message, number):
                        unsent.append(number)
            finally:
                self._producer.wake()
            if self._overdue:
                self._strike()
            return await self._outcome(count, unsent)
        finally:
            if timer is not None:
                timer.cancel()

    async def post(self, shard: str, message: tuple[Any, ...], answer: asyncio.Future[Any]) -> None:
        """Hand over a message that will be answered; returns when it is in a batch.

        Raises:
            WireError: the message cannot be encoded or is too large.
            Busy, NotAppended: it was refused in line. A refusal later is given to `answer`.
        """
        if not self._overdue:
            asyncio.get_running_loop().call_later(self._wait_s, self._expire)
        lane = self._producer.lane(shard)
        self._newest[lane] = Run(answer, asked=True, overdue=self._overdue)
        try:
            if not await self._give(lane, message, 0):
                raise self._refused[lane]
        except Busy as error:
            self._producer.count_refusal(error)
            raise
        self._producer.wake()
        if self._overdue:
            self._strike()

    async def _give(self, lane: Lane, message: tuple[Any, ...], number: int) -> bool:
        """Put a message into a batch, if need be after a wait in line; False if it, or one before it, was refused."""
        newest = self._newest.get(lane)
        if newest is not None and newest.future.done() and newest.future.exception() is not None:
            return False
        if lane in self._refused:
            return False
        run = newest or self._new_run()
        added = None if lane.room or lane.is_full(time.monotonic()) else lane.add_limited(message, run, number)
        if added is None:
            return await self._in_line(lane, message, number)
        self._known(lane, added)
        return True

    async def _in_line(self, lane: Lane, message: tuple[Any, ...], number: int) -> bool:
        newest = self._newest.get(lane)
        run = newest if newest is not None and newest.asked else self._new_run()
        place = Place(message, run.future, run.asked)
        place.run, place.number = run, number
        waiting = self._producer.in_line(lane, place)
        if self._overdue:
            asyncio.get_running_loop().call_soon(self._producer.strike, lane)
        self._runs.append((lane, run))
        try:
            await waiting
        except (Busy, NotAppended) as error:
            self._runs.remove((lane, run))
            self._refused[lane] = error
            return False
        self._newest[lane] = run
        return True

    def _new_run(self) -> Run:
        return Run(asyncio.get_running_loop().create_future(), asked=False, overdue=self._overdue)

    def _known(self, lane: Lane, run: Run) -> None:
        if self._newest.get(lane) is not run or run.asked:
            self._newest[lane] = run
            self._runs.append((lane, run))

    def _expire(self) -> None:
        """The wait is over."""
        self._overdue = True
        for _, run in self._runs:
            run.overdue = True
        self._strike()

    def _strike(self) -> None:
        for lane in {lane: None for lane, _ in self._runs}:
            self._producer.strike(lane)

    async def _outcome(self, count: int, unsent: list[int]) -> int:
        """Wait until each message is durable or refused, and say so."""
        errors = list(self._refused.values())
        doubtful = 0
        for _, run in self._runs:
            try:
                await run.future
            except (Busy, NotAppended) as error:
                unsent += run.numbers
                errors.append(error)
            except SwellError as error:
                doubtful += len(run.numbers)
                errors.insert(0, error)
        if not errors:
            return count
        sent = count - len(unsent) - doubtful
        worst = next((error for error in errors if not isinstance(error, Busy)), errors[0])
        if isinstance(worst, Busy):
            self._producer.count_refusal(worst)
            worst = worst.of_many(sent, sorted(unsent))
        elif count > 1:
            worst = type(worst)(f"{worst} ({sent} of {count} are appended, {doubtful} may be, {len(unsent)} are not)")
        raise worst


def let_go(lane: Lane, away: str, flying: Collection[Batch], now: float) -> list[SwellError]:
    """Tell all senders to a shard that will not wait any longer.

    Args:
        lane: the shard's, which is full, or its server is away.
        away: why the server does not answer; empty if it does.
        flying: the batches on their way now: their answer says more.
        now: monotonic seconds.

    Returns:
        what askers were told, who do not count it themselves.
    """
    error = NotAppended(f"{away}: it was not appended") if away else lane.busy(now)
    told: list[SwellError] = []
    for run, place in [(run, place) for run, place in lane.limited.items() if run.overdue]:
        if run.batch is None:
            assert place is not None
            lane.leave(place)
            tell((place.turn,), error)
        elif run.batch in flying:
            continue
        elif run.batch.doubtful:
            lane.give_up(run, BrokerUnavailable(f"{away or error}: it may have been appended, or may be yet"))
        else:
            lane.take_out(run, error)
            if run.asked:
                told.append(error)
    return told
