"""What analysts look at: how large and how branched each function is, and what is undocumented. No I/O here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from examples.review import source
from examples.review.findings import Finding, Function, finding

#: Limits above which a measure is a finding. They are wider than most linters' own: a review names the worst places.
MAX_LENGTH = 120
MAX_COMPLEXITY = 20
MAX_NESTING = 6
MAX_ARGUMENTS = 10

_TEST_PATH = re.compile(r"(^|/)(tests?|\w+_tests?)/|(^|/)(test_[^/]*|[^/]*_test|[^/]*_tests|conftest)\.py$")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
#: What opens a block. The cases of a `match` are blocks within it, as their indentation says.
_BLOCKS = frozenset({
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.ExceptHandler,
    ast.Match, ast.match_case,
})  # fmt: skip
#: Fields whose items stand at the level of their statement: an `except` beside its `try`, expressions anywhere.
_SAME_LEVEL = frozenset({"handlers", "items", "targets", "values", "args", "keywords"})
#: What has branches to count.
_COUNTED = frozenset({
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case, ast.BoolOp,
    ast.comprehension,
})  # fmt: skip


def is_test(path: str) -> bool:
    """Whether the file holds tests, judged by its name and folders; nobody documents test cases one by one."""
    return bool(_TEST_PATH.search(path))


def functions(path: str, tree: ast.Module) -> list[Function]:
    """Measure each function and method, those in functions too.

    The code of a nested function or class counts for itself alone, not for the function around it.
    """
    nodes: list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]] = []
    complexity: list[int] = []
    nesting: list[int] = []
    # (node, index of the function it counts for or -1, the names around it, depth of blocks it stands in)
    stack: list[tuple[ast.AST, int, tuple[str, ...], int]] = [(tree, -1, (), 0)]
    while stack:
        node, owner, names, depth = stack.pop()
        kind = node.__class__
        if kind in _DEFINITIONS:
            # Decorators run outside of what they decorate.
            stack += [(item, owner, names, depth) for item in node.decorator_list]  # type: ignore[attr-defined]
            names = (*names, node.name)  # type: ignore[attr-defined]
            depth = 0
            owner = -1
            if isinstance(node, _FUNCTIONS):
                owner = len(nodes)
                nodes.append((node, ".".join(names)))
                complexity.append(1)
                nesting.append(0)
        elif owner >= 0:
            if kind in _COUNTED:
                complexity[owner] += _branches(node)
            if depth > nesting[owner]:
                nesting[owner] = depth
        inner = depth + (kind in _BLOCKS)
        for field in source.node_fields(kind):
            value = getattr(node, field, None)
            if value.__class__ is list:
                level = depth if field in _SAME_LEVEL or _is_elif(node, field) else inner
                if value and field != "decorator_list":
                    stack += [(item, owner, names, level) for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST):
                stack.append((value, owner, names, depth))
    return [
        Function(
            path=path,
            name=name,
            line=node.lineno,
            length=(node.end_lineno or node.lineno) - node.lineno + 1,
            complexity=complexity[index],
            nesting=nesting[index],
            arguments=_arguments(node),
        )
        for index, (node, name) in enumerate(nodes)
    ]


def limits(measured: list[Function]) -> Iterator[Finding]:
    """The functions that pass a limit."""
    for function in measured:
        for rule, value, limit, unit in (
            ("long-function", function.length, MAX_LENGTH, "lines"),
            ("complex-function", function.complexity, MAX_COMPLEXITY, "branches"),
            ("deep-nesting", function.nesting, MAX_NESTING, "nested blocks"),
            ("many-arguments", function.arguments, MAX_ARGUMENTS, "arguments"),
        ):
            if value > limit:
                message = f"{function.name} has {value} {unit}; more than {limit}"
                yield finding(function.path, function.line, rule, message, function.name)


def docstrings(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Public modules, classes, functions and methods without a docstring; nothing in tests.

    A module that defines `__all__` says itself what is public.
    """
    parts = path.removesuffix(".py").split("/")
    if is_test(path) or any(part.startswith("_") and part not in ("__init__", "__main__") for part in parts):
        return
    if tree.body and ast.get_docstring(tree, clean=False) is None:
        yield finding(path, 1, "missing-docstring", "the module has no docstring")
    exported = all_names(tree)
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        parent, prefix = stack.pop()
        for node in getattr(parent, "body", ()):
            if not isinstance(node, _DEFINITIONS) or node.name.startswith("_"):
                continue
            if exported is not None and not prefix and node.name not in exported:
                continue
            name = prefix + node.name
            kind = "class" if isinstance(node, ast.ClassDef) else "method" if prefix else "function"
            if ast.get_docstring(node, clean=False) is None and not _needs_none(node):
                yield finding(path, node.lineno, "missing-docstring", f"{kind} {name} has no docstring", node.name)
            if isinstance(node, ast.ClassDef):
                stack.append((node, name + "."))


def all_names(tree: ast.Module) -> set[str] | None:
    """The strings of a module's `__all__`, None if it has none. Additions to it count too."""
    names: set[str] | None = None
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if node.value is not None and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in targets
        ):
            found = (item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant))
            names = (names or set()) | {item for item in found if isinstance(item, str)}
    return names


def _branches(node: ast.AST) -> int:
    """What a node of `_COUNTED` adds: one, but boolean operators, comprehensions and guards count by their parts."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        return 1 if node.guard is None else 2
    return 1


def _is_elif(node: ast.AST, name: str) -> bool:
    return (
        name == "orelse"
        and isinstance(node, ast.If)
        and len(node.orelse) == 1
        and isinstance(node.orelse[0], ast.If)
        and node.orelse[0].col_offset == node.col_offset
    )


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    if positional and positional[0].arg in ("self", "cls"):
        del positional[0]
    return len(positional) + len(args.kwonlyargs) + (args.vararg is not None) + (args.kwarg is not None)


def _needs_none(node: ast.AST) -> bool:
    """Overloads and the setters of properties are documented at their first definition."""
    for item in getattr(node, "decorator_list", ()):
        name = item.attr if isinstance(item, ast.Attribute) else item.id if isinstance(item, ast.Name) else ""
        if name in ("overload", "setter", "deleter", "override"):
            return True
    return False
