"""The agents of one shard as its records tell of them: those that live, and those that ended, the newest."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from swell.bus.shard import OwnedShard
from swell.clock import now_ms
from swell.codec import decode
from swell.errors import WireError
from swell.keys import is_agent, state_id
from swell.wire import SPAWN, AgentRecord, Message, SpawnAgent

if TYPE_CHECKING:
    from swell_worker.cell import Cell

log = logging.getLogger(__name__)

#: Records of agents that ended are kept for so many of them in each shard, the newest.
KEEP_ENDED = 1000


class ShardAgents:
    """The agents of one shard: those that live, and the records of those that ended, oldest first.

    Attributes:
        cells: those that live, by id.
        ended: records of those that ended.
        unborn: agents whose `$spawn` a former owner began, and that is in the stream still; see `unborn.py`.
    """

    __slots__ = ("cells", "ended", "unborn")

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.ended: OrderedDict[str, AgentRecord] = OrderedDict()
        self.unborn: dict[str, Cell] = {}

    def find(self, id: str) -> Cell | None:
        """An agent that lives, or is about to be born."""
        return self.cells.get(id) or self.unborn.get(id)

    def spares(self, message: Message) -> bool:
        """Whether a message would not be begun if it came now: its agent is not born yet."""
        cell = self.find(message.to)
        return cell is not None and cell.record.state == "spawning" and message.name != SPAWN

    def conceived(self, id: str, request: SpawnAgent) -> AgentRecord:
        """The record of an agent to be born."""
        before = self.ended.pop(id, None)
        return newborn(id, request, before.generation + 1 if before is not None else 1)

    def drop(self) -> None:
        """Let all instances go at once: their agents are another worker's affair."""
        for cell in self.cells.values():
            cell.drop()

    def bury(self, shard: OwnedShard, cell: Cell) -> None:
        """Keep the record of an agent that ended, and forget the oldest beyond KEEP_ENDED."""
        del self.cells[cell.id]
        self.ended[cell.id] = cell.record
        self.ended.move_to_end(cell.id)
        while len(self.ended) > KEEP_ENDED:
            oldest, record = self.ended.popitem(last=False)
            shard.record(oldest, None)
            if record.state == "failed":
                shard.record(state_id(oldest), None)


def by_age(records: Mapping[str, bytes]) -> list[tuple[str, AgentRecord]]:
    """Agents' records, those first that did not change for longest; one that cannot be read is left as it is."""
    found: list[tuple[str, AgentRecord]] = []
    for id, encoded in records.items():
        if not is_agent(id):
            continue
        try:
            found.append((id, decode(encoded, AgentRecord)))
        except WireError as error:
            log.error("record cannot be read: %s", error, extra={"agent": id})
    return sorted(found, key=lambda one: one[1].since_ms)


def newborn(id: str, request: SpawnAgent, generation: int) -> AgentRecord:
    """The record of an agent that is being spawned."""
    type, _, key = id.partition("/")
    return AgentRecord(type, key, "spawning", request.plan, generation, args=request.args, since_ms=now_ms())


def decode_spawn(message: Message) -> SpawnAgent:
    """The body of `$spawn`.

    Raises:
        WireError: it is none.
    """
    return decode(message.body, SpawnAgent)
