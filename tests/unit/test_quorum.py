"""One question to many agents: enough answers end it, and nobody works on for nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from swell import Agent, Answers, App, Expired, HandlerFailed, UnknownAgent, WireError, WrongBody, handler
from swell.testing import Fleet, fleet_test

app = App("quorum")
#: What became of the handlers.
seen: Counter[str] = Counter()


@app.agent("voter", timeout=None, max_attempts=1)
class Voter(Agent):
    @handler
    async def vote(self, body: float) -> str:
        """Answer after so many seconds; negative ones fail."""
        try:
            await asyncio.sleep(abs(body))
        except asyncio.CancelledError:
            seen["cancelled"] += 1
            raise
        seen["voted"] += 1
        if body < 0:
            raise ValueError("against")
        return self.key

    @handler
    async def poll(self, body: list[str]) -> Any:
        answers: Answers[str] = await self.ask_many(body, "vote", 1.0, str, quorum=1)
        return sorted(answers.answers)


def voters(count: int) -> list[str]:
    return [f"voter/{n}" for n in range(count)]


@fleet_test(app, workers=2)
async def test_it_returns_with_the_quorum_and_takes_the_rest_back(fleet: Fleet) -> None:
    seen.clear()
    ids = voters(20)
    await fleet.spawn("voter", count=0, keys=[str(n) for n in range(20)])
    waits = {id: (1.0 if n < 5 else 3600.0) for n, id in enumerate(ids)}
    loop = asyncio.get_running_loop()
    began = loop.time()
    found: Answers[str] = await fleet.client.ask_many(waits, "vote", None, str, quorum=5, timeout=7200)
    assert loop.time() - began < 10
    assert found.reached
    assert sorted(found.answers.items()) == [(id, id.partition("/")[2]) for id in ids[:5]]
    assert (found.errors, found.silent) == ({}, ids[5:])
    await fleet.quiet(within=60)
    assert seen == {"voted": 5, "cancelled": 15}
    assert [letter for letter in await fleet.dead() if letter.kind != "cancelled"] == []


@fleet_test(app)
async def test_without_a_quorum_all_are_waited_for_and_errors_are_told_by_agent(fleet: Fleet) -> None:
    await fleet.spawn("voter", keys=["0", "1"])
    asked = {"voter/0": 1.0, "voter/1": -1.0, "voter/nobody": 1.0}
    found: Answers[str] = await fleet.client.ask_many(asked, "vote", type=str)
    assert found.answers == {"voter/0": "0"}
    assert isinstance(found.errors["voter/1"], HandlerFailed)
    assert isinstance(found.errors["voter/nobody"], UnknownAgent)
    assert (found.silent, found.reached, found.quorum) == ([], False, 3)


@fleet_test(app)
async def test_when_time_is_over_the_silent_are_named(fleet: Fleet) -> None:
    await fleet.spawn("voter", keys=["0", "1", "2"])
    asked = {"voter/0": 1.0, "voter/1": 900.0, "voter/2": 900.0}
    found: Answers[str] = await fleet.client.ask_many(asked, "vote", type=str, quorum=2, timeout=10)
    assert (found.answers, found.silent, found.reached) == ({"voter/0": "0"}, ["voter/1", "voter/2"], False)


@fleet_test(app)
async def test_a_quorum_out_of_reach_ends_when_nobody_is_left(fleet: Fleet) -> None:
    found: Answers[str] = await fleet.client.ask_many(voters(3), "vote", 1.0, str, quorum=2, timeout=3600)
    assert (found.reached, len(found.errors)) == (False, 3)


@fleet_test(app)
async def test_agents_ask_many_too_and_a_result_of_another_type_is_that_agents_error(fleet: Fleet) -> None:
    await fleet.spawn("voter", keys=["0", "1", "2"])
    assert len(await fleet.client.ask("voter/0", "poll", ["voter/1", "voter/2"], list[str])) >= 1
    found: Answers[int] = await fleet.client.ask_many(voters(3), "vote", 0.0, int)
    assert all(isinstance(error, WireError) for error in found.errors.values())
    assert len(found.errors) == 3


@fleet_test(app)
async def test_whoever_gives_up_takes_all_questions_back(fleet: Fleet) -> None:
    seen.clear()
    await fleet.spawn("voter", keys=["0", "1"])
    asking = asyncio.ensure_future(fleet.client.ask_many(voters(2), "vote", 3600.0, timeout=7200))
    await asyncio.sleep(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await fleet.quiet(within=60)
    assert seen == {"cancelled": 2}


@pytest.mark.parametrize(
    ("agents", "body", "quorum", "said"),
    [
        ([], None, None, "agents: 0 ids"),
        ("voter/1", None, None, "is one id"),
        (["voter/1"], None, 2, "quorum: 2 of 1"),
        (["voter/1", "voter/1"], None, 2, "quorum: 2 of 1"),
        (["voter/1"], None, 0, "quorum: 0"),
        ({"voter/1": 1}, 2, None, "bodies of their own"),
    ],
)
@fleet_test(app)
async def test_bad_questions_are_refused(fleet: Fleet, agents: Any, body: Any, quorum: int | None, said: str) -> None:
    with pytest.raises(WrongBody, match=said):
        await fleet.client.ask_many(agents, "vote", body, quorum=quorum)


@fleet_test(app)
async def test_whoever_has_not_begun_in_time_is_among_the_errors_and_urgent_questions_come_first(fleet: Fleet) -> None:
    seen.clear()
    await fleet.spawn("voter", count=0, keys=["0", "1"])
    await fleet.client.send("voter/0", "vote", 100.0)
    await asyncio.sleep(1)
    late = await fleet.client.ask_many(voters(2), "vote", 1.0, ttl=10, timeout=1000)
    assert (list(late.answers), list(late.errors)) == (["voter/1"], ["voter/0"])
    assert isinstance(late.errors["voter/0"], Expired)
    assert seen == {"voted": 2}
    for terms in ({"ttl": 0}, {"ttl": 1, "deadline": datetime.now(UTC)}, {"priority": "urgent"}):
        with pytest.raises(WrongBody):
            await fleet.client.ask_many(voters(2), "vote", 1.0, **terms)  # type: ignore[arg-type]
