"""More urgent messages are handled first, in order among themselves, and the others have their turn all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import pytest

from swell import Agent, App, WrongBody, handler
from swell.priority import NORMAL, PRIORITIES, RANKS, Priority, inbox_of, rank, room
from swell_worker.mailbox import MOST_PASSED, Mailbox, choose
from swell_worker.turns import Turns
from tests.unit.brokers import Rig, rig_of

app = App("tests")
log: list[Any] = []
gate = asyncio.Event()
running = asyncio.Event()


@app.agent("clerk", timeout=None, max_attempts=2)
class Clerk(Agent):
    @handler
    async def note(self, body: Any) -> Any:
        log.append(body)
        return body

    @handler
    async def wait(self) -> None:
        running.set()
        await gate.wait()

    @handler
    async def slow(self, body: Any) -> None:
        log.append(body)
        await asyncio.sleep(0)

    @handler(topic="news.*")
    async def news(self, body: Any) -> None:
        log.append(body)


@pytest.fixture(autouse=True)
def fresh() -> None:
    global gate, running
    gate, running = asyncio.Event(), asyncio.Event()
    log.clear()


async def held(rig: Rig, *ids: str, **options: Any) -> Any:
    """Agents, each in a handler that waits for the gate."""
    worker = await rig.start(app, **options)
    await rig.spawn(*ids)
    for id in ids:
        running.clear()
        await rig.client.send(id, "wait")
        await running.wait()
    return worker


async def send(rig: Rig, priority: Priority, bodies: Iterable[Any], to: str = "clerk/1") -> None:
    await rig.client.send_many([(to, "note", (priority, body)) for body in bodies], priority=priority)


async def read(rig: Rig, messages: int, entries: int | None = None) -> None:
    """Wait until the worker has read so many messages beside the spawn."""
    fleet = rig.workers[-1].fleet

    async def waiting() -> bool:
        cells = [cell for agents in fleet._shards.values() for cell in agents.cells.values()]
        return sum(box.waiting + len(box.parked) for cell in cells for box in cell.all_boxes) >= messages

    await rig.until(waiting)


async def test_what_waits_is_handled_by_priority_and_in_order_within_one() -> None:
    async with rig_of() as rig:
        await held(rig, "clerk/1")
        for priority in ("low", "normal", "critical", "high"):
            await send(rig, priority, range(5))
        await read(rig, 21)
        gate.set()
        await rig.settled()
        assert log == [(priority, n) for priority in PRIORITIES for n in range(5)] or log == [
            [priority, n] for priority in PRIORITIES for n in range(5)
        ]


async def test_a_series_gives_way_to_a_more_urgent_message_and_goes_on_behind_it() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("clerk/1")
        await rig.client.send_many([("clerk/1", "slow", n) for n in range(32)], priority="low")

        async def begun() -> bool:
            return len(log) >= 3

        await rig.until(begun)
        await rig.client.send("clerk/1", "note", "urgent", priority="high")
        await rig.settled()
        place = log.index("urgent")
        assert place < 32, "it waited for the whole series"
        assert [one for one in log if one != "urgent"] == list(range(32))


async def test_less_urgent_messages_have_a_turn_after_so_many_others() -> None:
    async with rig_of() as rig:
        await held(rig, "clerk/1")
        for number in range(100):
            await rig.client.send("clerk/1", "note", ("critical", number), priority="critical")
        for number in range(3):
            await rig.client.send("clerk/1", "note", ("low", number), priority="low")
        await read(rig, 104)
        gate.set()
        await rig.settled()
        places = [at for at, (priority, _) in enumerate(log) if priority == "low"]
        assert [body for priority, body in log if priority == "low"] == [0, 1, 2]
        assert places[0] <= MOST_PASSED + 1
        assert places[2] <= 3 * (MOST_PASSED + 1)


async def test_an_urgent_message_passes_those_that_do_not_fit_into_the_mailbox() -> None:
    async with rig_of() as rig:
        worker = await held(rig, "clerk/1", mailbox=2)
        await send(rig, "normal", range(200))
        await send(rig, "critical", range(5))
        await read(rig, 206)
        assert worker.recorder.counter("parked").n > 0
        gate.set()
        await rig.settled()
        assert [body for priority, body in log if priority == "normal"] == list(range(200))
        assert [body for priority, body in log if priority == "critical"] == list(range(5))
        assert max(at for at, (priority, _) in enumerate(log) if priority == "critical") < 100


async def test_an_urgent_message_is_read_although_there_is_no_room_for_normal_ones() -> None:
    async with rig_of() as rig:
        worker = await held(rig, *(f"clerk/{n}" for n in range(4)))
        worker.fleet._buffer = 1
        for number in range(4):
            await send(rig, "normal", range(300), f"clerk/{number}")
        await send(rig, "critical", ["now"], "clerk/0")

        async def there() -> bool:
            (cell,) = [c for a in worker.fleet._shards.values() for c in a.cells.values() if c.id == "clerk/0"]
            return cell.boxes is not None and cell.boxes[0].waiting == 1

        await rig.until(there)
        assert sum(len(inbox.open) for shard in worker.consumer.owned.values() for inbox in shard.inboxes) < 4 * 300
        gate.set()
        await rig.settled()
        assert len(log) == 1201


async def test_a_message_of_any_priority_is_cancelled_by_its_id() -> None:
    async with rig_of() as rig:
        await held(rig, "clerk/1")
        for priority in PRIORITIES:
            await rig.client.send("clerk/1", "note", priority, id=priority, priority=priority)
        assert await rig.client.cancel_message("clerk/1", "low")
        assert await rig.client.cancel_message("clerk/1", "critical")
        assert not await rig.client.cancel_message("clerk/1", "other")
        gate.set()
        await rig.settled()
        assert log == ["high", "normal"]


async def test_a_caller_that_gives_up_takes_its_message_back_whatever_its_priority() -> None:
    async with rig_of() as rig:
        await held(rig, "clerk/1")
        for priority in PRIORITIES:
            asking = asyncio.ensure_future(rig.client.ask("clerk/1", "note", priority, priority=priority))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
        await rig.client.send("clerk/1", "note", "last", priority="low")
        gate.set()
        await rig.settled()
        assert log == ["last"]


async def test_an_agent_that_is_ended_handles_what_has_come_of_every_priority() -> None:
    async with rig_of() as rig:
        await held(rig, "clerk/1")
        for priority in PRIORITIES:
            await send(rig, priority, range(3))
        await read(rig, 13)
        ending = asyncio.ensure_future(rig.client.request("0", "clerk/1", "$terminate", None, 5.0))
        await read(rig, 14)
        gate.set()
        await ending
        await rig.settled()
        assert len(log) == 12
        assert await rig.letters() == []


async def test_after_the_death_of_a_worker_each_priority_goes_on_in_its_order() -> None:
    async with rig_of(2) as rig:
        first = await held(rig, "clerk/1", "clerk/2", lease_ms=1000)
        for priority in PRIORITIES:
            for to in ("clerk/1", "clerk/2"):
                await send(rig, priority, range(40), to)
        await read(rig, 322)
        await first.die()
        rig.clock.pass_ms(2000)
        gate.set()
        await rig.start(app)
        await rig.settled()
        for priority in PRIORITIES:
            assert sorted(body for found, body in log if found == priority) == sorted([*range(40), *range(40)])


async def test_events_of_each_priority_come_in_their_order_and_once() -> None:
    async with rig_of(2) as rig:
        await rig.start(app)
        await rig.spawn(*(f"clerk/{n}" for n in range(4)))
        for number in range(10):
            for priority in PRIORITIES:
                await rig.client.publish("news.today", [priority, number], priority=priority)
        await rig.client.broadcast("note", ["broadcast", 0], type="clerk", priority="critical")
        await rig.settled()
        for priority in PRIORITIES:
            numbers = [number for found, number in log if found == priority]
            assert sorted(numbers) == sorted(4 * list(range(10)))
        assert log.count(["broadcast", 0]) == 4


async def test_messages_for_later_of_the_same_moment_keep_their_priorities() -> None:
    async with rig_of() as rig:
        await held(rig, "clerk/1")
        for priority in reversed(PRIORITIES):
            await rig.client.send("clerk/1", "note", priority, delay=0, priority=priority)
        await read(rig, 5)
        gate.set()
        await rig.settled()
        assert log == list(PRIORITIES)


async def test_a_priority_that_there_is_not_is_refused_and_nothing_is_sent() -> None:
    async with rig_of() as rig:
        for call in (
            rig.client.send("clerk/1", "note", priority="urgent"),  # type: ignore[arg-type]
            rig.client.send_many([("clerk/1", "note", 1)], priority="urgent"),  # type: ignore[arg-type]
            rig.client.ask("clerk/1", "note", priority="urgent"),  # type: ignore[arg-type]
            rig.client.publish("news.x", priority="urgent"),  # type: ignore[arg-type]
        ):
            with pytest.raises(WrongBody, match="'urgent' must be one of critical, high, normal, low"):
                await call
        assert (await rig.broker.ledger("0")).sent == 0


def test_the_names_of_inboxes_tell_their_priority_and_room() -> None:
    assert [rank(inbox_of("3", priority)) for priority in PRIORITIES] == list(RANKS)
    assert [room(inbox_of("3", priority), 1000) for priority in PRIORITIES] == [1250, 1125, 1000, 1000]


def test_no_mailbox_starves_and_none_waits_longer_than_is_said() -> None:
    """Any mixture: whatever waits has its turn within MOST_PASSED + 4 others (others may starve, too)."""
    chance = random.Random(7)
    boxes = [Mailbox() for _ in RANKS]
    waited = [0] * len(boxes)
    for _ in range(5000):
        for at, box in enumerate(boxes):
            if chance.random() < (0.9, 0.5, 0.3, 0.1)[at]:
                box.parked.append((None, 0))  # type: ignore[arg-type]
        box = choose(boxes)
        if box is None:
            continue
        box.parked.pop()
        for at, other in enumerate(boxes):
            waited[at] = 0 if other is box or other.empty else waited[at] + 1
            assert waited[at] <= MOST_PASSED + len(boxes)


class _Cell:
    def __init__(self, name: str) -> None:
        self.name = name
        self.line = -1


def test_agents_have_their_turns_by_priority_and_one_that_hurries_has_one_turn_for_it() -> None:
    turns = Turns()
    turns._start = lambda: None  # type: ignore[method-assign]
    cells = {name: _Cell(name) for name in "abcdefg"}
    for name, of in zip("abcd", (NORMAL, NORMAL, 3, 3), strict=True):
        turns.add(cells[name], of)  # type: ignore[arg-type]
    turns.add(cells["e"], 1)  # type: ignore[arg-type]
    turns.hurry(cells["d"], 0)  # type: ignore[arg-type]
    turns.hurry(cells["e"], NORMAL)  # type: ignore[arg-type]
    assert "".join(turns._next().name for _ in range(5)) == "deabc"  # type: ignore[attr-defined]
    assert turns._waiting == 0


def test_agents_with_normal_messages_have_a_turn_among_many_urgent_ones() -> None:
    turns = Turns()
    turns._start = lambda: None  # type: ignore[method-assign]
    last = _Cell("last")
    turns.add(last, 3)  # type: ignore[arg-type]
    for number in range(100):
        turns.add(_Cell(str(number)), 0)  # type: ignore[arg-type]
    names = [turns._next().name for _ in range(101)]  # type: ignore[attr-defined]
    assert names.index("last") == MOST_PASSED
    assert [name for name in names if name != "last"] == [str(number) for number in range(100)]


@pytest.mark.parametrize("count", [10, 500])
def test_agents_that_hurry_again_and_again_keep_nobody_from_its_turn_and_their_lines_stay_short(count: int) -> None:
    turns: Any = Turns()
    turns._start = lambda: None
    cells = [_Cell(str(number)) for number in range(count)]
    for cell in cells:
        turns.add(cell, 3)
        turns.hurry(cell, 0)
    last = _Cell("last")
    turns.add(last, 3)
    for _ in range(MOST_PASSED + 1):
        cell = turns._next()
        if cell is last:
            break
        turns.add(cell, NORMAL)
        turns.hurry(cell, 0)
    assert cell is last, "it waits for more turns than are promised"
    for _ in range(20 * count):
        cell = turns._next()
        turns.add(cell, 3)
        turns.hurry(cell, 0)
    assert sum(map(len, turns._lines)) <= 2 * count


def test_any_mixture_of_turns_is_in_the_order_of_each_line() -> None:
    """Beside a plain model: an agent stands in one line, at the end of it, and leaves none of its places behind."""
    chance = random.Random(5)
    turns: Any = Turns()
    turns._start = lambda: None
    model: list[list[_Cell]] = [[] for _ in RANKS]
    passed = [0] * len(RANKS)
    cells = [_Cell(str(number)) for number in range(20)]
    for _ in range(20_000):
        cell, rank = chance.choice(cells), chance.choice(RANKS)
        if cell.line < 0:
            turns.add(cell, rank)
            model[rank].append(cell)
        elif chance.random() < 0.5:
            if rank < cell.line:
                model[cell.line].remove(cell)
                model[rank].append(cell)
            turns.hurry(cell, rank)
        if any(model) and chance.random() < 0.4:
            there = [at for at, line in enumerate(model) if line]
            chosen = next((at for at in reversed(there) if passed[at] >= MOST_PASSED), there[0])
            if there != [NORMAL] or turns._beside:  # With normal messages alone there is nothing to count.
                passed = [0 if at == chosen else n + (at in there and at > chosen) for at, n in enumerate(passed)]
            assert turns._next() is model[chosen].pop(0)
        assert turns._waiting == sum(map(len, model))
        assert turns._beside == sum(len(line) for at, line in enumerate(turns._lines) if at != NORMAL)
        assert sum(map(len, turns._lines)) <= 2 * len(cells)
