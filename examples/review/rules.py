"""What testers look for within one statement or expression: likely bugs, found on the syntax tree. No I/O here."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import Any

from examples.review.findings import Finding, finding
from examples.review.measures import is_test

Nodes = dict[type[ast.AST], list[Any]]

#: Calls that make a fresh mutable object, once, when they stand as a default.
MUTABLE_CALLS = frozenset({"list", "dict", "set", "bytearray", "deque", "defaultdict", "OrderedDict", "Counter"})
#: Exceptions so broad that passing over them hides every error.
BROAD = frozenset({"Exception", "BaseException"})

_MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_JUMPS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_IDENTITY = (ast.Is, ast.IsNot)
_STATEMENT_LISTS = ("body", "orelse", "finalbody")


def likely_bugs(path: str, nodes: Nodes) -> Iterator[Finding]:
    """All findings of this module's rules."""
    yield from mutable_defaults(path, nodes)
    yield from careless_excepts(path, nodes)
    yield from odd_comparisons(path, nodes)
    yield from unreachable(path, nodes)
    yield from duplicate_keys(path, nodes)
    yield from empty_fstrings(path, nodes)
    yield from tuple_asserts(path, nodes)


def mutable_defaults(path: str, nodes: Nodes) -> Iterator[Finding]:
    """`def f(x=[])`: the list outlives the call."""
    for node in nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef]:
        args = node.args
        positional = [*args.posonlyargs, *args.args]
        pairs = list(zip(positional[len(positional) - len(args.defaults) :], args.defaults, strict=True))
        pairs += [(arg, value) for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True) if value]
        for arg, value in pairs:
            name = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
            if isinstance(value, _MUTABLE_DISPLAYS) or name in MUTABLE_CALLS:
                message = f"the default of {arg.arg!r} in {node.name}() is one object for all calls"
                yield finding(path, node.lineno, "mutable-default", message, arg.arg)


def careless_excepts(path: str, nodes: Nodes) -> Iterator[Finding]:
    """Handlers that catch everything: those that do nothing about it, and bare ones that do not raise again."""
    for node in nodes[ast.ExceptHandler]:
        bare = node.type is None
        if not (bare or (isinstance(node.type, ast.Name) and node.type.id in BROAD)):
            continue
        caught = "everything" if bare else node.type.id
        if len(node.body) == 1 and _does_nothing(node.body[0]):
            yield finding(path, node.lineno, "silent-except", f"{caught} is caught and nothing is done about it")
        elif bare and not any(isinstance(item, ast.Raise) for part in node.body for item in ast.walk(part)):
            yield finding(path, node.lineno, "bare-except", "catches everything, exits and interrupts too")


def odd_comparisons(path: str, nodes: Nodes) -> Iterator[Finding]:
    """Identity with a literal, and a side compared with itself.

    `x != x` is how one asks for NaN, and tests compare a thing with itself to see that they can: neither is reported.
    """
    testing = is_test(path)
    for node in nodes[ast.Compare]:
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, _IDENTITY) and (_is_literal(left) or _is_literal(right)):
                yield finding(path, node.lineno, "is-literal", "'is' compares identity; with a literal use '=='")
            elif testing or isinstance(operator, ast.NotEq):
                pass
            elif (text := _plain(left)) and text == _plain(right):
                yield finding(path, left.lineno, "self-comparison", f"{text} is compared with itself", text)
            left = right


def unreachable(path: str, nodes: Nodes) -> Iterator[Finding]:
    """The first statement behind a return, raise, continue or break of the same block.

    A `yield` there is no fault: it makes its function a generator. Neither are `pass` and bare strings.
    """
    for kind, found in nodes.items():
        names = [name for name in _STATEMENT_LISTS if name in kind._fields]
        for node in found if names else ():
            for name in names:
                block = getattr(node, name)
                if block.__class__ is not list:  # a lambda's body is one expression
                    continue
                for before, after in itertools.pairwise(block):
                    if isinstance(before, _JUMPS):
                        if not _may_stand_unreachable(after):
                            word = type(before).__name__.lower()
                            message = f"never runs: line {before.lineno} always leaves with {word!r}"
                            yield finding(path, after.lineno, "unreachable", message)
                        break


def duplicate_keys(path: str, nodes: Nodes) -> Iterator[Finding]:
    """A constant twice among the keys of one display, with different values."""
    for node in nodes[ast.Dict]:
        seen: dict[tuple[type, Any], ast.expr] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if not isinstance(key, ast.Constant):
                continue
            mark = (type(key.value), key.value)
            first = seen.setdefault(mark, value)
            if first is not value:
                shown = repr(key.value)
                yield finding(path, key.lineno, "duplicate-key", f"the key {shown} is given twice", shown)


def empty_fstrings(path: str, nodes: Nodes) -> Iterator[Finding]:
    """`f"text"`. Format specifications are f-strings of their own in the tree, and are left out."""
    specs = {id(node.format_spec) for node in nodes[ast.FormattedValue] if node.format_spec is not None}
    for node in nodes[ast.JoinedStr]:
        if id(node) not in specs and not any(isinstance(item, ast.FormattedValue) for item in node.values):
            yield finding(path, node.lineno, "empty-fstring", "an f-string without a placeholder")


def tuple_asserts(path: str, nodes: Nodes) -> Iterator[Finding]:
    """`assert (condition, "message")`."""
    for node in nodes[ast.Assert]:
        if isinstance(node.test, ast.Tuple) and node.test.elts:
            yield finding(path, node.lineno, "assert-tuple", "always true: it asserts a tuple, not its first item")


def _does_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is Ellipsis
    )


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str | bytes | int | float | complex)
        and not (isinstance(node.value, bool))
    )


def _plain(node: Any) -> str:
    """The text of names, attributes and constant subscripts (reading them twice gives the same), else empty."""
    parts: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            parts.append(f".{node.attr}")
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            parts.append(f"[{node.slice.value!r}]")
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name):
            parts.append(f"[{node.slice.id}]")
        else:
            return ""
        node = node.value
    return node.id + "".join(reversed(parts))


def _may_stand_unreachable(node: ast.stmt) -> bool:
    if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return True
    return any(isinstance(item, ast.Yield | ast.YieldFrom) for item in ast.walk(node))
