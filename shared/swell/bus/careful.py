"""Finding the message that kills its process, among all that its process held when it died.

    takeover --> an entry that `max_deliveries` owners died with is suspect; what lies behind it in its shard waits
      |
      +--> its messages one by one:  note the trial --> deliver it alone --> it ended, and that is recorded --> the next
                                          |
                                          +-- the process dies: the note stays. A message that ALONE_DEATHS owners
                                              tried and died with is given up, with the reason; its neighbours are not.

One process tries one message at a time, over all its shards: else a neighbour would be accused with the one that kills.
Entries that nobody died with go on beside it, in other shards. The note is written before the trial, so each death
names who was being tried; halving the suspects instead would cost a death for each halving.

A message that runs for CLEARED_S without harm does not hold up the next any longer; its note stays until it has ended.
One that is not begun, for its agent is held back or not born yet, is no trial: it is delivered without a note, and
nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from swell.backoff import RECONNECT
from swell.bus.broker import Broker, Lease
from swell.bus.entry import Entry
from swell.bus.settler import Settler
from swell.bus.shard import Inbox, OwnedShard
from swell.errors import BrokerError
from swell.wire import Batch, Message

log = logging.getLogger(__name__)

#: Owners that may die while they try one message alone, before it is given up.
ALONE_DEATHS = 2
#: How long the next message waits for one that neither ends nor kills, seconds.
CLEARED_S = 5.0


#: Takes the messages of an entry whose flag is not set.
Deliver = Callable[[Entry, Batch], None]
#: Gives a message of an entry up, by its index: the processes that handled it alone died. The text is the reason.
GiveUp = Callable[[Entry, int, Message, str], None]
#: Whether a message would not be begun if it were delivered now.
Spares = Callable[[OwnedShard, Message], bool]


class CarefulLine:
    """The suspect entries of one process, one message at a time.

    Args:
        broker: where trials are noted.
        settler: records each message's end before the next is tried.
        deliver: takes the messages.
        give_up: takes the one that kills.
        read_on: awaited with an inbox when its suspect entry is through.

    Attributes:
        spares: tells which messages are not begun.
    """

    def __init__(
        self,
        broker: Broker,
        settler: Settler,
        deliver: Deliver,
        give_up: GiveUp,
        read_on: Callable[[Inbox], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._settler = settler
        self._deliver = deliver
        self._give_up = give_up
        self._read_on = read_on
        self.spares: Spares = lambda shard, message: False
        # At most one entry of each inbox: what is behind it is not read meanwhile.
        self._line: asyncio.Queue[tuple[Entry, Batch]] = asyncio.Queue()
        self._trying: dict[Entry, list[int]] = {}

    def put(self, entry: Entry, batch: Batch) -> None:
        """A suspect entry, in the order of its inbox."""
        log.warning(
            "its owners died again and again: its messages are handled one at a time",
            extra={"shard": entry.inbox.name, "entry": entry.id, "deaths": entry.inbox.deliveries.get(entry.id)},
        )
        # To the entry, what was not delivered yet is parked: it is settled when the rest has ended too.
        entry.parked = entry.left
        self._line.put_nowait((entry, batch))

    async def run(self) -> None:
        """Try what comes, until cancelled."""
        while True:
            entry, batch = await self._line.get()
            await self._try_each(entry, batch)
            entry.inbox.trial = None
            for ended in [entry for entry in self._trying if not entry.left]:
                del self._trying[ended]
            if entry.shard.reading:
                await self._read_on(entry.inbox)

    async def take_back(self, shard: OwnedShard) -> None:
        """A shard is being handed over: what was tried and has not ended shall not be held against it.

        Raises:
            BrokerError: the server is away; then the notes stay.
        """
        for entry in [entry for entry in self._trying if entry.shard is shard]:
            for index in self._trying.pop(entry):
                if not entry.flags[index]:
                    await self._broker.trial(_lease(entry), entry.id, index, begin=False)

    def forget(self, shard: OwnedShard) -> None:
        """A shard was lost."""
        for entry in [entry for entry in self._trying if entry.shard is shard]:
            del self._trying[entry]

    async def _try_each(self, entry: Entry, batch: Batch) -> None:
        shard = entry.shard
        tried = self._trying[entry] = []
        for index, message in enumerate(batch.messages):
            if entry.flags[index]:
                continue
            if self.spares(shard, message):
                entry.parked -= 1
                entry.deliver_alone(index, batch, self._deliver)
                continue
            trials = await self._note(entry, index)
            if not shard.reading:
                return
            ended = entry.inbox.trial = asyncio.Event()
            entry.parked -= 1
            if trials > ALONE_DEATHS:
                reason = f"{trials - 1} processes died while they handled nothing else of its entry"
                self._give_up(entry, index, message, reason)
            else:
                tried.append(index)
                entry.deliver_alone(index, batch, self._deliver)
                await self._ended(entry, index, ended)
            if not shard.reading:
                return
            await self._settler.record(entry)

    async def _note(self, entry: Entry, index: int) -> int:
        """Note a trial, however long the server is away, unless the shard is lost meanwhile."""
        failures = 0
        while entry.shard.reading:
            try:
                trials = await self._broker.trial(_lease(entry), entry.id, index)
            except BrokerError as error:
                failures += 1
                if failures == 1:
                    log.warning("a trial waits: %s", error)
                await asyncio.sleep(RECONNECT.wait_s(failures))
            else:
                if trials >= 0:
                    return trials
                break  # The shard is another's: its loss comes to us by its renewal.
        return 0

    @staticmethod
    async def _ended(entry: Entry, index: int, trial: asyncio.Event) -> None:
        """Return when a message has ended, its shard is no longer read, or CLEARED_S is over."""
        try:
            async with asyncio.timeout(CLEARED_S):
                while entry.shard.reading and not entry.flags[index]:
                    trial.clear()
                    await trial.wait()
        except TimeoutError:
            return


def _lease(entry: Entry) -> Lease:
    """The lease under which an entry is held, naming its inbox."""
    return entry.shard.lease._replace(shard=entry.inbox.name)
