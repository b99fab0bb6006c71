"""What is held, limited and let go in one worker, and whether it takes shards: one place for its host to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from swell.bus.consumer import Consumer
from swell.bus.shard import OwnedShard
from swell_worker.holds import Holds
from swell_worker.passivation import Passivation
from swell_worker.standing import Standing

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.host import Fleet


class Oversight:
    """The lifecycle of the agents of one worker, as operators steer it.

    Attributes:
        holds: what is paused, drained, quarantined and limited.
        passivation: which idle agents are let go.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._consumer: Consumer | None = None
        self.passivation = Passivation(fleet)
        self.holds = Holds(fleet, self._members)
        self._standing: asyncio.Task[None] | None = None

    def attach(self, consumer: Consumer, group: asyncio.TaskGroup) -> None:
        """Give the consumer, and the group in which an operator's word is followed."""
        self._consumer = consumer
        client = self._fleet.client
        standing = Standing(client.facts, client.process, consumer)
        self._standing = group.create_task(standing.run())

        def look() -> None:
            standing.look()
            self.holds.look()

        consumer.on_tick(look)
        consumer.spare(self._fleet.spares)

    def _members(self) -> Sequence[str]:
        return self._consumer.sharers if self._consumer is not None else ()

    def opened(self, shard: OwnedShard, records: Mapping[str, bytes], cells: Mapping[str, Cell]) -> None:
        """A shard is ours; its agents are about to be made."""
        self.holds.opened(shard, records, cells)

    def back(self, cell: Cell) -> bool:
        """An agent that lived elsewhere is here; returns whether it is to be started now."""
        self.holds.born(cell)
        return cell.wants_turn

    def rested(self, cell: Cell, *, more: bool) -> None:
        """The turn of an agent has ended, and it has a gate, or its type lets idle agents go."""
        if cell.gate is not None:
            self.holds.rested(cell, more=more)
        if cell.type.idle_after is not None and not more:
            self.passivation.rested(cell)

    def closed(self, shard: OwnedShard) -> None:
        """A shard is no longer ours."""
        self.holds.closed(shard)
        self.passivation.closed(shard)

    def end(self) -> None:
        """The worker stops."""
        self.holds.end()
        self.passivation.end()
        if self._standing is not None:
            self._standing.cancel()
