"""What commands were answered, so that one that comes again is answered the same and does nothing twice.

A command comes again because its asker repeats it under the same key, or because the leader that carried it out died
before it was acked: then its place in the stream is the key. The records are `answer/NAME/KEY` in the shard `control`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from msgspec import Struct

from swell.bus.shard import OwnedShard
from swell.codec import decode, encode
from swell.wire import Terminated
from swell_manager.commands import Command

#: Answers that are remembered, the newest.
KEEP_ANSWERS = 1000
KIND = "answer"


class KeptAnswer(Struct, omit_defaults=True):
    """One command.

    Attributes:
        digest: of the request, to tell another one under the same key.
        at_ms: when it was begun, milliseconds since 1970.
        targets: the agents to be ended; empty when that is over.
        absent: those of them that did not live when it was begun.
        before: agents that had been ended by then, by the cancelled plan.
        result: the answer; None while it is being carried out.
    """

    digest: str
    at_ms: int
    targets: list[str] = []
    absent: list[str] = []
    before: int = 0
    result: Terminated | None = None


class Answers:
    """All answers that the leader remembers."""

    def __init__(self) -> None:
        self._kept: dict[str, KeptAnswer] = {}

    def load(self, records: Mapping[str, bytes]) -> None:
        """Take over what the leader before us has recorded."""
        found = [(id, decode(record, KeptAnswer)) for id, record in records.items() if id.startswith(KIND + "/")]
        self._kept = dict(sorted(found, key=lambda one: one[1].at_ms))

    def clear(self) -> None:
        """Lead no more."""
        self._kept.clear()

    def find(self, id: str) -> KeptAnswer | None:
        """What is remembered of a command."""
        return self._kept.get(id)

    def keep(self, shard: OwnedShard, id: str, answer: KeptAnswer) -> None:
        """Remember a command, with the messages that end in this turn of the loop; the oldest is forgotten."""
        self._kept[id] = answer
        shard.record(id, encode(answer))
        while len(self._kept) > KEEP_ANSWERS:
            self.forget(shard, next(iter(self._kept)))

    def forget(self, shard: OwnedShard, id: str) -> None:
        """Remember a command no longer."""
        self._kept.pop(id, None)
        shard.record(id, None)


def digest(request: Struct) -> str:
    """What tells two requests apart."""
    return hashlib.sha256(encode(request)).hexdigest()


def record_id(command: Command, key: str) -> str:
    """The record of a command under its key, or under its place in the stream, which is no key."""
    return f"{KIND}/{command.message.name}/{key or f'@{command.entry.id}.{command.index}'}"
