"""Messages for later: kept beside their shard, handled once when they are due, whoever owns the shard by then."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from swell import Agent, App, CallError, WrongBody, handler
from swell.bus import settler
from swell.bus.timed import AGAIN, Timed
from swell.errors import BrokerUnavailable
from swell.later import Later, next_ms
from swell.wire import LATER, TO_SHARD
from swell_worker import due
from tests.unit.brokers import LONG_MS, NO_WAIT, Rig, WorkerRig, rig_of

app = App("tests")
handled: list[Any] = []
gate = asyncio.Event()
HOUR_S = 3600.0


@app.agent("clerk")
class Clerk(Agent):
    @handler
    async def note(self, body: Any) -> None:
        handled.append(body)

    @handler
    async def wait(self) -> None:
        await gate.wait()

    @handler
    async def remind(self) -> None:
        await self.send("clerk/1", "note", "reminded", delay=HOUR_S)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settler, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(due, "RECONNECT", NO_WAIT)
    global gate
    gate = asyncio.Event()
    handled.clear()


async def waiting(rig: Rig, count: int) -> None:
    """Return when so many messages wait for their time, and the requests are settled."""

    async def enough() -> bool:
        return (await rig.broker.ledger("0")).scheduled == count

    await rig.until(enough)
    await rig.settled()


def let_pass(rig: Rig, seconds: float) -> None:
    """The server's clock goes ahead, and the workers look at it."""
    rig.clock.pass_ms(int(seconds * 1000))
    for worker in rig.workers:
        worker.fleet.due.look()


async def handled_so_far(rig: Rig, *expected: Any) -> None:
    async def all_of_them() -> bool:
        return len(handled) >= len(expected)

    await rig.until(all_of_them)
    await rig.settled()
    assert handled == list(expected)


async def started(rig: Rig) -> WorkerRig:
    worker = await rig.start(app)
    await rig.spawn("clerk/1")
    return worker


async def test_a_delayed_message_is_handled_when_it_is_due_and_not_before() -> None:
    async with rig_of() as rig:
        await started(rig)
        await rig.client.send("clerk/1", "note", "second", delay=2 * HOUR_S)
        await rig.client.send("clerk/1", "note", "first", delay=HOUR_S)
        await rig.client.send("clerk/1", "note", "now")
        await waiting(rig, 2)
        ledger = await rig.broker.ledger("0")
        assert (ledger.sent, ledger.acked) == (4, 4), "$spawn, two requests, and the one that was not for later"
        let_pass(rig, HOUR_S + 1)
        await handled_so_far(rig, "now", "first")
        let_pass(rig, HOUR_S)
        await handled_so_far(rig, "now", "first", "second")
        ledger = await rig.broker.ledger("0")
        assert (ledger.sent, ledger.acked, ledger.scheduled) == (6, 6, 0)


async def test_a_timer_wakes_for_the_earliest_also_if_it_came_last() -> None:
    async with rig_of() as rig:
        await started(rig)
        await rig.client.send("clerk/1", "note", "never", delay=HOUR_S)
        await waiting(rig, 1)
        await rig.client.send("clerk/1", "note", "late", delay=0.06)
        await rig.client.send("clerk/1", "note", "soon", delay=0.02)
        await rig.client.send("clerk/1", "note", "at once", delay=0)
        await rig.client.send("clerk/1", "note", "past", at=datetime(2020, 1, 1, tzinfo=UTC))

        async def four() -> bool:
            return len(handled) == 4

        await rig.until(four)
        assert handled[2:] == ["soon", "late"]
        assert set(handled[:2]) == {"at once", "past"}


async def test_at_a_moment_by_the_servers_clock_and_from_an_agent_as_well() -> None:
    async with rig_of() as rig:
        await started(rig)
        moment = datetime.fromtimestamp(rig.clock.now_us() / 1e6, UTC) + timedelta(hours=1)
        await rig.client.send("clerk/1", "note", "at", at=moment)
        await rig.client.send("clerk/1", "remind")
        await waiting(rig, 2)
        let_pass(rig, HOUR_S + 1)

        async def both() -> bool:
            return sorted(handled) == ["at", "reminded"]

        await rig.until(both)


async def test_it_expires_so_long_after_it_was_due() -> None:
    async with rig_of() as rig:
        await started(rig)
        await rig.client.send("clerk/1", "note", "in time", delay=HOUR_S, ttl=24 * HOUR_S)
        await rig.client.send("clerk/1", "note", "too late", at=datetime(2020, 1, 1, tzinfo=UTC), ttl=1)
        await rig.client.send("clerk/1", "note", "too late", delay=0, deadline=datetime(2020, 1, 1, tzinfo=UTC))
        await waiting(rig, 1)
        let_pass(rig, HOUR_S + 1)
        await handled_so_far(rig, "in time")
        assert (await rig.broker.ledger("0")).expired == 2


async def test_what_waits_survives_its_worker_and_is_handled_once_by_the_next() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        for number in range(20):
            await rig.client.send("clerk/1", "note", number, delay=HOUR_S + number)
        await waiting(rig, 20)
        await worker.die()
        rig.clock.pass_ms(int(2 * HOUR_S * 1000))
        await rig.start(app)
        await handled_so_far(rig, *range(20))


