"""What testers look for across a file: names imported or assigned for nothing, and parameters that hide builtins.

Each rule here errs on the side of silence: a name counts as used if it is read anywhere it could be meant.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from examples.review.findings import Finding, finding
from examples.review.measures import all_names, is_test
from examples.review.rules import Nodes

#: Builtins that code goes on to call; hiding `id`, `dir` or `help` by a parameter seldom hurts and is not reported.
HIDDEN_BUILTINS = frozenset({
    "all", "any", "bool", "bytes", "dict", "enumerate", "filter", "float", "frozenset", "int", "isinstance", "iter",
    "len", "list", "map", "max", "min", "next", "object", "open", "print", "range", "reversed", "set", "sorted", "str",
    "sum", "super", "tuple", "zip",
})  # fmt: skip

_WORD = re.compile(r"[^\W\d]\w*")
_READS_ALL = frozenset({"locals", "vars", "exec", "eval"})


def name_faults(path: str, tree: ast.Module, nodes: Nodes, lines: list[str]) -> Iterator[Finding]:
    """All findings of this module's rules."""
    yield from unused_imports(path, tree, nodes, lines)
    yield from unused_variables(path, nodes)
    yield from shadowed_builtins(path, nodes)


def unused_imports(path: str, tree: ast.Module, nodes: Nodes, lines: list[str]) -> Iterator[Finding]:
    """Imported names that the file never reads.

    Left out: what may be there for others, namely packages' `__init__.py`, names in `__all__`, `import x as x`, and
    imports from private or relative modules where there is no `__all__`; what may be there for its effect, namely
    imports in a `try` or `with`, in a class, and in the functions of tests; star imports, names that begin with `__`,
    and lines marked `noqa`.
    """
    if path.endswith("__init__.py"):
        return
    exported = all_names(tree)
    used = {node.id for node in nodes[ast.Name] if not isinstance(node.ctx, ast.Store)}
    used |= exported or set()
    used |= _named_in_strings(nodes)
    probes = _for_their_effect(path, nodes)
    for node in nodes[ast.Import] + nodes[ast.ImportFrom]:
        if id(node) in probes or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            continue
        private = isinstance(node, ast.ImportFrom) and (node.level > 0 or (node.module or "").startswith("_"))
        if private and exported is None:
            continue
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            if (
                bound in used
                or bound.startswith("__")
                or bound in ("*", "_", "load_tests")
                or alias.asname == alias.name
            ):
                continue
            if "noqa" in lines[alias.lineno - 1] or "noqa" in lines[node.lineno - 1]:
                continue
            yield finding(path, alias.lineno, "unused-import", f"{bound!r} is imported and never used", bound)


def unused_variables(path: str, nodes: Nodes) -> Iterator[Finding]:
    """Local names bound by `name = ...` alone and never read.

    Left out: names that begin with `_`; assignments in a `try` or `with` block, where the statement is there for what
    it raises; names that are `global` or `nonlocal`; and functions that read their names by `locals()` or the like.
    """
    methods = [item for cls in nodes[ast.ClassDef] for item in cls.body]
    tops = [*nodes[ast.Module][0].body, *methods] if nodes[ast.Module] else methods
    for top in tops:
        if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _unused_in(path, top)


def shadowed_builtins(path: str, nodes: Nodes) -> Iterator[Finding]:
    """Parameters called like a builtin that code would want to call."""
    for node in nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef]:
        args = node.args
        for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg):
            if arg is not None and arg.arg in HIDDEN_BUILTINS:
                message = f"the parameter {arg.arg!r} of {node.name}() hides the builtin"
                yield finding(path, node.lineno, "shadowed-builtin", message, arg.arg)


def _named_in_strings(nodes: Nodes) -> set[str]:
    """Words of string annotations, and strings that are a name as a whole, which `getattr` and the like may read."""
    annotations = [node.annotation for node in nodes[ast.arg] + nodes[ast.AnnAssign] if node.annotation is not None]
    annotations += [node.returns for node in nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef] if node.returns]
    words: set[str] = set()
    for annotation in annotations:
        for item in ast.walk(annotation):
            if isinstance(item, ast.Constant) and isinstance(item.value, str):
                words.update(_WORD.findall(item.value))
    words.update(
        node.value
        for node in nodes[ast.Constant]
        if node.value.__class__ is str and len(node.value) < 80 and node.value.isidentifier()
    )
    return words


def _for_their_effect(path: str, nodes: Nodes) -> set[int]:
    """Imports that may be there to see whether they work, as ids of their nodes."""
    around = [node for kind in (ast.Try, ast.TryStar, ast.With, ast.AsyncWith) for node in nodes[kind]]
    if is_test(path):
        around += nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef]
    # Imports are statements, so expressions need no visit.
    inside = {id(item) for node in nodes[ast.ClassDef] for item in node.body}  # these become attributes
    while around:
        node = around.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            inside.add(id(node))
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            value = getattr(node, name, ())
            around += value if value.__class__ is list else ()
    return inside


def _unused_in(path: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
    bound: dict[str, list[int]] = {}
    used: set[str] = set()
    testing = is_test(path)
    # (node, whether it is a statement that may be there for what it raises)
    stack: list[tuple[ast.AST, bool]] = [(item, False) for item in function.body]
    while stack:
        node, guarded = stack.pop()
        if isinstance(node, ast.Name):
            # A loop, a `with` or an unpacking binds names because it must; such a name counts as used.
            used.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            used.update(node.names)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if guarded or (testing and any(isinstance(item, ast.Call) for item in ast.walk(node.value))):
                used.add(node.targets[0].id)
            bound.setdefault(node.targets[0].id, []).append(node.lineno)
            stack.append((node.value, False))
        elif isinstance(node, ast.ClassDef):
            # A class body's names are attributes.
            used.update(item.id for item in ast.walk(node) if isinstance(item, ast.Name))
        else:
            guarded = guarded or isinstance(node, ast.Try | ast.TryStar | ast.With | ast.AsyncWith)
            stack.extend((child, guarded) for child in ast.iter_child_nodes(node))
    if used & _READS_ALL:
        return
    for name, places in bound.items():
        if name not in used and not name.startswith("_"):
            yield finding(path, min(places), "unused-variable", f"{name!r} is assigned and never read", name)
