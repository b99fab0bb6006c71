"""A worker process on a real server: handlers, failures, order, slow neighbours, kills."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swell import CallTimeout, Client, HandlerFailed, UnknownAgent, UnknownHandler, UnknownType, WireError, WrongBody
from swell.codec import decode, raw
from swell.errors import AgentExists, CallError, StartFailed
from swell.wire import SPAWN, TERMINATE, DeadLetter, SpawnAgent, Spawned
from tests.integration.fleet import Note, Order
from tests.integration.services import Service

Start = Callable[..., Service]


async def spawn(client: Client, *ids: str, args: Any = None, plan: str = "test") -> list[Spawned]:
    """What the manager does for a plan: tell each agent's shard to start it."""
    body = SpawnAgent(plan, raw(args))
    answers = await asyncio.gather(*(client.request(client.shard(id), id, SPAWN, body, 20) for id in ids))
    return [decode(answer, Spawned) for answer in answers]


async def letters(client: Client) -> list[DeadLetter]:
    return [
        decode(letter, DeadLetter) for shard in client.shard_names for _, letter in await client.broker.dead(shard, 100)
    ]


def account(directory: Path, key: str) -> list[list[tuple[str, int]]]:
    """What an agent wrote down, a list for each process that hosted it, in the order of their first lines."""
    lives = []
    for file in directory.glob(f"{key}.*"):
        if file.suffix != ".log":
            notes = [line.split() for line in file.read_text().splitlines()]
            lives.append([(sender, int(seq)) for sender, seq in notes])
    return sorted((life for life in lives if life), key=lambda life: life[0][1])


async def test_messages_are_handled_once_and_in_order(client: Client, start: Start, tmp_path: Path) -> None:
    await start("worker").ready()
    ids = [f"notary/{n}" for n in range(20)]
    await spawn(client, *ids)
    sent = await client.send_many((id, "note", Note("me", seq)) for seq in range(500) for id in ids)
    assert sent == 10_000
    await asyncio.gather(*(client.ask(id, "process", None, int) for id in ids))
    for n in range(20):
        assert account(tmp_path, str(n)) == [[("me", seq) for seq in range(500)]]


async def test_an_ask_answers_and_its_errors_name_what_is_wrong(client: Client, start: Start) -> None:
    await start("worker").ready()
    await spawn(client, "faulty/1")
    assert await client.ask("faulty/1", "fail", Order(0), int) == 1
    with pytest.raises(UnknownAgent, match="no agent faulty/2"):
        await client.ask("faulty/2", "ok")
    with pytest.raises(UnknownHandler, match="did you mean 'fail'"):
        await client.ask("faulty/1", "fial")
    with pytest.raises(WrongBody, match=r"\$\.failures") as wrong:
        await client.ask("faulty/1", "fail", {"failures": "many"})
    assert wrong.value.detail["field"] == "$.failures"
    with pytest.raises(WireError, match="is not what was asked for"):
        await client.ask("faulty/1", "ok", None, int)
    with pytest.raises(WireError, match="cannot be sent"):
        await client.ask("faulty/1", "ok", object())
    with pytest.raises(UnknownType, match="only caller, faulty"):
        await spawn(client, "nobody/1")
    with pytest.raises(CallError, match=r"result of 'unsendable' cannot be sent"):
        await client.ask("faulty/1", "unsendable")


async def test_a_failed_attempt_is_retried_in_place_and_the_last_one_is_a_dead_letter(
    client: Client, start: Start
) -> None:
    await start("worker").ready()
    await spawn(client, "faulty/1")
    assert await client.ask("faulty/1", "fail", Order(2), int) == 3
    with pytest.raises(HandlerFailed, match="failed 3 times, at last: ValueError: three is too many") as failed:
        await client.ask("faulty/1", "fail", Order(3, "three is too many"))
    assert "raise ValueError(body.text)" in failed.value.detail["traceback"]
    assert await client.ask("faulty/1", "ok", None, str) == "ok"
    (letter,) = await letters(client)
    assert (letter.to, letter.name, letter.kind, letter.attempts) == ("faulty/1", "fail", "handler_failed", 3)
    assert letter.body == {"failures": 3, "text": "three is too many"}
    assert "ValueError: three is too many" in letter.traceback


