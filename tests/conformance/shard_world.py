"""Processes that share one shard and meet faults, step by step, each step held against the truth.

Senders append (lost calls, lost answers, calls that come twice or late, several batches at once); owners read, handle,
retry, give up, settle whole entries or parts, renew, release, crash, or sleep through their lease and go on as if
nothing had happened: no owner here looks at a clock, so what stops it is only what the server refuses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from swell.bus.broker import Append, Broker, Delivered, Lease, Outcome, Partial, Refused, Settlement
from swell.errors import GroupGone
from tests.conformance.shard_model import Message, Sender, Truth, Violation, demand

SHARD = "0"
#: Small, so that histories reach it.
MAX_DEPTH = 12
#: Longer than any history; leases lapse when the history says so.
LEASE_MS = 600_000
#: Attempts of one message before it is given up.
ATTEMPTS = 3
#: Rounds in which a shard with a live owner must come to rest.
ROUNDS = 200

_T = TypeVar("_T")


class LostAnswer(Exception):
    """The process does not learn whether its call was done."""


@dataclass(slots=True)
class Held:
    """An entry in its owner's hands. `results`: for each message how it ended, None as long as it has not."""

    id: str
    messages: list[Message]
    inherited: Partial
    results: list[int | None]
    letters: list[bytes] = field(default_factory=list)

    def outcome(self) -> Outcome:
        before = self.inherited
        totals = [before.acked, before.dead, before.expired]
        for kind in self.results:
            if kind is not None and kind >= 0:
                totals[kind] += 1
        done = None not in self.results
        bitmap = bytes(kind is not None for kind in self.results)
        acked, dead, expired = totals
        return Outcome(self.id, acked, dead, expired, done, letters=list(self.letters), bitmap=b"" if done else bitmap)


@dataclass(slots=True)
class Owner:
    """A process that may own the shard. It believes in `lease` until the server tells it otherwise."""

    name: str
    lives: int = 0
    lease: Lease | None = None
    recover: bool = False
    partial: dict[str, Partial] = field(default_factory=dict)
    open: dict[str, Held] = field(default_factory=dict)
    mailboxes: dict[str, deque[tuple[Held, int]]] = field(default_factory=dict)
    attempts: dict[Message, int] = field(default_factory=dict)
    writes: int = 0
    settlements: int = 0

    @property
    def process(self) -> str:
        return f"{self.name}.{self.lives}"

    def drop(self) -> None:
        """Forget all that was read: the shard is no longer ours."""
        self.lease, self.recover = None, False
        self.partial, self.open, self.mailboxes, self.attempts = {}, {}, {}, {}


