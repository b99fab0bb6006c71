"""Conditions on a body: what a subscriber wants of a topic, written down so that it can be stored and sent.

    from swell import field
    where = (field("size") > 100) & (field("path").matches("src/*.py") | field("urgent").exists())

    as JSON:  {"op": "and", "of": [{"op": "gt", "field": "size", "value": 100}, ...]}
    as text:  size > 100          (the command line; several are joined by `and`)

A field is named by its path (`order.lines.0.price`); in arrays a segment is a place. A condition on a field that is not
there, or whose value cannot be compared, does not hold. `matches` takes a shell pattern, not a regular expression: what
a stranger gives must not be able to keep the worker busy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import translate
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import msgspec
from msgspec import Struct

from swell.errors import WrongBody

#: Raised by msgspec for a value that cannot be encoded.
UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError)
#: Conditions in one filter, and how deep they may be nested.
MOST_CONDITIONS = 64
MOST_DEPTH = 8
#: Characters of a pattern, and of a field's path.
MOST_PATTERN = 256
MOST_PATH = 256
#: Characters of a text that a pattern is tried on: what a long one costs grows with the text times the pattern.
MOST_TEXT = 4_096
#: Bytes of a filter, encoded: it is stored with each agent that has it, and looked at for each event.
MOST_BYTES = 16_384

#: Digits of a place in an array.
_DIGITS = 9

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {"eq": eq, "ne": ne, "lt": lt, "le": le, "gt": gt, "ge": ge}
_SIGNS = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "~": "matches"}
_OPERATOR = r"<=|>=|!=|==|=|<|>|~|\bin\b|\bcontains\b|\bmatches\b|\bexists\b"
_TEXT = re.compile(rf"\s*([\w.$-]+)\s*({_OPERATOR})\s*(.*?)\s*$", re.S)
_NOTHING = object()

Test = Callable[[Any], bool]


class Where(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A condition, or several joined.

    Attributes:
        op: eq, ne, lt, le, gt, ge, in, contains, matches, exists; or `and`, `or`.
        field: the path of the field; "" for the whole body.
        value: what it is compared with; a list for `in`, a shell pattern for `matches`, true or false for `exists`.
        of: what is joined.
    """

    op: str
    field: str = ""
    value: Any = None
    of: tuple[Where, ...] = ()

    def __and__(self, other: Where) -> Where:
        return Where("and", of=(self, other))

    def __or__(self, other: Where) -> Where:
        return Where("or", of=(self, other))


class field:
    """A field of a body; comparing it makes a `Where`.

    Args:
        path: its name, or names joined by dots.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __eq__(self, value: object) -> Where:  # type: ignore[override]
        return Where("eq", self._path, value)

    def __ne__(self, value: object) -> Where:  # type: ignore[override]
        return Where("ne", self._path, value)

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, value: Any) -> Where:
        return Where("lt", self._path, value)

    def __le__(self, value: Any) -> Where:
        return Where("le", self._path, value)

    def __gt__(self, value: Any) -> Where:
        return Where("gt", self._path, value)

    def __ge__(self, value: Any) -> Where:
        return Where("ge", self._path, value)

    def is_in(self, values: Sequence[Any]) -> Where:
        """Whether the field's value is one of these."""
        return Where("in", self._path, list(values))

    def contains(self, value: Any) -> Where:
        """Whether the field (text, an array, or a map by its keys) contains this."""
        return Where("contains", self._path, value)

    def matches(self, pattern: str) -> Where:
        """Whether the field is text that fits a shell pattern: `*`, `?`, `[a-z]`."""
        return Where("matches", self._path, pattern)

    def exists(self, there: bool = True) -> Where:
        """Whether there is such a field, or (`there=False`) none."""
        return Where("exists", self._path, there)


def compiled(where: Where) -> Test:
    """A filter as a function of a decoded body.

    Raises:
        WrongBody: the filter cannot be one; the text says which part.
    """
    try:
        size = len(msgspec.msgpack.encode(where))
    except UNENCODABLE as error:
        raise _wrong(f"it cannot be sent: {error}") from None
    if size > MOST_BYTES:
        raise _wrong(f"it has {size:,} bytes, and at most {MOST_BYTES:,} may be: compare with less")
    left = [MOST_CONDITIONS]
    return _compiled(where, MOST_DEPTH, left)


