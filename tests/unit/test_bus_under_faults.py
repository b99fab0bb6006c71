"""The real producer, consumer, settler and agents on a memory broker whose calls fail at random: the account must hold.

Every run is drawn from its seed: which calls fail before or after they were done, which worker dies, leaves, or goes on
without hearing anything while another takes its shards. The agents write down what they handle; in the end that is
compared with what `send()` acknowledged.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import msgspec
import pytest

from swell import Agent, App, handler
from swell.bus import caller, careful, consumer, leases, producer, settler
from swell.errors import BrokerUnavailable
from swell_worker import host, retrying
from tests.unit.brokers import LONG_MS, NO_WAIT, FaultyBroker, Rig, WorkerRig, rig_of

SHARDS = 3
AGENTS = 6
SENDERS = 3
MESSAGES = 120
FAULTS = 60
METHODS = ["append", "read", "settle", "renew", "heartbeat", "pending", "fetch", "wake", "release", "trial"]

app = App("tests")

#: (sender, agent) -> sequence numbers in the order in which their handlers returned.
handled: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
flaky = random.Random()


class Note(msgspec.Struct):
    sender: str
    seq: int


@app.agent("one", max_attempts=100, timeout=None)
class One(Agent):
    @handler
    async def note(self, body: Note) -> None:
        for _ in range(flaky.choice((0, 0, 0, 1, 5))):
            await asyncio.sleep(0)
        if flaky.random() < 0.02:
            raise RuntimeError("on purpose")
        handled[body.sender, self.id].append(body.seq)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (producer, settler, consumer, careful, caller):
        monkeypatch.setattr(module, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    monkeypatch.setattr(leases, "_AGAIN", NO_WAIT)
    monkeypatch.setattr(leases, "MOST_TICK_S", 0.002)
    monkeypatch.setattr(leases, "MISSING_TICK_S", 0.001)
    monkeypatch.setattr(settler, "PARTIAL_AFTER_S", 0.001)
    monkeypatch.setattr(host, "MOST_ENDING_S", 0.0)
    handled.clear()


async def send_all(rig: Rig, sender: str, rng: random.Random, acknowledged: dict[tuple[str, str], int]) -> None:
    """Send numbered messages to agents drawn at random, one or many at a time."""
    left = MESSAGES
    while left:
        many = min(left, rng.choice((1, 1, 2, 30)))
        left -= many
        chosen = [f"one/{rng.randrange(AGENTS)}" for _ in range(many)]
        messages = []
        for agent in chosen:
            messages.append((agent, "note", Note(sender, acknowledged[sender, agent])))
            acknowledged[sender, agent] += 1
        await rig.client.send_many(messages)
        await asyncio.sleep(0)


async def break_things(rig: Rig, rng: random.Random) -> None:
    """Make calls fail, and workers come, go, die, and go deaf."""
    for _ in range(FAULTS):
        living = [one for one in rig.workers if one.ended is not None and not one.ended.done()]
        match rng.choice(("fail", "fail", "fail", "fail", "die", "leave", "deaf")):
            case "fail":
                broker: FaultyBroker = rng.choice([rig.broker, *(worker.broker for worker in living)])
                faults = [rng.choice((BrokerUnavailable("away"), "lost", None)) for _ in range(rng.randint(1, 3))]
                broker.faults.setdefault(rng.choice(METHODS), []).extend(faults)
            case "die":
                await rng.choice(living).die()
                await rig.start(app)
                rig.clock.pass_ms(LONG_MS + 1)
            case "leave" if len(living) > 1:
                leaving = rng.choice(living)
                leaving.stop.set()
                await rig.start(app)
            case "deaf" if len(living) > 1:
                await go_deaf(rig, rng.choice(living), rng)
        for _ in range(rng.randint(1, 40)):
            await asyncio.sleep(0)
        await asyncio.sleep(rng.choice((0, 0, 0.002, 0.01)))


async def go_deaf(rig: Rig, worker: WorkerRig, rng: random.Random) -> None:
    """Have a worker neither beat, renew nor settle, until its shards may be another's."""
    deaf_to = ("heartbeat", "renew", "settle")[: rng.randint(1, 3)]
    for method in deaf_to:
        worker.broker.gates[method] = asyncio.Event()
    rig.clock.pass_ms(LONG_MS + 1)
    await asyncio.sleep(0.01)
    for method in deaf_to:
        worker.broker.gates.pop(method).set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(4))
async def test_nothing_is_lost_or_reordered_whatever_call_fails_and_whoever_dies(
    part: int, pytestconfig: pytest.Config
) -> None:
    given = pytestconfig.getoption("--chaos-seed")
    runs = 60 if pytestconfig.getoption("--chaos-long") else 4
    for seed in range((given or 0) + part * runs, (given or 0) + (part + 1) * runs):
        await one_run(seed)


async def one_run(seed: int) -> None:
    rng = random.Random(seed)
    flaky.seed(seed)
    handled.clear()
    acknowledged: dict[tuple[str, str], int] = defaultdict(int)
    async with rig_of(shards=SHARDS) as rig:
        await rig.start(app)
        await rig.start(app)
        await rig.spawn(*(f"one/{number}" for number in range(AGENTS)))
        async with asyncio.TaskGroup() as group:
            for number in range(SENDERS):
                group.create_task(send_all(rig, f"s{number}", random.Random(f"{seed} {number}"), acknowledged))
            group.create_task(break_things(rig, rng))
        await rig.settled()
        ledgers = [await rig.broker.ledger(str(shard)) for shard in range(SHARDS)]
        assert sum(ledger.sent for ledger in ledgers) == SENDERS * MESSAGES + AGENTS, f"seed {seed}"
        assert [ledger.dead for ledger in ledgers] == [0] * SHARDS, f"seed {seed}: {await rig.letters()}"
    for pair, count in acknowledged.items():
        assert list(dict.fromkeys(handled[pair])) == list(range(count)), f"seed {seed}: {pair}"
    assert handled.keys() <= acknowledged.keys(), f"seed {seed}"
