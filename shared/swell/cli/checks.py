"""What `swell doctor` looks at. Each check asks the server alone and changes nothing on it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import msgspec

from swell.alerts import RECORD, read_record
from swell.bus.functions import LIBRARY
from swell.bus.link import Link
from swell.bus.redis import RedisBroker
from swell.cli.look import ROLES
from swell.cli.show import duration
from swell.config import Settings
from swell.errors import BrokerError, BrokerRefused, SwellError
from swell.keys import CONTROL, METRICS, Keys
from swell.wire import SCHEMA

#: A clock that differs by more makes measured latencies wrong, seconds.
SKEW_S = 0.5


class Check(msgspec.Struct):
    """The result of one check.

    Attributes:
        name: what was looked at.
        status: ok; warn: works, but should be known; fail: must be mended; skip: could not be looked at.
        found: what is there.
        advice: what to do; empty if all is well.
    """

    name: str
    status: Literal["ok", "warn", "fail", "skip"]
    found: str
    advice: str = ""


async def examine(settings: Settings) -> list[Check]:
    """Run all checks, in the order in which one makes sense only if those before it passed."""
    link = Link(settings.redis, "swell:doctor")
    broker = RedisBroker(settings.redis, settings.namespace, "doctor")
    try:
        reached = await _reachable(link)
        if reached.status == "fail":
            return [reached]
        info = await _info(link)
        checks = [
            reached,
            await _functions(link, info),
            _policy(info),
            await _persistence(link, info),
            await _clock(link),
        ]
        if checks[1].status == "fail":
            return checks
        space, shards = await _namespace(link, settings)
        checks.append(space)
        # The functions of ours are loaded by whatever starts first; without them there is nothing to ask.
        if space.status == "ok" and checks[1].status == "ok":
            checks += await _services(broker, shards)
            checks.append(await _ledgers(broker, shards))
            checks.append(await _dead_letters(link, Keys(settings.namespace), shards))
            checks += await _alerts(broker)
        return checks
    finally:
        await broker.close()
        await link.close()


async def _reachable(link: Link) -> Check:
    began = time.monotonic()
    try:
        await link.call("PING")
    except BrokerRefused as error:
        return Check("server", "fail", str(error), "check the user and the password in the URL")
    except BrokerError as error:
        return Check("server", "fail", str(error), "start `swell up` or the server, or name another with --redis")
    return Check("server", "ok", f"answers in {duration(time.monotonic() - began)}")


async def _info(link: Link) -> dict[str, str]:
    """INFO as a dict, empty if we may not ask."""
    try:
        text: bytes = await link.call("INFO")
    except BrokerRefused:
        return {}
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


async def _functions(link: Link, info: Mapping[str, str]) -> Check:
    """Server-side functions: the server has them at all, and ours are loaded. Probed by command, not by version."""
    version = info.get("valkey_version") or info.get("redis_version") or "of unknown version"
    server = f"{'Valkey' if 'valkey_version' in info else 'Redis'} {version}"
    try:
        loaded = await link.call("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY)
    except BrokerRefused as error:
        if "unknown command" in str(error).lower():
            return Check("functions", "fail", f"{server} has none", "use Redis 7.0 or newer, or Valkey 8 or newer")
        return Check("functions", "skip", f"{server}: we may not list them", "")
    if not loaded:
        advice = (
            "the first service that starts loads it; where services may not (ACL users), `swell doctor --load` does"
        )
        return Check("functions", "warn", f"{server}, {LIBRARY} is not loaded yet", advice)
    return Check("functions", "ok", f"{server}, {LIBRARY} is loaded")


def _policy(info: Mapping[str, str]) -> Check:
    policy = info.get("maxmemory_policy")
    if policy is None:
        return Check("maxmemory-policy", "skip", "we may not ask the server for it", "make sure that it is noeviction")
    limit = info.get("maxmemory_human", "?") if info.get("maxmemory", "0") != "0" else "no limit"
    if policy != "noeviction":
        advice = "set `maxmemory-policy noeviction`: any other policy deletes messages when memory is short"
        return Check("maxmemory-policy", "fail", f"{policy} ({limit})", advice)
    return Check("maxmemory-policy", "ok", f"noeviction ({limit})")


async def _persistence(link: Link, info: Mapping[str, str]) -> Check:
    """What the server keeps on disk, and what can be lost all the same."""
    if "aof_enabled" not in info:
        return Check("persistence", "skip", "we may not ask the server for it")
    for field in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if info.get(field, "ok") != "ok":
            advice = "writes are refused until it succeeds: is the server's disk full?"
            return Check("persistence", "fail", f"{field} is {info[field]}", advice)
    try:
        config = await link.call("CONFIG", "GET", "appendfsync", "save")
        values = {config[i].decode(): config[i + 1].decode() for i in range(0, len(config), 2)}
    except BrokerRefused:
        values = {}
    if info["aof_enabled"] == "1":
        fsync = values.get("appendfsync", "unknown")
        lost = {
            "always": "loses nothing acknowledged",
            "everysec": "a power loss costs about the last second, a crash what a slow sync held up, 2 s at most",
            "no": "a power loss costs what the kernel has not written yet, often 30 s, a crash nothing",
        }.get(fsync, "what a power loss costs depends on appendfsync, which we may not ask for")
        return Check("persistence", "ok" if fsync != "no" else "warn", f"append-only file, appendfsync {fsync}: {lost}")
    advice = "set `appendonly yes` if acknowledged messages must survive the server"
    if values.get("save"):
        return Check(
            "persistence", "warn", f"snapshots ({values['save']}): a crash costs all since the last one", advice
        )
    return Check(
        "persistence", "warn", "no append-only file: the end of the server costs what no snapshot holds", advice
    )


async def _clock(link: Link) -> Check:
    """The server's wall clock against ours, taken at the middle of the round trip."""
    began = time.time()
    try:
        seconds, microseconds = await link.call("TIME")
    except BrokerRefused:
        return Check("clock", "skip", "we may not ask the server for its time")
    ended = time.time()
    ahead_s = int(seconds) + int(microseconds) / 1e6 - (began + ended) / 2
    found = f"the server's is {duration(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} ours"
    if abs(ahead_s) > SKEW_S + (ended - began) / 2:
        advice = "synchronise the clocks (NTP): leases are not affected, measured latencies are"
        return Check("clock", "warn", found, advice)
    return Check("clock", "ok", found)