async def test_a_hanging_handler_is_cancelled_at_its_limit(client: Client, start: Start) -> None:
    await start("worker").ready()
    await spawn(client, "faulty/1")
    with pytest.raises(HandlerFailed, match=r"ran longer than 0\.3 s"):
        await client.ask("faulty/1", "hang")
    with pytest.raises(HandlerFailed, match="was cancelled"):
        await client.ask("faulty/1", "give_up")
    assert await client.ask("faulty/1", "ok", None, str) == "ok"


async def test_a_start_that_fails_is_told_and_leaves_a_failed_agent(client: Client, start: Start) -> None:
    await start("worker").ready()
    with pytest.raises(StartFailed, match="RuntimeError: bad mood"):
        await spawn(client, "fragile/1", args={"mood": "bad"})
    with pytest.raises(StartFailed, match=r"ran longer than 0\.3 s"):
        await spawn(client, "fragile/2", args={"mood": "slow"})
    with pytest.raises(WrongBody, match="unknown field `color`"):
        await spawn(client, "fragile/3", args={"color": "red"})
    with pytest.raises(UnknownAgent, match="is failed: 'started' failed 1 time"):
        await client.ask("fragile/1", "ok")
    states = {view.id: view.state for view in await client.agents()}
    assert states == {"fragile/1": "failed", "fragile/2": "failed", "fragile/3": "failed"}
    # The same id may be tried again.
    await spawn(client, "fragile/1", args={"mood": "good"})
    (view,) = await client.agents(state="ready")
    assert (view.id, view.generation) == ("fragile/1", 2)
    assert await client.ask("fragile/1", "ok", None, str) == "ok"


async def test_an_agent_is_spawned_once(client: Client, start: Start) -> None:
    await start("worker").ready()
    (first,) = await spawn(client, "waiter/1")
    (again,) = await spawn(client, "waiter/1")
    assert (first.already, again.already) == (False, True)
    with pytest.raises(AgentExists, match="spawned by plan test"):
        await spawn(client, "waiter/1", plan="another")


async def test_a_terminated_agent_ends_behind_its_messages(client: Client, start: Start) -> None:
    await start("worker").ready()
    await spawn(client, "waiter/1")
    await client.send_many(("waiter/1", "add", n) for n in range(5))
    asked = asyncio.ensure_future(client.ask("waiter/1", "all", None, list[int]))
    await asyncio.sleep(0)  # The question is sent before the end is.
    await client.request(client.shard("waiter/1"), "waiter/1", TERMINATE, None, 10)
    assert await asked == [0, 1, 2, 3, 4]
    with pytest.raises(UnknownAgent, match="is stopped"):
        await client.ask("waiter/1", "all")
    assert await client.agents() == []
    (view,) = await client.agents(state="stopped")
    assert view.id == "waiter/1"


async def test_a_full_mailbox_holds_up_nobody_else_and_keeps_its_order(client: Client, start: Start) -> None:
    await start("worker", mailbox=8, buffer=256).ready()
    await spawn(client, "waiter/slow", "gate/1", *(f"waiter/{n}" for n in range(50)))
    await client.send("waiter/slow", "wait", 0)
    await client.send_many(("waiter/slow", "add", n) for n in range(1, 3000))
    await client.send_many((f"waiter/{n % 50}", "add", n) for n in range(5000))
    quick = await asyncio.gather(*(client.ask(f"waiter/{n}", "all", None, list[int], timeout=20) for n in range(50)))
    assert quick == [list(range(n, 5000, 50)) for n in range(50)]
    (view,) = await client.agents(state="working")
    assert (view.id, view.queued) == ("waiter/slow", 2999)
    await client.send("gate/1", "open", "slow")
    assert await client.ask("waiter/slow", "all", None, list[int]) == list(range(3000))


async def test_agents_send_and_ask_each_other(client: Client, start: Start) -> None:
    await start("worker").ready()
    await spawn(client, "caller/1", "faulty/1", "waiter/1")
    assert await client.ask("caller/1", "relay", ("faulty/1", "ok"), str) == "ok"
    assert await client.ask("caller/1", "tell", [("waiter/1", n) for n in range(7)], int) == 7
    assert await client.ask("waiter/1", "all", None, list[int]) == list(range(7))