def paths(where: Where) -> Iterator[str]:
    """The paths of the fields that a condition, which can be one, looks at."""
    if where.op in ("and", "or"):
        for part in where.of:
            yield from paths(part)
    else:
        yield where.field


def _compiled(where: Where, depth: int, left: list[int]) -> Test:
    left[0] -= 1
    if not depth or left[0] < 0:
        raise _wrong(f"it has more than {MOST_CONDITIONS} conditions, or is nested more than {MOST_DEPTH} deep")
    if where.op in ("and", "or"):
        if not where.of:
            raise _wrong(f"{where.op!r} joins nothing: give `of`")
        parts = [_compiled(part, depth - 1, left) for part in where.of]
        if where.op == "and":
            return lambda body: all(part(body) for part in parts)
        return lambda body: any(part(body) for part in parts)
    if len(where.field) > MOST_PATH:
        raise _wrong(f"a field's path has at most {MOST_PATH} characters, not {len(where.field):,}")
    return _condition(where.op, where.field.split(".") if where.field else [], where.value)


def _condition(op: str, path: list[str], value: Any) -> Test:
    if op in _COMPARE:
        compare = _COMPARE[op]

        def test(found: Any) -> bool:
            return bool(compare(found, value))
    elif op == "in":
        if not isinstance(value, (list, tuple)):
            raise _wrong(f"'in' needs a list, not {value!r}")

        def test(found: Any) -> bool:
            return found in value
    elif op == "contains":

        def test(found: Any) -> bool:
            return value in found
    elif op == "matches":
        if not isinstance(value, str) or len(value) > MOST_PATTERN:
            raise _wrong(f"'matches' needs a shell pattern of at most {MOST_PATTERN} characters")
        fits = re.compile(translate(value)).match

        def test(found: Any) -> bool:
            return isinstance(found, str) and len(found) <= MOST_TEXT and fits(found) is not None
    elif op == "exists":
        there = value is not False
        return lambda body: (_at(body, path) is not _NOTHING) is there
    else:
        raise _wrong(f"{op!r} is none of {', '.join((*_COMPARE, 'in', 'contains', 'matches', 'exists', 'and', 'or'))}")

    def holds(body: Any) -> bool:
        found = _at(body, path)
        try:
            return found is not _NOTHING and test(found)
        except (TypeError, ValueError, RecursionError):
            return False

    return holds


def _at(body: Any, path: list[str]) -> Any:
    """What lies at a path of a body, or `_NOTHING`."""
    for name in path:
        if isinstance(body, Mapping):
            body = body.get(name, _NOTHING)
        elif isinstance(body, list) and name.isdecimal() and len(name) <= _DIGITS and int(name) < len(body):
            body = body[int(name)]
        else:
            return _NOTHING
    return body


def parse_where(texts: Sequence[str]) -> Where | None:
    """Conditions as people write them, joined by `and`: `size > 100`, `path ~ "*.py"`, `to in ["a", "b"]`, `x exists`.

    A value is JSON; what is none is text.

    Raises:
        WrongBody: one of them cannot be read.
    """
    found: list[Where] = []
    for text in texts:
        parts = _TEXT.match(text)
        if parts is None:
            raise _wrong(f"{text!r} is not FIELD OPERATOR VALUE, for example 'size > 100'")
        name, sign, value = parts.groups()
        op = _SIGNS.get(sign, sign)
        if (op == "exists") == bool(value):
            raise _wrong(f"{text!r}: 'exists' takes no value, and everything else takes one")
        try:
            read = msgspec.json.decode(value) if value else True
        except msgspec.DecodeError:
            read = value
        found.append(Where(op, name, read))
    return None if not found else found[0] if len(found) == 1 else Where("and", of=tuple(found))


def _wrong(what: str) -> WrongBody:
    return WrongBody("", f"where: {what}", field="where")
