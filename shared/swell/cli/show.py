"""Output: a table for people, or JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a table that nobody watches: enough that no path is broken.
_WIDE = 200


def as_json(value: Any) -> None:
    """Print a value as JSON: indented on a terminal, one line for a program, which can then read line by line."""
    encoded = msgspec.json.encode(value)
    if not sys.stdout.isatty():
        sys.stdout.write(encoded.decode() + "\n")
        return
    sys.stdout.write(escaped(msgspec.json.format(encoded, indent=2).decode()) + "\n")


def escaped(text: str) -> str:
    """JSON whose strings hold no control characters, for a terminal; JSON itself escapes only those below 0x20."""
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)


def _escape(character: str) -> str:
    """A character as JSON writes it in ASCII; beyond U+FFFF that is two surrogates."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def whole(value: msgspec.Struct) -> dict[str, Any]:
    """All fields of a struct: the wire leaves out those that have their default, programs want them always."""
    return {name: getattr(value, name) for name in value.__struct_fields__}


def console(stderr: bool = False) -> Console:
    """A console that neither guesses colours in data nor breaks lines that go into a file."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, markup=False, width=None if stream.isatty() else _WIDE)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print rows under a heading; a number stands to the right. `empty` is said if there are none."""
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    out = console()
    if not rows:
        out.print(empty)
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        number = all(isinstance(row[index], int | float) for row in rows)
        shown.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(clean(_cell(value))) for value in row))
    out.print(shown)


def block(title: str, text: str) -> None:
    """Print lines under a heading, each without control characters."""
    out = console()
    out.print(f"\n{title}", style="bold")
    for line in text.splitlines():
        out.print(f"  {clean(line.expandtabs())}", soft_wrap=True)


def clean(text: str) -> str:
    """Text without control characters: what came in a message must not command the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def duration(seconds: float) -> str:
    """A time span as people say it: 12 ms, 1.2 s, 3 min, 5 h, 2 d."""
    for limit, unit, size in ((1, "ms", 0.001), (120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}" if limit <= 120 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
