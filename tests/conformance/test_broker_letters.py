"""Dead letters: read by ranges, replayed exactly once, dropped; whatever happens, the ledger balances."""

from __future__ import annotations

import asyncio

from swell.bus.broker import Broker, Lease, Outcome
from tests.conformance.backends import ROOM, Backend, fill, own, payloads, settle

UNKNOWN = "1-1"


async def die(broker: Broker, count: int, shard: str = "0") -> tuple[Lease, list[str]]:
    """Let messages die, each in an entry of its own; returns the lease, and the letters' stream ids, oldest first."""
    await fill(broker, shard, *[1] * count)
    lease = await own(broker, shard, "worker")
    for number, entry in enumerate(await broker.read("worker", [shard], count, 0)):
        assert await settle(broker, lease, Outcome(entry.id, 0, dead=1, letters=[b"letter %d" % number]))
    return lease, [id for id, _ in reversed(await broker.dead(shard, count + 1))]


async def account(broker: Broker) -> dict[str, int]:
    ledger = await broker.ledger("0")
    names = ("sent", "dead", "depth", "entries", "replayed", "dropped", "refused")
    return {name: found for name in names if (found := getattr(ledger, name))}


async def test_letters_are_read_in_pages_the_newest_first(broker: Broker) -> None:
    _, ids = await die(broker, 5)
    pages, before = [], ""
    while page := await broker.dead("0", 2, before):
        pages.append([letter for _, letter in page])
        before = page[-1][0]
    assert pages == [[b"letter 4", b"letter 3"], [b"letter 2", b"letter 1"], [b"letter 0"]]
    assert await broker.dead("0", 5, ids[0]) == []


async def test_a_range_of_letters_begins_with_since_and_ends_short_of_before(broker: Broker) -> None:
    _, ids = await die(broker, 5)
    assert [id for id, _ in await broker.dead("0", 9, ids[3], ids[1])] == [ids[2], ids[1]]
    assert [id for id, _ in await broker.dead("0", 9, "", ids[3])] == [ids[4], ids[3]]
    assert [id for id, _ in await broker.dead("0", 1, "", ids[1])] == [ids[4]]
    far = "9" * 15 + "-0"
    assert len(await broker.dead("0", 9, far)) == 5
    assert await broker.dead("0", 9, "", far) == []


async def test_letters_are_read_by_their_ids_and_those_that_are_not_there_left_out(broker: Broker) -> None:
    _, ids = await die(broker, 3)
    found = await broker.dead_at("0", [ids[2], UNKNOWN, ids[0]])
    assert found == [(ids[2], b"letter 2"), (ids[0], b"letter 0")]
    assert await broker.dead_at("1", ids) == []


async def test_a_replayed_letter_is_a_message_and_no_letter(broker: Broker) -> None:
    lease, ids = await die(broker, 3)
    assert await broker.replay("0", [(ids[0], b"again 0"), (ids[2], b"again 2")], ROOM) == ["ok", "ok"]
    assert await account(broker) == {"sent": 5, "dead": 3, "depth": 2, "entries": 2, "replayed": 2}
    assert [id for id, _ in await broker.dead("0", 9)] == [ids[1]]
    entries = await broker.read("worker", ["0"], 9, 0)
    assert [(entry.count, entry.payload) for entry in entries] == [(1, b"again 0"), (1, b"again 2")]
    assert await settle(broker, lease, *(Outcome(entry.id, 1) for entry in entries))
    assert await account(broker) == {"sent": 5, "dead": 3, "replayed": 2}


async def test_a_replay_repeated_after_a_lost_answer_replays_nothing_twice(broker: Broker) -> None:
    _, ids = await die(broker, 2)
    letters = [(id, b"again") for id in ids]
    assert await broker.replay("0", letters, ROOM) == ["ok", "ok"]
    assert await broker.replay("0", letters, ROOM) == ["gone", "gone"]
    assert await account(broker) == {"sent": 4, "dead": 2, "depth": 2, "entries": 2, "replayed": 2}


async def test_the_same_letter_twice_in_one_call_is_replayed_once(broker: Broker) -> None:
    _, (id,) = await die(broker, 1)
    assert await broker.replay("0", [(id, b"again"), (id, b"again")], ROOM) == ["ok", "gone"]
    assert (await account(broker))["replayed"] == 1


async def test_two_processes_that_replay_at_once_replay_each_letter_once(broker: Broker, other: Broker) -> None:
    _, ids = await die(broker, 20)
    calls = [(one, id) for id in ids for one in (broker, other)]
    answers = await asyncio.gather(*(one.replay("0", [(id, id.encode())], ROOM) for one, id in calls))
    assert sorted(answer for (answer,) in answers) == ["gone"] * 20 + ["ok"] * 20
    assert sorted(payloads(await broker.read("worker", ["0"], 99, 0))) == sorted(id.encode() for id in ids)


async def test_a_letter_that_is_not_there_is_gone_and_nothing_is_written(broker: Broker) -> None:
    assert await broker.replay("0", [(UNKNOWN, b"again")], ROOM) == ["gone"]
    assert await broker.replay("0", [], ROOM) == []
    assert await account(broker) == {}


async def test_a_letter_for_which_there_is_no_room_stays(broker: Broker) -> None:
    _, ids = await die(broker, 3)
    await fill(broker, "0", 7, first=4)
    letters = [(id, b"again") for id in ids]
    assert await broker.replay("0", letters, 8) == ["ok", "busy", "busy"]
    assert [id for id, _ in await broker.dead("0", 9)] == [ids[2], ids[1]]
    assert await account(broker) == {"sent": 11, "dead": 3, "depth": 8, "entries": 2, "replayed": 1, "refused": 2}
    assert await broker.replay("0", letters, 10) == ["gone", "ok", "ok"]


async def test_a_replayed_entry_wakes_the_owner_and_is_found_by_the_next(backend: Backend, broker: Broker) -> None:
    lease, (id,) = await die(broker, 1)
    assert await broker.replay("0", [(id, b"again")], ROOM) == ["ok"]
    assert payloads(await broker.read("worker", ["0"], 9, 0)) == [b"again"]
    await broker.release(lease)
    await own(broker, "0", "next")
    assert payloads(await broker.read("next", ["0"], 9, 0)) == [b"again"]


async def test_a_dropped_letter_is_gone_and_counted(broker: Broker) -> None:
    _, ids = await die(broker, 3)
    assert await broker.drop("0", [ids[1], UNKNOWN, ids[1]]) == [True, False, False]
    assert [id for id, _ in await broker.dead("0", 9)] == [ids[2], ids[0]]
    assert await broker.replay("0", [(ids[1], b"again")], ROOM) == ["gone"]
    assert await broker.drop("0", []) == []
    assert await account(broker) == {"sent": 3, "dead": 3, "dropped": 1}
