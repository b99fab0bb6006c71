"""Facts: versions, conditions, times to live, pages, watches, fences; the same on every server."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from msgspec import Struct

from swell.bus.facts import FactWrite, Seat
from swell.errors import BrokerUnavailable, FactConflict, StaleFence, WireError, WrongBody
from swell.facts import Change, Fact
from swell.facts.board import SystemFacts
from swell.facts.values import MAX_KEY_BYTES
from swell.keys import shard_of
from tests.conformance.backends import LONG_MS, MemoryBackend, RedisBackend
from tests.conformance.backends import Backend as AnyBackend
from tests.conformance.facts_world import SHARDS, process, soon, take


class Config(Struct):
    size: int


async def test_what_is_put_is_there_with_its_version_and_type(backend: AnyBackend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        assert await one.facts.get("config", Config) is None
        version = await one.facts.put("config", Config(3))
        found = await other.facts.get("config", Config)
        assert found is not None
        assert (found.value.size, found.version, found.expires_s) == (3, version, None)
        with pytest.raises(WireError, match="'config' is not what was asked for"):
            await other.facts.get("config", int)


async def test_versions_grow_also_when_a_fact_is_deleted_and_made_again(backend: AnyBackend) -> None:
    async with process(backend) as client:
        facts = client.facts
        versions = [await facts.create("k", 1), await facts.put("k", 2)]
        assert await facts.delete("k")
        versions.append(await facts.create("k", 3))
        assert versions == sorted(set(versions))


async def test_swap_create_and_delete_change_only_the_version_they_expect(backend: AnyBackend) -> None:
    async with process(backend) as client:
        facts = client.facts
        first = await facts.create("k", "a")
        with pytest.raises(FactConflict) as exists:
            await facts.create("k", "b")
        assert exists.value.version == first
        second = await facts.swap("k", first, "b")
        for attempt in (facts.swap("k", first, "c"), facts.delete("k", first), facts.swap("none", 7, "c")):
            with pytest.raises(FactConflict):
                await attempt
        found = await facts.get("k")
        assert found is not None
        assert (found.value, found.version) == ("b", second)
        assert await facts.delete("k", second)
        assert not await facts.delete("k")
        with pytest.raises(FactConflict) as gone:
            await facts.swap("k", second, "c")
        assert gone.value.version == 0
        assert await facts.swap("k", 0, "d") > second


async def test_of_many_who_swap_at_once_each_counts_once(backend: AnyBackend) -> None:
    async def count(client: Any) -> None:
        for _ in range(10):
            while True:
                fact = await client.facts.get("counter", int)
                try:
                    await client.facts.swap("counter", fact.version, fact.value + 1)
                    break
                except FactConflict:
                    continue

    async with process(backend) as one, process(backend, "p2") as other:
        await one.facts.create("counter", 0)
        await asyncio.gather(*(count(client) for client in (one, other) for _ in range(3)))
        found = await one.facts.get("counter", int)
        assert found is not None
        assert found.value == 60


async def test_a_write_that_is_repeated_after_a_lost_answer_is_carried_out_once(
    backend: AnyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(backend, RedisBackend):
        pytest.skip("only a server's answers can be lost")
    async with process(backend) as client, process(backend, "p2") as other:
        broker: Any = client.broker
        write = broker._once

        async def losing(wish: FactWrite, repeated: int) -> Any:
            answer = await write(wish, repeated)
            if not repeated:
                # Somebody else goes on from what was written, before it is repeated.
                fact = await other.facts.get("k", int)
                assert fact is not None
                await other.facts.swap("k", fact.version, fact.value + 10)
                raise BrokerUnavailable("the answer was lost")
            return answer

        first = await client.facts.put("k", 1)
        monkeypatch.setattr(broker, "_once", losing)
        second = await client.facts.swap("k", first, 2)
        monkeypatch.undo()
        found = await client.facts.get("k", int)
        assert found is not None
        assert found.value == 12
        assert first < second < found.version
        third = await client.facts.put("k", 0)
        monkeypatch.setattr(broker, "_once", losing)
        assert await client.facts.put("k", 5) > third
        found = await client.facts.get("k", int)
        assert found is not None
        assert found.value == 15


async def test_a_fact_is_gone_after_its_ttl_and_its_end_is_a_change(backend: AnyBackend) -> None:
    async with process(backend) as client:
        facts = client.facts
        watch = facts.watch("short", int)
        before = await facts.put("short", 0)
        assert (await take(watch, 1))[0].version == before
        version = await facts.put("short", 1, ttl=0.05)
        await facts.put("long", 1, ttl=LONG_MS / 1000)
        found = await facts.get("long")
        assert found is not None
        assert found.expires_s is not None
        assert 0 < found.expires_s <= LONG_MS / 1000
        assert (await take(watch, 1))[0] == Change("put", "short", version, 1)

        async def gone() -> bool:
            return await facts.get("short") is None

        await backend.until(gone)
        (ended,) = await take(watch, 1)
        assert (ended.kind, ended.key, ended.value) == ("expired", "short", None)
        assert ended.version > version
        assert [fact.key for fact in await facts.list()] == ["long"]
        assert await facts.create("short", 2) > ended.version


async def test_a_put_without_ttl_ends_the_one_before(backend: AnyBackend) -> None:
    async with process(backend) as client:
        await client.facts.put("k", 1, ttl=0.05)
        await client.facts.put("k", 2)
        await client.facts.put("clock", 1, ttl=0.1)

        async def longer() -> bool:
            return await client.facts.get("clock") is None

        await backend.until(longer)
        found = await client.facts.get("k")
        assert found is not None
        assert found.expires_s is None


async def test_a_list_is_read_in_pages_in_the_order_of_the_keys(backend: AnyBackend) -> None:
    async with process(backend) as client:
        facts = client.facts
        keys = [f"job/{n:03}" for n in range(25)] + ["jo", "job", "joc", "jöb/ä"]
        await asyncio.gather(*(facts.put(key, key) for key in keys))
        assert [fact.key for fact in await facts.list(limit=1000)] == sorted(keys)
        found: list[str] = []
        while page := await facts.list("job/", limit=10, after=found[-1] if found else ""):
            assert len(page) <= 10
            found += [fact.key for fact in page]
        assert found == sorted(key for key in keys if key.startswith("job/"))
        assert [fact.value for fact in await facts.list("jöb/")] == ["jöb/ä"]
        assert [fact.key for fact in await facts.list("job/", after="a", limit=1)] == ["job/000"]


async def test_a_page_of_large_values_is_shorter(backend: AnyBackend) -> None:
    async with process(backend) as client:
        large = b"x" * 1_000_000
        for n in range(6):
            await client.facts.put(f"large/{n}", large)
        page = await client.facts.list("large/", type=bytes)
        assert 1 <= len(page) < 6
        rest = await client.facts.list("large/", after=page[-1].key, type=bytes)
        assert [fact.key for fact in page + rest] == [f"large/{n}" for n in range(6)]


async def test_a_watch_tells_what_is_there_and_then_every_change(backend: AnyBackend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        there = await one.facts.put("jobs/a", 1)
        await one.facts.put("else", 0)
        watch = other.facts.watch(prefix="jobs/", type=int)
        assert await take(watch, 1) == [Change("there", "jobs/a", there, 1)]
        waiting = asyncio.create_task(take(watch, 3))
        versions = [await one.facts.put("jobs/b", 2), await one.facts.put("jobs/b", 3)]
        await one.facts.put("jobsless", 0)
        assert await one.facts.delete("jobs/b")
        assert not await one.facts.delete("jobs/none")
        changes = await soon(waiting)
        assert changes[:2] == [Change("put", "jobs/b", versions[0], 2), Change("put", "jobs/b", versions[1], 3)]
        assert (changes[2].kind, changes[2].key) == ("deleted", "jobs/b")
        assert changes[2].version > versions[1]


async def test_a_watch_that_begins_among_changes_misses_none_and_tells_none_twice(backend: AnyBackend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:

        async def write() -> None:
            for n in range(300):
                await one.facts.put(f"k/{n % 7}", n)

        writing = asyncio.create_task(write())
        watches = [other.facts.watch(prefix="k/", type=int), other.facts.watch("k/3", int)]
        for watch in watches:
            latest: dict[str, Change[int]] = {}
            of = range(7) if watch is watches[0] else [3]
            wanted = {f"k/{k}": max(range(k, 300, 7)) for k in of}
            while {key: change.value for key, change in latest.items()} != wanted:
                (change,) = await take(watch, 1)
                before = latest.get(change.key)
                if before is not None:
                    assert change.version > before.version
                    assert (before.value or 0) + 7 == change.value, "a change was left out"
                latest[change.key] = change
        await writing


async def test_who_is_too_slow_is_told_that_changes_were_skipped_and_begins_anew(backend: AnyBackend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        await one.facts.put("k", b"first")
        watch = other.facts.watch("k", bytes)
        assert [change.kind for change in await take(watch, 1)] == ["there"]
        for n in range(6):
            await one.facts.put("k", b"%d" % n + b"x" * 1_000_000)
        # Another watch of this process has seen the newest: so all have been read here.
        follows = other.facts.watch("k", bytes)
        newest = await one.facts.get("k")
        assert newest is not None
        while (await take(follows, 1))[0].version != newest.version:
            pass
        kinds = [change.kind for change in await take(watch, 2)]
        assert kinds == ["skipped", "there"]
        version = await one.facts.put("k", b"last")
        assert (await take(watch, 1))[0] == Change("put", "k", version, b"last")


async def test_a_flushed_server_is_announced_as_skipped(backend: AnyBackend) -> None:
    if not isinstance(backend, RedisBackend):
        pytest.skip("memory is not flushed")
    async with process(backend) as client:
        version = await client.facts.put("k", 1)
        watch = client.facts.watch("k", int)
        await take(watch, 1)
        await backend._client.flushdb()
        later = await client.facts.put("k", 2)
        assert later > version
        assert [change.kind for change in await take(watch, 2)] == ["skipped", "there"]
        await backend._client.flushdb()
        # Nobody writes: it is noticed all the same.
        assert [change.kind for change in await take(watch, 1)] == ["skipped"]


async def test_a_cancelled_wait_for_a_change_loses_none(backend: AnyBackend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        watch = other.facts.watch("k", int)
        await one.facts.put("k", -1)
        await take(watch, 1)
        found = []
        for n in range(10):
            waiting = asyncio.create_task(anext(watch))  # type: ignore[arg-type]
            writing = asyncio.create_task(one.facts.put("k", n))
            for _ in range(n):
                await asyncio.sleep(0)
            waiting.cancel()
            (change, _) = await asyncio.gather(waiting, writing, return_exceptions=True)
            if isinstance(change, Change):
                found.append(change.value)
        found += [change.value for change in await take(watch, 10 - len(found))]
        assert found == list(range(10))


async def test_a_write_is_refused_when_its_fence_is_not_held_any_more(backend: AnyBackend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        async with one.facts.lock("deploy") as held:
            assert await one.facts.put("release", 1, fence=held) > 0
            # Its place is taken behind its back, as after a pause longer than its ttl.
            await other.broker.hold_leave(held.seat)
            async with other.facts.lock("deploy") as newer:
                assert newer.token > held.token
                for stale in (
                    one.facts.put("release", 2, fence=held),
                    one.facts.create("other", 2, fence=held),
                    one.facts.delete("release", fence=held),
                ):
                    with pytest.raises(StaleFence):
                        await stale
                await other.facts.put("release", 3, fence=newer)
            with pytest.raises(StaleFence):
                await other.facts.put("release", 4, fence=newer)
        found = await one.facts.get("release", int)
        assert found is not None
        assert found.value == 3


async def test_a_fence_is_stale_when_its_ttl_has_passed_though_nobody_else_came(backend: AnyBackend) -> None:
    async with process(backend) as client:
        shard = str(shard_of("lock/x", SHARDS))
        answer = await client.broker.hold(shard, "lock/x", "me", 1, 50)
        seat = Seat(shard, "lock/x", "me", answer.token)
        target = str(shard_of("k", SHARDS))

        async def refused() -> bool:
            write = FactWrite(target, "k", b"\x01", None, 0, secrets.token_hex(8), seat)
            return (await client.broker.fact_write(write)).status == "stale"

        assert not await refused()
        await backend.until(refused)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda facts: facts.get(""), "key"),
        (lambda facts: facts.put("a\nb", 1), "key"),
        (lambda facts: facts.put("k" * (MAX_KEY_BYTES + 1), 1), "key"),
        (lambda facts: facts.get("\udc80"), "key"),
        (lambda facts: facts.put("$k", 1), "key"),
        (lambda facts: facts.create("$worker/a", 1), "key"),
        (lambda facts: facts.swap("$worker/a", 0, 1), "key"),
        (lambda facts: facts.delete("$worker/a"), "key"),
        (lambda facts: facts.named("a/1").put("$worker/a", 1), "key"),
        (lambda facts: facts.put("k", 1, ttl=0), "ttl"),
        (lambda facts: facts.put("k", 1, ttl=float("nan")), "ttl"),
        (lambda facts: facts.put("k", 1, fence="held"), "fence"),
        (lambda facts: facts.swap("k", -1, 1), "version"),
        (lambda facts: facts.delete("k", True), "version"),
        (lambda facts: facts.list(limit=0), "limit"),
        (lambda facts: facts.list("a\x00"), "prefix"),
        (lambda facts: facts.locks(limit=1001), "limit"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_argument_named(call: Any, field: str) -> None:
    async with process(MemoryBackend("x")) as client:
        with pytest.raises(WrongBody) as refused:
            await call(client.facts)
        assert refused.value.detail["field"] == field
        assert field in str(refused.value)


async def test_what_the_system_keeps_can_be_read_by_all_and_written_by_it_alone() -> None:
    async with process(MemoryBackend("x")) as client:
        watch = client.facts.watch(prefix="$")
        version = await SystemFacts(client.facts).put("$worker/a", 1)
        assert await soon(anext(watch)) == Change("there", "$worker/a", version, 1)
        assert [fact.key for fact in await client.facts.list("$worker/")] == ["$worker/a"]
        with pytest.raises(WrongBody, match=r"begin with \$ are the system's own"):
            await client.facts.swap("$worker/a", version, 2)
        assert await client.facts.get("$worker/a", int) == Fact("$worker/a", 1, version)
        async with SystemFacts(client.facts).lock("$workers"):
            assert [lock.name for lock in await client.facts.locks()] == ["$workers"]


async def test_a_value_that_is_too_large_or_cannot_be_encoded_is_refused() -> None:
    async with process(MemoryBackend("x")) as client:
        with pytest.raises(WireError, match="at most 1048576 are allowed"):
            await client.facts.put("k", b"x" * (1 << 20))
        with pytest.raises(WireError, match="cannot be kept"):
            await client.facts.put("k", object())
        with pytest.raises(WrongBody, match="either a key or a prefix"):
            client.facts.watch()
        with pytest.raises(WrongBody, match="either a key or a prefix"):
            client.facts.watch("k", prefix="k")


async def test_strangers_bytes_among_the_facts_stop_nobody(backend: AnyBackend) -> None:
    if not isinstance(backend, RedisBackend):
        pytest.skip("strangers write to servers")
    async with process(backend) as client:
        facts, redis = client.facts, backend._client
        prefix = f"swell:{backend.namespace}:{{{shard_of('k', SHARDS)}}}:facts:"
        version = await facts.put("k", 1)
        watch = facts.watch("k", int)
        await take(watch, 1)
        await redis.xadd(prefix + "changes", {"x": b"\xff" * 10}, id=f"{version + 1}-0")
        later = await facts.put("k", 2)
        kinds = [change.kind for change in await take(watch, 2)]
        assert kinds[0] == "skipped"
        while (await take(watch, 1))[0].version != later if kinds[-1] == "skipped" else False:
            pass
        await redis.hset(prefix + "data", "k", b"\xffgarbage")
        assert await facts.get("k") is None
        await redis.hset(prefix + "data", "k", b"17;0;\xc1")
        with pytest.raises(WireError, match="'k'"):
            await facts.get("k")
        assert await facts.put("k", 3) > later
        found = await facts.get("k", int)
        assert found is not None
        assert found.value == 3
