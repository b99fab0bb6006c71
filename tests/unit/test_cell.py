"""One agent in its worker: retries, time limits, births and ends, and handlers that do what they should not."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import msgspec
import pytest

from swell import Agent, App, HandlerFailed, handler
from swell.bus import consumer, settler
from swell.errors import BrokerUnavailable, StartFailed, UnknownAgent
from swell_worker import cell, host
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
    async def hang(self) -> None:
        log.attempts["hang"] += 1
        await asyncio.Event().wait()

    @handler
    async def deaf(self, body: int) -> None:
        """Ignores that it is cancelled, so many times."""
        log.attempts["deaf"] += 1
        for _ in range(body):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.handled.append("ignored")

    @handler
    async def stubborn(self) -> None:
        """Answers its cancellation with an error of its own."""
        log.attempts["stubborn"] += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("not now") from None


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "RETRY", NO_WAIT)
    monkeypatch.setattr(settler, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(consumer, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(host, "RECONNECT", NO_WAIT, raising=False)
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
