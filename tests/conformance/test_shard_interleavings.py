"""Whatever its senders and owners meet, and whoever they are, a shard keeps invariants 1 to 4 after every step.

`--chaos-long` plays fifty times as many histories, `--chaos-seed N` others than the usual ones.
"""

from __future__ import annotations

import pytest

from tests.conformance.shard_servers import IN_MEMORY, LONG_FACTOR, ON_SERVER, InMemory, OnServer, explore

#: Seconds; the long size takes minutes.
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the histories; without one, every run plays the same."""
    return request.config.getoption("--chaos-seed") or 0


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """How many times the short size."""
    return LONG_FACTOR if request.config.getoption("--chaos-long") else 1


def test_the_invariants_hold_in_memory_whatever_is_interleaved(seed: int, times: int) -> None:
    explore(InMemory(), IN_MEMORY * times, seed)


@pytest.mark.parametrize("server", ["valkey", "redis"])
def test_the_invariants_hold_whatever_is_interleaved(
    server: str, request: pytest.FixtureRequest, seed: int, times: int
) -> None:
    explore(OnServer(request.getfixturevalue(server).unix_url), ON_SERVER * times, seed)
