"""What a mailbox brings that is no handler's: an agent's birth and end, and messages that come too late."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from swell.bus.entry import Entry
from swell.codec import decode
from swell.errors import SwellError
from swell.wire import NIL, SPAWN, TERMINATE, Message, Spawned, TerminateAgent
from swell_worker.executor import Failed, unknown_handler
from swell_worker.life import Life
from swell_worker.shard_agents import decode_spawn, newborn

if TYPE_CHECKING:
    from swell_worker.cell import Cell


class Special(Life):
    """One hosted agent that can be born and ended by messages; its mailbox is the `Cell`'s."""

    __slots__ = ()

    async def _special(self, entry: Entry, index: int, message: Message) -> None:
        fleet = self._fleet
        state = self.record.state
        if message.name == SPAWN:
            await self._spawn(entry, index, message)
        elif state in ("stopped", "failed"):
            reason = f"agent {self.id} is {state}" + (f": {self.record.reason}" if self.record.reason else "")
            fleet.end_dead(self, entry, index, message, Failed("unknown_agent", reason))
        elif message.name == TERMINATE:
            await self._terminate(entry, index, message)
        else:
            fleet.end_dead(self, entry, index, message, unknown_handler(self.type, message.name))

    async def _spawn(self, entry: Entry, index: int, message: Message) -> None:
        """Be born, or say that we are there already. The record changes with the message that caused it."""
        fleet = self._fleet
        try:
            request = decode_spawn(message)
        except SwellError as error:
            fleet.end_dead(self, entry, index, message, Failed("wrong_body", str(error)))
            return
        record = self.record
        if self._agent is not None:
            if record.plan == request.plan:
                fleet.answer(self, entry, index, message, Spawned(0.0, already=True))
            else:
                reason = f"agent {self.id} exists already, spawned by plan {record.plan}"
                fleet.end_dead(self, entry, index, message, Failed("already_exists", reason))
            return
        if record.state in ("stopped", "failed"):
            self.record = newborn(self.id, request, record.generation + 1)
            fleet.events.born(self)
            fleet.oversight.holds.born(cast("Cell", self))
        if self._kept is not None:
            self._kept.forget()
        began = time.monotonic()
        failed = await self._begin(request.args)
        if failed is None:
            await fleet.events.join(self)
            self._keep("ready")
            fleet.recorder.latency("ready", self.type.name).record(time.time_ns() // 1000 - message.sent_us)
            fleet.recorder.count("spawned", self.type.name)
            fleet.answer(self, entry, index, message, Spawned(time.monotonic() - began))
        else:
            self._keep("failed", failed.reason)
            fleet.recorder.count("failed", self.type.name)
            if self._kept is not None:
                self._kept.delete()  # Of an agent that had this id before.
            fleet.end_dead(self, entry, index, message, failed)

    async def _terminate(self, entry: Entry, index: int, message: Message) -> None:
        """Run `stopped` and end; what comes behind is dead. An agent of another plan than was meant is left alone."""
        try:
            request = TerminateAgent() if message.body == NIL else decode(message.body, TerminateAgent)
        except SwellError as error:
            self._fleet.end_dead(self, entry, index, message, Failed("wrong_body", str(error)))
            return
        if request.plan and request.plan != self.record.plan:
            reason = f"agent {self.id} was spawned by plan {self.record.plan}, not {request.plan}: it was left alone"
            self._fleet.end_dead(self, entry, index, message, Failed("already_exists", reason))
            return
        await self._stop()
        self._fleet.answer(self, entry, index, message, None)