async def test_a_request_beside_a_slow_neighbour_is_not_carried_out_again_when_its_worker_dies() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        await rig.spawn("clerk/2")
        # In one entry: the first is being handled, so the entry cannot be settled whole.
        slow, later = rig.client.send("clerk/1", "wait"), rig.client.send("clerk/2", "note", "once", delay=0)
        await asyncio.gather(slow, later)

        async def sent() -> bool:
            return handled == ["once"]

        await rig.until(sent)
        await worker.die()
        rig.clock.pass_ms(LONG_MS + 1)
        gate.set()
        await rig.start(app)
        await rig.settled()
        # Handled again it may be, if its own end was not written; moved into the inbox it was once.
        ledger = await rig.broker.ledger("0")
        assert (ledger.sent, ledger.scheduled) == (2 + 2 + 1, 0)


async def test_a_message_sent_while_no_worker_lives_is_due_by_when_the_server_took_it() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        await worker.leave()
        await rig.client.send("clerk/1", "note", "late", delay=HOUR_S)
        rig.clock.pass_ms(int(HOUR_S * 1000) + 1)
        await rig.start(app)
        await handled_so_far(rig, "late")


async def test_under_a_key_it_is_sent_once() -> None:
    async with rig_of() as rig:
        await started(rig)
        for _ in range(2):
            await rig.client.send("clerk/1", "note", "once", key="k", delay=HOUR_S)
        await waiting(rig, 1)


async def test_an_interval_sends_each_time_once_and_makes_up_for_no_time_that_was_missed() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        found = await rig.client.schedule("tick", "clerk/1", "note", "tick", every=HOUR_S)
        assert (found.id, found.every_s, found.schedule) == ("tick", HOUR_S, True)
        for count in (1, 2):
            let_pass(rig, HOUR_S)
            await handled_so_far(rig, *["tick"] * count)
        await worker.leave()
        rig.clock.pass_ms(int(100 * HOUR_S * 1000))
        await rig.start(app)
        await handled_so_far(rig, *["tick"] * 3)
        (waits,) = await rig.client.scheduled()
        assert 0 < waits.due_ms - rig.clock.now_us() // 1000 <= HOUR_S * 1000
        assert (waits.due_ms - found.due_ms) % (HOUR_S * 1000) == 0


async def test_a_cron_line_sends_at_its_minutes() -> None:
    async with rig_of() as rig:
        await started(rig)
        found = await rig.client.schedule("noon", "clerk/1", "note", "noon", cron="0 12 * * *")
        assert datetime.fromtimestamp(found.due_ms / 1000, UTC).hour == 12
        let_pass(rig, found.due_ms / 1000 - rig.clock.now_us() / 1e6 + 0.5)
        await handled_so_far(rig, "noon")
        (waits,) = await rig.client.scheduled()
        assert waits.due_ms == found.due_ms + 24 * 3_600_000
        assert (waits.to, waits.name, waits.id, waits.cron) == ("clerk/1", "note", "noon", "0 12 * * *")


async def test_a_schedule_is_replaced_under_its_name_and_removed_once() -> None:
    async with rig_of() as rig:
        await started(rig)
        await rig.client.schedule("tick", "clerk/1", "note", "old", every=HOUR_S)
        await rig.client.schedule("tick", "clerk/1", "note", "new", at=datetime.now(UTC) + timedelta(hours=2))
        await rig.client.schedule("tock", "clerk/1", "note", "never", every=HOUR_S)
        await rig.client.send("clerk/1", "note", "alone", delay=4 * HOUR_S)
        await waiting(rig, 3)
        found = await rig.client.scheduled()
        assert [(one.id, one.schedule) for one in found] == [("tock", True), ("tick", True), ("", False)]
        answers = await asyncio.gather(
            rig.client.unschedule("tock", "clerk/1"),
            rig.client.schedule("tock", "clerk/1", "note", "again", every=3 * HOUR_S),
            rig.client.unschedule("other", "clerk/1"),
        )
        assert (answers[0], answers[2]) == (True, False)
        assert [one.id for one in await rig.client.scheduled()] == ["tick", "tock", ""]
        assert await rig.client.unschedule("tock", "clerk/1")
        assert not await rig.client.unschedule("tock", "clerk/1")
        let_pass(rig, 5 * HOUR_S)
        await handled_so_far(rig, "new", "alone")


async def test_what_is_removed_right_behind_its_request_is_removed() -> None:
    async with rig_of() as rig:
        await started(rig)
        for _ in range(20):
            asked = rig.client.schedule("tick", "clerk/1", "note", every=HOUR_S)
            _, removed = await asyncio.gather(asked, rig.client.unschedule("tick", "clerk/1"))
            assert removed
        assert await rig.client.scheduled() == []


