"""`swell agents`, `plans`, `workers`, `shards` and `ledger`: what is there now."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli.show import as_json, clean, duration, table, whole
from swell.cli.target import Target, connected
from swell.clock import now_ms
from swell.errors import ConfigError
from swell.keys import METRICS
from swell.wire import AgentState, PlanProgress

ROLES = ("manager", "worker", "metrics")


async def agents(
    *,
    type: Annotated[str, Parameter(help="Only this type.")] = "",
    state: Annotated[AgentState | None, Parameter(help="Only this state; without one, all but the stopped.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 100,
    after: Annotated[str, Parameter(help="The last id of the page before.")] = "",
    target: Target = Target(),  # noqa: B008
) -> None:
    """List agents, in the order of their ids, and what they are doing now."""
    if not 1 <= limit <= 10_000:
        raise ConfigError("limit", f"{limit} is not between 1 and 10000")
    async with connected(target) as client:
        found = await client.agents(type, state, limit, after)
    if target.json:
        as_json(found)
        return
    now = now_ms()
    table(
        ("agent", "state", "for", "queued", "handled", "restarts", "plan", "worker", "reason"),
        (
            (
                *(one.id, one.state, ago(now - one.since_ms) if one.since_ms else ""),
                *(one.queued, one.handled, one.restarts, one.plan, one.worker, one.reason),
            )
            for one in found
        ),
        "no agents",
    )
    if len(found) == limit:
        sys.stderr.write(f"swell: {limit} shown; more with --after {clean(found[-1].id)} or --limit\n")


async def plans(
    id: Annotated[str | None, Parameter(help="Only this plan, with the agents that failed.")] = None,
    /,
    *,
    target: Target = Target(),  # noqa: B008
) -> int:
    """List plans, the newest first, or show one."""
    async with connected(target) as client:
        one = await client.plan(id) if id is not None else None
        found = await client.plans() if id is None else []
    if id is not None:
        if one is None:
            sys.stderr.write(f"swell: there is no plan {id!r}; `swell plans` lists them\n")
            return FAILED
        found = [one]
    if target.json:
        as_json(whole(one) if one is not None else [whole(plan) for plan in found])
        return 0
    columns = ("plan", "state", "ready", "failed", "of", "waves", "elapsed", "P95 of a start", "reason")
    table(columns, map(_plan_row, found), "no plans")
    if one is not None and one.failures:
        table(("failed agent", "reason"), one.failures.items(), "")
    return 0


def _plan_row(plan: PlanProgress) -> tuple[object, ...]:
    return (
        *(plan.id, plan.state, plan.ready, plan.failed, plan.count, f"{plan.wave} of {plan.waves}"),
        *(duration(plan.elapsed_s), duration(plan.ready_p95_s), plan.reason),
    )


async def workers(*, target: Target = Target()) -> None:  # noqa: B008
    """List live processes: managers, workers (and which are paused), metrics services."""
    async with connected(target) as client:
        found = [info for role in ROLES for info in await client.workers(role)]
    if target.json:
        as_json([whole(info) for info in found])
        return
    now = now_ms()
    table(
        ("process", "role", "paused", "pid", "host", "http", "up for", "version", "types"),
        (
            (
                *(one.process, one.role, "yes" if one.held else "", str(one.pid), one.host, one.http),
                *(ago(now - one.started_ms) if one.started_ms else "", one.version, ", ".join(one.types)),
            )
            for one in found
        ),
        "no process is alive: start `swell up`, or `swell manager`, `swell worker` and `swell metrics`",
    )


async def shards(*, target: Target = Target()) -> None:  # noqa: B008
    """List shards and who owns them."""
    async with connected(target) as client:
        found = await client.leases()
    if target.json:
        as_json([lease._asdict() for lease in found])
        return
    table(
        ("shard", "owner", "epoch", "lease left"),
        (
            (x.shard, x.owner or "nobody", str(x.epoch), duration(x.remaining_ms / 1000) if x.owner else "")
            for x in found
        ),
        "no shards",
    )


async def ledger(
    *,
    check: Annotated[
        bool, Parameter(negative="", help="Exit with 1, naming the shard, if an account does not balance.")
    ] = False,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Show the account of every shard: sent = acked + dead + expired + depth, and depth = what the stream holds."""
    async with connected(target) as client:
        accounts = await client.ledger()
    names = (
        *(
            "sent",
            "acked",
            "dead",
            "expired",
            "depth",
            "present",
            "duplicate",
            "refused",
            "stale",
            "rewinds",
            "foreign",
            "lapsed",
        ),
        *("replayed", "dropped", "scheduled"),
    )
    rows = [(x.shard, *(getattr(x, name) for name in names)) for x in accounts]
    total = dict(zip(names, (sum(row[i + 1] for row in rows) for i in range(len(names))), strict=True))
    wrong = [account for account in accounts if not account.balanced]
    if target.json:
        listed = [dict(zip(("shard", *names), row, strict=True)) for row in rows]
        for entry, account in zip(listed, accounts, strict=True):
            entry["balanced"] = account.balanced
        as_json({"balanced": not wrong, "shards": listed, "total": total})
    else:
        marks = [account.balanced for account in accounts]
        shown = [(*row, mark) for row, mark in zip(rows, marks, strict=True)]
        table(("shard", *names, "balanced"), [*shown, ("all", *total.values(), not wrong)], "no shards")
    if not check:
        return 0
    for one in wrong:
        sys.stderr.write(
            f"swell: shard {one.shard} does not balance: sent {one.sent}, but acked {one.acked} + dead {one.dead} + "
            f"expired {one.expired} + depth {one.depth}, and the stream holds {one.present}\n"
        )
    return FAILED if wrong else 0


async def alerts(*, target: Target = Target()) -> int:  # noqa: B008
    """Show the alerts that fire or were resolved in the last minutes; exit code 1 if a critical one fires."""
    async with connected(target) as client:
        found = await client.alerts()
        watched = any(lease.shard == METRICS and lease.remaining_ms for lease in await client.leases())
    firing = [one for one in found if one.state == "firing"]
    if target.json:
        as_json({"watched": watched, "alerts": found})
    else:
        if not watched:
            sys.stderr.write("swell: nobody watches: no metrics service is alive; this is what the last one wrote\n")
        now = now_ms()
        table(
            ("alert", "severity", "state", "for", "value", "where", "meaning", "what to do"),
            (
                (
                    *(one.name, one.severity, one.state, ago(now - one.since_ms)),
                    *(f"{one.value:g}" if one.value is not None else "", one.where, one.meaning, one.advice),
                )
                for one in sorted(found, key=lambda one: one.state)
            ),
            "no alerts",
        )
    return FAILED if any(one.severity == "critical" for one in firing) else 0


def ago(milliseconds: int) -> str:
    """A time span, not less than none."""
    return duration(max(milliseconds, 0) / 1000)
