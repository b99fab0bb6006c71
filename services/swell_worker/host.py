"""The worker's side of the consumer: messages to mailboxes, and what becomes of them back to their entries.

Consumer.deliver --> Fleet: cell of the agent? --yes--> mailbox (or parked, if it is full) --> cell.turn
                                   |
                                   +--no---> $spawn: a new cell;  else: dead letter, unknown agent
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from swell.app import App
from swell.bus.broker import Broker, Inheritance
from swell.bus.consumer import Consumer
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.client import Client
from swell.codec import encode
from swell.errors import WireError
from swell.instruments import Recorder
from swell.keys import state_id
from swell.priority import NORMAL
from swell.wire import SPAWN, TO_SHARD, Batch, Message, Series
from swell_worker.cell import Cell
from swell_worker.due import DueMessages
from swell_worker.endings import Endings
from swell_worker.events import Events
from swell_worker.executor import Failed
from swell_worker.life import Life
from swell_worker.limits import KEEP
from swell_worker.mailbox import Mailbox
from swell_worker.outcomes import Outcomes
from swell_worker.oversight import Oversight
from swell_worker.parking import unpark
from swell_worker.pools import Pools
from swell_worker.requests import REQUESTS
from swell_worker.shard_agents import ShardAgents, by_age, decode_spawn
from swell_worker.tasks import Tasks
from swell_worker.turns import Turns
from swell_worker.unborn import await_birth, stillborn
from swell_worker.unhandled import over_early

log = logging.getLogger(__name__)

#: How long a shard that we lost and have again waits for what still ends of its former life, seconds.
MOST_ENDING_S = 0.2
#: Agents that a takeover may be starting at one moment.
MOST_RESTARTS = 200
#: Payload bytes held for waiting messages, above which only idle agents are given more.
MOST_HELD_BYTES = 64 << 20


class Fleet(Endings):
    """All agents that this worker hosts: the `Host` of its consumer.

    Args:
        app: the types it may run.
        broker: for parked messages.
        client: what agents send with.
        recorder: where everything is counted.
        mailbox: messages waiting for one agent before further ones are parked.
        buffer: messages waiting for all agents that keep up, before reading pauses.

    Attributes:
        wall_ns: what to add to the monotonic clock for nanoseconds since 1970.
    """

    def __init__(
        self, app: App, broker: Broker, client: Client, recorder: Recorder, *, mailbox: int, buffer: int
    ) -> None:
        super().__init__(client, recorder)
        self.app = app
        self.restarts = asyncio.Semaphore(MOST_RESTARTS)
        self.wall_ns = time.time_ns() - time.monotonic_ns()
        self._broker = broker
        self._mailbox = mailbox
        self._buffer = buffer
        self._shards: dict[str, ShardAgents] = {}
        self._awake: set[Cell] = set()
        self._turns = Turns()
        # Tasks of shards that were lost, still ending: the same shard, ours again, waits for them.
        self._ending: dict[str, list[asyncio.Task[None]]] = {}
        self._pausing: set[int] = set()
        self._sentinel: asyncio.Task[Any] | None = None
        self._ends: Callable[[], int] = int
        self.due = DueMessages(self, broker)
        self._due: asyncio.Task[None] | None = None
        #: What agents emit with: kept, for each access would make a new object.
        self.emitter = self.emit_of
        self.events = Events(self, app, broker)
        self.pools = Pools(app, recorder)
        self.tasks = Tasks(self)
        self.outcomes = Outcomes(self)
        self.oversight = Oversight(self)

    def attach(self, consumer: Consumer, group: asyncio.TaskGroup) -> None:
        """Give the consumer whose host this is, and the group in which agents run."""
        self._consumer = consumer
        self._turns.attach(group)
        # Cancelled in the same instant as all agents, if the group ends because one of its tasks failed.
        self._sentinel = group.create_task(asyncio.Event().wait())
        self._ends = self._sentinel.cancelling
        self._due = group.create_task(self.due.run())
        self.events.attach(group)
        self.pools.attach(group)
        self.tasks.attach(group)
        self.outcomes.attach(group)
        self.oversight.passivation.attach(group)

    @property
    def ending(self) -> bool:
        """Whether the worker ends at once: nothing new may begin, and cancellations are meant."""
        return self._ends() > 0

    @property
    def awake(self) -> set[Cell]:
        """The agents that are doing something now."""
        return self._awake

    def count(self) -> int:
        """Agents hosted."""
        return sum(len(agents.cells) for agents in self._shards.values())

    # Host: what the consumer tells us.

    async def opened(self, shard: OwnedShard, inherited: Inheritance) -> None:
        """See `Host.opened`: agents that lived here before are started again, beside the work."""
        ending = self._ending.pop(shard.name, [])
        if ending:
            await asyncio.wait(ending, timeout=MOST_ENDING_S)
        agents = self._shards[shard.name] = ShardAgents()
        self.due.opened(shard)
        self.events.opened(shard, inherited.records)
        self.tasks.opened(shard, inherited.records)
        self.outcomes.opened(shard, inherited.records)
        self.oversight.opened(shard, inherited.records, agents.cells)
        for id, record in by_age(inherited.records):
            type = self.app.types.get(record.type)
            if record.state in ("stopped", "failed"):
                agents.ended[id] = record
            elif type is None:
                log.error("agent of unknown type not restarted", extra={"agent": id, "app": self.app.name})
            elif record.state == "spawning":  # Its $spawn is in the stream still and starts it.
                agents.unborn[id] = Cell(self, shard, type, record)
            else:
                record.state = "ready"
                cell = agents.cells[id] = Cell(self, shard, type, record, inherited.records.get(state_id(id)))
                self.events.back(cell)
                if self.oversight.back(cell):
                    self.wake(cell)

    def deliver(self, entry: Entry, batch: Batch) -> None:
        """See `Host.deliver`."""
        shard = entry.shard
        self.wall_ns = time.time_ns() - time.monotonic_ns()
        cells = self._shards[shard.name].cells
        limit = self._mailbox if shard.held_bytes < MOST_HELD_BYTES else 1
        flags, rank = entry.flags, entry.inbox.rank
        normal = rank == NORMAL
        find = cells.get
        parked = 0
        index = 0
        for series in _unsettled(batch, flags) if 1 in flags else batch.series:
            if series is None:
                index += 1
                continue  # Settled by the shard's former owner.
            count = series.count
            cell = find(series.to)
            if cell is None:
                for place, message in enumerate(series.messages()):
                    self._without_cell(entry, index + place, message)
            else:
                entry.mark(cell.settled, series.sent_us, count)
                box = cell.mailbox if normal else cell.box(rank)
                if box.parked or (box.waiting >= limit and box.behind >= limit):
                    if series.expires_us and over_early(cell, entry, index, series):
                        index += count
                        continue
                    box.parked.extend((entry, at) for at in range(index, index + count))
                    parked += count
                else:
                    box.put(entry, index, series)
                    if cell.resting:
                        self.wake(cell)
                    elif cell.boxes is not None:
                        cell.hurry()
                        self._turns.hurry(cell, rank)
            index += count
        if parked:
            self.recorder.count("parked", by=parked)
            entry.parked += parked
            if entry.left <= entry.parked:
                entry.inbox.quiet(entry)

    async def closing(self, shard: OwnedShard) -> None:
        """See `Host.closing`: what runs is finished; the rest of each mailbox is the next owner's."""
        self.due.closed(shard)
        await self.events.closing(shard.name)
        await self.tasks.closing(shard)
        agents = self._shards.get(shard.name)
        running = self._tasks_of(shard)
        if running:
            await asyncio.wait(running)
        # Unless it was lost and is ours again: then these are the agents of its next life.
        if self._shards.get(shard.name) is agents:
            self.oversight.closed(shard)
            del self._shards[shard.name]
            if agents is not None:
                agents.drop()

    def lost(self, shard: OwnedShard) -> None:
        """See `Host.lost`."""
        self.due.closed(shard)
        self.events.lost(shard.name)
        self.tasks.lost(shard)
        self.oversight.closed(shard)
        here = asyncio.current_task()
        # Not the one that found it out: its turn ends by itself, and that task may have other agents' turns to run.
        ending = [task for task in self._tasks_of(shard) if task is not here]
        for task in ending:
            task.cancel()
        self._ending[shard.name] = ending
        agents = self._shards.pop(shard.name, None)
        if agents is not None:
            agents.drop()

    def end(self) -> None:
        """Cancel whatever still runs: nothing of it is ours any more."""
        for task in (self._sentinel, self._due):
            if task is not None:
                task.cancel()
        self.events.end()
        self.tasks.end()
        self.outcomes.end()
        self.oversight.end()
        self._turns.end()
        for cell in self._awake:
            if cell.task is not None:
                cell.task.cancel()

    def over(self) -> None:
        """The worker has ended, in whatever way: let go of all instances that are still here."""
        for agents in self._shards.values():
            agents.drop()
        self.pools.drop()

    def _tasks_of(self, shard: OwnedShard) -> list[asyncio.Task[None]]:
        return [cell.task for cell in self._awake if cell.shard is shard and cell.task is not None]

    def room(self, rank: int) -> bool:
        """See `Host.room`: agents that are behind (parked) do not count, or they would hold up the others."""
        left = self._buffer
        for cell in self._awake:
            box = cell.mailbox if rank == NORMAL else cell.boxes[rank] if cell.boxes is not None else None
            if box is not None and not box.parked:
                left -= box.waiting
                if left <= 0:  # Whatever the others have: they may be tens of thousands.
                    self._pausing.add(rank)
                    return False
        self._pausing.discard(rank)
        return True

    # Cells: what agents ask of us.

    def wake(self, cell: Cell) -> None:
        """A resting cell has something to do."""
        if cell.gate is not None and not cell.gate.admit(cell):
            return
        cell.resting = False
        self._awake.add(cell)
        if not self.ending:
            self._turns.add(cell, cell.rank)

    def ended(self, cell: Cell) -> None:
        """A cell's turn has ended."""
        more = not cell.idle and cell.shard.reading and not self.ending
        if more and cell.gate is None:
            self._turns.add(cell, cell.rank)
            return
        cell.rest()
        self._awake.discard(cell)
        if self._pausing and self._consumer is not None:
            self._consumer.resume()
        if cell.tended:
            self.oversight.rested(cell, more=more)
            if more:
                return
        if cell.record.state in ("stopped", "failed") and cell.idle:
            agents = self._shards.get(cell.shard.name)
            if agents is not None and agents.cells.get(cell.id) is cell:
                agents.bury(cell.shard, cell)

    async def unpark(self, cell: Cell, box: Mailbox) -> None:
        """Fetch the parked messages of an agent's drained mailbox again, as many as it takes."""
        if not await unpark(self._broker, cell, box, self._mailbox if cell.gate is None else KEEP):
            self._consumer_lost(cell.shard)

    def distrust(self, shard: OwnedShard) -> None:
        """A cell found that the lease can no longer be trusted: unless it is being handed over, the shard is lost."""
        if shard.reading:
            self._consumer_lost(shard)

    def _consumer_lost(self, shard: OwnedShard) -> None:
        assert self._consumer is not None
        self._consumer.lost(shard)

    def keep(self, cell: Life) -> None:
        """Write a cell's record with what ends in this turn of the loop."""
        cell.shard.record(cell.id, encode(cell.record))

    def poisoned(self, entry: Entry, index: int, message: Message, reason: str) -> None:
        """Give a message up whose handling killed one process after another; see `swell.bus.careful`."""
        agents = self._shards[entry.shard.name]
        if message.name == SPAWN and message.to not in agents.cells:
            # Its record says `spawning`: an agent that kills its process at its birth has failed.
            stillborn(self, agents, entry.shard, message.to, reason)
        self.end_dead(agents.cells.get(message.to), entry, index, message, Failed("poison", reason))

    def spares(self, shard: OwnedShard, message: Message) -> bool:
        """Whether a message would not be begun if it came now, so that it is no trial; see `swell.bus.careful`."""
        agents = self._shards.get(shard.name)
        return (agents is not None and agents.spares(message)) or self.oversight.holds.spares(shard, message)

    # Messages for which there is no cell.

    def _without_cell(self, entry: Entry, index: int, message: Message) -> None:
        agents = self._shards[entry.shard.name]
        born = agents.cells.get(message.to)
        if born is not None:  # By the message before it.
            born.box(entry.inbox.rank).put(entry, index, message.alone())
        elif message.name == SPAWN:
            self._spawn(agents, entry, index, message)
        elif message.to == TO_SHARD and message.name in REQUESTS:
            REQUESTS[message.name](self, agents, entry, index, message)
        elif (unborn := agents.unborn.get(message.to)) is not None:
            await_birth(self, unborn, entry, index, message)
        else:
            ended = agents.ended.get(message.to)
            if ended is None:
                reason = f"there is no agent {message.to}: it was never spawned"
            else:
                reason = f"agent {message.to} is {ended.state}" + (f": {ended.reason}" if ended.reason else "")
            self.end_dead(None, entry, index, message, Failed("unknown_agent", reason))

    def _spawn(self, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
        """Make the cell; its own task starts the agent, beside all others of its wave."""
        id = message.to
        type = self.app.types.get(id.partition("/")[0])
        if type is None:
            having = ", ".join(sorted(self.app.types))
            reason = f"app {self.app.name!r} has no agent type {id.partition('/')[0]!r}, only {having}"
            self.end_dead(None, entry, index, message, Failed("unknown_type", reason))
            return
        try:
            request = decode_spawn(message)
        except WireError as error:
            if id in agents.unborn:  # Another release began it.
                stillborn(self, agents, entry.shard, id, str(error))
            self.end_dead(None, entry, index, message, Failed("wrong_body", str(error)))
            return
        cell = agents.unborn.pop(id, None) or Cell(self, entry.shard, type, agents.conceived(id, request))
        agents.cells[id] = cell
        self.events.born(cell)
        self.oversight.holds.born(cell)
        self.keep(cell)
        cell.box(entry.inbox.rank).put(entry, index, message.alone())
        self.wake(cell)

    async def emit_of(self, agent: str, part: object) -> bool:
        """Send a part of what an agent's handler makes to who waits for it; False if nobody does."""
        agents = self._shards.get(self.client.shard(agent))
        cell = agents.cells.get(agent) if agents is not None else None
        if cell is None:
            await asyncio.sleep(0)  # The shard is lost: it has been cancelled, and hears of it here.
            return False
        await cell.breathe()
        if cell.asked is None:
            return False
        await self.emit(cell.asked, part)
        return True

    async def written(self) -> None:
        """Return when all that ended until now is written, or no longer ours to write."""
        assert self._consumer is not None
        await self._consumer.settler.flush()


def _unsettled(batch: Batch, flags: bytearray) -> Iterator[Series | None]:
    """Each message of an entry that was settled in part; None for those that were."""
    index = 0
    for series in batch.series:
        for one in series.singles():
            yield None if flags[index] else one
            index += 1
