"""Dead letters: how they are written, become messages again, and are found."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import msgspec
import pytest

from swell import Client
from swell.bus.broker import Append, Inheritance, Lease, Outcome, Settlement
from swell.bus.entry import Entry
from swell.bus.memory import MemoryBroker, MemoryServer
from swell.bus.shard import OwnedShard
from swell.cli.show import escaped
from swell.codec import MAX_BATCH_BYTES, MAX_ENTRY_BYTES, decode, decode_batch, encode, raw
from swell.dead import PAGE, Filter, moment
from swell.errors import ConfigError
from swell.instruments import Recorder
from swell.letters import HEADER, KEEP_DEATHS, KeptLetter, letter, malformed, revived
from swell.wire import SCHEMA, Batch, DeadLetter, Death, Message
from tests.unit.brokers import MovableClock

WHY = Death("handler_failed", "on purpose", 3)


def entry(count: int = 1) -> Entry:
    shard = OwnedShard(Lease("2", "worker", 1, "t"), Inheritance({}, {}, {}), 0, asyncio.Event())
    return shard.opened("5-1", count, 10, 0)


def message(body: Any = None, **fields: Any) -> Message:
    return Message("echo/1", "echo", raw(body), 12, "s/1", "asker", 7, **fields)


def died(sent: Message, index: int = 0, death: Death = WHY) -> KeptLetter:
    return decode(letter(entry(9), index, sent, death, "Traceback"), KeptLetter)


def again(dead: KeptLetter) -> Message:
    (found,) = decode_batch(revived(dead, 99), 1).messages
    return found


# Writing, and living again.


def test_a_letter_is_named_by_the_place_of_its_first_death() -> None:
    found = decode(letter(entry(9), 4, message({"a": 1}), WHY, "Traceback"), DeadLetter)
    assert (found.id, found.to, found.name, found.body) == ("2:5-1:4", "echo/1", "echo", {"a": 1})
    assert (found.kind, found.reason, found.attempts, found.traceback) == (WHY.kind, WHY.reason, 3, "Traceback")
    assert (found.sender, found.sent_us, found.history) == ("s/1", 12, [])
    assert found.at_ms > 0


def test_a_replayed_message_is_the_same_but_for_its_time_and_who_waits() -> None:
    found = again(died(message({"a": [1, b"x", None]})))
    assert (found.to, found.name, bytes(found.body), found.sender) == (
        *("echo/1", "echo"),
        bytes(raw({"a": [1, b"x", None]})),
        "s/1",
    )
    assert (found.sent_us, found.reply_to, found.call) == (99, "", 0)


def test_a_message_that_dies_again_keeps_its_id_and_its_history_grows() -> None:
    first = died(message(), 4)
    second = died(again(first), 0, Death("poison", "killed", 1))
    third = died(again(second), 1, Death("unknown_agent", "ended"))
    assert [one.id for one in (first, second, third)] == ["2:5-1:4"] * 3
    assert [(death.kind, death.reason, death.attempts) for death in third.history] == [
        ("handler_failed", "on purpose", 3),
        ("poison", "killed", 1),
    ]
    assert [death.at_ms for death in third.history] == [first.at_ms, second.at_ms]


def test_of_many_deaths_the_newest_are_kept() -> None:
    one = died(message(), 0, Death("handler_failed", "death 0"))
    for number in range(1, KEEP_DEATHS + 5):
        one = died(again(one), 0, Death("handler_failed", f"death {number}"))
    assert [death.reason for death in one.history] == [f"death {number}" for number in range(4, KEEP_DEATHS + 4)]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"id": 5}', '{"id": "x", "history": [1]}', "[" * 9000])
def test_a_header_that_a_stranger_wrote_is_passed_over(text: str) -> None:
    assert died(message(headers={HEADER: text})).id == "2:5-1:0"


def test_the_largest_message_can_be_replayed_with_less_of_its_history() -> None:
    whole = len(encode(message(b"", headers=None))) + 64
    one = died(message(b"x" * (MAX_BATCH_BYTES - whole)))
    for _ in range(3):
        one.reason = "\N{SNOWMAN}" * 2000
        payload = revived(one, 99)
        assert len(payload) <= MAX_ENTRY_BYTES
        one = died(decode_batch(payload, 1).messages[0])
        assert one.id == "2:5-1:0"


def test_a_malformed_entrys_letter_keeps_the_beginning_of_its_bytes() -> None:
    found = decode(malformed(entry(), b"\xc1" * 9999, "not a batch"), DeadLetter)
    assert (found.id, found.kind, found.body) == ("2:5-1:0", "malformed", b"\xc1" * 4096)


# Finding.


@pytest.mark.parametrize(
    ("text", "ago_ms"), [("30s", 30_000), ("15m", 900_000), ("1h", 3_600_000), ("7d", 604_800_000)]
)
def test_a_time_may_be_given_as_an_age(text: str, ago_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swell.letter_view.now_ms", lambda: 1_800_000_000_000)
    assert moment("since", text) == 1_800_000_000_000 - ago_ms


def test_a_time_may_be_given_in_iso_8601() -> None:
    assert moment("since", "2030-01-31T18:00:00+02:00") == 1_896_105_600_000
    assert moment("since", "2030-01-31T16:00:00Z") == 1_896_105_600_000
    local = datetime.datetime(2030, 1, 31).astimezone()
    assert moment("since", "2030-01-31") == int(local.timestamp() * 1000)
    assert moment("since", "") == 0


@pytest.mark.parametrize("text", ["yesterday", "1w", "-1h", "1h ago", "2030-13-01", "٣h", "9" * 30 + "d"])
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^since: "):
        moment("since", text)


class Rig:
    """A client of a namespace in memory, and letters as a test writes them."""

    def __init__(self) -> None:
        self.clock = MovableClock()
        self.broker = MemoryBroker(MemoryServer(self.clock), "test")
        self.client = Client(self.broker, "client", 1000, Recorder("client"))
        self.client.shards = 3
        self.seq: dict[str, int] = {}

    async def die(self, shard: str, **fields: Any) -> str:
        """Let a message die in a shard; returns its letter's id."""
        seq = self.seq[shard] = self.seq.get(shard, 0) + 1
        sent = msgspec.structs.replace(message(fields.pop("body", None)), to=fields.pop("to", "echo/1"))
        batch = encode(Batch(SCHEMA, "sender", seq, [sent]))
        await self.broker.append("sender", [Append(shard, seq, 1, batch)], 1000)
        lease = await self.broker.acquire(shard, "worker", 60_000)
        assert isinstance(lease, Lease)
        (found,) = await self.broker.read("worker", [shard], 1, 0)
        id = f"{shard}:{found.id}:0"
        encoded = fields.pop("encoded", None)
        if encoded is None:
            bare = DeadLetter(id, sent.to, "echo", sent.body, "handler_failed", "on purpose", at_ms=1)
            encoded = encode(msgspec.structs.replace(bare, **fields))
        await self.broker.settle([Settlement(lease, [Outcome(found.id, 0, dead=1, letters=[encoded])])])
        return id

    async def ids(self, where: Filter = Filter()) -> list[str]:  # noqa: B008
        return [one.id for one in await self.client.letters.list(where)]


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_letters_of_all_shards_are_listed_the_newest_first(rig: Rig) -> None:
    ids = []
    for shard in ("1", "0", "metrics", "2", "0", "control"):
        rig.clock.pass_ms(5)
        ids.append(await rig.die(shard))
    assert await rig.ids() == ids[::-1]


