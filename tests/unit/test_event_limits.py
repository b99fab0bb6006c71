"""Events and subscriptions at their limits, and those that are meant to do harm: no worker ends, nothing is lost."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections import Counter
from collections.abc import Iterable

import pytest
from msgspec import Raw

from swell import Agent, App, UnknownAgent, WireError, WrongBody, field, handler
from swell.codec import MAX_EVENT_BYTES, encode, raw
from swell.testing import Fleet, fleet_test, run_in_virtual_time, running
from swell.topics import MOST_SUBSCRIPTIONS, Event, Member, Subscription
from swell.wire import EVENT, TO_SHARD
from swell_worker.groups import Groups
from swell_worker.subscribers import Body
from swell_worker.subscriptions import Subscriptions
from tests.unit.test_topics import Paid, app, fresh, heard

__all__ = ["fresh"]


@fleet_test(app)
async def test_an_event_whose_body_cannot_be_read_is_a_dead_letter_and_ends_no_worker(fleet: Fleet) -> None:
    await fleet.spawn("auditor", keys=["a"])
    for encoded in (b"\x82\xa6amount\xa1\xff\xa5order\x01", b"\x91" * 900 + b"\xc0"):
        await fleet.client.publish("refunds", Raw(encoded))
    await fleet.client.publish("refunds", Paid(7))
    await fleet.quiet(60)
    assert heard == [("auditor/a", 7)]
    assert {letter.kind for letter in await fleet.dead()} <= {"wrong_body"}
    assert await fleet.dead()


LARGEST = "x" * (1_044_480 - 5)


@fleet_test(app)
async def test_the_largest_event_reaches_agents_and_groups_with_the_longest_names(fleet: Fleet) -> None:
    agent, other = "clerk/" + "a" * 128, "clerk/" + "b" * 128
    await fleet.spawn("clerk", keys=["a" * 128, "b" * 128])
    await fleet.client.subscribe(agent, "large", "note")
    await fleet.client.subscribe(other, "large", "note", group="g" * 128)
    await fleet.client.publish("large", LARGEST, sender=agent)
    await fleet.quiet(60)
    assert sorted(heard) == [(agent, LARGEST), (other, LARGEST)]
    with pytest.raises(WireError, match="at most 1044480"):
        await fleet.client.publish("large", LARGEST + "x")
    with pytest.raises(WireError, match="at most 1044480"):
        await fleet.client.publish_many([("large", LARGEST + "x")])
    with pytest.raises(WireError, match="at most 1044480"):
        await fleet.client.broadcast("note", LARGEST + "x")


@fleet_test(app)
async def test_an_event_too_large_for_its_subscribers_is_a_dead_letter_and_ends_no_worker(fleet: Fleet) -> None:
    """As it comes from a client that does not keep to the limit."""
    await fleet.spawn("clerk", keys=["a"])
    await fleet.client.subscribe("clerk/a", "large", "note")
    await fleet.client.subscribe("clerk/a", "large", "note", group="g")
    for shard in fleet.client.shard_names:
        event = Event("large", raw("x" * ((1 << 20) - 80)))
        await fleet.client.producer.send(shard, (TO_SHARD, EVENT, raw(event), time.time_ns() // 1000))
    await fleet.client.publish("large", "small")
    await fleet.quiet(60)
    assert heard == [("clerk/a", "small")] * 2
    letters = await fleet.dead()
    assert {letter.kind for letter in letters} == {"wrong_body"}
    assert len(letters) == len(fleet.client.shard_names)


@fleet_test(app)
async def test_an_event_too_large_with_its_sender_is_refused_before_it_is_sent(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    await fleet.client.subscribe("clerk/a", "large", "note")
    body, sender = "x" * (MAX_EVENT_BYTES - 5), "y" * 4010
    for publish in (
        fleet.client.publish("large", body, sender=sender),
        fleet.client.publish_many([("large", body)], sender=sender),
        fleet.client.broadcast("note", body, sender=sender),
    ):
        with pytest.raises(WireError, match=r"its sender and headers 4013.*give a shorter sender, or send a reference"):
            await publish
    await fleet.client.publish("large", body[:-4010], sender=sender)
    await fleet.quiet(60)
    assert heard == [("clerk/a", body[:-4010])]


@pytest.mark.parametrize("topic", ["large", "mail"])
async def test_an_event_too_large_with_its_headers_is_a_dead_letter_and_ends_no_worker(topic: str) -> None:
    """As it comes from another client: subscribers heard nothing, and for groups one worker ended after another."""
    async with running(app) as fleet:
        await fleet.spawn("clerk", keys=["k" * 120])
        await fleet.spawn("sender", keys=["k" * 120])
        await fleet.client.subscribe("clerk/" + "k" * 120, "large", "note")
        event, now_us = raw(Event(topic, raw("x" * (MAX_EVENT_BYTES - 5)))), time.time_ns() // 1000
        for said in (("y" * 4000, "", 0, None), ("", "", 0, {"h": "y" * 4000}), ("y" * 1900, "", 0, {"h": "y" * 1900})):
            for shard in fleet.client.shard_names:
                await fleet.client.producer.send(shard, (TO_SHARD, EVENT, event, now_us, *said))
        await fleet.client.publish(topic, 7)
        await fleet.quiet(60)
        assert [body for _, body in heard] == [7]
        letters = await fleet.dead()
        assert {letter.kind for letter in letters} == {"wrong_body"}
        assert len(letters) == 3 * len(fleet.client.shard_names)


LONG = "n" * 4096


def named_at_length() -> App:
    """Handlers whose names leave no room for the largest event, beside one of a name as they are."""

    async def hear(self: Agent, body: str) -> None:
        heard.append((self.id, len(body)))

    async def hear_too(self: Agent, body: str) -> None:
        heard.append((self.id, len(body)))

    async def hear_in_group(self: Agent, body: str) -> None:
        heard.append((self.id, len(body)))

    found = App("long")
    for type, function, name, options in (
        ("plain", hear, "hear", {"topic": "large"}),
        ("long", hear_too, LONG, {"topic": "large"}),
        ("grouped", hear_in_group, LONG, {"topic": "grouped", "group": "g"}),
    ):
        function.__name__ = name
        found.agent(type)(builtins.type(type, (Agent,), {name: handler(**options)(function)}))
    return found


@fleet_test(named_at_length(), shards=1)
async def test_an_event_too_large_for_some_handlers_names_is_a_dead_letter_and_the_others_hear_it(fleet: Fleet) -> None:
    for type in ("plain", "long", "grouped"):
        await fleet.spawn(type, count=2)
    largest = "x" * (MAX_EVENT_BYTES - 5)
    for topic in ("large", "grouped"):
        await fleet.client.publish(topic, largest)
        await fleet.client.publish(topic, "small")
    await fleet.quiet(60)
    plain = [("plain/0000", len(largest)), ("plain/0001", len(largest)), ("plain/0000", 5), ("plain/0001", 5)]
    grouped = [one for one in heard if one[0].startswith("grouped/")]
    assert [size for _, size in grouped] == [5]
    assert Counter(heard) == Counter([*plain, ("long/0000", 5), ("long/0001", 5), *grouped])
    assert {letter.reason[:-1] for letter in await fleet.dead()} == {
        "the event is too large for 2 whom it was for; one of them is long/000",
        "the event is too large for 1 whom it was for; one of them is grouped/000",
    }
    (account,) = [one for one in await fleet.client.ledger() if one.shard == "0"]
    assert account.balanced


@fleet_test(app, shards=2, max_depth=256)
async def test_events_of_groups_are_not_stuck_behind_events_in_full_shards(fleet: Fleet) -> None:
    """The shards of the members are full of events that wait until the members' messages are appended there."""
    await fleet.spawn("sender", count=6)
    async with asyncio.timeout(900):
        await fleet.client.publish_many(("mail", number) for number in range(2000))
    await fleet.quiet(600)
    assert sorted(number for _, number in heard) == list(range(2000))
    assert not await fleet.dead()