class World:
    """One shard of one broker, its senders and its owners.

    Args:
        broker: through which all processes talk.
        lapse: lets the shard's lease run out.
    """

    def __init__(self, broker: Broker, lapse: Callable[[], Awaitable[None]]) -> None:
        self.truth = Truth(MAX_DEPTH)
        self._broker = broker
        self._lapse = lapse
        self._senders = {name: Sender(name) for name in ("p", "q")}
        self._owners = {name: Owner(name) for name in ("ada", "bob", "eve")}
        self._late: list[tuple[str, list[Append], list[list[Message]]]] = []
        self._late_settles: list[tuple[Settlement, dict[Message, int]]] = []
        self._replays = Sender("replay")

    async def _call(self, fault: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """One call through a network with a fault."""
        if fault == "never":
            raise LostAnswer
        answer = await call()
        if fault == "twice":
            answer = await call()
        if fault == "lost":
            raise LostAnswer
        return answer

    # Senders.

    async def append(self, name: str, agents: list[str], batches: int, fault: str) -> None:
        """Gather a batch and send the oldest that are not acknowledged, so many of them in one call."""
        sender = self._senders[name]
        if len(sender.unacknowledged) < 4:
            sender.add(agents)
        await self._send(sender, batches, fault)

    async def _send(self, sender: Sender, batches: int, fault: str) -> None:
        chosen = sender.unacknowledged[:batches]
        appends = [Append(SHARD, b.seq, len(b.messages), msgspec.msgpack.encode(b.messages)) for b in chosen]
        self._late.append((sender.name, appends, [batch.messages for batch in chosen]))
        try:
            answers = await self._call(fault, lambda: self._append(*self._late[-1]))
        except LostAnswer:
            return
        sent = [batch for batch, status in zip(chosen, answers, strict=True) if status in ("ok", "duplicate")]
        for batch in sent:
            lost = [message for message in batch.messages if message not in self.truth.sent]
            demand(not lost, "nothing lost: acknowledged and not written:", lost)
            sender.unacknowledged.remove(batch)

    async def _append(self, name: str, appends: list[Append], messages: list[list[Message]]) -> list[str]:
        answers = await self._broker.append(name, appends, MAX_DEPTH)
        for answer, of_batch in zip(answers, messages, strict=True):
            if answer.status == "ok":
                self.truth.wrote(of_batch)
        return [answer.status for answer in answers]

    async def late(self, which: int) -> None:
        """An append that somebody gave up long ago comes through after all."""
        if self._late:
            await self._append(*self._late[which % len(self._late)])

    # Owners.

    def _owner(self, name: str) -> Owner:
        """The owner of that name; `holder` is whoever the server says it is, or the first if nobody is."""
        if name == "holder":
            holder = self.truth.holder
            name = holder.owner.partition(".")[0] if holder is not None else "ada"
        return self._owners[name]

    async def acquire(self, name: str, fault: str) -> None:
        """Try to become the owner."""
        owner = self._owner(name)
        if owner.lease is not None:
            return

        async def call() -> Lease | Refused:
            answer = await self._broker.acquire(SHARD, owner.process, LEASE_MS)
            if isinstance(answer, Lease):
                self.truth.granted(answer)
            return answer

        try:
            answer = await self._call(fault, call)
        except LostAnswer:
            return
        if isinstance(answer, Lease):
            owner.lease, owner.settlements = answer, 0
            owner.partial = (await self._broker.inherit(answer)).partial

    async def read(self, name: str, count: int, fault: str) -> None:
        """Read new entries, behind those that came in an answer that was lost."""
        owner = self._owner(name)
        if owner.lease is None:
            return
        try:
            if owner.recover:
                for entry in await self._broker.pending(owner.process, SHARD, "0", 1000):
                    if entry.id not in owner.open:
                        self._deliver(owner, entry)
                owner.recover = False
            found = await self._call(fault, lambda: self._broker.read(owner.process, [SHARD], count, 0))
        except GroupGone:
            self.truth.refused(owner.lease, "read")
            owner.drop()
        except LostAnswer:
            owner.recover = True
        else:
            for entry in found:
                self._deliver(owner, entry)

    def _deliver(self, owner: Owner, entry: Delivered) -> None:
        messages = msgspec.msgpack.decode(entry.payload, type=list[Message])
        demand(entry.id not in owner.open, "settled once: delivered twice to one owner:", entry.id)
        before = owner.partial.pop(entry.id, Partial(0, 0, 0, b"\0" * len(messages)))
        held = Held(entry.id, messages, before, [-1 if done else None for done in before.bitmap])
        owner.open[entry.id] = held
        for index, message in enumerate(messages):
            if held.results[index] is None:
                owner.mailboxes.setdefault(message.agent, deque()).append((held, index))

    async def handle(self, name: str, agent: str, messages: int, verdict: str) -> None:
        """An agent handles the first messages of its mailbox; what fails stays there until its attempts are used up."""
        owner = self._owner(name)
        mailbox = owner.mailboxes.get(agent, deque())
        for _ in range(min(messages, len(mailbox))):
            assert owner.lease is not None
            held, index = mailbox[0]
            message = held.messages[index]
            if message not in owner.attempts:
                self.truth.begun(message, owner.lease)
            attempt = owner.attempts[message] = owner.attempts.get(message, 0) + 1
            if verdict == "fail" and attempt < ATTEMPTS:
                return
            mailbox.popleft()
            held.results[index] = {"ok": 0, "fail": 1, "give_up": 1, "late": 2}[verdict]
            if verdict in ("fail", "give_up"):
                held.letters.append(repr(message).encode())

    async def settle(self, name: str, which: int, fault: str) -> None:
        """Write what ended: of one entry, or (0) of all of them; and a record that names the epoch."""
        owner = self._owner(name)
        if owner.lease is None:
            return
        lease = owner.lease
        moved = [held for held in owner.open.values() if any(kind is not None and kind >= 0 for kind in held.results)]
        chosen = moved if which == 0 else moved[which - 1 : which]
        owner.writes += 1
        records = {"agent": b"%d:%d" % (lease.epoch, owner.writes)}
        owner.settlements += 1
        settlement = Settlement(lease, [held.outcome() for held in chosen], dict(records), owner.settlements)
        results = {
            message: kind
            for held in chosen
            for message, kind in zip(held.messages, held.results, strict=True)
            if kind is not None and kind >= 0
        }
        self._late_settles.append((settlement, results))
        try:
            valid = await self._call(fault, lambda: self._settle(settlement, results))
        except LostAnswer:
            return
        if not valid:
            owner.drop()
            return
        for held, outcome in zip(chosen, settlement.outcomes, strict=True):
            if outcome.done:
                del owner.open[held.id]

    async def _settle(self, settlement: Settlement, results: dict[Message, int]) -> bool:
        lease = settlement.lease
        (valid,), _ = await self._broker.settle([settlement])
        if valid:
            self.truth.settled_by(lease, settlement.seq, results, dict(settlement.records))
        else:
            self.truth.refused(lease, "settle")
        return valid

    async def late_settle(self, which: int) -> None:
        """A settle that was delayed on its way comes through behind later ones."""
        if self._late_settles:
            await self._settle(*self._late_settles[which % len(self._late_settles)])

    async def replay(self, which: int, fault: str) -> None:
        """Somebody makes a dead letter a message again."""
        letters = await self._broker.dead(SHARD, 1000)
        if not letters:
            return
        self._replays.add(["a"])
        (batch,) = self._replays.unacknowledged
        payload = msgspec.msgpack.encode(batch.messages)
        id = letters[which % len(letters)][0]

        async def call() -> None:
            (status,) = await self._broker.replay(SHARD, [(id, payload)], MAX_DEPTH)
            if status == "ok":
                self.truth.taken += 1
                self.truth.wrote(batch.messages)

        with suppress(LostAnswer):
            await self._call(fault, call)
        self._replays.unacknowledged.clear()
        if batch.messages[0] not in self.truth.sent:
            self._replays.take_back("a")

    async def drop_letter(self, which: int, fault: str) -> None:
        """Somebody deletes a dead letter."""
        letters = await self._broker.dead(SHARD, 1000)
        if not letters:
            return
        id = letters[which % len(letters)][0]

        async def call() -> None:
            self.truth.taken += sum(await self._broker.drop(SHARD, [id]))

        with suppress(LostAnswer):
            await self._call(fault, call)

    async def renew(self, name: str, fault: str) -> None:
        """Prolong the lease."""
        owner = self._owner(name)
        if owner.lease is None:
            return
        lease = owner.lease

        async def call() -> bool:
            (valid,) = await self._broker.renew([lease], LEASE_MS)
            if valid:
                self.truth.accepted(lease, "renewal")
                self.truth.lapsed = False
            else:
                self.truth.refused(lease, "renewal")
            return valid

        try:
            if not await self._call(fault, call):
                owner.drop()
        except LostAnswer:
            return

    async def hand_over(self, name: str, fault: str) -> None:
        """Settle what ended, then give the shard back."""
        owner = self._owner(name)
        await self.settle(owner.name, 0, "none")
        if owner.lease is None:
            return
        lease = owner.lease

        async def call() -> bool:
            freed = await self._broker.release(lease)
            if freed:
                self.truth.freed(lease)
            return freed

        # A second release finds nothing to release, which is the right answer to it.
        with suppress(LostAnswer):
            await self._call(fault, call)
        owner.drop()

    async def crash(self, name: str) -> None:
        """An owner dies in the middle of whatever it did, and comes back as a new process."""
        owner = self._owner(name)
        owner.drop()
        owner.lives += 1

    async def lapse(self) -> None:
        """Nobody renews in time."""
        await self._lapse()
        self.truth.lapsed = True

    async def take_over(self, name: str, fault: str) -> None:
        """A lease lapses and somebody takes the shard at once; the former owner has not noticed."""
        await self.lapse()
        await self.acquire(name, fault)

    # Judging.

    async def check(self) -> None:
        """Hold all that can be seen of the shard against the truth."""
        ledger = await self._broker.ledger(SHARD)
        records = await self._broker.records(SHARD)
        self.truth.check(ledger, records, len(await self._broker.dead(SHARD, 1000)))

    async def come_to_rest(self) -> None:
        """All faults end: one more owner takes the shard, and everything that was sent is settled."""
        for name in self._owners:
            await self.crash(name)
        await self.take_over("ada", "none")
        for _ in range(ROUNDS):
            waiting = [sender for sender in self._senders.values() if sender.unacknowledged]
            for sender in waiting:
                await self._send(sender, 1, "none")
            await self.read("ada", 1000, "none")
            for agent in ("a", "b"):
                await self.handle("ada", agent, 1000, "ok")
            await self.settle("ada", 0, "none")
            await self.check()
            if not waiting and len(self.truth.settled) == len(self.truth.sent):
                break
        else:
            raise Violation(f"nothing lost: never settled: {self.truth.sent.keys() - self.truth.settled.keys()}")
        ledger = await self._broker.ledger(SHARD)
        demand((ledger.depth, ledger.entries) == (0, 0), "nothing lost: left in the inbox:", ledger)
        demand(not (await self._broker.pending(self._owners["ada"].process, SHARD, "0", 10)), "left pending")


async def play(world: World, history: list[tuple[Any, ...]]) -> None:
    """Run a history, with the invariants checked after each step, then let the shard come to rest."""
    for name, *arguments in history:
        await getattr(world, name)(*arguments)
        await world.check()
    await world.come_to_rest()