async def test_pages_of_any_size_show_every_letter_once_in_the_same_order(rig: Rig, monkeypatch: Any) -> None:
    instant = rig.clock.now_us() + 1_000_000
    monkeypatch.setattr(rig.clock, "now_us", lambda: instant)  # All in one instant: the order is that of the shards.
    for number in range(PAGE + 9):
        for shard in ("0", "1", "2", "control"):
            await rig.die(shard, to=f"echo/{number}")
    whole = await rig.client.letters.list(limit=1000)
    assert len({one.id for one in whole}) == len(whole) == 4 * (PAGE + 9)
    for size in (1, 3, 50):
        listed = page = await rig.client.letters.list(limit=size)
        while page:
            page = await rig.client.letters.list(limit=size, after=page[-1].place)
            listed = listed + page
        assert listed == whole


async def test_each_part_of_a_filter_must_fit(rig: Rig) -> None:
    at = rig.client.shard("a/1")
    one = await rig.die(at, to="a/1", kind="poison", reason="Killed its process")
    two = await rig.die(at, to="a/2", reason="boom")
    three = await rig.die("control", to="$control", kind="wrong_body", reason="a/1: boom")
    assert await rig.ids(Filter(type="a")) == [two, one]
    assert await rig.ids(Filter(agent="a/1")) == [one]
    assert await rig.ids(Filter(kind="wrong_body")) == [three]
    assert await rig.ids(Filter(agent="$control")) == [three]
    assert set(await rig.ids(Filter(reason="BOOM"))) == {two, three}
    assert await rig.ids(Filter(type="a", reason="killed")) == [one]
    assert await rig.ids(Filter(type="b")) == []


async def test_a_filter_by_time_has_both_ends_in_it(rig: Rig) -> None:
    ids = []
    for _ in range(4):
        rig.clock.pass_ms(1000)
        ids.append(await rig.die("0"))
    at = [int(one.place.partition(":")[2].partition("-")[0]) for one in await rig.client.letters.list()][::-1]
    assert await rig.ids(Filter(since_ms=at[1], until_ms=at[2])) == [ids[2], ids[1]]
    assert await rig.ids(Filter(since_ms=at[3])) == [ids[3]]
    assert await rig.ids(Filter(until_ms=at[0])) == [ids[0]]


async def test_a_page_begins_only_behind_a_place(rig: Rig) -> None:
    with pytest.raises(ConfigError, match=r"^after: '5-1' is not the `place`"):
        await rig.client.letters.list(after="5-1")