async def _namespace(link: Link, settings: Settings) -> tuple[Check, int]:
    shards, schema = await link.call("HMGET", Keys(settings.namespace).meta, "shards", "schema")
    if shards is None:
        advice = "the first service that starts creates it: `swell up`, or `swell manager` and `swell worker`"
        return Check("namespace", "fail", f"{settings.namespace!r} does not exist on this server", advice), 0
    if int(schema or 0) != SCHEMA:
        found = f"{settings.namespace!r} has schema {int(schema or 0)}, this release reads {SCHEMA}"
        return Check("namespace", "fail", found, "use the release that made it, or another namespace"), 0
    return Check("namespace", "ok", f"{settings.namespace!r} has {int(shards)} shards"), int(shards)


async def _services(broker: RedisBroker, shards: int) -> list[Check]:
    """Members of each role alive, and the leases of all shards held by one of them."""
    checks = []
    alive: set[str] = set()
    for role in ROLES:
        names = [member.process for member in await broker.members(role)]
        alive.update(names)
        status: Literal["ok", "warn", "fail"] = "ok" if names else "warn" if role == "metrics" else "fail"
        found = f"{len(names)} alive" + (f": {', '.join(names)}" if names else "")
        checks.append(Check(role, status, found, "" if names else f"start `swell up` or `swell {role}`"))
    states = await broker.leases([*map(str, range(shards)), CONTROL, METRICS])
    free = [state.shard for state in states if not state.owner or state.remaining_ms <= 0]
    stray = [state.shard for state in states if state.shard not in free and state.owner not in alive]
    if free:
        needs_worker = any(shard not in (CONTROL, METRICS) for shard in free)
        advice = "their messages wait; " + ("start a worker" if needs_worker else "start the service that owns them")
        only_metrics = free == [METRICS]
        found = f"nobody owns {', '.join(free)}"
        checks.append(Check("leases", "warn" if only_metrics else "fail", found, advice))
    elif stray:
        advice = "another process takes them over when their leases lapse"
        checks.append(Check("leases", "warn", f"held by processes that no longer answer: {', '.join(stray)}", advice))
    else:
        checks.append(Check("leases", "ok", f"all {len(states)} shards are owned"))
    return checks


async def _ledgers(broker: RedisBroker, shards: int) -> Check:
    names = [*map(str, range(shards)), CONTROL, METRICS]
    try:
        accounts = [await broker.ledger(name) for name in names]
    except SwellError as error:
        return Check("ledger", "fail", str(error))
    wrong = [account.shard for account in accounts if not account.balanced]
    if wrong:
        advice = "`swell ledger` shows the figures; was the server restored from a copy, or its disk cut?"
        return Check("ledger", "fail", f"does not balance: shard {', '.join(wrong)}", advice)
    lost = [account.shard for account in accounts if account.rewinds]
    if lost:
        found = f"balances, but the server once lost acknowledged messages: shard {', '.join(lost)}"
        advice = "its newest data was gone after a restart; see `appendfsync`, SWELL_DURABILITY and the senders' logs"
        return Check("ledger", "warn", found, advice)
    return Check("ledger", "ok", f"balances; {sum(account.depth for account in accounts):,} messages unsettled")


async def _alerts(broker: RedisBroker) -> list[Check]:
    """Each alert that fires, with what it means."""
    kept = read_record(await broker.record(METRICS, RECORD))
    firing = [alert for alert in kept.alerts if alert.state == "firing"]
    if not firing:
        return [Check("alerts", "ok", "none fires")]
    return [
        Check(
            f"alert {alert.name}",
            "fail" if alert.severity == "critical" else "warn",
            alert.meaning + (f" ({alert.where})" if alert.where else ""),
            alert.advice,
        )
        for alert in firing
    ]


async def _dead_letters(link: Link, keys: Keys, shards: int) -> Check:
    names = [*map(str, range(shards)), CONTROL, METRICS]
    counts = await link.calls([("XLEN", keys.shard(name).dead) for name in names])
    there = {name: count for name, count in zip(names, counts, strict=True) if count}
    if there:
        found = f"{sum(there.values()):,} in shard {', '.join(there)}"
        return Check(
            "dead letters",
            "warn",
            found,
            "`swell dead list` says why these messages were given up, `swell dead replay` sends them again",
        )
    return Check("dead letters", "ok", "none")