async def test_a_lost_answer_of_the_server_fires_nothing_twice() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        real = worker.broker.fire
        failures = iter(["lost", "away", "lost"])

        async def fire(*args: Any) -> Any:
            fault = next(failures, "")
            if fault == "away":
                raise BrokerUnavailable("away")
            answer = await real(*args)
            if fault:
                raise BrokerUnavailable("the answer was lost")
            return answer

        await rig.client.schedule("tick", "clerk/1", "note", "tick", every=HOUR_S)
        await rig.client.send("clerk/1", "note", "once", delay=HOUR_S / 2)
        worker.broker.fire = fire  # type: ignore[method-assign]
        let_pass(rig, HOUR_S)
        await handled_so_far(rig, "once", "tick")


async def test_more_than_may_wait_are_given_up_with_the_reason() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        worker.client._max_depth = 2
        for _ in range(2):
            await rig.client.send("clerk/1", "note", delay=HOUR_S)
        with pytest.raises(CallError, match="2 messages wait for their time in shard 0, and no more may"):
            await rig.client.schedule("tick", "clerk/1", "note", every=HOUR_S)
        assert [letter.kind for letter in await rig.letters()] == ["too_many_wait"]


async def test_what_takes_the_place_of_another_does_not_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "COUNT_AGAIN", 3)
    async with rig_of() as rig:
        worker = await started(rig)
        worker.client._max_depth = 10
        for number in range(50):
            await rig.client.send("clerk/1", "note", number, delay=HOUR_S, id="newest")
            await rig.settled()
        await waiting(rig, 1)
        assert await rig.letters() == []
        let_pass(rig, HOUR_S + 60)
        await handled_so_far(rig, 49)


async def test_a_request_that_cannot_be_is_a_dead_letter_and_the_worker_goes_on() -> None:
    async with rig_of(2) as rig:
        await rig.start(app)
        foreign, at_home = (
            next(f"clerk/{n}" for n in range(99) if rig.client.shard(f"clerk/{n}") == shard) for shard in "10"
        )
        good = {"to": at_home, "name": "note", "body": 1}
        fields = ("at_ms", "delay_ms", "every_ms", "ttl_us", "until_us")
        wrong: list[dict[str, Any]] = [
            {"to": 3},
            good | {"to": foreign},
            good | {"cron": "?"},
            *(good | {field: value} for field in fields for value in (2**63, -1)),
        ]
        for body in wrong:
            with pytest.raises(WrongBody):
                await rig.client.request("0", TO_SHARD, LATER, body, 5)
        assert len(await rig.letters()) == len(wrong)
        most = good | {"every_ms": 10**13, "ttl_us": 10**16}
        assert await rig.client.request("0", TO_SHARD, LATER, most, 5)
        await rig.spawn(at_home)
        await rig.client.request("0", TO_SHARD, LATER, good | {"ttl_us": 10**16}, 5)
        await handled_so_far(rig, 1)


async def test_a_schedule_that_cannot_be_read_is_removed_and_the_others_go_on() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        shard = worker.consumer.owned["0"]
        shard.store("s/clerk/1/bad", Timed(1, AGAIN + b"nonsense"))
        await rig.client.schedule("tick", "clerk/1", "note", "tick", every=HOUR_S)
        let_pass(rig, HOUR_S)
        await handled_so_far(rig, "tick")
        await waiting(rig, 1)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"delay": -1}, "delay: -1 must be 0 or more"),
        ({"delay": float("nan")}, "delay: nan must be 0 or more"),
        ({"delay": 1, "at": datetime.now(UTC)}, "give delay or at, not both"),
        ({"at": datetime(2027, 1, 1)}, "at: 2027-01-01T00:00:00 has no time zone"),
        ({"delay": 1, "ttl": -1}, "ttl: -1 must be more than 0"),
    ],
)
async def test_a_delay_that_cannot_be_is_refused_before_anything_is_sent(
    arguments: dict[str, Any], problem: str
) -> None:
    async with rig_of() as rig:
        with pytest.raises(WrongBody, match=problem):
            await rig.client.send("clerk/1", "note", **arguments)
        assert (await rig.broker.ledger("0")).sent == 0


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("a/b", {"every": 60}, "name: 'a/b' must be"),
        ("tick", {}, "give exactly one of cron, every and at"),
        ("tick", {"every": 60, "cron": "* * * * *"}, "give exactly one of"),
        ("tick", {"every": 0.5}, "every: 0.5 must be 1 second or more"),
        ("tick", {"cron": "* * *"}, "must have five fields"),
    ],
)
async def test_a_schedule_that_cannot_be_is_refused_before_anything_is_sent(
    name: str, arguments: dict[str, Any], problem: str
) -> None:
    async with rig_of() as rig:
        with pytest.raises(WrongBody, match=problem):
            await rig.client.schedule(name, "clerk/1", "note", **arguments)
        assert (await rig.broker.ledger("0")).sent == 0


def test_the_next_time_of_an_interval_is_the_first_that_is_later_than_now() -> None:
    tick = Later("a/1", "note", b"", every_ms=1000)  # type: ignore[arg-type]
    assert [next_ms(tick, 5000, now) for now in (4000, 5000, 5001, 5999, 6000, 9500)] == [
        *(6000, 6000, 6000, 6000, 7000, 10_000),
    ]
