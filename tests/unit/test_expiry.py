"""Messages that expire: never handled when it is too late, settled as expired, counted, and the asker told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from swell import Agent, App, Expired, HandlerFailed, WrongBody, handler
from swell.codec import MessageBuffer, SeriesBuffer, decode_batch
from swell.expiry import Expiry, expiry
from swell_worker import retrying, unhandled
from tests.unit.brokers import Rig, rig_of

app = App("tests")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime.now(UTC) + timedelta(days=1)

handled: list[object] = []
gate = asyncio.Event()


@app.agent("clerk", timeout=None, max_attempts=5)
class Clerk(Agent):
    @handler
    async def note(self, body: object) -> object:
        handled.append(body)
        return body

    @handler
    async def wait(self) -> None:
        await gate.wait()

    @handler
    async def fail_late(self, body: object) -> None:
        """Fails, and it is an hour later."""
        handled.append(body)
        clock.ahead_us += 3_600_000_000
        raise ValueError(body)


class Clock:
    """The worker's clock, which can be set ahead."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def now_us(self) -> int:
        return int(datetime.now(UTC).timestamp() * 1e6) + self.ahead_us


clock = Clock()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    global clock, gate
    clock, gate = Clock(), asyncio.Event()
    handled.clear()
    monkeypatch.setattr(unhandled, "SYSTEM", clock)


async def expired(rig: Rig) -> int:
    return (await rig.broker.ledger("0")).expired


async def test_a_message_that_is_too_late_is_settled_as_expired_and_its_neighbours_are_handled() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("clerk/1")
        await rig.client.send("clerk/1", "note", 1)
        await rig.client.send("clerk/1", "note", "late", deadline=LONG_AGO)
        await rig.client.send("clerk/1", "note", 2, deadline=FAR_AHEAD)
        await rig.client.send("clerk/1", "note", 3, ttl=3600)
        await rig.settled()
        assert handled == [1, 2, 3]
        assert await expired(rig) == 1
        assert worker.recorder.counter("expired", "clerk").n == 1
        assert await rig.letters() == []


@pytest.mark.parametrize("wait", [None, 5.0])
async def test_messages_sent_together_expire_each_by_itself_while_the_first_are_handled(wait: float | None) -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("clerk/1")
        many = [("clerk/1", "note", 0), ("clerk/1", "fail_late", 1), *(("clerk/1", "note", n) for n in (2, 3))]
        assert await rig.client.send_many(many, ttl=60, wait=wait) == 4
        await rig.settled()
        assert handled == [0, 1]
        assert await expired(rig) == 3


async def test_one_that_expires_between_its_attempts_is_not_tried_again() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("clerk/1")
        with pytest.raises(Expired, match=r"'fail_late' expired .* s before clerk/1 could handle it"):
            await rig.client.ask("clerk/1", "fail_late", "once", ttl=60)
        assert handled == ["once"]
        assert await rig.client.ask("clerk/1", "note", "behind") == "behind"


async def test_an_asker_is_told_at_once_and_the_kind_travels() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("clerk/1")
        with pytest.raises(Expired) as raised:
            await rig.client.ask("clerk/1", "note", 1, deadline=LONG_AGO)
        assert raised.value.agent == "clerk/1"
        assert await rig.client.ask("clerk/1", "note", 2, ttl=60) == 2
        assert handled == [2]


async def test_what_is_parked_expires_when_it_is_parked_or_fetched() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app, mailbox=1)
        await rig.spawn("clerk/1")
        await rig.client.send("clerk/1", "wait")
        for number in range(3):
            await rig.client.send("clerk/1", "note", number)
        for number in range(3, 6):
            await rig.client.send("clerk/1", "note", number, ttl=60)
        for number in range(6, 9):
            await rig.client.send("clerk/1", "note", number, deadline=LONG_AGO)

        async def parked() -> bool:
            return worker.recorder.counter("expired", "clerk").n == 3

        await rig.until(parked)
        clock.ahead_us = 3_600_000_000
        gate.set()
        await rig.settled()
        assert handled == [0, 1, 2]
        assert await expired(rig) == 6


async def test_a_message_sent_under_a_key_expires_too() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("clerk/1")
        await rig.client.send("clerk/1", "note", 1, key="k", deadline=LONG_AGO)
        await rig.client.send("clerk/1", "note", 2, key="l", ttl=60)
        await rig.settled()
        assert handled == [2]


async def test_an_agent_can_give_its_messages_a_time_as_a_client_can() -> None:
    relay = App("tests")
    relay.types.update(app.types)

    @relay.agent("relay")
    class Relay(Agent):
        @handler
        async def pass_on(self) -> str:
            await self.send("clerk/1", "note", "late", deadline=LONG_AGO)
            await self.send_many([("clerk/1", "note", "late too")], deadline=LONG_AGO)
            try:
                await self.ask("clerk/1", "note", "later", deadline=LONG_AGO)
            except Expired as error:
                return error.agent
            return "handled"

    async with rig_of() as rig:
        await rig.start(relay)
        await rig.spawn("clerk/1", "relay/1")
        assert await rig.client.ask("relay/1", "pass_on") == "clerk/1"
        await rig.settled()
        assert handled == []


async def test_without_an_expiry_a_failing_handler_is_tried_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.brokers import NO_WAIT

    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("clerk/1")
        with pytest.raises(HandlerFailed, match="failed 5 times"):
            await rig.client.ask("clerk/1", "fail_late", "always")
        assert handled == ["always"] * 5


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_span_that_cannot_be_is_refused_by_name(ttl: float) -> None:
    with pytest.raises(WrongBody, match=r"^ttl: .* must be more than 0"):
        expiry(ttl, None)


def test_a_moment_without_a_time_zone_and_two_limits_are_refused() -> None:
    with pytest.raises(WrongBody, match=r"^deadline: 2020-01-01T00:00:00 has no time zone"):
        expiry(None, datetime(2020, 1, 1))
    with pytest.raises(WrongBody, match="ttl or deadline, not both"):
        expiry(1, FAR_AHEAD)
    assert expiry(None, None) is None


def test_the_expiry_is_the_last_field_of_a_series_and_is_left_out_where_there_is_none() -> None:
    gathered = SeriesBuffer("clerk/1", "note")
    gathered.add(1, 100)
    gathered.add(2, 100)
    buffer = MessageBuffer()
    for series in (gathered.series(5, ""), gathered.series(5, "", 9), gathered.series(5, "a/1", 9)):
        assert buffer.add(series)
    assert buffer.add(("clerk/1", "note", 3, 5, "", "", 0, None, 9))
    found = decode_batch(buffer.batch("me", 1), 7).series
    assert [(one.sender, one.expires_us, one.count) for one in found] == [
        *(("", 0, 2), ("", 9, 2), ("a/1", 9, 2), ("", 9, 1)),
    ]
    assert {single.expires_us for single in found[1].singles()} == {9}
    assert {message.expires_us for message in found[1].messages()} == {9}
    assert found[3].message(0).alone() == found[3]
    assert structs.fields(type(found[0]))[-1].name == "expires_us"
    assert len(gathered.series(5, "").data) < len(gathered.series(5, "", 9).data)


def test_a_span_counts_from_the_moment_a_message_is_given() -> None:
    assert Expiry(7, 0).at_us(100) == 107
    assert Expiry(0, 50).at_us(100) == 50
