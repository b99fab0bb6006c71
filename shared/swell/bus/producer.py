"""Appending without timers: what gathers while one append is in flight is the next one.

    send --> lane of the shard: [open batch] [full batch] ...      bounded: LANE_BATCHES
                     |
    flush: all lanes' batches in one call --> ok: wake the senders
                                              busy: keep it, try that lane again a little later
                                              server away: repeat the very same call
                                              gap: the server forgot us; begin again under a new name

Low load costs one round trip, high load gives full batches. A batch keeps its sequence number until the server has
said what became of it, so repeating a call after a time-out never doubles a message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from swell.backoff import BUSY, RECONNECT
from swell.bus.broker import Append, Appended, Broker
from swell.codec import MessageBuffer
from swell.errors import BrokerError, BrokerFull, BrokerUnavailable, SwellError, WireError
from swell.instruments import Recorder

log = logging.getLogger(__name__)

#: Batches that may gather for one shard before its senders wait.
LANE_BATCHES = 8
#: Batches of one shard in one call, and bytes of one call: bounds on how long the server is busy with us alone.
CALL_BATCHES = 4
MAX_CALL_BYTES = 4 << 20

_Waiter = asyncio.Future[None]


class _Batch:
    """Messages gathered for one shard, and who waits for them."""

    __slots__ = ("buffer", "calls", "payload", "seq", "waiters")

    def __init__(self) -> None:
        self.buffer = MessageBuffer()
        self.waiters: list[_Waiter] = []
        self.calls: list[asyncio.Future[Any]] = []
        self.seq = 0
        self.payload = b""


class _Place:
    """In line: `future` is the sender's or (`asked`) the asker's, `turn` is given the batch the message is put into."""

    __slots__ = ("asked", "future", "message", "turn")

    def __init__(self, message: tuple[Any, ...], future: asyncio.Future[Any], asked: bool) -> None:
        self.message = message
        self.future = future
        self.asked = asked
        self.turn: asyncio.Future[_Batch] = asyncio.get_running_loop().create_future()


class _Lane:
    """One shard's batches, oldest first; the newest is still open. `room` is the line of those that wait for room."""

    __slots__ = ("batches", "failures", "name", "not_before", "producer", "room", "seq")

    def __init__(self, name: str, producer: str) -> None:
        self.name = name
        self.producer = producer
        self.seq = 0
        self.batches: deque[_Batch] = deque()
        self.failures = 0
        self.not_before = 0.0
        self.room: deque[_Place] = deque()

    def add(self, message: tuple[Any, ...]) -> _Batch | None:
        """Put a message into the newest batch, or a new one; None if the lane is full."""
        batches = self.batches
        if batches:
            batch = batches[-1]
            if not batch.payload and batch.buffer.add(message):
                return batch
            if len(batches) >= LANE_BATCHES:
                return None
        batch = _Batch()
        batch.buffer.add(message)
        batches.append(batch)
        return batch


