"""Events that are malformed, too large or cut in two, and subscriptions made at awkward moments, harm nobody."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec import Raw

from swell import Agent, App, BrokerRefused, Crash, UnknownAgent, WireError, WrongBody, field, handler
from swell.bus.events import MARK
from swell.bus.producer import Producer
from swell.codec import MAX_BATCH_BYTES, MAX_EVENT_BYTES, decode, encode
from swell.testing import Fleet, fleet_test
from swell.testing.fleet import NAMESPACE
from swell.topics import MOST_SUBSCRIPTIONS, Event, Member, Subscription, checked
from swell.wire import EVENT, GROUP_HEADER, MEMBER, TO_SHARD, AgentRecord
from swell_worker.events import MOST_BYTES
from swell_worker.groups import Groups
from swell_worker.subscribers import Body

app = App("tests")
heard: list[tuple[str, Any]] = []
gates: dict[str, Any] = {}


@app.agent("clerk")
class Clerk(Agent):
    @handler(topic="large")
    async def size(self, body: str) -> None:
        heard.append((self.id, (body[:4], len(body))))

    @handler
    async def note(self, body: Any) -> None:
        heard.append((self.id, body))


@app.agent("sender")
class Sender(Agent):
    @handler(topic="mail", group="senders")
    async def deliver_with_a_name_that_is_long(self, body: Any) -> None:
        heard.append((self.id, body))


@app.agent("slow", timeout=None)
class Slow(Agent):
    async def started(self) -> None:
        await self.subscribe("news", "note")
        gates["subscribed"].set()
        await asyncio.sleep(5)

    @handler
    async def note(self, body: Any) -> None:
        heard.append((self.id, body))


@app.agent("fragile", max_restarts=5, restart_window=10_000)
class Fragile(Agent):
    async def started(self) -> None:
        if gates.get("failing"):
            gates["failing"] -= 1
            raise ValueError("not yet")

    @handler
    async def crash(self) -> None:
        if "crashed" not in gates:
            gates["crashed"] = True
            raise Crash("once")

    @handler
    async def note(self, body: Any) -> None:
        heard.append((self.id, body))


@pytest.fixture(autouse=True)
def fresh() -> None:
    heard.clear()
    gates.clear()


async def tell_shards(fleet: Fleet, name: str, body: bytes) -> None:
    """Send a message of the system's own that no client of ours would send."""
    for shard in fleet.client.shard_names:
        await fleet.client.producer.send(shard, (TO_SHARD, name, Raw(body), time.time_ns() // 1000))


# What is malformed.


@pytest.mark.parametrize("body", [b"\xa2\xff\xfe", b"\x81\x81\xc0\xc0\xc0", b"\xd7\xff" + b"\xff" * 8])
def test_an_event_whose_body_cannot_be_read_is_a_dead_letter_and_the_next_is_heard(body: bytes) -> None:
    @fleet_test(app, shards=1)
    async def run(fleet: Fleet) -> None:
        await fleet.spawn("clerk", keys=["a"])
        await fleet.client.subscribe("clerk/a", "x", "note", where=field("size") > 1)
        await tell_shards(fleet, EVENT, b"\x82" + encode("topic") + encode("x") + encode("body") + body)
        await fleet.client.publish("x", {"size": 2})
        await fleet.quiet(600)
        assert heard == [("clerk/a", {"size": 2})]
        (letter,) = await fleet.dead()
        assert letter.kind == "wrong_body"

    run()


@fleet_test(app, shards=1)
async def test_a_topic_that_no_client_would_publish_is_a_dead_letter(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    await fleet.client.subscribe("clerk/a", "**", "note")
    await tell_shards(fleet, EVENT, encode(Event(".".join(["a"] * 1000), Raw(b"\xc0"))))
    await fleet.quiet(600)
    assert heard == []
    assert [letter.kind for letter in await fleet.dead()] == ["wrong_body"]


@fleet_test(app, shards=1)
async def test_a_member_that_cannot_be_one_changes_no_group(fleet: Fleet) -> None:
    await fleet.spawn("sender", keys=["a"])
    for group in ("senders/x", "senders"):
        await tell_shards(fleet, MEMBER, encode(Member("sender/a", Subscription("a b", "deliver", None, group))))
    await fleet.kill_worker()
    await fleet.start_worker()
    await fleet.client.publish("mail", 1)
    await fleet.quiet(600)
    assert heard == [("sender/a", 1)]
    assert [letter.kind for letter in await fleet.dead()] == ["wrong_body", "wrong_body"]


@fleet_test(app, shards=1)
async def test_a_handler_that_a_class_no_longer_has_leaves_its_group_and_the_others_stay(fleet: Fleet) -> None:
    await fleet.spawn("sender", keys=["a"])
    older = Subscription("mail", "deliver", None, "senders")
    await tell_shards(fleet, MEMBER, encode(Member("sender/a", older)))
    for event in range(6):
        await fleet.client.publish("mail", event)
        await fleet.quiet(600)
    (letter,) = await fleet.dead()
    assert letter.kind == "unknown_handler"
    await fleet.client.letters.drop(letter.id)
    assert len(heard) == 5


def test_a_record_of_a_group_that_cannot_be_read_leaves_the_others_alone() -> None:
    groups = Groups()
    good = encode([Subscription("mail", "deliver", None, "g")])
    bad = encode([Subscription("mail", "deliver", field("x").matches("x" * 1000), "g")])
    groups.load({"$member/g/sender/a": b"\xc1", "$member/g/sender/b": bad, "$member/g/sender/c": good})
    ((ring,),) = groups.match(Event("mail", Raw(b"\xc0")), Body(Raw(b"\xc0")))
    assert ring.members == ["sender/c"]


def test_filters_are_bounded() -> None:
    for where in (field("9" * 5000) == 1, field("a").is_in(list(range(100_000))), field("a") == "x" * 100_000):
        with pytest.raises(WrongBody, match="where"):
            checked(Subscription("a", "note", where))


# What is large.


@fleet_test(app, workers=2, shards=1)
async def test_a_large_event_that_is_cut_in_two_is_heard_once_though_its_owner_dies_between(fleet: Fleet) -> None:
    """Its parts are cut by bytes, long before they are too many; and its subscribers are in no order."""
    keys = [f"{n * 7 % 10}" for n in range(10)]
    for key in keys:
        await fleet.spawn("clerk", keys=[key])
    owner = (await fleet.client.agents("clerk"))[0].worker
    fan_out = type(fleet._broker).fan_out
    calls = 0

    async def dying(broker: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            gates["die"].set()
            await asyncio.Event().wait()
        return await fan_out(broker, *args)

    gates["die"] = asyncio.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fleet._broker), "fan_out", dying)
        await fleet.client.publish("large", "x" * (MOST_BYTES // 3))
        await gates["die"].wait()
        await fleet.kill_worker(owner)
        await fleet.quiet(600)
    assert calls > 3
    assert sorted({agent for agent, _ in heard}) == sorted(f"clerk/{key}" for key in keys)
    assert not await fleet.dead()
    ledgers = await fleet.client.ledger()
    assert all(ledger.balanced for ledger in ledgers)


@fleet_test(app, shards=1)
async def test_an_event_that_fits_may_not_be_too_large_as_a_message(fleet: Fleet) -> None:
    key = "k" * 120
    await fleet.spawn("clerk", keys=[key])
    await fleet.spawn("sender", keys=[key])
    await fleet.client.subscribe(f"clerk/{key}", "x", "note")
    for topic in ("x", "mail"):
        for size in (MAX_BATCH_BYTES - 90, MAX_BATCH_BYTES - 240, MAX_BATCH_BYTES - 390):
            await tell_shards(fleet, EVENT, encode(Event(topic, Raw(encode("x" * size)))))
        await fleet.client.publish(topic, "x" * (MAX_EVENT_BYTES - 5))
    await fleet.quiet(600)
    dead = await fleet.dead()
    assert [letter.kind for letter in dead] == ["wrong_body"] * 6
    assert sorted((agent, len(body)) for agent, body in heard) == [
        (f"clerk/{key}", MAX_EVENT_BYTES - 5),
        (f"sender/{key}", MAX_EVENT_BYTES - 5),
    ]
    assert all(ledger.balanced for ledger in await fleet.client.ledger())
    with pytest.raises(WireError, match="large"):
        await fleet.client.publish("x", "x" * (MAX_BATCH_BYTES - 100))


# Subscriptions at awkward moments.


@fleet_test(app, workers=2, shards=1)
async def test_what_an_agent_subscribed_to_while_it_was_born_is_kept_though_its_worker_dies(fleet: Fleet) -> None:
    gates["subscribed"] = asyncio.Event()
    plan = await fleet.client.spawn("slow", keys=["a"])
    await gates["subscribed"].wait()
    await asyncio.sleep(0.5)
    await fleet.client.publish("news", 1)
    for worker in fleet.workers[:1]:
        await fleet.kill_worker(worker)
    await fleet.client.publish("news", 2)
    await plan.wait()
    await fleet.quiet(600)
    assert heard == [("slow/a", 1), ("slow/a", 2)]


@fleet_test(app, shards=1)
async def test_subscribing_again_changes_nothing_also_with_as_many_as_may_be(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    for n in range(MOST_SUBSCRIPTIONS):
        await fleet.client.subscribe("clerk/a", f"t.{n}", "note")
    await fleet.client.subscribe("clerk/a", "t.5", "note")
    with pytest.raises(WrongBody, match="no more may be"):
        await fleet.client.subscribe("clerk/a", "another", "note")
    assert len(await fleet.client.subscriptions("clerk/a")) == MOST_SUBSCRIPTIONS


@fleet_test(app, shards=1)
async def test_a_subscription_does_not_make_an_agents_crashes_forgotten(fleet: Fleet) -> None:
    """It is made while the agent waits to be started again, which then fails twice."""
    await fleet.spawn("fragile", keys=["a"])
    gates["failing"] = 2
    await fleet.client.send("fragile/a", "crash")
    while not (await fleet.client.agents("fragile"))[0].restarts:
        await asyncio.sleep(0.001)
        await fleet.client.subscribe("fragile/a", "x", "note")
    await fleet.quiet(6000)
    record = (await fleet._broker.records(fleet.client.shard("fragile/a")))["fragile/a"]
    assert len(decode(record, AgentRecord).restarted_ms) == 3


@fleet_test(app, shards=1)
async def test_who_ends_while_it_joins_a_group_has_not_subscribed_and_is_no_member(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    send_many = Producer.send_many
    joining, ended = asyncio.Event(), asyncio.Event()

    async def waiting(producer: Any, messages: Any) -> int:
        messages = list(messages)
        if any(message[1] == MEMBER and not message[2].end for _, message in messages):
            joining.set()
            await ended.wait()
        return await send_many(producer, messages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Producer, "send_many", waiting)
        subscribing = asyncio.ensure_future(fleet.client.subscribe("clerk/a", "x", "note", group="g"))
        await joining.wait()
        await fleet.client.terminate("clerk/a")
        ended.set()
        with pytest.raises(UnknownAgent):
            await subscribing
        await fleet.quiet(600)
    assert await fleet.client.subscriptions("clerk/a") == []
    records = await fleet._broker.records(fleet.client.shard_names[0])
    assert not [id for id in records if id.startswith("$member/")]


def test_a_group_that_nobody_is_in_any_more_leaves_nothing_behind() -> None:
    groups = Groups()
    for n in range(10):
        one = Subscription("mail", "deliver", None, f"g{n}")
        groups.change(Member("sender/a", one))
        (rings,) = groups.match(Event("mail", Raw(b"\xc0")), Body(Raw(b"\xc0")))
        assert asyncio.run(groups.choose(None, rings)) == ("sender/a", "deliver")  # type: ignore[arg-type]
        groups.change(Member("sender/a", one, end=True))
    assert (groups._rings, groups._joined, groups._turns, groups._loads, len(groups._index)) == ({}, {}, {}, {}, 0)


@fleet_test(app, shards=1)
async def test_a_mark_that_the_server_forgot_gives_the_shard_up_and_events_go_on(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    await fleet.client.subscribe("clerk/a", "x", "note")
    await fleet.client.publish("x", 1)
    await fleet.quiet(600)
    del fleet._server.namespace(NAMESPACE).shard(fleet.client.shard_names[0]).records[MARK]
    await fleet.client.publish("x", 2)
    await fleet.quiet(600)
    assert heard == [("clerk/a", 1), ("clerk/a", 2)]


@fleet_test(app, shards=1)
async def test_a_server_that_refuses_what_groups_are_sent_ends_no_worker(fleet: Fleet) -> None:
    await fleet.spawn("sender", keys=["a"])
    refused = 0
    send_many = Producer.send_many

    async def refusing(producer: Any, messages: Any) -> int:
        nonlocal refused
        messages = list(messages)
        if refused < 3 and any(
            GROUP_HEADER.encode() in message.data for _, message in messages if hasattr(message, "data")
        ):
            refused += 1
            raise BrokerRefused("not now")
        return await send_many(producer, messages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Producer, "send_many", refusing)
        await fleet.client.publish("mail", 1)
        await fleet.quiet(600)
    assert refused == 3
    assert heard == [("sender/a", 1)]
