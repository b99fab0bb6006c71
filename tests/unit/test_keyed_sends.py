"""Messages with a key: whoever repeats them, and after whatever went wrong, they are there once, in order."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import pytest

from swell.bus import keyed as module
from swell.bus.broker import Broker
from swell.bus.keyed import KeyedSend, SentOnce
from swell.bus.memory import MemoryBroker, MemoryServer
from swell.errors import BrokerFull, BrokerUnavailable, Busy, WireError, WrongBody
from tests.unit.test_limited_sends import drain
from tests.unit.test_producer import NO_WAIT, Unreliable, message

AWAY = BrokerUnavailable("the server is away")
MANY = [(str(number % 3), message(number)) for number in range(2000)]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(module, "BUSY", NO_WAIT)


def keyed(broker: Unreliable, key: str = "k", max_depth: int = 10_000, wait_s: float | None = None) -> KeyedSend:
    return KeyedSend(cast(Broker, broker), key, max_depth, wait_s)


async def test_the_same_messages_under_the_same_key_are_appended_once_and_the_answer_says_so() -> None:
    broker = Unreliable()
    assert await keyed(broker).send(MANY) == SentOnce(2000, False)
    assert await keyed(broker).send(MANY) == SentOnce(2000, True)
    assert await keyed(broker, "other").send(MANY[:1]) == SentOnce(1, False)
    assert await drain(broker, "0") == [*range(0, 2000, 3), 0]
    assert await drain(broker, "1") == list(range(1, 2000, 3))


async def test_they_are_not_appended_again_after_they_were_settled() -> None:
    broker = Unreliable()
    await keyed(broker).send(MANY[:10])
    await drain(broker, "0")
    assert (await keyed(broker).send(MANY[:10])).repeated
    assert await drain(broker, "0") == []


async def test_a_call_that_was_cut_half_way_is_completed_by_the_next() -> None:
    broker = Unreliable()
    broker.gate.clear()
    cut = asyncio.ensure_future(keyed(broker).send(MANY))
    while len(broker.calls) < 3:
        await broker.arrived.wait()
        broker.arrived.clear()
        broker.gate.set()
        await asyncio.sleep(0)
    cut.cancel()
    await asyncio.wait({cut})
    assert cut.cancelled()
    assert await keyed(broker).send(MANY) == SentOnce(2000, False)
    assert [await drain(broker, shard) for shard in "012"] == [list(range(first, 2000, 3)) for first in range(3)]


@pytest.mark.parametrize("seed", range(6))
async def test_two_at_once_through_lost_answers_append_each_message_once(seed: int) -> None:
    random_ = random.Random(seed)
    broker = Unreliable()
    broker.faults = [random_.choice(("lost", "", AWAY, BrokerFull("no memory"))) for _ in range(30)]
    await asyncio.gather(*(keyed(broker).send(MANY) for _ in range(3)))
    broker.faults.clear()
    assert (await keyed(broker).send(MANY)).repeated
    assert [await drain(broker, shard) for shard in "012"] == [list(range(first, 2000, 3)) for first in range(3)]
    ledger = await broker.inner.ledger("0")
    assert (ledger.rewinds, ledger.balanced) == (0, True)


async def test_without_room_within_the_wait_what_is_missing_is_named_and_comes_with_the_next_call() -> None:
    broker = Unreliable()
    with pytest.raises(Busy) as raised:
        await keyed(broker, max_depth=300, wait_s=0).send(MANY)
    assert raised.value.sent == 3 * 256
    assert raised.value.unsent == list(range(3 * 256, 2000))
    got = [await drain(broker, shard) for shard in "012"]
    assert await keyed(broker).send(MANY) == SentOnce(2000, False)
    got = [[*before, *await drain(broker, shard)] for before, shard in zip(got, "012", strict=True)]
    assert got == [list(range(first, 2000, 3)) for first in range(3)]


async def test_a_server_that_is_away_for_longer_than_the_wait_is_no_promise_either_way() -> None:
    broker = Unreliable()
    broker.faults = ["lost"]
    with pytest.raises(BrokerUnavailable, match="repeat it with the same key"):
        await keyed(broker, wait_s=0).send(MANY[:3])
    assert await keyed(broker, wait_s=0).send(MANY[:3]) == SentOnce(3, True)


async def test_a_server_that_lost_what_it_had_is_given_all_of_it_again() -> None:
    broker = Unreliable()
    broker.gate.clear()
    sending = asyncio.ensure_future(
        keyed(broker, max_depth=600).send([("0", message(number)) for number in range(1000)])
    )
    broker.gate.set()
    while len(broker.calls) < 5:
        await asyncio.sleep(0)
    broker.inner = MemoryBroker(MemoryServer(), "tests")
    while not sending.done():
        await asyncio.sleep(0)
        await drain(broker)
    assert not (await sending).repeated


async def test_one_message_that_cannot_be_sent_keeps_all_back() -> None:
    broker = Unreliable()
    with pytest.raises(WireError):
        await keyed(broker).send([*MANY[:5], ("0", ("echo/1", "echo", object(), 0))])
    assert broker.calls == []


@pytest.mark.parametrize("key", ["", " ", "a b", "a:b", "a/b", "-a", "x" * 129, "a\n"])
def test_a_key_that_could_be_something_else_is_refused(key: str) -> None:
    with pytest.raises(WrongBody, match="key"):
        keyed(Unreliable(), key)
