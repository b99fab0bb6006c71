"""Keys: one slot a shard, nothing outside of the namespace, and agents spread evenly."""

from __future__ import annotations

from collections import Counter

import pytest

from swell.errors import ConfigError
from swell.keys import SEGMENT, Keys, check_namespace, shard_of


def test_an_agents_shard_never_changes_between_releases() -> None:
    # The check value that every table of CRC-32 gives; agents of a running namespace must stay where they are.
    assert shard_of("123456789", 2**32) == 0xCBF43926
    assert [shard_of(id, 8) for id in ("echo/0000", "echo/0001", "reviewer/0007", "a/b")] == [3, 5, 5, 4]


@pytest.mark.parametrize("shards", [1, 2, 8, 16, 1024])
def test_every_agent_has_a_shard(shards: int) -> None:
    assert {shard_of(f"echo/{n:04}", shards) for n in range(20_000)} == set(range(shards))


def test_ids_that_count_upwards_spread_almost_evenly() -> None:
    spread = Counter(shard_of(f"echo/{n:04}", 8) for n in range(1000))
    assert max(spread.values()) - min(spread.values()) <= 2


def test_an_id_may_have_any_letters() -> None:
    assert 0 <= shard_of("prüfer/größe", 8) < 8


@pytest.mark.parametrize("name", ["a", "A9", "my-team.prod_2", "0", "x" * 128])
def test_a_namespace_of_letters_digits_and_a_few_signs_is_accepted(name: str) -> None:
    assert check_namespace(name) == name
    assert SEGMENT.match(name)


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a:b", "a{b}", "a/b", "-a", ".a", "_a", "a\n", "ä", "a*", "x" * 129, "a\x00"]
)
def test_a_namespace_that_could_reach_other_keys_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="namespace") as raised:
        Keys(name)
    assert raised.value.setting == "namespace"


def test_all_keys_of_a_shard_share_its_hash_tag() -> None:
    keys = Keys("ns").shard("3")
    names = ["agents", "dead", "deliveries", "inbox", "lease", "ledger", "line", "partial"]
    assert [getattr(keys, name) for name in names] == [f"swell:ns:{{3}}:{name}".encode() for name in names]
    assert keys.producer("client-1") == b"swell:ns:{3}:producer:client-1"


def test_the_keys_of_a_shard_are_made_once() -> None:
    keys = Keys("ns")
    assert keys.shard("control") is keys.shard("control")
    assert keys.shard("control") is not keys.shard("metrics")


def test_keys_outside_of_the_shards_carry_the_namespace() -> None:
    keys = Keys("ns")
    assert keys.meta == b"swell:ns:meta"
    assert keys.members("worker") == b"swell:ns:members:worker"
    assert keys.info("worker") == b"swell:ns:info:worker"
    assert keys.replies("client-1") == b"swell:ns:replies:client-1"
