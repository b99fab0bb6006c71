"""Random histories of one shard against a plain model: after every step the ledger, the order and the heirs agree."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swell.bus.broker import Append, Appended, Broker, Lease, Ledger, Outcome, Partial, Refused
from swell.errors import GroupGone
from tests.conformance.backends import LONG_MS, Backend, MemoryBackend, lapse, own, settle

SHARD = "0"
#: Small, so that histories reach it.
MAX_DEPTH = 12
#: Leases of a history lapse at once; where one must not, it is renewed first.
BRIEF_MS = 1

workers = st.sampled_from(["ada", "bob", "eve"])
few = st.integers(0, 2)
steps = st.one_of(
    st.tuples(st.just("append"), st.sampled_from(["p", "q"]), st.integers(1, 5), st.sampled_from([0, 0, 0, -1, 1])),
    st.tuples(st.just("read"), st.integers(1, 3)),
    st.tuples(st.just("settle"), st.integers(0, 9), few, few, few),
    st.tuples(st.just("take_over"), workers),
    st.tuples(st.just("hand_over"), workers),
    st.tuples(st.just("acquire_again")),
    st.tuples(st.just("contend")),
    st.tuples(st.just("zombie"), st.integers(0, 9)),
)


@dataclass(slots=True)
class Entry:
    """An unsettled entry as the model sees it; its messages are settled from the front."""

    id: str
    payload: bytes
    count: int
    settled: tuple[int, int, int] = (0, 0, 0)
    held: bool = False
    deliveries: int = 0

    @property
    def bitmap(self) -> bytes:
        done = sum(self.settled)
        return b"\1" * done + b"\0" * (self.count - done)


@dataclass(slots=True)
class History:
    """A shard and its model, moved together."""

    backend: Backend
    broker: Broker
    lease: Lease
    ledger: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    zombies: list[Lease] = field(default_factory=list)
    letters: list[bytes] = field(default_factory=list)

    def count(self, name: str, increase: int = 1) -> None:
        self.ledger[name] = self.ledger.get(name, 0) + increase

    async def append(self, producer: str, count: int, jump: int) -> None:
        last = self.last.get(producer, 0)
        seq = max(1, last + 1 + jump)
        depth = self.ledger.get("depth", 0)
        payload = f"{producer}:{seq}".encode()
        if seq <= last:
            expected = Appended("duplicate")
            self.count("duplicate")
        elif seq > last + 1:
            expected = Appended("gap", last)
            self.count("rewinds")
        elif depth + count > MAX_DEPTH:
            expected = Appended("busy", depth)
            self.count("refused")
        else:
            expected = Appended("ok")
            self.count("sent", count)
            self.count("depth", count)
            self.last[producer] = seq
            self.entries.append(Entry("", payload, count))
        assert await self.broker.append(producer, [Append(SHARD, seq, count, payload)], MAX_DEPTH) == [expected]

    async def read(self, count: int) -> None:
        expected = [entry for entry in self.entries if not entry.held][:count]
        read = await self.broker.read(self.lease.owner, [SHARD], count, 0)
        assert [(entry.payload, entry.count) for entry in read] == [(entry.payload, entry.count) for entry in expected]
        for entry, delivered in zip(expected, read, strict=True):
            assert entry.id in ("", delivered.id)
            entry.id, entry.held = delivered.id, True

    async def settle(self, which: int, *increases: int) -> None:
        held = [entry for entry in self.entries if entry.held]
        if not held:
            return
        entry = held[which % len(held)]
        left = entry.count - sum(entry.settled)
        totals = list(entry.settled)
        letters: list[bytes] = []
        for kind, (name, wanted) in enumerate(zip(("acked", "dead", "expired"), increases, strict=True)):
            increase = min(wanted, left)
            left -= increase
            totals[kind] += increase
            self.count(name, increase)
            self.count("depth", -increase)
            if name == "dead":
                letters = [b"%s/%d" % (entry.payload, n) for n in range(totals[1] - increase, totals[1])]
        entry.settled = (totals[0], totals[1], totals[2])
        self.letters += letters
        outcome = Outcome(entry.id, *entry.settled, done=left == 0, letters=letters, bitmap=entry.bitmap)
        if left == 0:
            self.entries.remove(entry)
        for _ in range(2):  # The second time stands for a retry whose first answer was lost.
            assert await settle(self.broker, self.lease, outcome)

    async def _owned_by(self, worker: str) -> None:
        self.zombies.append(self.lease)
        former = self.lease
        self.lease = await own(self.broker, SHARD, worker, BRIEF_MS)
        assert self.lease.epoch > former.epoch
        for entry in self.entries:
            entry.held = False

    async def take_over(self, worker: str) -> None:
        await lapse(self.backend, self.broker, SHARD)
        for entry in self.entries:
            entry.deliveries += entry.held
        if worker != self.lease.owner:
            self.count("lapsed")
        await self._owned_by(worker)

    async def hand_over(self, worker: str) -> None:
        assert await self.broker.release(self.lease)
        await self._owned_by(worker)

    async def acquire_again(self) -> None:
        assert await self.broker.renew([self.lease], LONG_MS) == [True]
        await self._owned_by(self.lease.owner)

    async def contend(self) -> None:
        assert await self.broker.renew([self.lease], LONG_MS) == [True]
        assert isinstance(await self.broker.acquire(SHARD, "rival", LONG_MS), Refused)
        assert await self.broker.renew([self.lease], BRIEF_MS) == [True]

    async def zombie(self, which: int) -> None:
        if not self.zombies:
            return
        zombie = self.zombies[which % len(self.zombies)]
        outcomes = [Outcome(entry.id, entry.count, letters=[b"wrong"]) for entry in self.entries if entry.id]
        self.count("stale")
        assert not await settle(self.broker, zombie, *outcomes, record=b"wrong")
        assert await self.broker.renew([zombie], LONG_MS) == [False]
        assert not await self.broker.release(zombie)
        if zombie.owner != self.lease.owner:
            with pytest.raises(GroupGone):
                await self.broker.read(zombie.owner, [SHARD], 10, 0)

    async def check(self) -> None:
        """Compare everything that can be seen of the shard with the model."""
        ledger = await self.broker.ledger(SHARD)
        assert ledger.balanced
        present = sum(entry.count - sum(entry.settled) for entry in self.entries)
        assert ledger == Ledger(SHARD, **self.ledger, present=present, entries=len(self.entries))
        held = [entry.id for entry in self.entries if entry.held]
        assert [entry.id for entry in await self.broker.pending(self.lease.owner, SHARD, "0", 100)] == held
        found = await self.broker.inherit(self.lease)
        assert found.records == {}
        assert found.deliveries == {entry.id: entry.deliveries for entry in self.entries if entry.deliveries}
        named = {entry.id: Partial(*entry.settled, entry.bitmap) for entry in self.entries if entry.id in found.partial}
        assert found.partial == named
        assert all(entry.id in named for entry in self.entries if any(entry.settled))
        assert [letter for _, letter in await self.broker.dead(SHARD, 1000)] == self.letters[::-1]


async def play(backend: Backend, namespace: str, history: list[tuple[Any, ...]]) -> None:
    """Run a history in a namespace of its own, then settle what is left, in the order it was appended."""
    broker = backend.connect(namespace)
    await broker.open(1)
    at = History(backend, broker, await own(broker, SHARD, "ada", BRIEF_MS))
    for name, *arguments in history:
        await getattr(at, name)(*arguments)
        await at.check()
    await at.take_over("last")
    await at.read(1000)
    for _ in range(len(at.entries)):
        await at.settle(0, 1000, 0, 0)
    await at.check()
    ledger = await broker.ledger(SHARD)
    assert (ledger.depth, ledger.entries) == (0, 0)
    assert ledger.sent == ledger.acked + ledger.dead + ledger.expired
    await broker.close()


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(history=st.lists(steps, min_size=5, max_size=50))
def test_any_history_agrees_with_the_model_in_memory(history: list[tuple[Any, ...]]) -> None:
    asyncio.run(play(MemoryBackend("test"), "test", history))


_number = itertools.count()


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=st.lists(steps, min_size=5, max_size=50))
async def test_any_history_agrees_with_the_model(backend: Backend, history: list[tuple[Any, ...]]) -> None:
    await play(backend, f"{backend.namespace}-{next(_number)}", history)
