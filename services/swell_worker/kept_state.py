"""What an agent declares as its `state`, kept with the acknowledgements of the messages that made it.

handler returns --> save: encoded, checked, handed to the shard --+--> one settle call: both or neither
                    entry.ack, in the same turn of the loop ------+

So after any crash the state is the effect of exactly those messages that the ledger says are settled. A handler that
fails leaves nothing behind: the state is put back to what it was.
"""

from __future__ import annotations

from typing import Any

from swell.agent import Agent
from swell.agent_state import StateType
from swell.bus.shard import OwnedShard
from swell.clock import now_ms
from swell.codec import decode, encode
from swell.errors import WireError
from swell.keys import state_id
from swell.wire import Snapshot


class KeptState:
    """The kept state of one agent.

    Args:
        id: the agent's.
        type: what its class declares.
        shard: where it is written.
        stored: the snapshot as its former owner left it, None if there is none.
    """

    __slots__ = ("_before", "_id", "_last", "_shard", "_stored", "_type")

    def __init__(self, id: str, type: StateType, shard: OwnedShard, stored: bytes | None) -> None:
        self._id = id
        self._type = type
        self._shard = shard
        self._stored = stored
        # The state after the newest handler that returned, encoded, and before it; empty if there is none yet.
        self._last = self._before = b""

    def unreadable(self) -> str:
        """Take over what the former owner left; why that cannot be, empty if it can."""
        if self._stored is None:
            return ""
        try:
            state = decode(self._stored, Snapshot).state
            self._type.decode(state)
        except WireError as error:
            return f"its kept state cannot be read any more: {error}"
        self._last, self._stored = state, None
        return ""

    def forget(self) -> None:
        """Begin afresh: the agent is a new one of this id."""
        self._stored = None
        self._last = self._before = b""

    def put_back(self, agent: Agent) -> None:
        """Give the agent the last good state, or the first one: an object of its own, whatever it did to the other."""
        state: Any = self._type.decode(self._last) if self._last else self._type.struct()
        agent.state = state  # type: ignore[attr-defined]

    def save(self, agent: Agent) -> None:
        """A handler has returned: what it made of the state counts.

        Raises:
            WireError: it is no state that could be restored; the last good one stays.
        """
        encoded = self._type.encode(agent.state)  # type: ignore[attr-defined]
        self._before = self._last
        if encoded != self._last:
            self._last = encoded
            self._write()

    def undo(self, agent: Agent) -> None:
        """The message that was just saved is given up after all: it leaves no trace."""
        if self._last != self._before:
            self._last = self._before
            self._write()
        self.put_back(agent)

    def delete(self) -> None:
        """The agent has ended."""
        self.forget()
        self._write()

    def _write(self) -> None:
        snapshot = Snapshot(self._shard.lease.epoch, now_ms(), self._last) if self._last else None
        self._shard.snapshot(state_id(self._id), None if snapshot is None else encode(snapshot))
