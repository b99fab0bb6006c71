"""Messages that did not fit into a mailbox: their places are kept, and they are fetched again when it has drained."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from swell.backoff import RECONNECT
from swell.bus.broker import Broker, Delivered
from swell.bus.entry import Entry
from swell.bus.shard import Inbox
from swell.codec import decode_batch
from swell.errors import BrokerError
from swell.wire import Batch, Series

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.events import Line
    from swell_worker.mailbox import Mailbox

log = logging.getLogger(__name__)

#: Parked entries fetched again in one call.
UNPARK_ENTRIES = 32


async def unpark(broker: Broker, owner: Cell | Line, box: Mailbox | Line, limit: int) -> bool:
    """Move a drained mailbox's oldest parked messages into it, at most `limit` of them.

    Args:
        broker: fetches them.
        owner: whose mailbox; knows which messages somebody has cancelled.
        box: the mailbox.
        limit: messages.

    Returns:
        False if one of their entries no longer exists: then somebody else has settled it, and the shard is not ours.
    """
    wanted: OrderedDict[str, list[tuple[Entry, int]]] = OrderedDict()
    for entry, index in islice(box.parked, limit):
        if entry.id not in wanted and len(wanted) == UNPARK_ENTRIES:
            break
        wanted.setdefault(entry.id, []).append((entry, index))
    inbox = box.parked[0][0].inbox
    found = {one.id: one for one in await _fetch(broker, inbox, wanted)}
    if not inbox.shard.reading:
        return True
    del box.parked[: sum(map(len, wanted.values()))]
    for id, places in wanted.items():
        one = found.get(id)
        if one is None:
            log.error("parked entry is gone", extra={"shard": inbox.name, "entry": id})
            return False
        entry = places[0][0]
        entry.parked -= len(places)
        inbox.held(entry, len(one.payload))
        for index, series in _series_at(decode_batch(one.payload, one.count), {index for _, index in places}):
            if not (owner.sought and owner.found(entry, index, series)):
                box.put(entry, index, series)
    return True


def _series_at(batch: Batch, places: set[int]) -> Iterator[tuple[int, Series]]:
    """The messages at these places of an entry, in order: a series whole if all of it is wanted."""
    begin = 0
    for series in batch.series:
        wanted = [place for place in range(series.count) if begin + place in places]
        if len(wanted) == series.count:
            yield begin, series
        elif wanted:
            singles = series.singles()
            for place in wanted:
                yield begin + place, singles[place]
        begin += series.count


async def _fetch(broker: Broker, inbox: Inbox, ids: Iterable[str]) -> list[Delivered]:
    """Fetch entries, however often it takes while the server is away, until the shard is no longer read by us."""
    failures = 0
    while inbox.shard.reading:
        try:
            return await broker.fetch(inbox.name, list(ids))
        except BrokerError as error:
            failures += 1
            if failures == 1:
                log.warning("fetch waits: %s", error)
            await asyncio.sleep(RECONNECT.wait_s(failures))
    return []
