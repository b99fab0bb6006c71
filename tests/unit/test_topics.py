"""Events become messages for their subscribers, each once and in order, whoever owns the shards by then."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec import Struct

from swell import Agent, App, AppError, UnknownAgent, UnknownHandler, WrongBody, field, handler
from swell.testing import Fleet, fleet_test, running
from swell.topics import TopicIndex, check_pattern, check_topic
from swell.where import MOST_TEXT, Where, compiled, parse_where

app = App("tests")
heard: list[tuple[str, Any]] = []


class Paid(Struct):
    order: int
    amount: int = 0


@app.agent("clerk")
class Clerk(Agent):
    @handler(topic="orders.*.paid")
    async def paid(self, body: Paid) -> None:
        heard.append((self.id, body.order))

    @handler
    async def note(self, body: Any) -> None:
        heard.append((self.id, body))

    @handler
    async def follow(self, topic: str) -> None:
        await self.subscribe(topic, "note")


@app.agent("auditor")
class Auditor(Agent):
    @handler(topic=("orders.**", "refunds"), where=(field("amount") >= 100) | field("order").is_in([7]))
    async def audit(self, body: Paid) -> None:
        heard.append((self.id, body.order))

    @handler
    async def note(self, body: Any) -> None:
        heard.append((self.id, body))


@app.agent("sender")
class Sender(Agent):
    @handler(topic="mail", group="senders")
    async def deliver(self, body: int) -> None:
        heard.append((self.id, body))


@pytest.fixture(autouse=True)
def fresh() -> None:
    heard.clear()


# Matching.


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "a.c"]),
        ("a.*", ["a.b", "a.c"], ["a", "a.b.c"]),
        ("*.b", ["a.b"], ["b", "a.b.b"]),
        ("a.**", ["a", "a.b", "a.b.c"], ["b", "b.a"]),
        ("**", ["a", "a.b.c"], []),
        ("**.c", ["c", "a.c", "a.b.c"], ["a.c.b"]),
        ("a.**.c", ["a.c", "a.b.c", "a.c.c"], ["a", "c", "a.c.b"]),
        ("**.a.**", ["a", "b.a", "a.b", "b.a.b"], ["b.b"]),
    ],
)
def test_a_pattern_fits_what_it_says(pattern: str, fits: list[str], does_not: list[str]) -> None:
    index: TopicIndex[str] = TopicIndex()
    index.add(pattern, "x")
    for topic in fits:
        assert list(index.match(topic)) == ["x"], topic
    for topic in does_not:
        assert list(index.match(topic)) == [], topic
    index.remove(pattern, "x")
    assert not [topic for topic in fits if list(index.match(topic))]
    assert len(index) == 0


def test_what_is_remembered_of_a_topic_follows_every_change() -> None:
    index: TopicIndex[str] = TopicIndex()
    for step, (pattern, value) in enumerate([("a.*", "1"), ("a.b", "2"), ("**", "3"), ("a.b", "4")], 1):
        index.add(pattern, value)
        assert len(list(index.match("a.b"))) == step
    index.remove("a.b", "2")
    assert sorted(index.match("a.b")) == ["1", "3", "4"]
    index.remove("a.b", "4")
    index.remove("a.b", "never there")
    assert sorted(index.match("a.b")) == ["1", "3"]


def test_many_stars_do_not_make_a_look_up_explode() -> None:
    index: TopicIndex[str] = TopicIndex()
    pattern = ".".join(["**", "a"] * 8)
    index.add(pattern, "x")
    assert list(index.match(".".join(["a"] * 15 + ["b"]))) == []
    assert list(index.match(".".join(["a"] * 16))) == ["x"]


@pytest.mark.parametrize("topic", ["", "a..b", "a.*", "**", "a b", "a." + "x" * 129, ".".join("a" * 17)])
def test_a_topic_that_cannot_be_one_is_refused(topic: str) -> None:
    with pytest.raises(WrongBody, match="topic"):
        check_topic(topic)


@pytest.mark.parametrize("topic", ["a.b*", "***", "", "a."])
def test_a_pattern_that_cannot_be_one_is_refused(topic: str) -> None:
    with pytest.raises(WrongBody, match="topic"):
        check_pattern(topic)


# Filters.

BODY = {"size": 5, "path": "src/a.py", "tags": ["x", "y"], "at": {"line": 3}, "list": [{"n": 1}], "none": None}


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        (field("size") == 5, True),
        (field("size") != 5, False),
        (field("size") < 6, True),
        (field("size") <= 4, False),
        (field("size") > 4, True),
        (field("size") >= 6, False),
        (field("size").is_in([1, 5]), True),
        (field("tags").contains("x"), True),
        (field("path").contains("a.p"), True),
        (field("tags").contains("z"), False),
        (field("path").matches("src/*.py"), True),
        (field("path").matches("*.rs"), False),
        (field("size").matches("5"), False),
        (field("at.line") == 3, True),
        (field("list.0.n") == 1, True),
        (field("list.1.n") == 1, False),
        (field("none").exists(), True),
        (field("list." + "9" * 200).exists(), False),
        (field("missing").exists(), False),
        (field("missing").exists(False), True),
        (field("missing") != 5, False),
        (field("path") > 5, False),
        ((field("size") > 4) & (field("at.line") < 3), False),
        ((field("size") > 4) | (field("at.line") < 3), True),
    ],
)
def test_a_filter_holds_as_it_says(where: Where, holds: bool) -> None:
    assert compiled(where)(BODY) is holds


def test_a_pattern_is_tried_on_no_text_long_enough_to_hold_up_a_worker() -> None:
    test = compiled(field("text").matches("*a"))
    assert test({"text": "a" * MOST_TEXT})
    assert not test({"text": "a" * (MOST_TEXT + 1)})


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (Where("like", "a", 1), "none of"),
        (Where("and"), "joins nothing"),
        (Where("in", "a", 1), "needs a list"),
        (Where("matches", "a", "x" * 300), "at most 256"),
        (Where("or", of=(Where("eq", "a", 1),) * 70), "more than 64"),
    ],
)
def test_a_filter_that_cannot_be_one_says_why(where: Where, says: str) -> None:
    with pytest.raises(WrongBody, match=says):
        compiled(where)


def test_conditions_are_read_as_people_write_them() -> None:
    where = parse_where(["size >= 5", "path ~ *.py", 'at.line in [3, "x"]', "none exists", "tags contains x"])
    assert where is not None
    assert compiled(where)(BODY)
    assert parse_where([]) is None
    for wrong in ("size", "size >", "size exists 5", "> 5"):
        with pytest.raises(WrongBody):
            parse_where([wrong])


def test_a_wrong_subscription_of_a_class_is_refused_where_it_is_declared() -> None:
    for wrong in ({"topic": "a..b"}, {"topic": "a", "group": "no good"}, {"where": field("a") == 1}):
        with pytest.raises(AppError):
            handler(**wrong)(Clerk.note)  # type: ignore[call-overload]


# Delivery.


@fleet_test(app, workers=2)
async def test_each_subscriber_hears_an_event_once_and_only_what_its_filter_lets_through(fleet: Fleet) -> None:
    await fleet.spawn("clerk", count=20)
    await fleet.spawn("auditor", count=3)
    await fleet.client.publish("orders.1.paid", Paid(1, 5))
    await fleet.client.publish("orders.2.paid", Paid(2, 500))
    await fleet.client.publish("refunds", Paid(7))
    await fleet.client.publish("orders.3.sent", Paid(3))
    await fleet.quiet()
    by_order = Counter(order for _, order in heard)
    assert by_order == {1: 20, 2: 23, 7: 3}
    assert len(set(heard)) == len(heard)
    assert not await fleet.dead()


@fleet_test(app, workers=2)
async def test_subscriptions_made_at_run_time_are_kept_with_the_record_and_can_be_taken_back(fleet: Fleet) -> None:
    client = fleet.client
    await fleet.spawn("clerk", count=4)
    await client.subscribe("clerk/0001", "news.**", "note", where=field("hot") == True)  # noqa: E712
    await client.subscribe("clerk/0001", "news.**", "note", where=field("hot") == True)  # noqa: E712
    await client.ask("clerk/0002", "follow", "news.sport")
    assert [(one.agent, one.topic) for one in await client.subscriptions()] == [
        ("clerk/0001", "news.**"),
        ("clerk/0002", "news.sport"),
    ]
    await fleet.kill_worker()
    await client.publish("news.sport", {"hot": True})
    await client.publish("news.sport", {"hot": False})
    await fleet.quiet(60)
    assert sorted(Counter(agent for agent, _ in heard).items()) == [("clerk/0001", 1), ("clerk/0002", 2)]
    assert await client.unsubscribe("clerk/0002", "news.sport", "note")
    assert not await client.unsubscribe("clerk/0002", "news.sport", "note")
    heard.clear()
    await client.publish("news.sport", {"hot": False})
    await fleet.quiet()
    assert heard == []


@fleet_test(app)
async def test_who_cannot_subscribe_is_told_why(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    with pytest.raises(UnknownAgent):
        await fleet.client.subscribe("clerk/nobody", "a", "note")
    with pytest.raises(UnknownHandler, match="did you mean 'note'"):
        await fleet.client.subscribe("clerk/a", "a", "notes")
    with pytest.raises(WrongBody, match="where"):
        await fleet.client.subscribe("clerk/a", "a", "note", where=Where("like", "a", 1))
    with pytest.raises(WrongBody, match="topic"):
        await fleet.client.publish("a.*")


@fleet_test(app, workers=2)
async def test_a_broadcast_reaches_a_type_or_all_that_have_the_handler(fleet: Fleet) -> None:
    await fleet.spawn("clerk", count=10)
    await fleet.spawn("auditor", count=5)
    await fleet.spawn("sender", count=5)
    await fleet.client.broadcast("note", "all")
    await fleet.client.broadcast("note", "clerks", type="clerk")
    await fleet.quiet()
    assert Counter(body for _, body in heard) == {"all": 15, "clerks": 10}
    assert not await fleet.dead()


@fleet_test(app, workers=2)
async def test_an_agent_that_ended_hears_no_more_and_one_spawned_again_hears_again(fleet: Fleet) -> None:
    await fleet.spawn("clerk", count=3)
    await fleet.client.subscribe("clerk/0000", "x", "note")
    await fleet.client.terminate("clerk/0000")
    await fleet.client.publish("orders.1.paid", Paid(1))
    await fleet.client.publish("x", 1)
    await fleet.quiet()
    assert sorted(heard) == [("clerk/0001", 1), ("clerk/0002", 1)]
    heard.clear()
    await fleet.spawn("clerk", keys=["0000"])
    await fleet.client.publish("orders.2.paid", Paid(2))
    await fleet.client.publish("x", 2)
    await fleet.quiet()
    assert sorted(heard) == [("clerk/0000", 2), ("clerk/0001", 2), ("clerk/0002", 2)]
    assert not await fleet.dead()


@fleet_test(app, workers=3, max_depth=256, shards=1)
async def test_many_events_in_parts_keep_their_order_and_are_heard_once_while_workers_die(fleet: Fleet) -> None:
    """300 targets and a depth of 256 make the line park, wait and cut events in two."""
    await fleet.spawn("clerk", count=300)

    async def publish() -> None:
        for order in range(100):
            await fleet.client.publish("orders.x.paid", Paid(order))

    publishing = asyncio.ensure_future(publish())
    await asyncio.sleep(0.05)
    await fleet.stop_worker()
    await asyncio.sleep(0.05)
    await publishing
    await fleet.quiet(600)
    by_agent: dict[str, list[int]] = {}
    for agent, order in heard:
        by_agent.setdefault(agent, []).append(order)
    assert len(by_agent) == 300
    assert all(orders == list(range(100)) for orders in by_agent.values())
    assert not await fleet.dead()
    for ledger in await fleet.client.ledger():
        assert ledger.balanced


@fleet_test(app, workers=2)
async def test_a_worker_that_is_killed_leaves_no_event_behind(fleet: Fleet) -> None:
    await fleet.spawn("clerk", count=100)
    for order in range(50):
        await fleet.client.publish("orders.x.paid", Paid(order))
        if order == 25:
            await fleet.kill_worker()
    await fleet.quiet(600)
    seen = Counter(heard)
    assert len(seen) == 100 * 50, "nothing is lost"
    for ledger in await fleet.client.ledger():
        assert ledger.balanced


# Groups.


@fleet_test(app, workers=2)
async def test_one_of_a_group_gets_each_event_in_turn(fleet: Fleet) -> None:
    await fleet.spawn("sender", count=5)
    for number in range(50):
        await fleet.client.publish("mail", number)
    await fleet.quiet()
    assert sorted(number for _, number in heard) == list(range(50))
    assert set(Counter(agent for agent, _ in heard).values()) == {10}


@fleet_test(app, workers=2)
async def test_who_ends_leaves_its_groups(fleet: Fleet) -> None:
    await fleet.spawn("sender", count=4)
    await fleet.client.terminate("sender/0001")
    await fleet.quiet()
    for number in range(12):
        await fleet.client.publish("mail", number)
    await fleet.quiet()
    assert set(Counter(agent for agent, _ in heard).values()) == {4}
    assert not await fleet.dead()


@pytest.mark.parametrize("pick", ["random", "least_busy"])
async def test_a_group_that_agents_form_at_run_time_chooses_as_it_says(pick: Any) -> None:
    async with running(app, workers=2) as fleet:
        await fleet.spawn("clerk", count=6)
        for agent in await fleet.client.agents():
            await fleet.client.subscribe(agent.id, "jobs", "note", group="hands", pick=pick)
        for number in range(60):
            await fleet.client.publish("jobs", number)
        await fleet.quiet()
        assert sorted(number for _, number in heard) == list(range(60))
        shares = Counter(agent for agent, _ in heard)
        assert len(shares) >= 4
        if pick == "least_busy":
            assert max(shares.values()) <= 25


@fleet_test(app, workers=2)
async def test_a_group_outlives_the_worker_of_its_home(fleet: Fleet) -> None:
    await fleet.spawn("sender", count=6)
    await fleet.kill_worker()
    for number in range(30):
        await fleet.client.publish("mail", number)
    await fleet.quiet(600)
    assert sorted(number for _, number in heard) == list(range(30))
    assert not await fleet.dead()
