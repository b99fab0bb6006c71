"""Appending without timers: what gathers while one append is in flight is the next one.

    send --> lane of the shard: [open batch] [full batch] ...      bounded: LANE_BATCHES
                     |
    flush: all lanes' batches in one call --> ok: wake the senders
                                              busy, or out of memory: keep it, try that lane again a little later
                                              server away: repeat the very same call
                                              gap: the server forgot us; begin again under a new name

Low load costs one round trip, high load gives full batches. A batch keeps its sequence number until the server has
said what became of it, so a call repeated after a time-out doubles no message. Senders wait as long as they say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from swell.backoff import BUSY, RECONNECT
from swell.bus.broker import Append, Appended, Broker
from swell.bus.lane import LANE_BATCHES, Batch, Lane, Place
from swell.bus.limited import LimitedSend, let_go
from swell.codec import Gathered
from swell.errors import BrokerError, BrokerFull, BrokerUnavailable, Busy, SwellError
from swell.instruments import Recorder
from swell.priority import room

log = logging.getLogger(__name__)

#: Batches of one shard in one call, and bytes of one call: bounds on how long the server is busy with us alone.
CALL_BATCHES = 4
MAX_CALL_BYTES = 4 << 20
#: The server forgets a producer a day after its last append: one that was idle for so long takes a new name, seconds.
FORGOTTEN_S = 43_200.0

_Waiter = asyncio.Future[None]


class Producer:
    """All appends of one process.

    Args:
        broker: where to.
        process: unique for each start; the producer's name.
        max_depth: unsettled messages a shard may hold.
        recorder: counts refusals for lack of room.

    Messages of one caller to one shard are appended in the order of the calls.
    """

    def __init__(self, broker: Broker, process: str, max_depth: int, recorder: Recorder) -> None:
        self._broker = broker
        self._process = process
        self._max_depth = max_depth
        self._recorder = recorder
        self._lanes: dict[str, Lane] = {}
        self._dirty = asyncio.Event()
        self._name = process
        self._names = 0
        self._closing = False
        self._ended = False
        #: Batches on their way to the server now, and why it does not answer.
        self._flying: Sequence[tuple[Lane, Batch]] = ()
        self._away = ""

    async def send(self, shard: str, message: tuple[Any, ...], wait_s: float | None = None) -> None:
        """Append one message; returns when it is durable. Cancelled, it no longer waits, and may be appended.

        Args:
            shard: where to.
            message: fields of `wire.Message`.
            wait_s: the most to wait for room, seconds; None for as long as it takes. See `swell.bus.limited`.

        Raises:
            WireError: the message cannot be encoded or is too large.
            Busy, NotAppended: see `wait_s`; it was not appended.
            BrokerRefused: the server refuses the append for good.
            BrokerUnavailable: the producer has ended; or see `wait_s`, it may have been appended.
        """
        if self._ended:
            raise _closed()
        if wait_s is not None:
            await LimitedSend(self, wait_s).send([(shard, message)])
            return
        lane = self._lanes.get(shard) or self.lane(shard)
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        # A sender that comes while others wait for room goes behind them, or order would be lost.
        batch = None if lane.room else lane.add(message)
        if batch is None:
            await self.in_line(lane, Place(message, waiter, False))
        else:
            batch.waiters.append(waiter)
            self._dirty.set()
        await waiter

    async def post(
        self,
        shard: str,
        message: tuple[Any, ...],
        answer: asyncio.Future[Any],
        timeout_s: float,
        wait_s: float | None = None,
    ) -> None:
        """Hand over a message that will be answered: the answer tells that it was appended.

        Returns when there is room for it, which is at once unless the shard's senders wait in line.

        Args:
            shard: where to.
            message: fields of `wire.Message`.
            answer: is given the error if the append fails for good.
            timeout_s: limit for the wait in line, seconds.
            wait_s: the most to wait for room, seconds, before `answer` is given the error; None for no such limit.

        Raises:
            WireError: the message cannot be encoded or is too large.
            TimeoutError: there was no room in time; the message was not sent.
            Busy, NotAppended: there was no room within `wait_s`; the message was not sent.
            BrokerUnavailable: the producer has ended.
        """
        if self._ended:
            raise _closed()
        if wait_s is not None:
            async with asyncio.timeout(timeout_s):
                await LimitedSend(self, wait_s).post(shard, message, answer)
            return
        lane = self._lanes.get(shard) or self.lane(shard)
        batch = None if lane.room else lane.add(message)
        if batch is None:
            async with asyncio.timeout(timeout_s):
                await self.in_line(lane, Place(message, answer, True))
        else:
            batch.calls.append(answer)
            self._dirty.set()

    async def send_many(self, messages: Iterable[tuple[str, tuple[Any, ...] | Gathered]]) -> int:
        """Append (shard, message or series) pairs; returns the number of messages when all are durable.

        Args:
            messages: each with the name of its shard.

        Raises:
            WireError: a message cannot be encoded or is too large; those before it are sent.
            BrokerRefused, BrokerUnavailable: as for `send`.
        """
        if self._ended:
            raise _closed()
        waiting: dict[Batch, _Waiter] = {}
        loop = asyncio.get_running_loop()
        lanes = self._lanes
        count = 0
        last: Batch | None = None
        try:
            for shard, message in messages:
                lane = lanes.get(shard) or self.lane(shard)
                batch = None if lane.room else lane.add(message)
                if batch is None:
                    waiter = loop.create_future()
                    last = await self.in_line(lane, Place(message, waiter, False))
                    waiting[last] = waiter
                elif batch is not last:
                    last = batch
                    if batch not in waiting:
                        waiter = waiting[batch] = loop.create_future()
                        batch.waiters.append(waiter)
                        if len(waiting) > 4 * LANE_BATCHES * len(lanes):
                            waiting = {b: w for b, w in waiting.items() if not _settled(w)}
                count += message.count if isinstance(message, Gathered) else 1
        finally:
            # Also when a message cannot be encoded, or giving them raises: those before it go.
            self._dirty.set()
        for waiter in waiting.values():
            await waiter
        return count

    async def send_limited(self, messages: Iterable[tuple[str, tuple[Any, ...]]], wait_s: float) -> int:
        """The same for a sender that waits for room at most `wait_s` seconds; see `LimitedSend.send`."""
        if self._ended:
            raise _closed()
        return await LimitedSend(self, wait_s).send(messages)

    def lane(self, shard: str) -> Lane:
        """The lane of an inbox, made when it is first asked for."""
        lane = self._lanes.get(shard)
        if lane is None:
            lane = self._lanes[shard] = Lane(shard, self._name, room(shard, self._max_depth))
        return lane

    def wake(self) -> None:
        """There is something to append."""
        self._dirty.set()

    async def in_line(self, lane: Lane, place: Place) -> Batch:
        """Wait in line until the message is in a batch; whoever gives up leaves the line.

        `Lane.let_in` puts it there itself: a sender that was only woken could be overtaken on its way, or be cancelled.
        """
        self._dirty.set()
        lane.stand(place)
        try:
            return await place.turn
        finally:
            if place.turn.cancelled():
                lane.leave(place)

    async def run(self) -> None:
        """Append what gathers, until `close` and nothing is left. Cancelled, it tells all who still wait."""
        try:
            while True:
                chosen = self._choose()
                if chosen:
                    await self._flush(chosen)
                    continue
                if self._closing and not any(lane.batches or lane.room for lane in self._lanes.values()):
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
        left = sum([lane.end(_closed()) for lane in self._lanes.values()])
        if left:
            log.error("closed before all was sent; the senders are told", extra={"messages": left})

    def close(self) -> None:
        """Let `run` end when all that was given to us is appended."""
        self._closing = True
        self._dirty.set()

    def _wait_s(self) -> float | None:
        """How long until a busy lane may be tried again; None if no lane waits."""
        times = [lane.not_before for lane in self._lanes.values() if lane.batches or lane.room]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _choose(self) -> list[tuple[Lane, Batch]]:
        """The batches of the next call: the oldest of each lane that need not wait."""
        chosen: list[tuple[Lane, Batch]] = []
        size = 0
        now = time.monotonic()
        for lane in self._lanes.values():
            if not (lane.batches or lane.room) or lane.not_before > now:
                continue
            if now - lane.used_at > FORGOTTEN_S:
                self._rename(lane)
            lane.used_at = now
            if not lane.batches:
                lane.let_in()  # What was there has been taken out; the first in line asks whether there is room now.
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

    def _begin_with(self, lane: Lane) -> None:
        """The next call begins with this lane, or those before it, always full, would keep it out."""
        for name in list(self._lanes):
            if name == lane.name:
                return
            self._lanes[name] = self._lanes.pop(name)

    async def _flush(self, chosen: list[tuple[Lane, Batch]]) -> None:
        """Append batches with one call for each name of ours and limit, repeating it while the server is away."""
        by_call: dict[tuple[str, int], list[tuple[Lane, Batch]]] = {}
        for lane, batch in chosen:
            by_call.setdefault((lane.producer, lane.most), []).append((lane, batch))
        self._flying = left = chosen
        # Those first that may fill a shard further: they are urgent.
        for call, group in sorted(by_call.items(), key=lambda one: -one[0][1]) if len(by_call) > 1 else by_call.items():
            appends = [Append(lane.name, batch.seq, batch.buffer.count, batch.payload) for lane, batch in group]
            try:
                answers = await self._append(call, appends, chosen)
            except BrokerFull as error:
                self._out_of_memory(group, error)
            except BrokerError as error:
                for lane, batch in group:
                    self._fail(lane, batch, error)
            else:
                for (lane, batch), answer in zip(group, answers, strict=True):
                    self._answered(lane, batch, answer)
            self._flying = left = [pair for pair in left if pair not in group] if len(by_call) > 1 else []
            for lane, _ in group:
                if lane.failures and lane.limited:
                    self.strike(lane)

    async def _append(
        self, call: tuple[str, int], appends: Sequence[Append], chosen: Sequence[tuple[Lane, Batch]]
    ) -> list[Appended]:
        """Append, again and again while the server is away; from the first time on nobody knows what it has done."""
        failures = 0
        try:
            while True:
                try:
                    return await self._broker.append(call[0], appends, call[1])
                except BrokerUnavailable as error:
                    failures += 1
                    self._recorder.count("append_retries")
                    if failures == 1:
                        log.warning("append waits: %s", error)
                    self._away = str(error)
                flying, self._flying = self._flying, ()
                for _, batch in chosen:
                    batch.doubtful = True
                for lane in self._lanes.values():
                    self.strike(lane)
                await asyncio.sleep(RECONNECT.wait_s(failures))
                self._flying = flying
        finally:
            self._away = ""

    def _out_of_memory(self, group: Sequence[tuple[Lane, Batch]], error: BrokerFull) -> None:
        """Nothing of a call was written, for the server lacks memory: that is a lack of room, too."""
        self._recorder.count("append_retries")
        now = time.monotonic()
        lanes = {lane.name: lane for lane, _ in group}.values()
        if not any(lane.reason and lane.failures for lane in lanes):
            log.warning("append waits: %s", error)
        for lane in lanes:
            lane.out_of_memory(str(error), now)
            lane.not_before = now + RECONNECT.wait_s(lane.failures)

    def _answered(self, lane: Lane, batch: Batch, answer: Appended) -> None:
        status, detail = answer
        if status in ("ok", "duplicate"):
            if status == "duplicate":
                self._recorder.count("duplicates")
            lane.taken(batch)
        elif status == "busy":
            self._recorder.count("busy_waits")
            now = time.monotonic()
            lane.refused(detail, max(0, detail + batch.buffer.count - lane.most), now)
            lane.not_before = now + BUSY.wait_s(lane.failures)
        elif batch is lane.batches[0]:
            # Behind a busy batch a gap is natural; at the head of a lane it means that the server lost what it knew.
            self._recorder.count("sequence_gaps")
            log.error("shard %s knows our batches up to %d, not %d: it lost data", lane.name, detail, batch.seq - 1)
            self._rename(lane)

    def count_refusal(self, error: SwellError) -> None:
        """A sender is told of an error."""
        if isinstance(error, Busy):
            self._recorder.count("busy_refusals")

    def strike(self, lane: Lane) -> None:
        """Let go all senders to this shard that will not wait any longer, if what they wait for is room, or the server.

        Batches on their way are left alone: the answer to them says more.
        """
        now = time.monotonic()
        if lane.limited and (self._away or lane.is_full(now)):
            for refusal in let_go(lane, self._away, {batch for _, batch in self._flying}, now):
                self.count_refusal(refusal)

    def _fail(self, lane: Lane, batch: Batch, error: SwellError) -> None:
        """Give a batch up: its senders are told, and the lane goes on under a new name (the number may be used)."""
        lane.fail(batch, error)
        self._rename(lane)
        lane.let_in()

    def _rename(self, lane: Lane) -> None:
        self._names += 1
        lane.producer = f"{self._name}.{self._names}"
        lane.seq = 0
        for batch in lane.batches:
            if batch.payload:
                lane.seq += 1
                batch.seq = lane.seq
                batch.payload = batch.buffer.batch(lane.producer, batch.seq)


def _closed() -> SwellError:
    return BrokerUnavailable(
        "this process's way to the server is closed: the message was not appended, or nobody knows"
    )


def _settled(waiter: _Waiter) -> bool:
    """Whether a waiter is done; one that failed raises its error here."""
    if waiter.done():
        waiter.result()
    return waiter.done()


__all__ = ["CALL_BATCHES", "LANE_BATCHES", "Producer"]
