"""What is wrong with a server that answers: told by its INFO, in words that say what to do."""

from __future__ import annotations

#: The sections of INFO that are read here.
SECTIONS = ("memory", "persistence", "replication")


def trouble_in(info: str) -> str:
    """The first thing in INFO that keeps messages from being taken or kept; empty if there is none.

    Args:
        info: `field:value` lines; fields that are missing count as fine.
    """
    fields = dict(line.partition(":")[::2] for line in info.splitlines() if ":" in line)
    policy = fields.get("maxmemory_policy", "noeviction")
    limit, used = (int(fields.get(name, "0") or 0) for name in ("maxmemory", "used_memory"))
    failed = [
        name
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if fields.get(name, "ok") != "ok"
    ]
    if fields.get("loading", "0") != "0":
        return "the server is loading its data (LOADING): wait"
    if fields.get("role", "master") != "master":
        return "the server is a replica and takes no writes (READONLY): name the primary, or promote this one"
    if policy != "noeviction":
        return f"maxmemory-policy {policy} deletes messages when memory is short: set `maxmemory-policy noeviction`"
    if limit and used >= limit:
        return f"the server is out of memory (OOM), {used:,} of {limit:,} bytes: senders wait; raise `maxmemory`"
    if failed:
        return f"the server cannot write to its disk ({failed[0]}; MISCONF): is the disk full?"
    return ""
