"""The same world as a hypothesis state machine: what it finds, it makes short.

`test_shard_interleavings.py` draws longer histories and finds what needs many steps; this one searches by rules, and
each step is checked against the invariants by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.conformance.guards import GUARDS, Guard, weaken_memory
from tests.conformance.shard_model import Violation
from tests.conformance.shard_servers import LONG_FACTOR, InMemory, OnServer, World

#: Examples, and steps of one, in the short size.
EXAMPLES, STEPS = 100, 40

_faults = st.sampled_from(["none", "none", "never", "lost", "twice"])
_owners = st.sampled_from(["holder", "holder", "holder", "ada", "bob", "eve"])
_anybody = st.sampled_from(["ada", "bob", "eve"])
_which = st.integers(0, 7)


class ShardMachine(RuleBasedStateMachine):
    """A shard, its senders and its owners. `place` is where it lives."""

    place: InMemory | OnServer

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._scene = self.place.scene()

    def _run(self, step: Coroutine[Any, Any, None]) -> None:
        self._runner.run(step)

    @initialize()
    def begin(self) -> None:
        async def opened() -> World:
            return await self._scene.__aenter__()

        self.world = self._runner.run(opened())
        self._run(self.world.acquire("ada", "none"))

    @rule(
        sender=st.sampled_from("pq"),
        agents=st.lists(st.sampled_from("ab"), min_size=1, max_size=5),
        batches=st.integers(1, 3),
        fault=_faults,
    )
    def append(self, sender: str, agents: list[str], batches: int, fault: str) -> None:
        self._run(self.world.append(sender, agents, batches, fault))

    @rule(which=_which)
    def late_append(self, which: int) -> None:
        self._run(self.world.late(which))

    @rule(owner=_owners, count=st.integers(1, 4), fault=st.sampled_from(["none", "none", "never", "lost"]))
    def read(self, owner: str, count: int, fault: str) -> None:
        self._run(self.world.read(owner, count, fault))

    @rule(
        owner=_owners,
        agent=st.sampled_from("ab"),
        messages=st.integers(1, 4),
        verdict=st.sampled_from(["ok", "ok", "fail", "give_up", "late"]),
    )
    def handle(self, owner: str, agent: str, messages: int, verdict: str) -> None:
        self._run(self.world.handle(owner, agent, messages, verdict))

    @rule(owner=_owners, which=st.integers(0, 2), fault=_faults)
    def settle(self, owner: str, which: int, fault: str) -> None:
        self._run(self.world.settle(owner, which, fault))

    @rule(which=_which)
    def late_settle(self, which: int) -> None:
        self._run(self.world.late_settle(which))

    @rule(which=_which, fault=_faults)
    def replay(self, which: int, fault: str) -> None:
        self._run(self.world.replay(which, fault))

    @rule(which=_which, fault=_faults)
    def drop_letter(self, which: int, fault: str) -> None:
        self._run(self.world.drop_letter(which, fault))

    @rule(owner=_anybody, fault=_faults)
    def acquire(self, owner: str, fault: str) -> None:
        self._run(self.world.acquire(owner, fault))

    @rule(owner=_anybody, fault=_faults)
    def take_over(self, owner: str, fault: str) -> None:
        self._run(self.world.take_over(owner, fault))

    @rule(owner=_owners, fault=_faults)
    def renew(self, owner: str, fault: str) -> None:
        self._run(self.world.renew(owner, fault))

    @rule(owner=_owners, fault=_faults)
    def hand_over(self, owner: str, fault: str) -> None:
        self._run(self.world.hand_over(owner, fault))

    @rule(owner=_owners)
    def crash(self, owner: str) -> None:
        self._run(self.world.crash(owner))

    @rule()
    def lapse(self) -> None:
        self._run(self.world.lapse())

    @invariant()
    def the_invariants_hold(self) -> None:
        self._run(self.world.check())

    def teardown(self) -> None:
        async def ended() -> None:
            try:
                await self.world.come_to_rest()
            finally:
                await self._scene.__aexit__(None, None, None)

        with self._runner:
            self._run(ended())


def search(place: InMemory | OnServer, examples: int, *, shrink: bool = True) -> None:
    """Play so many examples; the first that breaks a promise is made short and raised."""
    machine = type("Machine", (ShardMachine,), {"place": place})
    how = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(machine, settings=how)


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """How many times the short size."""
    return LONG_FACTOR if request.config.getoption("--chaos-long") else 1


@pytest.mark.timeout(3600)
def test_the_invariants_hold_in_memory(times: int) -> None:
    search(InMemory(), EXAMPLES * times)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("server", ["valkey", "redis"])
def test_the_invariants_hold(server: str, request: pytest.FixtureRequest, times: int) -> None:
    search(OnServer(request.getfixturevalue(server).unix_url), EXAMPLES // 4 * times)


#: What the generator's longer histories find and this search does only by luck.
RARE = "what an entry's former settles counted is subtracted"


@pytest.mark.parametrize(
    "guard", [one for one in GUARDS if one.memory and one.name != RARE], ids=lambda guard: guard.name
)
def test_without_a_guard_it_finds_the_violation(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    weaken_memory(guard, monkeypatch)
    with pytest.raises(Violation):
        search(InMemory(), 10 * EXAMPLES, shrink=False)
