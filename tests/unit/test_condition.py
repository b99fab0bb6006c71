"""What INFO tells of a server's condition."""

from __future__ import annotations

import pytest

from swell.bus.condition import trouble_in

FINE = """# Memory\r
used_memory:100\r
maxmemory:0\r
maxmemory_policy:noeviction\r
# Persistence\r
loading:0\r
aof_last_write_status:ok\r
rdb_last_bgsave_status:ok\r
# Replication\r
role:master\r
"""


def test_a_server_that_is_all_right_has_no_trouble() -> None:
    assert trouble_in(FINE) == ""
    assert trouble_in("") == ""


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loading": "1"}, "LOADING"),
        ({"role": "slave"}, "READONLY"),
        ({"maxmemory_policy": "allkeys-lru"}, "set `maxmemory-policy noeviction`"),
        ({"maxmemory": "100"}, "100 of 100 bytes"),
        ({"aof_last_write_status": "err"}, "aof_last_write_status; MISCONF"),
        ({"rdb_last_bgsave_status": "err"}, "rdb_last_bgsave_status; MISCONF"),
    ],
)
def test_each_trouble_is_named_with_what_to_do(fields: dict[str, str], said: str) -> None:
    info = FINE
    for name, value in fields.items():
        kept = [line for line in info.splitlines() if not line.startswith(f"{name}:")]
        info = "\r\n".join([*kept, f"{name}:{value}"])
    assert said in trouble_in(info)


def test_memory_below_the_limit_is_no_trouble() -> None:
    assert trouble_in(FINE.replace("maxmemory:0", "maxmemory:101")) == ""
