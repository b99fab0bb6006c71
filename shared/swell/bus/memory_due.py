"""Messages of one shard of the memory broker that wait for their time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from swell.bus.timed import AGAIN, Fired, Next, Timed, Waiting


class DueSet:
    """What a shard's keys `due` and `later` are on the server."""

    def __init__(self) -> None:
        self._stored: dict[str, Timed] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def get(self, id: str) -> Timed | None:
        """What is stored under an id."""
        return self._stored.get(id)

    def write(self, timed: Mapping[str, Timed | None]) -> None:
        """Store and remove."""
        for id, one in timed.items():
            if one is None:
                self._stored.pop(id, None)
            else:
                self._stored[id] = one

    def first(self, count: int) -> list[Waiting]:
        """The `count` that are due first; those of the same time in the order of their ids, as in a sorted set."""
        ordered = sorted(self._stored.items(), key=lambda item: (item[1].due_ms, item[0].encode()))
        return [Waiting(id, *one) for id, one in ordered[:count]]

    def fire(self, nexts: Sequence[Next], most: int, now_ms: int, add: Callable[[bytes, bytes], object]) -> Fired:
        """Give to `add` what is due, the kind of inbox and the batch of each; see `TimedBroker.fire`."""
        moved = 0
        for one in nexts:
            stored = self._stored.get(one.id)
            if stored is not None and stored.due_ms == one.due_ms:
                add(one.kind, one.payload)
                self._stored[one.id] = Timed(one.next_ms, stored.value)
                moved += 1
        recurring: list[Waiting] = []
        for due in self.first(most):
            if due.due_ms > now_ms:
                break
            if due.value[:1] == AGAIN:
                recurring.append(due)
            else:
                add(due.value[:1], due.value[1:])
                del self._stored[due.id]
                moved += 1
        left = self.first(1)
        return Fired(now_ms, left[0].due_ms if left else None, moved, len(self._stored), recurring)
