"""Messages that harm whoever handles them, in the middle of a batch of others."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from swell.codec import decode
from swell.wire import DeadLetter
from tests.chaos.conftest import MakeSystem
from tests.chaos.fleet import POISON_TIMEOUT_S, Note
from tests.chaos.report import Rows
from tests.chaos.system import System

#: What each message does, and what its dead letter says of it.
KINDS = {
    "fail": ("handler_failed", "'fail' failed 2 times, at last: ValueError: on purpose"),
    "hang": ("handler_failed", f"'hang' failed 2 times, at last: ran longer than {POISON_TIMEOUT_S:g} s"),
    "leave": ("poison", "processes died while they handled nothing else of its entry"),
    "crash": ("poison", "processes died while they handled nothing else of its entry"),
}
pytestmark = pytest.mark.timeout(900)


async def send_among_neighbours(system: System, agents: list[str], victim: str, kind: str) -> None:
    """Notes to all agents, the harmful message, and notes to all again, in one call: in one batch for each shard."""
    sender = system.sender()
    before = [system.sent.number(sender, agent) for agent in agents]
    behind = [system.sent.number(sender, agent) for agent in agents]
    messages = [(one.agent, "note", Note(sender, one.seq)) for one in before + behind]
    await system.client.send_many([*messages[: len(agents)], (victim, kind, None), *messages[len(agents) :]])
    system.sent.acknowledge(before + behind)


async def replace_the_dead(system: System, workers: int, stop: asyncio.Event) -> None:
    """Start a worker for each that died, as a supervisor does."""
    while not stop.is_set():
        if len(system.running("worker")) < workers:
            system.start("worker")  # It may die before it is ready: nobody waits for that.
        await asyncio.sleep(0.05)


async def test_9_only_the_message_that_harms_is_given_up_and_its_neighbours_are_handled(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    killing = ["leave", "crash"]
    kinds = ["fail", "hang", *(killing if long else [rng.choice(killing)])] * (3 if long else 1)
    rng.shuffle(kinds)
    began = time.monotonic()
    stop = asyncio.Event()
    async with system(max_deliveries=1) as one, asyncio.TaskGroup() as group:
        await one.begin(workers=2)
        agents = await one.spawn(40, "poison")
        started = len(one.services)
        group.create_task(replace_the_dead(one, 2, stop))
        for kind in kinds:
            await send_among_neighbours(one, agents, rng.choice(agents), kind)
            await one.drained()
        stop.set()
        verdict = await one.settled(allow_dead=len(kinds))
        letters = [decode(letter, DeadLetter) for letter in await one.letters()]
        deaths = len(one.services) - started
    assert sorted(letter.name for letter in letters) == sorted(kinds)
    for letter in letters:
        kind, reason = KINDS[letter.name]
        assert letter.kind == kind
        assert reason in letter.reason
    assert verdict.messages == verdict.handled
    rows.add(
        "9 poison among neighbours", verdict, len(kinds), time.monotonic() - began, dead=len(letters), deaths=deaths
    )
