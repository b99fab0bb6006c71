"""Messages for later: taken, stored beside their shard, and moved into the inbox when they are due.

    $later --> stored in the call that acks it --> told: due then --> timer --> fire: all that is due, in one call
                                                                        ^            |
                                                                        +------------+ when the next one is due

One task for all shards. It sleeps until the earliest is due, and is woken when an earlier one was stored; a shard that
we take over is asked at once. The server's clock decides what is due, so a timer that is early costs one more question.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from swell.backoff import RECONNECT
from swell.bus.broker import Broker
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.bus.timed import Fired, Next, Waiting
from swell.codec import decode
from swell.errors import BrokerError, SwellError, WrongBody
from swell.keys import shard_of
from swell.later import (
    Later,
    Unschedule,
    first_ms,
    key_of,
    kind_of,
    next_ms,
    payload,
    read_again,
    schedule_key,
    taken_ms,
    timed,
)
from swell.wire import Message
from swell_worker.executor import Failed

if TYPE_CHECKING:
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

#: However far the next one is, the server's clock is asked again after so long, in case somebody has set it; seconds.
MOST_SLEEP_S = 30.0
#: Some of what is stored takes the place of what was there: after so many the server is asked how many wait.
COUNT_AGAIN = 1000
#: A round trip that took longer says little of when the server looked at its clock, seconds.
MOST_TRIP_S = 0.01


class Watch:
    """One shard's next moment.

    Attributes:
        at: when to ask, monotonic seconds; None if nothing waits.
        ahead_s: the server's clock less our monotonic one, seconds.
        waiting: how many messages wait, as far as is known; `added` of them since the server said so.
        asking: whether the server is being asked now; `told_ms` is the earliest that was stored meanwhile.
        failures: times in a row that the server did not answer.
        line: removals that want to know whether there was anything (key, and the message that asks), and the requests
            behind them (key ""), in order.
    """

    def __init__(self, shard: OwnedShard) -> None:
        self.shard = shard
        self.at: float | None = time.monotonic()
        self.ahead_s = 0.0
        self.waiting = 0
        self.added = 0
        self.asking = False
        self.told_ms: int | None = None
        self.failures = 0
        self.line: deque[tuple[str, Entry, int, Message]] = deque()


class DueMessages:
    """All messages for later of the shards that this worker owns.

    Args:
        fleet: answers those who ask, and gives messages up.
        broker: where they wait.
    """

    def __init__(self, fleet: Fleet, broker: Broker) -> None:
        self._fleet = fleet
        self._broker = broker
        self._watches: dict[str, Watch] = {}
        self._news = asyncio.Event()

    def opened(self, shard: OwnedShard) -> None:
        """A shard is ours: ask what is due."""
        self._watches[shard.name] = watch = Watch(shard)
        shard.on_timed = partial(self._written, watch)
        self._news.set()

    def closed(self, shard: OwnedShard) -> None:
        """A shard is no longer ours, or soon will not be."""
        watch = self._watches.get(shard.name)
        if watch is not None and watch.shard is shard:
            del self._watches[shard.name]

    def look(self) -> None:
        """Ask at once what is due, whatever the timers say: the server's clock was moved."""
        for watch in self._watches.values():
            watch.at = 0.0
        self._news.set()

    # Requests, each a message to the shard.

    def later(self, entry: Entry, index: int, message: Message) -> None:
        """Store a message until it is due; the request is acked in the same call."""
        watch = self._watches.get(entry.shard.name)
        if watch is not None and watch.line:
            watch.line.append(("", entry, index, message))
        else:
            self._store(watch, entry, index, message)

    def _store(self, watch: Watch | None, entry: Entry, index: int, message: Message) -> None:
        shard = entry.shard
        try:
            later = decode(message.body, Later)
            self._check(shard, later)
            due_ms = first_ms(later, _ms(entry))
        except SwellError as error:
            self._fleet.end_dead(None, entry, index, message, Failed("wrong_body", str(error)))
            return
        if watch is not None:
            if watch.waiting >= self._fleet.client.max_depth:
                reason = f"{watch.waiting} messages wait for their time in shard {shard.name}, and no more may"
                self._fleet.end_dead(None, entry, index, message, Failed("too_many_wait", reason))
                return
            watch.waiting += 1
            watch.added += 1
            if watch.added >= COUNT_AGAIN:
                watch.added = 0
                self._ask(watch)
        shard.store(key_of(later, f"{entry.inbox.rank}.{entry.id}.{index}"), timed(later, due_ms, _ms(entry)))
        self._fleet.reply(message, due_ms)
        entry.ack(index)

    def _check(self, shard: OwnedShard, later: Later) -> None:
        if str(shard_of(later.to, self._fleet.client.shards)) != shard.name:
            raise WrongBody("", f"agent {later.to} does not live in shard {shard.name}")

    def unschedule(self, entry: Entry, index: int, message: Message) -> None:
        """Forget a schedule, and say whether there was one."""
        wanted = self._fleet.read(entry, index, message, Unschedule)
        if wanted is None:
            return
        self.remove(schedule_key(wanted.to, wanted.id), entry, index, message)

    def remove(self, key: str, entry: Entry, index: int, message: Message) -> None:
        """Remove what waits under a key, ack the message that asks for it, and say whether there was anything."""
        watch = self._watches.get(entry.shard.name)
        if watch is not None:
            watch.line.append((key, entry, index, message))
            self._ask(watch)

    def _ask(self, watch: Watch) -> None:
        """Ask the server at once, unless it is away."""
        if not watch.failures:
            watch.at = 0.0
        self._news.set()

    # Time.

    def _written(self, watch: Watch, due_ms: int) -> None:
        """The server has stored messages, the first of them due at `due_ms`."""
        if watch.asking:
            watch.told_ms = due_ms if watch.told_ms is None else min(due_ms, watch.told_ms)
            return
        at = due_ms / 1000 - watch.ahead_s
        if watch.at is None or at < watch.at:
            watch.at = at
            self._news.set()

    async def run(self) -> None:
        """Move what is due until cancelled."""
        while True:
            now = time.monotonic()
            times = [watch.at for watch in self._watches.values() if watch.at is not None]
            if not times or min(times) > now:
                try:
                    async with asyncio.timeout(min(times) - now if times else None):
                        await self._news.wait()
                except TimeoutError:
                    pass
            self._news.clear()
            for watch in list(self._watches.values()):
                if watch.at is not None and watch.at <= time.monotonic():
                    await self._serve(watch)

    async def _serve(self, watch: Watch) -> None:
        """Do what one shard's time asks for; if the server is away, a little later."""
        try:
            await self._fire(watch)
            while watch.line and watch.shard.reading:
                await self._next_in_line(watch)
            watch.failures = 0
        except BrokerError as error:
            watch.failures += 1
            if watch.failures == 1:
                log.warning("messages for later wait: %s", error, extra={"shard": watch.shard.name})
            watch.at = time.monotonic() + RECONNECT.wait_s(watch.failures)

    async def _fire(self, watch: Watch) -> None:
        nexts: list[Next] = []
        while self._watches.get(watch.shard.name) is watch:
            began = time.monotonic()
            watch.at, watch.told_ms, watch.asking = None, None, True
            try:
                fired = await self._broker.fire(watch.shard.lease, nexts)
            finally:
                watch.asking = False
            if fired is None:
                log.info("messages for later are another owner's", extra={"shard": watch.shard.name})
                self.closed(watch.shard)
                return
            looked = min(time.monotonic(), began + MOST_TRIP_S)
            watch.waiting, watch.added = fired.waiting, 0
            watch.ahead_s = fired.now_ms / 1000 - looked
            nexts = [one for due in fired.recurring if (one := self._next(watch, due, fired)) is not None]
            if not nexts and (fired.next_ms is None or fired.next_ms > fired.now_ms or not fired.moved):
                self._set(watch, fired)
                return

    def _set(self, watch: Watch, fired: Fired) -> None:
        """Set the timer; what was stored meanwhile may have set it to an earlier time."""
        due = [ms for ms in (fired.next_ms, watch.told_ms) if ms is not None]
        if not due:
            return
        now = time.monotonic()
        at = min(max(min(due) / 1000 - watch.ahead_s, now), now + MOST_SLEEP_S)
        watch.at = at if watch.at is None else min(watch.at, at)

    def _next(self, watch: Watch, due: Waiting, fired: Fired) -> Next | None:
        """The time of a recurring message that has come, and the one after it; missed times are left out."""
        try:
            later = read_again(due.value)
            then = next_ms(later, due.due_ms, fired.now_ms)
        except SwellError as error:
            log.error("schedule cannot be read, it is removed: %s", error, extra={"shard": watch.shard.name})
            watch.shard.store(due.id, None)
            return None
        return Next(due.id, due.due_ms, then, payload(later, due.due_ms), kind_of(later))

    async def _next_in_line(self, watch: Watch) -> None:
        """Remove something, and say whether it was there.

        What was stored before is written first. Nothing is moved into the inbox meanwhile, for that is done here too.
        """
        key, entry, index, message = watch.line[0]
        if not key:
            watch.line.popleft()
            self._store(watch, entry, index, message)
            return
        await self._fleet.written()
        stored = await self._broker.waits(watch.shard.name, key)
        if not watch.shard.reading:
            return
        watch.line.popleft()
        # A request that was long in its inbox may be read when another message waits under that id.
        there = stored is not None and taken_ms(stored) <= _ms(entry)
        if there:
            watch.shard.store(key, None)
        self._fleet.reply(message, there)
        entry.ack(index)
        await self._fleet.written()


def _ms(entry: Entry) -> int:
    """When the server took an entry, milliseconds since 1970."""
    return int(entry.id.partition("-")[0])
