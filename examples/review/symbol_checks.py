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
        self._functions: dict[int, list[symtable.SymbolTable]] = defaultdict(list)
        self._scopes: dict[str, list[symtable.SymbolTable]] = defaultdict(list)  # those that know a name
        for scope in _scopes(top):
            for name in scope.get_identifiers():
                self._scopes[name].append(scope)
            if isinstance(scope, symtable.Function):
                self._functions[scope.get_lineno()].append(scope)

    def unused_import(self, claim: Finding) -> Verdict:
        """Whether in every scope that imports the name, neither it nor a scope inside it reads the name."""
        importing = [scope for scope in self._scopes.get(claim.name, ()) if _is(scope, claim.name, "is_imported")]
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
            for scope in self._scopes.get(claim.name, ())
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
        if scope is self._top or _is(scope, name, "is_global"):
            readers = [
                other
                for other in self._scopes.get(name, ())
                # What a class body binds is unseen by the functions in it, and it may read the outer name first.
                if other is self._top or other.get_type() == "class" or _is(other, name, "is_global")
            ]
        else:
            readers = list(_readers_of_local(scope, name))
        for reader in readers:
            if _is(reader, name, "is_referenced"):
                return f"{reader.get_type()} {reader.get_name()}"
        return None


def _readers_of_local(scope: symtable.SymbolTable, name: str) -> Iterator[symtable.SymbolTable]:
    """The scope, and those inside it for which the name is free. The compiler marks it so in all scopes in between."""
    stack = [scope]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(child for child in current.get_children() if _is(child, name, "is_free"))


def _scopes(top: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    stack = [top]
    while stack:
        scope = stack.pop()
        yield scope
        stack.extend(scope.get_children())


def _is(scope: symtable.SymbolTable, name: str, question: str) -> bool:
    try:
        symbol = scope.lookup(name)
    except KeyError:
        return False
    return bool(getattr(symbol, question)())