async def test_a_letter_is_shown_whole_by_its_id(rig: Rig) -> None:
    history = [Death("poison", "killed", 1, 5)]
    id = await rig.die("1", body={"a": 1}, traceback="T", history=history)
    found = await rig.client.letters.get(id)
    assert found is not None
    assert (found.id, found.body, found.body_hex, found.traceback) == (id, {"a": 1}, "", "T")
    assert (found.deaths, found.history) == (2, history)
    for wrong in ("1:9-9:0", "1", "", "\x00", "99:1-1:0"):
        assert await rig.client.letters.get(wrong) is None


@pytest.mark.parametrize(
    "body",
    [b"\xc1\x00", {"a": b"x", (1, 2): 3}, msgspec.Raw(b"\xa2\xff\xff")],
    ids=["bytes", "keys", "text"],
)
async def test_a_body_that_json_cannot_show_is_shown_in_hexadecimal(rig: Rig, body: Any) -> None:
    shown = await rig.client.letters.get(await rig.die("1", body=body))
    assert shown is not None
    expected = body if isinstance(body, bytes) else bytes(body) if isinstance(body, msgspec.Raw) else encode(body)
    assert (shown.body, shown.body_hex) == (None, expected.hex())
    assert msgspec.json.encode(shown)


async def test_bytes_that_are_no_letter_are_listed_and_can_be_dropped_but_not_replayed(rig: Rig) -> None:
    await rig.die("1", encoded=b"\xc1")
    (one,) = await rig.client.letters.list()
    assert (one.kind, one.deaths) == ("unreadable", 1)
    ended = await rig.client.letters.replay(one.id)
    assert "cannot read the letter" in ended.refused[one.id]
    assert (await rig.client.letters.drop(one.id)).done == 1
    assert await rig.ids() == []


def test_what_json_lets_through_is_escaped_for_a_terminal_and_stays_the_same_json() -> None:
    value = {"a\x9b": "\u202e \x7f \U000e0001 \N{SNOWMAN} \x1b\n"}
    text = escaped(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "\N{SNOWMAN}" in text
    assert msgspec.json.decode(text) == value


# Replaying and dropping.


async def test_letters_are_replayed_by_id_or_by_filter_in_the_order_of_their_deaths(rig: Rig) -> None:
    ids = [await rig.die("0", to=f"echo/{number}") for number in range(PAGE + 5)]
    other = await rig.die("0", to="other/1")
    assert (await rig.client.letters.replay(ids[3])).done == 1
    ended = await rig.client.letters.replay(where=Filter(type="echo"))
    assert (ended.done, ended.gone, ended.busy, ended.refused) == (PAGE + 4, [], [], {})
    assert await rig.ids() == [other]
    await rig.broker.acquire("0", "worker", 60_000)
    sent = [decode_batch(one.payload, one.count).messages[0] for one in await rig.broker.read("worker", ["0"], 99, 0)]
    numbers = [int(one.to.partition("/")[2]) for one in sent]
    assert numbers == [3, *(number for number in range(PAGE + 5) if number != 3)]
    ledger = await rig.broker.ledger("0")
    assert (ledger.balanced, ledger.replayed, ledger.dead) == (True, PAGE + 5, PAGE + 6)


async def test_a_letter_that_is_not_there_is_told_and_the_others_replayed(rig: Rig) -> None:
    id = await rig.die("0")
    ended = await rig.client.letters.replay("0:9-9:0", id, id, "nonsense")
    assert (ended.done, ended.gone) == (1, ["0:9-9:0", "nonsense"])
    assert (await rig.client.letters.replay(id)).gone == [id]


async def test_a_malformed_entrys_letter_cannot_be_replayed_and_the_answer_says_why(rig: Rig) -> None:
    id = await rig.die("0", kind="malformed", body=b"\xc1")
    ended = await rig.client.letters.replay(id)
    assert ended.done == 0
    assert ended.refused == {id: "its bytes were no batch of messages, so there is no message to replay; drop it"}
    assert await rig.ids() == [id]
    assert (await rig.client.letters.drop(id)).done == 1


async def test_letters_of_a_full_shard_stay_and_those_of_others_are_replayed(rig: Rig) -> None:
    full = [await rig.die("0") for _ in range(PAGE + 2)]
    room = [await rig.die("1") for _ in range(2)]
    await rig.broker.append("filler", [Append("0", 1, 999, b"x")], 1000)
    ended = await rig.client.letters.replay(where=Filter())
    assert (ended.done, ended.busy) == (3, full[1:])
    assert set(await rig.ids()) == set(full[1:])
    assert room[0] not in await rig.ids()


async def test_what_is_dropped_is_gone_and_counted(rig: Rig) -> None:
    ids = [await rig.die("0") for _ in range(3)]
    ended = await rig.client.letters.drop(ids[0], "0:9-9:0")
    assert (ended.done, ended.gone) == (1, ["0:9-9:0"])
    assert (await rig.client.letters.drop(where=Filter())).done == 2
    assert (await rig.broker.ledger("0")).dropped == 3