@fleet_test(app, workers=2, shards=2, max_depth=256)
async def test_a_worker_that_stops_while_shards_are_full_gives_no_group_an_event_twice(fleet: Fleet) -> None:
    await fleet.spawn("sender", count=6)
    publishing = asyncio.ensure_future(fleet.client.publish_many(("mail", number) for number in range(1500)))
    await asyncio.sleep(0.02)
    await fleet.stop_worker()
    await publishing
    await fleet.quiet(600)
    assert sorted(number for _, number in heard) == list(range(1500))


@fleet_test(app)
async def test_an_agent_with_all_its_subscriptions_may_repeat_one_and_is_refused_another(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    for number in range(MOST_SUBSCRIPTIONS):
        await fleet.client.subscribe("clerk/a", f"t.{number}", "note")
    await fleet.client.subscribe("clerk/a", "t.0", "note")
    await fleet.client.subscribe("clerk/a", "t.0", "note", where=field("x") == 1)
    with pytest.raises(WrongBody, match="no more may be"):
        await fleet.client.subscribe("clerk/a", "t.more", "note")


async def test_an_agent_that_ends_while_it_is_let_into_a_group_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    let_in, tell = asyncio.Event(), Subscriptions._tell

    async def held(self: Subscriptions, members: Iterable[Member]) -> None:
        found = list(members)
        if any(one.agent == "clerk/a" and not one.end for one in found):
            await let_in.wait()
        await tell(self, found)

    monkeypatch.setattr(Subscriptions, "_tell", held)
    async with running(app) as fleet:
        await fleet.spawn("clerk", keys=["a", "b"])
        await fleet.client.subscribe("clerk/b", "jobs", "note", group="hands")
        joining = asyncio.ensure_future(fleet.client.subscribe("clerk/a", "jobs", "note", group="hands"))
        await asyncio.sleep(0.1)
        await fleet.client.terminate("clerk/a")
        let_in.set()
        with pytest.raises(UnknownAgent):
            await joining
        await fleet.quiet()
        for job in range(4):
            await fleet.client.publish("jobs", job)
        await fleet.quiet()
        assert heard == [("clerk/b", job) for job in range(4)]
        assert not await fleet.client.subscriptions("clerk/a")


def test_a_home_remembers_nothing_of_groups_that_all_have_left() -> None:
    groups = Groups()
    for number in range(100):
        one = Subscription("t", "note", None, f"g-{number}")
        groups.change(Member("clerk/a", one))
        rings = groups.match(Event("t", raw(1)), Body(raw(1)))[0]
        run_in_virtual_time(lambda rings=rings: groups.choose(None, rings))  # type: ignore[misc, arg-type]
        groups.change(Member("clerk/a", one, end=True))
    assert not groups._turns
    assert not groups._rings


def test_a_record_that_cannot_be_read_keeps_no_shard_from_being_opened() -> None:
    groups = Groups()
    groups.load({"$member/g/clerk/a": b"\xc1", "$member/g/clerk/b": encode([Subscription("t", "note", None, "g")])})
    assert [ring.members for rings in groups.match(Event("t", raw(1)), Body(raw(1))) for ring in rings] == [["clerk/b"]]
