"""Owning shards: one blocking read over all of them, entries handed to a host, settles and leases beside it.

    leases --taken--> host.opened --> [ read --> decode --> host.deliver --> entry.ack / entry.kill ] --> settler
       |                                                                                                     |
       +--hand over--> stop reading --> host.closing (finish what runs) --> flush <---------------------------+
       +--lost-------> host.lost (drop everything; the next owner reads it again)

Workers own the agents' shards, the manager that leads owns `control`, the metrics service owns `metrics`: the same
consumer serves all three. A worker reads the inboxes of each priority by themselves, all at the same time: when its
host has no room for normal messages, it still reads the urgent ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from swell.backoff import RECONNECT
from swell.bus.broker import Broker, Delivered, Inheritance, Lease
from swell.bus.careful import CarefulLine, GiveUp, Spares
from swell.bus.entry import Entry
from swell.bus.leases import LeaseKeeper
from swell.bus.settler import Settler
from swell.bus.shard import Inbox, OwnedShard
from swell.codec import MAX_BATCH_MESSAGES, decode_batch, encode
from swell.errors import BrokerError, GroupGone, WireError
from swell.instruments import Recorder
from swell.letters import malformed
from swell.priority import NORMAL, split
from swell.wire import Batch, WorkerInfo

log = logging.getLogger(__name__)

BLOCK_MS = 2000
#: Messages that one read should bring; COUNT follows from it and from how full the last entries were. More would
#: leave the caches before they are handled: 4096 cost a fifth of the throughput where this was measured.
READ_MESSAGES = 1024
MAX_COUNT = 256


class Host(Protocol):
    """What a service does with the messages of its shards."""

    async def opened(self, shard: OwnedShard, inherited: Inheritance) -> None:
        """A shard is ours; nothing of it was delivered yet."""
        ...

    def deliver(self, entry: Entry, batch: Batch) -> None:
        """Take the messages of an entry, except those whose flag is set; end each by `ack` or `kill`, now or later."""
        ...

    async def closing(self, shard: OwnedShard) -> None:
        """Finish what runs and begin nothing more; what waits is dropped, the next owner reads it again."""
        ...

    def lost(self, shard: OwnedShard) -> None:
        """Drop everything of the shard at once; nothing of it can be written any more."""
        ...

    def room(self, rank: int) -> bool:
        """Whether more of this priority may be read now. Whoever answers False calls `Consumer.resume` later."""
        ...


class Consumer:
    """A process's share of the shards of one role.

    Args:
        broker: the server.
        info: what the process says of itself; its name and role are those of the consumer.
        shards: all shards of the role.
        host: takes the messages.
        lease_ms: how long a lease lasts.
        recorder: counts takeovers, stale settles, malformed entries.
        max_deliveries: owners that may die holding an entry before its messages are handled one at a time.
        give_up: takes a message that killed its processes; without it no entry is ever suspect.
        ranks: of the priorities that are read.

    Attributes:
        owned: the shards that are ours, by name.
        settler: where replies are handed in.
    """

    def __init__(
        self,
        broker: Broker,
        info: WorkerInfo,
        shards: Sequence[str],
        host: Host,
        *,
        lease_ms: int,
        recorder: Recorder,
        max_deliveries: int = 0,
        give_up: GiveUp | None = None,
        ranks: Sequence[int] = (NORMAL,),
    ) -> None:
        self._broker = broker
        self._process = info.process
        self._info = info
        self._host = host
        self._recorder = recorder
        self._changed = asyncio.Event()
        self._resumed = asyncio.Event()
        #: How often what is to be read has changed.
        self._changes = 0
        self._lines = [_ReadLine(rank) for rank in ranks]
        self.owned: dict[str, OwnedShard] = {}
        self.settler = Settler(broker, self.owned, recorder, self.lost)
        self._max_deliveries = max_deliveries
        self._careful: CarefulLine | None = None
        if give_up is not None:
            self._careful = CarefulLine(broker, self.settler, host.deliver, give_up, self._read_on)
        self._keeper = LeaseKeeper(
            broker, info.role, info.process, shards, self.owned, self, lease_ms, lambda: _beat(info)
        )

    def record(self, shard: str, id: str, record: bytes | None) -> None:
        """Write a record (None: delete it) with the messages of that shard that end in the same turn of the loop."""
        owned = self.owned.get(shard)
        if owned is not None:
            owned.record(id, record)

    def resume(self) -> None:
        """There is room again."""
        self._resumed.set()

    def ready(self) -> tuple[bool, str]:
        """Whether this consumer makes progress, and how we know."""
        if self._keeper.problem:
            return False, self._keeper.problem
        problem = next((line.problem for line in self._lines if line.problem), self.settler.problem)
        if problem:
            return False, problem
        if self._info.held:
            return True, f"paused; owns {len(self.owned)} shards"
        if len(self.owned) < self._keeper.share:
            return False, f"owns {len(self.owned)} of its {self._keeper.share} shards so far"
        return True, f"owns {len(self.owned)} of {self._keeper.share} shards"

    @property
    def members(self) -> list[str]:
        """All processes of our role that live."""
        return self._keeper.members

    @property
    def sharers(self) -> list[str]:
        """Those of them that take shards."""
        return self._keeper.sharers

    def hold(self, held: bool) -> None:
        """Own no shard as long as we are held; others hear of it by our heartbeats."""
        if held != self._info.held:
            log.info("shards are handed over: this process is paused" if held else "shards are taken again")
            self._info.held = held
            self._keeper.look_now()

    def on_tick(self, look: Callable[[], None]) -> None:
        """Have this called whenever the leases, and who lives, were looked at."""
        self._keeper.on_tick = look

    def spare(self, spares: Spares) -> None:
        """Have no owner's death held against messages that are not begun, as this tells."""
        if self._careful is not None:
            self._careful.spares = spares

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Own and read shards until `stop`, then hand all of them over, within `drain_s` seconds."""
        async with asyncio.TaskGroup() as group:
            handing: set[asyncio.Task[None]] = set()

            def spawn(hand_over: Coroutine[Any, Any, None]) -> None:
                task = group.create_task(hand_over)
                handing.add(task)
                task.add_done_callback(handing.discard)

            keeping = group.create_task(self._keeper.run(spawn))
            reading = [self._read_loop(line) for line in self._lines]
            others = [group.create_task(work) for work in (*reading, self.settler.run())]
            if self._careful is not None:
                others.append(group.create_task(self._careful.run()))
            await stop.wait()
            self._keeper.leave()
            _, unfinished = await asyncio.wait((keeping,), timeout=drain_s)
            if unfinished:
                left = {one.name: len(one.open) for shard in self.owned.values() for one in shard.inboxes if one.open}
                log.error("drain ran out of time; the next owner reads again what is left", extra={"entries": left})
                keeping.cancel()
            for task in (*handing, *others):
                task.cancel()
            for shard in list(self.owned.values()):
                self.lost(shard)

    # What the lease keeper tells us.

    async def taken(self, lease: Lease, inherited: Inheritance, trusted_until_ns: int) -> None:
        """See `Holder.taken`."""
        shard = OwnedShard(lease, inherited, trusted_until_ns, self.settler.dirty)
        for inbox in shard.inboxes:
            # If it was ours before, the read under way may be given entries of the new group, which has our name too.
            inbox.recover = True
            if self._careful is not None:
                inbox.suspects = {id for id, deaths in inbox.deliveries.items() if deaths >= self._max_deliveries}
        await self._host.opened(shard, inherited)
        self.owned[shard.name] = shard
        self._recorder.count("takeovers")
        self._recorder.count("redelivered", by=sum(sum(inbox.deliveries.values()) for inbox in shard.inboxes))
        self._changed.set()
        await self._wake_reader()

    async def hand_over(self, shard: OwnedShard) -> None:
        """See `Holder.hand_over`."""
        shard.stop()
        await self._wake_reader()
        await self._host.closing(shard)
        await self.settler.flush()
        # One call settles so many entries and no more; released with some left, their messages would be handled again.
        while self.owned.get(shard.name) is shard and shard.unwritten:
            await self.settler.flush()
        if self._careful is not None:
            await self._careful.take_back(shard)

    def lost(self, shard: OwnedShard) -> None:
        """See `Holder.lost`."""
        if self.owned.get(shard.name) is shard:
            del self.owned[shard.name]
            shard.stop()
            self._recorder.count("leases_lost")
            if self._careful is not None:
                self._careful.forget(shard)
            self._host.lost(shard)
            self._keeper.look_now()

    async def _wake_reader(self) -> None:
        """Have the read that waits now end, so that the next is over the shards as they are; else it ends by itself."""
        self._changes += 1
        try:
            await self._broker.wake()
        except BrokerError as error:
            log.info("the read under way could not be woken: %s", error)

    async def _read_on(self, inbox: Inbox) -> None:
        """A suspect entry is through: what was read behind it and held back is pending, and comes first."""
        inbox.waiting = False
        inbox.recover = True
        self._changed.set()
        await self._wake_reader()

    # Reading.

    async def _read_loop(self, line: _ReadLine) -> None:
        failures = 0
        while True:
            changes = self._changes
            found = (shard.inboxes[line.rank] for shard in self.owned.values() if shard.reading)
            inboxes = [inbox for inbox in found if not inbox.waiting]
            if not inboxes:
                self._changed.clear()
                await self._changed.wait()
                continue
            while not self._host.room(line.rank):
                self._resumed.clear()
                await self._resumed.wait()
            try:
                for inbox in inboxes:
                    if inbox.recover:
                        await self._recover(inbox, line)
                if changes != self._changes:
                    continue  # Meanwhile; and no read waited that could have been woken.
                names = [inbox.name for inbox in inboxes]
                delivered = await self._broker.read(self._process, names, line.count(len(names)), BLOCK_MS)
                line.problem = ""
                failures = 0
                if delivered:
                    self._dispatch(delivered, line)
                    # The agents that were woken run before the next read is prepared.
                    await asyncio.sleep(0)
            except GroupGone:
                await self._find_gone(inboxes)
            except BrokerError as error:
                failures += 1
                line.problem = str(error)
                if failures == 1:
                    log.warning("read waits: %s", error)
                for inbox in inboxes:
                    inbox.recover = True
                await asyncio.sleep(RECONNECT.wait_s(failures))

    async def _recover(self, inbox: Inbox, line: _ReadLine) -> None:
        """Deliver what was handed to us in a reply that was lost; nothing newer was delivered since."""
        after = "0"
        while True:
            # What is open now may be settled before the answer is here: then it is not open any more, and not lost.
            known = set(inbox.open)
            page = await self._broker.pending(self._process, inbox.name, after, 64)
            if not page:
                break
            after = page[-1].id
            self._dispatch([one for one in page if one.id not in known], line, again=True)
            if inbox.waiting:
                return  # What is behind the suspect entry comes when that is through.
        inbox.recover = False

    async def _find_gone(self, inboxes: Sequence[Inbox]) -> None:
        """One of the shards has lost our group: somebody else's now, or the server was flushed. Lose it."""
        for inbox in inboxes:
            shard = inbox.shard
            try:
                await self._broker.pending(self._process, inbox.name, "0", 1)
            except GroupGone:
                if shard.reading:
                    log.warning("group gone", extra={"shard": shard.name, "epoch": shard.lease.epoch})
                    self.lost(shard)
            except BrokerError as error:
                log.warning("read waits: %s", error)
                await asyncio.sleep(RECONNECT.wait_s(1))

    def _dispatch(self, delivered: Sequence[Delivered], line: _ReadLine, *, again: bool = False) -> None:
        """Decode entries and hand them to the host; what is no batch is dead at once.

        Behind a suspect entry nothing is handed over: it is read `again` when that is through.
        """
        now = time.monotonic_ns()
        messages = 0
        deliver, rank = self._host.deliver, line.rank
        for one in delivered:
            id, count, payload = one.id, one.count, one.payload
            shard = self.owned.get(one.shard if rank == NORMAL else split(one.shard)[0])
            if shard is None or now >= shard.trusted_until_ns:
                # Handed over while the read was under way, or lapsed: the next owner reads it again.
                if shard is not None and shard.reading:
                    self.lost(shard)
                continue
            inbox = shard.inboxes[rank]
            if inbox.waiting or (inbox.recover and not again):
                continue
            messages += count
            try:
                batch = decode_batch(payload, count)
            except WireError as error:
                self._recorder.count("malformed")
                log.error("malformed entry: %s", error, extra={"shard": one.shard, "entry": id})
                entry = inbox.opened(id, count, 0, now)
                entry.kill_all(malformed(entry, payload, str(error)))
                continue
            entry = inbox.opened(id, count, len(payload), now)
            if inbox.suspects and id in inbox.suspects:
                self._suspect(entry, batch)
            else:
                deliver(entry, batch)
        if delivered:
            line.mean_count = min(MAX_BATCH_MESSAGES, max(1.0, messages / len(delivered)))

    def _suspect(self, entry: Entry, batch: Batch) -> None:
        """Owners died with this entry: its messages are handled one at a time, and what is behind it waits."""
        assert self._careful is not None
        entry.inbox.suspects.discard(entry.id)
        entry.inbox.waiting = True
        self._careful.put(entry, batch)


class _ReadLine:
    """The reading of the inboxes of one priority.

    Attributes:
        rank: of the priority.
        mean_count: messages of an entry, as of the last read.
        problem: why it cannot be read now; empty if it can.
    """

    __slots__ = ("mean_count", "problem", "rank")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.mean_count = 1.0
        self.problem = ""

    def count(self, inboxes: int) -> int:
        """Entries to ask of each inbox, so that a read brings about READ_MESSAGES."""
        return max(1, min(MAX_COUNT, int(READ_MESSAGES / (self.mean_count * inboxes))))


def _beat(info: WorkerInfo) -> bytes:
    """What a process says of itself with its next heartbeat."""
    info.beats += 1
    return encode(info)
