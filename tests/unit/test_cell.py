"""One agent in its worker: retries, time limits, births and ends, and handlers that do what they should not."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import msgspec
import pytest

from swell import Agent, App, HandlerFailed, handler
from swell.bus import consumer, settler
from swell.errors import BrokerUnavailable
from swell_worker import parking, retrying
from tests.unit.brokers import NO_WAIT, rig_of

app = App("tests")


class Picky(msgspec.Struct):
    """A body whose own check raises what msgspec does not turn into an error of decoding."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise LookupError("negative")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even its text")


class Everything(BaseException):
    """Not an Exception, as what task groups and libraries raise at times."""


class Log:
    """What the agents did."""

    def __init__(self) -> None:
        self.attempts: dict[Any, int] = defaultdict(int)
        self.handled: list[Any] = []
        self.active = self.most_active = 0
        self.turns = random.Random(0)


log = Log()


@app.agent("odd", max_attempts=3, timeout=0.02)
class Odd(Agent):
    @handler
    async def note(self, body: Any) -> Any:
        log.handled.append(body)
        return body

    @handler
    async def flaky(self, body: int) -> int:
        """Fails `body` times."""
        log.attempts[body] += 1
        if log.attempts[body] <= body:
            raise ValueError(f"attempt {log.attempts[body]}")
        log.handled.append(("flaky", body))
        return log.attempts[body]

    @handler
    async def picky(self, body: Picky) -> None:
        log.handled.append(body.number)

    @handler
    async def fail(self, body: str) -> None:
        errors: dict[str, BaseException] = {
            "cancelled": asyncio.CancelledError(),
            "exit": SystemExit(3),
            "base": Everything("base"),
            "group": BaseExceptionGroup("several", [Everything("one")]),
            "unspeakable": Unspeakable(),
            "surrogate": FileNotFoundError("no file \udcff"),
            "long": ValueError("x" * 10_000_000),
        }
        raise errors[body]

    @handler
    async def slow(self, body: int) -> None:
        log.most_active = max(log.most_active, log.active + 1)
        log.active += 1
        for _ in range(log.turns.randrange(3)):
            await asyncio.sleep(0)
        log.active -= 1
        log.handled.append(body)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    monkeypatch.setattr(settler, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(consumer, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(parking, "RECONNECT", NO_WAIT)
    global log
    log = Log()


async def test_a_handler_that_fails_is_retried_in_place_and_order_holds() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("odd/1")
        await rig.client.send_many([("odd/1", "flaky", 2), ("odd/1", "note", "behind")])
        await rig.settled()
        assert log.handled == [("flaky", 2), "behind"]
        assert await rig.letters() == []


async def test_attempts_used_up_make_a_dead_letter_and_the_next_message_is_handled() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("odd/1")
        with pytest.raises(HandlerFailed, match="failed 3 times, at last: ValueError: attempt 3"):
            await rig.client.ask("odd/1", "flaky", 9)
        assert await rig.client.ask("odd/1", "note", "behind") == "behind"
        (letter,) = await rig.letters()
        assert (letter.kind, letter.attempts, letter.body) == ("handler_failed", 3, 9)
        assert "attempt 3" in letter.traceback


@pytest.mark.parametrize("how", ["cancelled", "exit", "base", "group", "unspeakable", "surrogate", "long"])
async def test_whatever_a_handler_raises_ends_its_message_and_nothing_else(how: str) -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("odd/1")
        with pytest.raises(HandlerFailed) as raised:
            await rig.client.ask("odd/1", "fail", how)
        assert len(str(raised.value)) < 10_000
        assert await rig.client.ask("odd/1", "note", "behind") == "behind"
        await rig.settled()
        (letter,) = await rig.letters()
        assert letter.attempts == 3


async def test_a_body_whose_own_check_raises_anything_is_a_failed_attempt() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("odd/1")
        with pytest.raises(HandlerFailed, match="LookupError: negative"):
            await rig.client.ask("odd/1", "picky", {"number": -1})
        assert await rig.client.ask("odd/1", "note", "behind") == "behind"


@pytest.mark.parametrize("mailbox", [1, 2, 7])
@pytest.mark.parametrize("seed", range(8))
async def test_order_holds_with_a_tiny_mailbox_whatever_the_server_does_meanwhile(mailbox: int, seed: int) -> None:
    chance = random.Random(seed)
    log.turns = chance
    async with rig_of() as rig:
        worker = await rig.start(app, mailbox=mailbox)
        await rig.spawn("odd/1", "odd/2")
        for method in ("fetch", "read", "settle", "pending"):
            worker.broker.faults[method] = [
                chance.choice([None, None, None, "lost", BrokerUnavailable("away")]) for _ in range(40)
            ]
        sent = 0
        while sent < 300:
            size = chance.randrange(1, 30)
            await rig.client.send_many(("odd/1", "slow", number) for number in range(sent, sent + size))
            await rig.client.send("odd/2", "note", "other")
            sent += size
            for _ in range(chance.randrange(10)):
                await asyncio.sleep(0)
        await rig.settled()
        assert [body for body in log.handled if body != "other"] == list(range(sent))
        assert log.most_active == 1
        (shard,) = worker.consumer.owned.values()
        assert (shard.held_bytes, len(shard.open)) == (0, 0)
