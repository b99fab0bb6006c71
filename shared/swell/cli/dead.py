"""`swell dead list`, `show`, `replay` and `drop`: the messages that were given up."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from swell.cli import FAILED, INTERRUPTED
from swell.cli.show import as_json, block, duration, escaped, table
from swell.cli.target import Target, connected
from swell.clock import now_ms
from swell.errors import ConfigError

if TYPE_CHECKING:
    from swell.dead import Ended, Filter, Found, LetterDetail

#: Letters of one page that may be asked for.
MOST_LETTERS = 10_000
#: Ids that are told one by one; of more only their number.
MOST_TOLD = 10

Ids = Annotated[str, Parameter(help="Ids of letters, as `swell dead list` shows them.")]
All = Annotated[bool, Parameter(negative="", help="All letters there are; needed if there is no id and no filter.")]
Yes = Annotated[bool, Parameter(negative="", help="Do not ask first.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """The options that say which letters; each that is given must fit."""

    type: Annotated[str, Parameter(help="Only of agents of this type.")] = ""
    agent: Annotated[str, Parameter(help="Only of this agent, type/key.")] = ""
    kind: Annotated[str, Parameter(help="Only of this kind, as handler_failed, poison or malformed.")] = ""
    reason: Annotated[str, Parameter(help="Only those whose reason contains this text, in upper or lower case.")] = ""
    since: Annotated[str, Parameter(help="Not older: 30s, 15m, 1h or 7d ago, or a time in ISO 8601.")] = ""
    until: Annotated[str, Parameter(help="Not newer, in the same forms.")] = ""

    def filter(self) -> Filter:
        """The same for `client.letters`.

        Raises:
            ConfigError: a time is none.
        """
        from swell.dead import Filter, moment

        since_ms, until_ms = moment("since", self.since), moment("until", self.until)
        return Filter(self.type, self.agent, self.kind, self.reason, since_ms, until_ms)


async def list_letters(
    *,
    where: Where = Where(),
    limit: Annotated[int, Parameter(help="At most so many.")] = 100,
    after: Annotated[str, Parameter(help="Where the page before ended.")] = "",
    target: Target = Target(),  # noqa: B008
) -> None:
    """List dead letters, the newest first."""
    if not 1 <= limit <= MOST_LETTERS:
        raise ConfigError("limit", f"{limit} is not between 1 and {MOST_LETTERS}")
    meant = where.filter()
    async with connected(target) as client:
        found = await client.letters.list(meant, limit, after)
    if target.json:
        as_json(found)
        return
    now = now_ms()
    table(
        ("id", "ago", "to", "message", "kind", "deaths", "reason"),
        (
            (*(one.id, _ago(now, one.at_ms), one.to, one.name, one.kind, one.deaths), one.reason.partition("\n")[0])
            for one in found
        ),
        "no dead letters",
    )
    if len(found) == limit:
        sys.stderr.write(f"swell: {limit} shown; more with --after {found[-1].place} or --limit\n")


async def show_letter(
    id: Annotated[str, Parameter(help="The letter's id, as `swell dead list` shows it.")],
    /,
    *,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Show one dead letter with its body, traceback and history."""
    async with connected(target) as client:
        found = await client.letters.get(id)
    if found is None:
        sys.stderr.write(f"swell: there is no dead letter {id!r}; `swell dead list` lists them\n")
        return FAILED
    if target.json:
        as_json(found)
    else:
        _show(found)
    return 0


def _show(letter: LetterDetail) -> None:
    now = now_ms()
    rows = [
        *(("id", letter.id), ("to", letter.to), ("message", letter.name), ("sender", letter.sender or "a client")),
        *(("kind", letter.kind), ("attempts", str(letter.attempts)), ("died", f"{_ago(now, letter.at_ms)} ago")),
    ]
    table(("letter", ""), rows, "")
    block("reason", letter.reason)
    if letter.body_hex:
        block("body, in hexadecimal", letter.body_hex)
    else:
        block("body", escaped(msgspec.json.format(msgspec.json.encode(letter.body), indent=2).decode()))
    if letter.traceback:
        block("traceback", letter.traceback)
    if letter.history:
        sys.stdout.write("\n")
        deaths = [(_ago(now, one.at_ms), one.kind, one.attempts, one.reason) for one in letter.history]
        table(("former death, ago", "kind", "attempts", "reason"), deaths, "")


def replay_letters(
    *ids: Ids,
    where: Where = Where(),
    all: All = False,
    yes: Yes = False,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Send the messages of dead letters again, each once, in the order in which they died."""
    return _end("replay", _chosen(ids, where, all), yes, target)


def drop_letters(
    *ids: Ids,
    where: Where = Where(),
    all: All = False,
    yes: Yes = False,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Delete dead letters for good."""
    return _end("drop", _chosen(ids, where, all), yes, target)


def _chosen(ids: Sequence[str], where: Where, all: bool) -> Sequence[str] | Filter:
    """The ids, or the filter.

    Raises:
        ConfigError: both are given, or nothing is.
    """
    from swell.dead import Filter

    meant = where.filter()
    filtered = meant != Filter()
    if bool(ids) + filtered + all != 1:
        said = "not two of them" if ids or filtered else "or --all for every letter there is"
        raise ConfigError("letters", f"give ids, or filters, {said}")
    return ids or meant


def _end(verb: str, chosen: Sequence[str] | Filter, yes: bool, target: Target) -> int:
    # Asked between two runs of the loop: a Ctrl-C ends a wait for stdin at once only outside of one.
    found, gone = asyncio.run(_select(chosen, target))
    if found and not yes and sys.stdin.isatty() and not _agreed(verb, found):
        return INTERRUPTED
    ended = asyncio.run(_act(verb, found, target))
    ended.gone = [*gone, *ended.gone]
    if target.json:
        as_json(ended)
    else:
        _tell(verb, ended)
    return FAILED if ended.gone or ended.busy or ended.refused else 0


async def _select(chosen: Sequence[str] | Filter, target: Target) -> tuple[Sequence[Found], Sequence[str]]:
    from swell.dead import Filter

    async with connected(target) as client:
        if isinstance(chosen, Filter):
            return await client.letters.select(where=chosen)
        return await client.letters.select(*chosen)


def _agreed(verb: str, found: Sequence[Found]) -> bool:
    many = f"{len(found):,} dead letters" if len(found) > 1 else f"dead letter {found[0].id}"
    sys.stderr.write(f"{verb} {many}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _act(verb: str, found: Sequence[Found], target: Target) -> Ended:
    async with connected(target) as client:
        if verb == "replay":
            return await client.letters.replay_found(found)
        return await client.letters.drop_found(found)


def _tell(verb: str, ended: Ended) -> None:
    done = "replayed" if verb == "replay" else "dropped"
    sys.stdout.write(f"{ended.done:,} {done}\n")
    reasons = dict.fromkeys(ended.gone, "there is no such dead letter, or no longer")
    reasons |= dict.fromkeys(ended.busy, "its shard is full: try again when its agents have caught up") | ended.refused
    if reasons:
        sys.stdout.write(f"{len(reasons):,} not {done}:\n")
        told = list(reasons.items())[:MOST_TOLD]
        table(("letter", "why"), told, "")
        if len(reasons) > len(told):
            sys.stdout.write(f"and {len(reasons) - len(told):,} more; --json lists all\n")


def _ago(now: int, at_ms: int) -> str:
    return duration(max(now - at_ms, 0) / 1000)
