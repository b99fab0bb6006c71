"""`swell facts get`, `put`, `swap`, `delete`, `list`, `watch` and `swell locks`: what agents share."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli.show import as_json, clean, duration, escaped, table
from swell.cli.talk import parse_json
from swell.cli.target import Target, connected
from swell.errors import ConfigError, WrongBody

if TYPE_CHECKING:
    from swell.bus.facts import Seat
    from swell.facts import Facts

#: Characters of a value that a table shows.
MOST_SHOWN = 80

Key = Annotated[str, Parameter(help="The fact's key.")]
Value = Annotated[str, Parameter(allow_leading_hyphen=True, help="The value as JSON, '-' to read it from stdin.")]
Ttl = Annotated[float | None, Parameter(help="How long it stays, seconds; for ever if not given.")]
Fence = Annotated[
    str | None,
    Parameter(help="Only while a lock is held under a token, KIND/NAME:TOKEN, as lock/deploy:1790000000000000."),
]
Limit = Annotated[int, Parameter(help="At most so many, 1..1000.")]


@asynccontextmanager
async def facts_of(target: Target) -> AsyncIterator[Facts]:
    """The namespace's facts; an argument that cannot be is the caller's mistake."""
    try:
        async with connected(target) as client:
            yield client.facts
    except WrongBody as error:
        field = str(error.detail["field"])
        raise ConfigError(field, str(error).removeprefix(f"{field}: ")) from None


async def get(
    key: Key,
    /,
    *,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Show one fact; its value alone unless --json."""
    from swell.facts.values import fact_view

    async with facts_of(target) as facts:
        stored = await facts.stored(key)
    if stored is None:
        sys.stderr.write(f"swell: there is no fact {clean(repr(key))}; `swell facts list` lists them\n")
        return FAILED
    view = fact_view(stored)
    if target.json:
        as_json(view)
    elif view.value_hex:
        sys.stdout.write(f"{view.value_hex} (in hexadecimal: JSON cannot show it)\n")
    else:
        as_json(view.value)
    return 0


def put(
    key: Key,
    value: Value,
    /,
    *,
    ttl: Ttl = None,
    fence: Fence = None,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Put a value under a key, whatever was there; prints its version."""
    # Read before the loop runs: a Ctrl-C ends a wait for stdin at once only outside of it.
    given = parse_json("value", value)

    async def change(facts: Facts) -> int:
        return await facts.put(key, given, ttl=ttl, fence=await _fenced(facts, key, fence))

    asyncio.run(_write(change, key, target))


def swap(
    key: Key,
    version: Annotated[int, Parameter(help="The version that it must have; 0: it must not be there.")],
    value: Value,
    /,
    *,
    ttl: Ttl = None,
    fence: Fence = None,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Put a value under a key if the fact has this version; prints the new one."""
    given = parse_json("value", value)

    async def change(facts: Facts) -> int:
        return await facts.swap(key, version, given, ttl=ttl, fence=await _fenced(facts, key, fence))

    asyncio.run(_write(change, key, target))


async def _fenced(facts: Facts, key: str, fence: str | None) -> Seat | None:
    return None if fence is None else await facts.claims.fence(key, fence)


async def _write(change: Callable[[Facts], Awaitable[int]], key: str, target: Target) -> None:
    async with facts_of(target) as facts:
        version = await change(facts)
    if target.json:
        as_json({"key": key, "version": version})
    else:
        sys.stdout.write(f"version {version}\n")


async def delete(
    key: Key,
    /,
    *,
    version: Annotated[int | None, Parameter(help="Only if it has this version.")] = None,
    fence: Fence = None,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Delete a fact."""
    async with facts_of(target) as facts:
        deleted = await facts.delete(key, version, fence=await _fenced(facts, key, fence))
    if target.json:
        as_json({"key": key, "deleted": deleted})
    else:
        sys.stdout.write("deleted\n" if deleted else "there is no such fact\n")
    return 0 if deleted else FAILED


async def list_facts(
    prefix: Annotated[str, Parameter(help="Only keys that begin with this.")] = "",
    /,
    *,
    limit: Limit = 100,
    after: Annotated[str, Parameter(help="The last key of the page before.")] = "",
    target: Target = Target(),  # noqa: B008
) -> None:
    """List facts in the order of their keys."""
    from swell.facts.values import fact_view

    async with facts_of(target) as facts:
        found = [fact_view(stored) for stored in await facts.page(prefix, limit, after)]
    if target.json:
        as_json(found)
        return
    rows = [
        (one.key, str(one.version), "never" if one.expires_s is None else duration(one.expires_s), _short(one))
        for one in found
    ]
    table(("key", "version", "expires in", "value"), rows, "no facts")
    if len(found) == limit:
        sys.stderr.write(f"swell: {limit} shown; more with --after {clean(found[-1].key)} or --limit\n")


async def watch(
    key: Annotated[str, Parameter(help="The fact; or give --prefix.")] = "",
    /,
    *,
    prefix: Annotated[str | None, Parameter(help="All facts whose keys begin with this; '' for all.")] = None,
    count: Annotated[int, Parameter(help="End after so many changes; 0: never.")] = 0,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Show what is there, then every later change, until Ctrl-C."""
    from swell.facts.values import change_view

    async with facts_of(target) as facts:
        told = 0
        async for change in facts.watch_encoded(key, prefix, lambda _, data: data):
            view = change_view(change)
            if target.json:
                as_json(view)
            else:
                shown = "" if view.kind in ("deleted", "expired", "skipped") else _short(view)
                version = str(view.version) if view.version else ""
                sys.stdout.write(f"{view.kind:8} {clean(view.key)} {version} {shown}".rstrip() + "\n")
            sys.stdout.flush()
            told += 1
            if told == count:
                return


async def locks(
    *,
    limit: Limit = 100,
    after: Annotated[str, Parameter(help="Kind and name of the last one of the page before, as lock/deploy.")] = "",
    target: Target = Target(),  # noqa: B008
) -> None:
    """List locks, semaphores and leaders: who holds what, since when, under which token."""
    async with facts_of(target) as facts:
        found = await facts.locks(limit, after)
    if target.json:
        as_json(found)
        return
    rows = []
    for one in found:
        for holder in one.holders:
            times = (duration(holder.held_s), duration(holder.left_s))
            rows.append((one.kind, one.name, holder.owner, str(holder.token), *times, str(one.waiting)))
        if not one.holders:
            rows.append((one.kind, one.name, "nobody yet", "", "", "", str(one.waiting)))
    table(("kind", "name", "owner", "token", "held for", "unless renewed", "waiting"), rows, "nothing is held")
    if len(found) == limit:
        sys.stderr.write(f"swell: {limit} shown; more with --after {clean(found[-1].place)} or --limit\n")


def _short(view: Any) -> str:
    if view.value_hex:
        return f"{view.value_hex[:MOST_SHOWN]} (hexadecimal)"
    text = escaped(msgspec.json.encode(view.value).decode())
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


__all__ = ["delete", "facts_of", "get", "list_facts", "locks", "put", "swap", "watch"]