async def test_an_ask_that_nobody_hears_times_out(client: Client) -> None:
    with pytest.raises(CallTimeout, match=r"waiter/1 did not answer 'all' within 0\.2 s"):
        await client.ask("waiter/1", "all", timeout=0.2)


async def test_bytes_that_are_no_batch_are_dead_letters_and_harm_nobody(client: Client, start: Start) -> None:
    await start("worker").ready()
    await spawn(client, "faulty/1")
    from redis.asyncio import Redis

    shard = client.shard("faulty/1")
    inbox = f"swell:{client.broker._keys.namespace}:{{{shard}}}:inbox"  # type: ignore[attr-defined]
    async with Redis.from_url(client.broker._url, protocol=2) as stranger:  # type: ignore[attr-defined]
        await stranger.xadd(inbox, {"hello": "world"})
        await stranger.xadd(inbox, {"n": "x", "b": b"\xc1"})
    assert await client.ask("faulty/1", "ok", None, str) == "ok"
    found = await letters(client)
    assert [letter.kind for letter in found] == ["malformed", "malformed"]
    ledger = await client.broker.ledger(shard)
    assert ledger.foreign == 2


async def test_two_workers_share_the_shards_and_a_stopped_one_hands_over_without_a_loss(
    client: Client, start: Start, tmp_path: Path
) -> None:
    first = start("worker")
    await first.ready()
    ids = [f"notary/{n}" for n in range(40)]
    await spawn(client, *ids)
    sent = 0
    stopping = asyncio.Event()

    async def load() -> None:
        nonlocal sent
        while not stopping.is_set():
            await client.send_many((id, "note", Note("me", sent)) for id in ids)
            sent += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        second = start("worker")
        await second.ready()
        while len({lease.owner for lease in await client.leases() if lease.shard.isdigit()}) < 2:
            await asyncio.sleep(0.02)
        assert await first.stop() == 0
        owners = await asyncio.gather(*(client.ask(id, "process", None, int, timeout=20) for id in ids))
        assert set(owners) == {second.pid}
        stopping.set()
    await asyncio.gather(*(client.ask(id, "process", None, int) for id in ids))
    for n in range(40):
        lives = account(tmp_path, str(n))
        # Handed over politely: every message once, in order, across the lives.
        assert [note for life in lives for note in life] == [("me", seq) for seq in range(sent)]


async def test_a_killed_worker_loses_nothing_and_order_holds(client: Client, start: Start, tmp_path: Path) -> None:
    victim, heir = start("worker"), start("worker")
    await victim.ready()
    await heir.ready()
    ids = [f"notary/{n}" for n in range(40)]
    await spawn(client, *ids)
    sent = 0
    stopping = asyncio.Event()

    async def load() -> None:
        nonlocal sent
        while not stopping.is_set():
            await client.send_many((id, "note", Note("me", sent)) for id in ids)
            sent += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        before = set(await asyncio.gather(*(client.ask(id, "process", None, int) for id in ids)))
        assert before == {victim.pid, heir.pid}
        victim.kill()
        after = await asyncio.gather(*(client.ask(id, "process", None, int, timeout=30) for id in ids))
        assert set(after) == {heir.pid}
        stopping.set()
    await asyncio.gather(*(client.ask(id, "process", None, int) for id in ids))
    for n in range(40):
        lives = [[seq for _, seq in life] for life in account(tmp_path, str(n))]
        assert set().union(*lives) == set(range(sent))
        for life in lives:
            assert life == list(range(life[0], life[0] + len(life)))
    restarted = {view.id for view in await client.agents(limit=100) if view.restarts == 1}
    assert restarted


async def test_a_worker_says_why_it_is_not_ready(start: Start) -> None:
    service = start("worker", redis="redis://127.0.0.1:1/0")
    status, body = await service.get(await service.url() + "/readyz")
    assert status == 503
    assert "cannot be reached" in body["checks"]["redis"]["reason"]
    assert (await service.get(await service.url() + "/livez"))[0] == 200
    assert await service.stop() == 0
