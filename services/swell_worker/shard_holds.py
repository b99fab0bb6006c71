"""What is held back in one shard, and how its agents look to a condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import structs

from swell.holds import TypeRecord
from swell.registry import view
from swell.wire import HOLD, TO_SHARD, Message
from swell_worker.drains import Pending

if TYPE_CHECKING:
    from swell_worker.cell import Cell


class ShardHolds:
    """What one shard knows: of its types, and which requests are under way.

    Attributes:
        types: the records of types.
        pending: requests that end later, by what they are about.
        deaths: for each agent that may be set apart: dead letters in a row, and what it had handled at the last.
    """

    def __init__(self, cells: Mapping[str, Cell]) -> None:
        self.cells = cells
        self.types: dict[str, TypeRecord] = {}
        self.pending: dict[str, Pending] = {}
        self.deaths: dict[str, tuple[int, int]] = {}

    def spares(self, message: Message) -> bool:
        """Whether a message would not be begun if it came now: its agent is held, or it only asks for that."""
        cell = self.cells.get(message.to)
        if cell is None:
            return message.to == TO_SHARD and message.name == HOLD
        return cell.gate is not None and cell.gate.state is not None


def seen(cell: Cell) -> dict[str, object]:
    """An agent as `swell.AgentView` shows it, with its key."""
    shown = view(cell.id, cell.shard.name, cell.record)
    live = cell.live()
    fields = structs.asdict(shown)
    return fields | {"state": live.state, "queued": live.queued, "handled": live.handled, "key": cell.record.key}
