"""Reading and parsing one file, with every way in which that can fail as one error that is a finding too."""

from __future__ import annotations

import ast
import io
import symtable
import tokenize
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

from examples.review.findings import Finding, finding

#: Larger files are generated data more often than code, and parsing them would hold up a whole worker for seconds.
MAX_SOURCE_BYTES = 1 << 20

#: The file name that the parser sees. Its warnings about the reviewed code (invalid escapes and the like) are
#: silenced by this name alone, so that the warnings of everything else still come through.
FILENAME = "<reviewed>"

#: What the parser raises on hostile or damaged input: nul bytes are a ValueError in some versions, and nesting without
#: end is a RecursionError or MemoryError.
_PARSER_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)

#: Fields of syntax nodes that hold text, numbers or operators, no nodes worth a visit.
_NOT_WALKED = frozenset({
    "ctx", "op", "ops", "type_comment", "kind", "id", "attr", "arg", "level", "module", "simple", "is_async",
    "conversion",
})  # fmt: skip

_fields: dict[type[ast.AST], tuple[str, ...]] = {}


class Unusable(Exception):
    """A file that cannot be reviewed further.

    Attributes:
        finding: says why.
    """

    def __init__(self, path: str, rule: str, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.finding: Finding = finding(path, line, rule, message)


def read(root: str, path: str) -> str:
    """The text of one file, decoded as the interpreter would (PEP 263).

    Args:
        root: the tree.
        path: the file, relative to it.

    Raises:
        Unusable: it cannot be read, is too large, or is not text in its encoding.
    """
    try:
        data = Path(root, path).read_bytes()
    except OSError as error:
        raise Unusable(path, "unreadable", f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_SOURCE_BYTES:
        raise Unusable(path, "too-large", f"{len(data)} bytes; files above {MAX_SOURCE_BYTES} bytes are not parsed")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return io.TextIOWrapper(io.BytesIO(data), encoding).read()
    except SyntaxError as error:
        raise Unusable(path, "encoding-error", f"the encoding declared does not work: {error.msg}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unusable(path, "encoding-error", f"byte {error.start} is not {error.encoding}", line) from None


def parse(path: str, text: str) -> ast.Module:
    """The syntax tree.

    Raises:
        Unusable: the interpreter cannot parse it.
    """
    _silence_warnings()
    try:
        return ast.parse(text, FILENAME)
    except _PARSER_ERRORS as error:
        raise _unparsed(path, error) from None


def symbols(path: str, text: str) -> symtable.SymbolTable:
    """The compiler's own table of scopes and names; half the price of a syntax tree.

    Raises:
        Unusable: the interpreter cannot parse it.
    """
    _silence_warnings()
    try:
        return symtable.symtable(text, FILENAME, "exec")
    except _PARSER_ERRORS as error:
        raise _unparsed(path, error) from None


def code(path: str, text: str) -> Any:
    """The compiled module, a code object; nothing of it is ever run.

    Raises:
        Unusable: the interpreter cannot compile it.
    """
    _silence_warnings()
    try:
        return compile(text, FILENAME, "exec", dont_inherit=True)
    except _PARSER_ERRORS as error:
        raise _unparsed(path, error) from None


def node_fields(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields of a class of nodes in which further nodes may be."""
    fields = _fields.get(kind)
    if fields is None:
        fields = () if kind is ast.Constant else tuple(name for name in kind._fields if name not in _NOT_WALKED)
        _fields[kind] = fields
    return fields


def nodes_by_type(*roots: ast.AST) -> dict[type[ast.AST], list[Any]]:
    """All nodes below `roots`, and these, by their class. Without recursion: no input can exhaust the stack."""
    found: dict[type[ast.AST], list[Any]] = defaultdict(list)
    stack: list[ast.AST] = list(roots)
    while stack:
        node = stack.pop()
        kind = node.__class__
        found[kind].append(node)
        for name in node_fields(kind):
            value = getattr(node, name, None)
            if value.__class__ is list:
                stack += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST):
                stack.append(value)
    return found


def _unparsed(path: str, error: BaseException) -> Unusable:
    if isinstance(error, SyntaxError):
        return Unusable(path, "syntax-error", f"does not parse: {error.msg}", max(error.lineno or 1, 1))
    return Unusable(path, "syntax-error", f"does not parse: {str(error) or type(error).__name__}")


def _silence_warnings() -> None:
    # Not `catch_warnings`: it swaps global state, and large files are parsed in a thread beside the event loop.
    first = warnings.filters[0] if warnings.filters else None
    if first is None or getattr(first[3], "pattern", None) != FILENAME:
        warnings.filterwarnings("ignore", module=FILENAME)
