"""What is held back in this worker's shards, and the requests that change it (`$hold`).

    an agent's record: its own hold        `$type/<type>`: the type's hold, its limits
            |                                         |
            +-----------------> gate of the cell <----+        quarantined > paused > draining > limited > none

A hold is written in the call that settles the request for it, and read from there at every takeover.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import now_ms
from swell.codec import decode, encode
from swell.errors import WireError
from swell.holds import (
    MOST_NAMED,
    MOST_REASON,
    TYPE_PREFIX,
    Hold,
    HoldAnswer,
    HoldRequest,
    TypeRecord,
    types_in,
)
from swell.registry import check_where
from swell.where import compiled
from swell.wire import Message
from swell_worker.drains import Asked, Pending
from swell_worker.executor import Failed
from swell_worker.gates import PAUSED, QUARANTINED, Gate
from swell_worker.limits import TypeLimits
from swell_worker.shard_holds import ShardHolds, seen

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.host import Fleet

log = logging.getLogger(__name__)

_ENDED = ("stopped", "failed")


class Holds:
    """The holds and limits of all shards that this worker owns."""

    def __init__(self, fleet: Fleet, members: Callable[[], Sequence[str]]) -> None:
        self._fleet = fleet
        self._members = members
        self._shards: dict[str, ShardHolds] = {}
        self._limits: dict[str, TypeLimits] = {}
        self._actions: dict[str, Callable[[ShardHolds, Asked, list[Cell]], None]] = {
            "pause": self._pause,
            "resume": self._resume,
            "drain": self._drain,
            "quarantine": self._quarantine,
            "limit": self._limit,
        }
        for type in fleet.app.types.values():
            self._apply_limits(type.name)

    # Shards and agents that come and go.

    def opened(self, shard: OwnedShard, records: Mapping[str, bytes], cells: Mapping[str, Cell]) -> None:
        """A shard is ours; its agents are about to be made."""
        held = self._shards[shard.name] = ShardHolds(cells)
        for type, encoded in types_in(records).items():
            try:
                held.types[type] = decode(encoded, TypeRecord)
            except WireError as error:
                log.error("record cannot be read: %s", error, extra={"record": TYPE_PREFIX + type})
            self._apply_limits(type)

    def closed(self, shard: OwnedShard) -> None:
        """A shard is no longer ours; requests under way are the next owner's."""
        held = self._shards.pop(shard.name, None)
        if held is None:
            return
        for cell in held.cells.values():
            limits = self._limits.get(cell.type.name)
            if limits is not None:
                limits.forget(cell)
        for type in held.types:
            self._apply_limits(type)

    def born(self, cell: Cell) -> None:
        """An agent is here: its gate is what its record, its type and its shard say."""
        held = self._shards.get(cell.shard.name)
        if held is not None:
            cell.stand_behind(self._gate_of(held, cell))

    def gone(self, cell: Cell) -> None:
        """An agent has ended: what is held of it is let go, and becomes dead letters."""
        cell.record.hold = None
        cell.stand_behind(self._limits.get(cell.type.name))
        held = self._shards.get(cell.shard.name)
        if held is not None:
            held.deaths.pop(cell.id, None)
            for pending in self._about(held, cell):
                pending.left.discard(cell)
                self._finish(held, pending)

    def rested(self, cell: Cell, *, more: bool) -> None:
        """The turn of an agent with a gate has ended; `more` waits for it."""
        limits = self._limits.get(cell.type.name)
        if limits is not None:
            limits.left(cell)
        if more:
            self._fleet.wake(cell)
        held = self._shards.get(cell.shard.name)
        if held is not None and held.pending:
            self._look(held, cell)

    def spares(self, shard: OwnedShard, message: Message) -> bool:
        """Whether a message would not be begun if it came now."""
        held = self._shards.get(shard.name)
        return held is not None and held.spares(message)

    def look(self) -> None:
        """Other workers may have come or gone."""
        for limits in self._limits.values():
            limits.look()

    def end(self) -> None:
        """The worker stops."""
        for limits in self._limits.values():
            limits.end()

    def _gate_of(self, held: ShardHolds, cell: Cell) -> Gate | None:
        hold = cell.record.hold
        if hold is not None:
            return QUARANTINED if hold.state == "quarantined" else PAUSED
        type = cell.type.name
        record = held.types.get(type)
        if record is not None and record.hold is not None:
            return PAUSED
        for scope in (cell.id, type):
            pending = held.pending.get(scope)
            if pending is not None and pending.drains:
                return pending.gate
        return self._limits.get(type)

    def _change(self, held: ShardHolds, cells: Iterable[Cell]) -> None:
        """Give agents the gates that they ought to have now; who may go on goes on."""
        for cell in cells:
            limits = self._limits.get(cell.type.name)
            gate = limits if cell.record.state in _ENDED else self._gate_of(held, cell)
            if gate is cell.gate:
                continue
            cell.stand_behind(gate)
            if gate is not None and gate.closed:
                cell.hurry()
                if limits is not None:
                    limits.forget(cell)
                self._look(held, cell)
            if cell.resting and cell.wants_turn:
                self._fleet.wake(cell)

    # Requests.

    def take(self, entry: Entry, index: int, message: Message) -> None:
        """Carry a request out."""
        held = self._shards[entry.shard.name]
        wanted = self._fleet.read(entry, index, message, HoldRequest, _check)
        if wanted is None:
            return
        asked = Asked(entry, index, message, wanted)
        cells = self._meant(held, asked)
        if cells is not None:
            if wanted.action != "limit":
                self._supersede(held, asked)
            self._actions[wanted.action](held, asked, cells)

    def _meant(self, held: ShardHolds, asked: Asked) -> list[Cell] | None:
        """The agents that a request is about; None if there can be none: then it has ended."""
        agent, type = asked.wanted.agent, asked.wanted.type
        if agent:
            cell = held.cells.get(agent)
            if cell is not None and cell.record.state not in _ENDED:
                return [cell]
            failed = Failed("unknown_agent", f"there is no agent {agent} that lives")
        elif type in self._fleet.app.types:
            return [cell for cell in held.cells.values() if cell.type.name == type]
        else:
            having = ", ".join(sorted(self._fleet.app.types))
            failed = Failed("unknown_type", f"app {self._fleet.app.name!r} has no agent type {type!r}, only {having}")
        self._fleet.end_dead(None, asked.entry, asked.at, asked.message, failed)
        return None

    def _pause(self, held: ShardHolds, asked: Asked, cells: list[Cell]) -> None:
        self._record(held, asked)
        self._begin(held, asked, cells, drains=False)

    def _drain(self, held: ShardHolds, asked: Asked, cells: list[Cell]) -> None:
        if all(cell.gate is not None and cell.gate.closed for cell in cells):
            self._record(held, asked)
            self._answer(asked, len(cells))
            return
        self._begin(held, asked, cells, drains=True)

    def _begin(self, held: ShardHolds, asked: Asked, cells: list[Cell], *, drains: bool) -> None:
        """Let agents come to rest; the request ends when they have."""
        pending = held.pending.get(asked.scope)
        if pending is not None and pending.drains == drains:
            pending.join(asked)
        else:
            idle = partial(self._look, held)
            pending = held.pending[asked.scope] = Pending(asked, self._limits.get, idle, drains=drains)
        # Before their gates change: those that rest are seen to do so from there on.
        pending.watch(cell for cell in cells if not (drains and cell.gate is not None and cell.gate.closed))
        self._change(held, cells)
        if drains:
            self._wake_all(pending.left)
        self._finish(held, pending)

    def _look(self, held: ShardHolds, cell: Cell) -> None:
        """An agent has come to rest, or was held: perhaps a request was waiting for that."""
        for pending in self._about(held, cell):
            mine = cell.gate is pending.gate or not pending.drains
            if cell.resting and not (mine and pending.drains and pending.gate.concerns(cell)):
                pending.left.discard(cell)
                self._finish(held, pending)

    def _about(self, held: ShardHolds, cell: Cell) -> list[Pending]:
        """Requests under way that concern an agent."""
        return [held.pending[scope] for scope in (cell.id, cell.type.name) if scope in held.pending]

    def _finish(self, held: ShardHolds, pending: Pending) -> None:
        """If nobody is left, record what a drain ends in, and answer."""
        asked = pending.asked[0]
        if pending.left or held.pending.get(asked.scope) is not pending:
            return
        del held.pending[asked.scope]
        cells = [held.cells[asked.scope]] if asked.scope in held.cells else []
        if asked.wanted.type:
            cells = [cell for cell in held.cells.values() if cell.type.name == asked.wanted.type]
        if pending.drains:
            self._record(held, asked)
            self._change(held, cells)
        for one in pending.asked:
            self._answer(one, len(cells))

    def _supersede(self, held: ShardHolds, asked: Asked) -> None:
        """A request that contradicts one under way ends that."""
        pending = held.pending.get(asked.scope)
        drains = asked.wanted.action == "drain"
        if pending is None or (pending.drains == drains and asked.wanted.action in ("drain", "pause")):
            return
        if asked.wanted.action == "quarantine" and asked.wanted.where is not None:
            return
        self._give_up(held, asked.scope, asked.wanted.action)

    def _give_up(self, held: ShardHolds, scope: str, action: str) -> None:
        """End the requests about an agent or a type that are under way; who waits for a drain is told."""
        pending = held.pending.pop(scope, None)
        if pending is None:
            return
        asked = pending.asked[0]
        asked.entry.shard.whole = True
        for one in pending.asked:
            if pending.drains:
                why = f"the drain of {scope} was given up: {action} came behind it"
                cell = next(iter(pending.left))
                self._fleet.end_unhandled(cell, one.entry, one.at, one.message, Failed("cancelled", why))
            else:
                self._answer(one, len(pending.left))

    def _resume(self, held: ShardHolds, asked: Asked, cells: list[Cell]) -> None:
        wanted = asked.wanted
        if wanted.type:
            record = held.types.get(wanted.type)
            if record is not None and record.hold is not None:
                self._write(held, asked.entry.shard, wanted.type, structs.replace(record, hold=None))
        for cell in cells:
            if wanted.all:
                self._give_up(held, cell.id, "resume")
            if cell.record.hold is not None and (wanted.agent or wanted.all):
                cell.record.hold = None
                held.deaths.pop(cell.id, None)
                self._fleet.keep(cell)
        self._change(held, cells)
        self._answer(asked, len(cells))

    def _quarantine(self, held: ShardHolds, asked: Asked, cells: list[Cell]) -> None:
        """Set apart whom the condition holds for at this moment."""
        where = asked.wanted.where
        if where is not None:
            test = compiled(where)
            cells = [cell for cell in cells if cell.record.state not in _ENDED and test(seen(cell))]
        for cell in cells:
            self._set_apart(held, cell, asked.wanted.reason)
        names = sorted(cell.id for cell in cells)
        self._answer(asked, len(names), names[:MOST_NAMED])

    def _limit(self, held: ShardHolds, asked: Asked, cells: list[Cell]) -> None:
        wanted = asked.wanted
        record = held.types.get(wanted.type, TypeRecord())
        concurrency = record.concurrency if wanted.concurrency is None else wanted.concurrency
        rate = record.rate if wanted.rate is None else wanted.rate
        if wanted.reset:
            concurrency = rate = None
        changed = structs.replace(record, concurrency=concurrency, rate=rate, limited_ms=wanted.at_ms)
        self._write(held, asked.entry.shard, wanted.type, changed)
        self._apply_limits(wanted.type)
        self._answer(asked, len(cells))

    def _answer(self, asked: Asked, count: int, agents: Sequence[str] = ()) -> None:
        # Settled together: a request that is read again must not undo one that came behind it and is settled.
        asked.entry.shard.whole = True
        self._fleet.reply(asked.message, HoldAnswer(count, list(agents)))
        asked.entry.ack(asked.at)

    # Records.

    def _record(self, held: ShardHolds, asked: Asked) -> None:
        """Write down that an agent or a type is paused; an agent in quarantine stays there."""
        wanted = asked.wanted
        hold = Hold("paused", wanted.reason, now_ms())
        if wanted.type:
            record = held.types.get(wanted.type, TypeRecord())
            if record.hold is None:
                self._write(held, asked.entry.shard, wanted.type, structs.replace(record, hold=hold))
            return
        cell = held.cells.get(wanted.agent)
        if cell is not None and cell.record.hold is None and cell.record.state not in _ENDED:
            cell.record.hold = hold
            self._fleet.keep(cell)

    def _write(self, held: ShardHolds, shard: OwnedShard, type: str, record: TypeRecord) -> None:
        if record == TypeRecord(limited_ms=record.limited_ms):
            held.types.pop(type, None)
            shard.record(TYPE_PREFIX + type, None)
        else:
            held.types[type] = record
            shard.record(TYPE_PREFIX + type, encode(record))

    def _set_apart(self, held: ShardHolds, cell: Cell, reason: str) -> None:
        hold = cell.record.hold
        if hold is not None and hold.state == "quarantined":
            return
        cell.record.hold = Hold("quarantined", reason, now_ms())
        self._fleet.keep(cell)
        self._fleet.recorder.count("quarantined", cell.type.name)
        log.warning("agent is set apart: %s", reason, extra={"agent": cell.id})
        self._change(held, [cell])
        self._look(held, cell)

    def died(self, cell: Cell, handled: int, reason: str) -> None:
        """A message of an agent whose type sets agents apart is a dead letter; so many in a row are enough."""
        held, after = self._shards.get(cell.shard.name), cell.type.quarantine_after
        if held is None or after is None:
            return
        count, before = held.deaths.get(cell.id, (0, handled))
        count = count + 1 if handled == before else 1
        held.deaths[cell.id] = (count, handled)
        if count >= after and cell.record.state not in _ENDED:
            self._set_apart(held, cell, f"{count} dead letters in a row; the last: {reason}"[:MOST_REASON])

    # Limits.

    def _apply_limits(self, type: str) -> None:
        """Hold a type to the limits given last in any of our shards, or else to those that its class declares."""
        declared = self._fleet.app.types.get(type)
        if declared is None:
            return
        records = [held.types[type] for held in self._shards.values() if type in held.types]
        newest = max(records, key=lambda record: record.limited_ms, default=TypeRecord())
        concurrency = declared.concurrency if newest.concurrency is None else newest.concurrency
        rate = declared.rate if newest.rate is None else newest.rate
        limits = self._limits.get(type)
        if concurrency or rate:
            if limits is None:
                limits = self._limits[type] = TypeLimits(self._fleet.client.process, self._members, self._fleet.wake)
            limits.limit(concurrency or 0, rate or 0.0)
            self._change_all(type)
        elif limits is not None:
            del self._limits[type]
            self._change_all(type)
            limits.end()

    def _wake_all(self, cells: Iterable[Cell]) -> None:
        for cell in [cell for cell in cells if cell.resting]:
            self._fleet.wake(cell)

    def _change_all(self, type: str) -> None:
        for held in self._shards.values():
            self._change(held, [cell for cell in held.cells.values() if cell.type.name == type])


def _check(wanted: HoldRequest) -> None:
    if wanted.where is not None:
        check_where(wanted.where)
