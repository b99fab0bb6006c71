"""Sizes, seeds and systems of the chaos tests. The options are in tests/conftest.py, which pytest reads in time."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from swell import Client
from tests.chaos.report import ROWS, Rows
from tests.chaos.system import System
from tests.chaos.workers import Workers, accounts
from tests.conftest import RealServer

#: Makes a system on the session's server; use it with `async with`.
MakeSystem = Callable[..., System]

#: Servers in containers that the tests may run on, by the fixture and the option that asks for it.
CONTAINERS = ("redis8", "valkey81")
_SEED = pytest.StashKey[int]()


def _seed(config: pytest.Config) -> int:
    if _SEED not in config.stash:
        given = config.getoption("--chaos-seed")
        config.stash[_SEED] = secrets.randbelow(1_000_000) if given is None else given
    return config.stash[_SEED]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run."""
    seed = _seed(request.config)
    print(f"chaos seed {seed}: repeat with --chaos-seed {seed}")  # Shown if the test fails.
    return seed


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test's own: the same for the same seed, whichever other tests run."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long size is asked for."""
    return bool(request.config.getoption("--chaos-long"))


@pytest.fixture
def rows(seed: int, long: bool, request: pytest.FixtureRequest) -> Rows:
    """Where the test's figures go."""
    return Rows(
        ROWS, seed, long, next((name for name in CONTAINERS if request.config.getoption(f"--chaos-{name}")), "valkey")
    )


@pytest.fixture
def server_url(request: pytest.FixtureRequest) -> str:
    """The session's server for tests that do not need one of their own."""
    for name in CONTAINERS:
        if request.config.getoption(f"--chaos-{name}"):
            url: str = request.getfixturevalue(name)
            return url
    valkey: RealServer = request.getfixturevalue("valkey")
    return valkey.url


@pytest.fixture
def namespace() -> str:
    """For a test that starts its services one by one."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
async def client(server_url: str, namespace: str) -> AsyncIterator[Client]:
    """Its client; when the test is over every account balances."""
    async with Client.connect(server_url, namespace=namespace) as client:
        yield client
        assert [account for account in await accounts(client) if not account.balanced] == []


@pytest.fixture
def app() -> str:
    """What the workers of `workers` run; a test may have another."""
    return "tests.integration.fleet:app"


@pytest.fixture
async def workers(
    client: Client, server_url: str, namespace: str, tmp_path: Path, rng: random.Random, app: str
) -> AsyncIterator[Workers]:
    """Two workers, ready, in the test's namespace and directory."""
    workers = Workers(server_url, namespace, tmp_path, rng, app)
    try:
        await workers.ready()
        yield workers
    finally:
        workers.kill()


@pytest.fixture
def system(server_url: str, tmp_path: Path) -> Iterator[MakeSystem]:
    """Make systems, each in a namespace and directory of its own; whatever is left running ends with the test."""
    made: list[System] = []

    def make(url: str = "", **settings: Any) -> System:
        directory = tmp_path / f"system{len(made)}"
        directory.mkdir()
        made.append(System(url or server_url, f"c{secrets.token_hex(6)}", directory, **settings))
        return made[-1]

    yield make
    for one in made:
        for service in one.services:
            service.kill()
    # The conformance suite has the session's server to itself, and looks for keys that should not be there.
    with Redis.from_url(server_url) as redis:
        redis.flushall()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say the seed in any case."""
    if _SEED in config.stash:
        terminalreporter.write_line(
            f"chaos seed {config.stash[_SEED]} (repeat with --chaos-seed {config.stash[_SEED]})"
        )
