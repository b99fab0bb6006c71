"""`swell send` with a limit for its wait, and under a key."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from swell import Client
from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S

#: The least that `max_depth` may be.
LEAST_DEPTH = 256


def send(url: str, namespace: str, *more: str) -> subprocess.CompletedProcess[str]:
    where = ["--redis", url, "--namespace", namespace]
    command = [sys.executable, "-m", "swell", "send", "echo/1", "echo", '"hello"', *more, *where]
    environ = {"PATH": "/usr/bin:/bin", "SWELL_MAX_DEPTH": str(LEAST_DEPTH), "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environ)


async def test_a_message_under_a_key_is_sent_once(client: Client, valkey: RealServer, namespace: str) -> None:
    first = send(valkey.url, namespace, "--key", "monday", "--json")
    again = send(valkey.url, namespace, "--key", "monday", "--json")
    other = send(valkey.url, namespace, "--key", "tuesday")
    assert [one.returncode for one in (first, again, other)] == [0, 0, 0], first.stderr
    assert (json.loads(first.stdout)["repeated"], json.loads(again.stdout)["repeated"]) == (False, True)
    assert "sent to echo/1" in other.stdout
    assert sum(ledger.sent for ledger in await client.ledger() if ledger.shard.isdigit()) == 2


async def test_with_a_wait_a_full_shard_is_an_error_that_says_so_and_nothing_is_sent(
    client: Client, valkey: RealServer, namespace: str
) -> None:
    await client.send_many(("echo/1", "echo", number) for number in range(LEAST_DEPTH))
    ended = send(valkey.url, namespace, "--wait", "0")
    assert ended.returncode == 1
    assert f"holds {LEAST_DEPTH} unsettled messages; try again in " in ended.stderr
    assert sum(ledger.sent for ledger in await client.ledger() if ledger.shard.isdigit()) == LEAST_DEPTH


@pytest.mark.parametrize(("more", "says"), [(["--wait", "-1"], "wait: -1 must be"), (["--key", "a b"], "key: 'a b'")])
def test_wrong_values_are_named(valkey: RealServer, namespace: str, more: list[str], says: str) -> None:
    ended = send(valkey.url, namespace, *more)
    assert ended.returncode in (1, 2)
    assert says in ended.stderr
