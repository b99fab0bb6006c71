"""Second looks at names, by the compiler's own symbol tables (`symtable`)."""

from __future__ import annotations

import symtable
from collections import defaultdict
from collections.abc import Iterator

from examples.review.findings import Finding, Verdict

CONFIRMED = Verdict(True)


class Symbols:
    """The scopes of one file, with what each says of its names."""

    def __init__(self, top: symtable.SymbolTable) -> None:
        self._top = top
        self._parents: dict[int, symtable.SymbolTable] = {}
        self._functions: dict[int, list[symtable.SymbolTable]] = defaultdict(list)
        self._scopes: list[symtable.SymbolTable] = []
        for parent, scope in _scopes(top):
            self._scopes.append(scope)
            if parent is not None:
                self._parents[scope.get_id()] = parent
            if isinstance(scope, symtable.Function):
                self._functions[scope.get_lineno()].append(scope)

    def unused_import(self, claim: Finding) -> Verdict:
        """Whether in every scope that imports the name, neither it nor a scope inside it reads the name."""
        importing = [scope for scope in self._scopes if _is(scope, claim.name, "is_imported")]
        if not importing:
            return Verdict(False, f"no scope imports {claim.name!r}")
        for scope in importing:
            reader = self._reader(scope, claim.name)
            if reader is None:
                return CONFIRMED
        return Verdict(False, f"{claim.name!r} is read in {reader}")

    def unused_variable(self, claim: Finding) -> Verdict:
        """Whether a function around the line binds the name and nothing reads it."""
        around = [
            scope
            for scope in self._scopes
            if isinstance(scope, symtable.Function)
            and scope.get_lineno() <= claim.line
            and _is(scope, claim.name, "is_assigned")
            and _is(scope, claim.name, "is_local")
        ]
        if not around:
            return Verdict(False, f"no function above the line binds {claim.name!r}")
        # The function that holds the line is among those that begin above it; the nearest of them binds the name.
        nearest = max(around, key=lambda scope: scope.get_lineno())
        reader = self._reader(nearest, claim.name)
        return CONFIRMED if reader is None else Verdict(False, f"{claim.name!r} is read in {reader}")

    def shadowed_builtin(self, claim: Finding) -> Verdict:
        """Whether a function that begins at the line has a parameter of that name."""
        # A decorated function's scope begins at its first decorator.
        for line in range(claim.line, max(claim.line - 40, 0), -1):
            for scope in self._functions.get(line, ()):
                if _is(scope, claim.name, "is_parameter"):
                    return CONFIRMED
        return Verdict(False, f"no parameter {claim.name!r} here")

    def _reader(self, scope: symtable.SymbolTable, name: str) -> str | None:
        """The scope that reads `name` as `scope` binds it, None if none does."""
        stack = [scope]
        while stack:
            current = stack.pop()
            if _is(current, name, "is_referenced"):
                return f"{current.get_type()} {current.get_name()}"
            for child in current.get_children():
                binds = _is(child, name, "is_local") and not _is(child, name, "is_global")
                # What a class body binds is unseen by the functions in it, so these may still mean the outer name.
                if not binds or child.get_type() == "class":
                    stack.append(child)
        return None


def _scopes(top: symtable.SymbolTable) -> Iterator[tuple[symtable.SymbolTable | None, symtable.SymbolTable]]:
    stack: list[tuple[symtable.SymbolTable | None, symtable.SymbolTable]] = [(None, top)]
    while stack:
        parent, scope = stack.pop()
        yield parent, scope
        stack.extend((scope, child) for child in scope.get_children())


def _is(scope: symtable.SymbolTable, name: str, question: str) -> bool:
    try:
        symbol = scope.lookup(name)
    except KeyError:
        return False
    return bool(getattr(symbol, question)())