class Producer:
    """All appends of one process.

    Args:
        broker: where to.
        process: unique for each start; the producer's name.
        max_depth: unsettled messages a shard may hold.
        recorder: counts busy waits.

    Messages of one caller to one shard are appended in the order of the calls.
    """

    def __init__(self, broker: Broker, process: str, max_depth: int, recorder: Recorder) -> None:
        self._broker = broker
        self._process = process
        self._max_depth = max_depth
        self._recorder = recorder
        self._lanes: dict[str, _Lane] = {}
        self._dirty = asyncio.Event()
        self._name = process
        self._names = 0
        self._closing = False
        self._ended = False

    async def send(self, shard: str, message: tuple[Any, ...]) -> None:
        """Append one message (fields of `wire.Message`); returns when it is durable.

        Cancelled, it no longer waits; the message may be appended all the same.

        Raises:
            WireError: the message cannot be encoded or is too large.
            BrokerRefused: the server refuses the append for good.
            BrokerUnavailable: the producer has ended.
        """
        if self._ended:
            raise _closed()
        lane = self._lanes.get(shard) or self._lane(shard)
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        # A sender that comes while others wait for room goes behind them, or order would be lost.
        batch = None if lane.room else lane.add(message)
        if batch is None:
            await self._in_line(lane, _Place(message, waiter, False))
        else:
            batch.waiters.append(waiter)
            self._dirty.set()
        await waiter

    async def post(self, shard: str, message: tuple[Any, ...], answer: asyncio.Future[Any], timeout_s: float) -> None:
        """Hand over a message that will be answered: the answer tells that it was appended.

        Returns when there is room for it, which is at once unless the shard's senders wait in line.

        Args:
            shard: where to.
            message: fields of `wire.Message`.
            answer: is given the error if the append fails for good.
            timeout_s: limit for the wait in line, seconds.

        Raises:
            WireError: the message cannot be encoded or is too large.
            TimeoutError: there was no room in time; the message was not sent.
            BrokerUnavailable: the producer has ended.
        """
        if self._ended:
            raise _closed()
        lane = self._lanes.get(shard) or self._lane(shard)
        batch = None if lane.room else lane.add(message)
        if batch is None:
            async with asyncio.timeout(timeout_s):
                await self._in_line(lane, _Place(message, answer, True))
        else:
            batch.calls.append(answer)
            self._dirty.set()

    async def send_many(self, messages: Iterable[tuple[str, tuple[Any, ...]]]) -> int:
        """Append (shard, message) pairs; returns their number when all are durable.

        Raises:
            WireError: a message cannot be encoded or is too large; those before it are sent.
            BrokerRefused: the server refuses one of the appends for good.
            BrokerUnavailable: the producer has ended.
        """
        if self._ended:
            raise _closed()
        waiting: dict[_Batch, _Waiter] = {}
        loop = asyncio.get_running_loop()
        lanes = self._lanes
        count = 0
        last: _Batch | None = None
        try:
            for shard, message in messages:
                lane = lanes.get(shard) or self._lane(shard)
                batch = None if lane.room else lane.add(message)
                if batch is None:
                    waiter = loop.create_future()
                    last = await self._in_line(lane, _Place(message, waiter, False))
                    waiting[last] = waiter
                elif batch is not last:
                    last = batch
                    if batch not in waiting:
                        waiter = waiting[batch] = loop.create_future()
                        batch.waiters.append(waiter)
                        if len(waiting) > 4 * LANE_BATCHES * len(lanes):
                            waiting = {b: w for b, w in waiting.items() if not _settled(w)}
                count += 1
        finally:
            # Also when a message cannot be encoded, or giving them raises: those before it go.
            self._dirty.set()
        for waiter in waiting.values():
            await waiter
        return count

    def _lane(self, shard: str) -> _Lane:
        lane = self._lanes[shard] = _Lane(shard, self._name)
        return lane

    async def _in_line(self, lane: _Lane, place: _Place) -> _Batch:
        """Wait in line until the message is in a batch; whoever gives up leaves the line.

        `_let_in` puts it there itself: a sender that was only woken could be overtaken on its way, or be cancelled.
        """
        self._dirty.set()
        lane.room.append(place)
        try:
            return await place.turn
        finally:
            if place.turn.cancelled() and place in lane.room:
                lane.room.remove(place)

    async def run(self) -> None:
        """Append what gathers, until `close` and nothing is left. Cancelled, it tells all who still wait."""
        try:
            while True:
                chosen = self._choose()
                if chosen:
                    await self._flush(chosen)
                    continue
                if self._closing and not any(lane.batches for lane in self._lanes.values()):
                    return
                self._dirty.clear()
                try:
                    async with asyncio.timeout(self._wait_s()):
                        await self._dirty.wait()
                except TimeoutError:
                    continue
        finally:
            self._end()

    def _end(self) -> None:
        """Nothing is appended any more: whoever waits is told, and whoever comes later."""
        self._ended = True
        left = sum(sum(batch.buffer.count for batch in lane.batches) + len(lane.room) for lane in self._lanes.values())
        if left:
            log.error("closed before all was sent; the senders are told", extra={"messages": left})
        for lane in self._lanes.values():
            for batch in lane.batches:
                _tell((*batch.waiters, *batch.calls), _closed())
            _tell((place.turn for place in lane.room), _closed())
            lane.batches.clear()
            lane.room.clear()

    def close(self) -> None:
        """Let `run` end when all that was given to us is appended."""
        self._closing = True
        self._dirty.set()

    def _wait_s(self) -> float | None:
        """How long until a busy lane may be tried again; None if no lane waits."""
        times = [lane.not_before for lane in self._lanes.values() if lane.batches]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _choose(self) -> list[tuple[_Lane, _Batch]]:
        """The batches of the next call: the oldest of each lane that need not wait."""
        chosen: list[tuple[_Lane, _Batch]] = []
        size = 0
        now = 0.0
        for lane in self._lanes.values():
            if not lane.batches:
                continue
            if lane.not_before:
                now = now or time.monotonic()
                if lane.not_before > now:
                    continue
            # A lane that was busy is asked with one batch, not with all that has gathered.
            for batch in list(lane.batches)[: 1 if lane.failures else CALL_BATCHES]:
                if size > MAX_CALL_BYTES:
                    self._begin_with(lane)
                    return chosen
                if not batch.payload:
                    lane.seq += 1
                    batch.seq = lane.seq
                    batch.payload = batch.buffer.batch(lane.producer, batch.seq)
                size += len(batch.payload)
                chosen.append((lane, batch))
        return chosen

    def _begin_with(self, lane: _Lane) -> None:
        """The next call begins with this lane, or those before it, always full, would keep it out."""
        for name in list(self._lanes):
            if name == lane.name:
                return
            self._lanes[name] = self._lanes.pop(name)

    async def _flush(self, chosen: list[tuple[_Lane, _Batch]]) -> None:
        """Append batches with one call for each producer's name, repeating it while the server is away."""
        by_name: dict[str, list[tuple[_Lane, _Batch]]] = {}
        for lane, batch in chosen:
            by_name.setdefault(lane.producer, []).append((lane, batch))
        for name, group in by_name.items():
            appends = [Append(lane.name, batch.seq, batch.buffer.count, batch.payload) for lane, batch in group]
            failures = 0
            while True:
                try:
                    answers = await self._broker.append(name, appends, self._max_depth)
                except (BrokerUnavailable, BrokerFull) as error:
                    failures += 1
                    self._recorder.count("append_retries")
                    if failures == 1:
                        log.warning("append waits: %s", error)
                    await asyncio.sleep(RECONNECT.wait_s(failures))
                except BrokerError as error:
                    for lane, batch in group:
                        self._fail(lane, batch, error)
                    break
                else:
                    for (lane, batch), answer in zip(group, answers, strict=True):
                        self._answered(lane, batch, answer)
                    break

    def _answered(self, lane: _Lane, batch: _Batch, answer: Appended) -> None:
        status, detail = answer
        if status in ("ok", "duplicate"):
            lane.failures = 0
            lane.not_before = 0.0
            lane.batches.popleft()
            for waiter in batch.waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._let_in(lane)
        elif status == "busy":
            self._recorder.count("busy_waits")
            lane.failures += 1
            lane.not_before = time.monotonic() + BUSY.wait_s(lane.failures)
        elif batch is lane.batches[0]:
            # Behind a busy batch a gap is natural; at the head of a lane it means that the server lost what it knew.
            self._recorder.count("sequence_gaps")
            log.error("shard %s knows our batches up to %d, not %d: it lost data", lane.name, detail, batch.seq - 1)
            self._rename(lane)

    def _fail(self, lane: _Lane, batch: _Batch, error: SwellError) -> None:
        """Give a batch up: its senders are told, and the lane goes on under a new name (the number may be used)."""
        lane.batches.remove(batch)
        _tell((*batch.waiters, *batch.calls), error)
        self._rename(lane)
        self._let_in(lane)

    def _rename(self, lane: _Lane) -> None:
        self._names += 1
        lane.producer = f"{self._name}.{self._names}"
        lane.seq = 0
        for batch in lane.batches:
            if batch.payload:
                lane.seq += 1
                batch.seq = lane.seq
                batch.payload = batch.buffer.batch(lane.producer, batch.seq)

    def _let_in(self, lane: _Lane) -> None:
        """Put the messages that wait in line into batches, in order, as far as there is room."""
        room = lane.room
        while room:
            place = room[0]
            if not place.turn.done():
                try:
                    batch = lane.add(place.message)
                except WireError as error:
                    place.turn.set_exception(error)
                else:
                    if batch is None:
                        return
                    (batch.calls if place.asked else batch.waiters).append(place.future)
                    place.turn.set_result(batch)
            room.popleft()


def _tell(waiters: Iterable[asyncio.Future[Any]], error: SwellError) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
            waiter.exception()  # A sender that was cancelled never asks: it is not an error unheard.


def _closed() -> SwellError:
    return BrokerUnavailable(
        "this process's way to the server is closed: the message was not appended, or nobody knows"
    )


def _settled(waiter: _Waiter) -> bool:
    """Whether a waiter is done; one that failed raises its error here."""
    if waiter.done():
        waiter.result()
        return True
    return False


__all__ = ["CALL_BATCHES", "LANE_BATCHES", "Producer"]
