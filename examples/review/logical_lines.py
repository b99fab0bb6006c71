"""A file as its tokens see it: logical lines with the depth of their block. The second look works on these alone.

for x in y:          depth 0
    if x:            depth 1
        f(x,         depth 2, one logical line over two physical ones
          1)
"""

from __future__ import annotations

import io
import re
import token
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

Token = tokenize.TokenInfo
_T = TypeVar("_T")

OPEN = frozenset("([{")
CLOSE = frozenset(")]}")
_NO_PLACEHOLDER = re.compile(r"\{\{|\\N\{[A-Za-z]")
_SKIPPED = frozenset({token.COMMENT, token.NL, token.ENDMARKER, token.ENCODING})


@dataclass(slots=True)
class Logical:
    """One logical line.

    Attributes:
        tokens: without comments and line ends.
        depth: how many blocks it stands in.
    """

    depth: int
    tokens: list[Token] = field(default_factory=list)

    @property
    def line(self) -> int:
        """Its first physical line, 1-based."""
        return self.tokens[0].start[0]

    @property
    def last(self) -> int:
        """Its last physical line."""
        return self.tokens[-1].end[0]

    def words(self) -> list[str]:
        """The tokens' texts."""
        return [item.string for item in self.tokens]

    def header_end(self) -> int:
        """Index of the colon that ends a block's header; the number of tokens if there is none."""
        depth = lambdas = 0
        for index, item in enumerate(self.tokens):
            if item.string in OPEN:
                depth += 1
            elif item.string in CLOSE:
                depth -= 1
            elif item.string == "lambda":
                lambdas += 1
            elif item.string == ":" and depth == 0 and item.type == token.OP:
                if not lambdas:
                    return index
                lambdas -= 1
        return len(self.tokens)


class LogicalLines:
    """All logical lines of a file, found by physical line too.

    Raises:
        SyntaxError, tokenize.TokenError: the tokens do not form lines and blocks.
    """

    def __init__(self, text: str) -> None:
        self.lines: list[Logical] = []
        depth = 0
        current: Logical | None = None
        for item in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = item.type
            if kind == token.INDENT:
                depth += 1
            elif kind == token.DEDENT:
                depth -= 1
            elif kind == token.NEWLINE:
                current = None
            elif kind not in _SKIPPED:
                if current is None:
                    current = Logical(depth)
                    self.lines.append(current)
                current.tokens.append(item)
        self._known: dict[tuple[int, str], Any] = {}
        self._at: dict[int, int] = {}
        for index, logical in enumerate(self.lines):
            for number in range(logical.line, logical.last + 1):
                self._at.setdefault(number, index)

    def at(self, line: int) -> int | None:
        """Index of the logical line that covers a physical one."""
        return self._at.get(line)

    def once(self, index: int, seek: Callable[[list[Token]], _T]) -> _T:
        """`seek(tokens)` of a logical line; computed once, for a line may be the whole file and hold many findings."""
        key = (index, seek.__name__)
        if key not in self._known:
            self._known[key] = seek(self.lines[index].tokens)
        known: _T = self._known[key]
        return known

    def suite(self, index: int) -> list[Logical]:
        """The lines of the block below a header, empty if its statements follow the colon."""
        depth = self.lines[index].depth
        end = index + 1
        while end < len(self.lines) and self.lines[end].depth > depth:
            end += 1
        return self.lines[index + 1 : end]


def operands(tokens: list[Token], operator: int) -> tuple[str, str]:
    """The chains of names, dots and brackets just left and right of the operator at that index."""
    right = operator + 1
    end = right
    depth = 0
    while end < len(tokens):
        word = tokens[end].string
        if word in CLOSE and depth == 0:
            break
        if depth == 0 and end > right and not (word in "([." or tokens[end - 1].string == "."):
            break
        depth += (word in OPEN) - (word in CLOSE)
        end += 1
    start = operator
    depth = 0
    while start > 0:
        word = tokens[start - 1].string
        if word in OPEN and depth == 0:
            break
        if depth == 0 and start < operator and not (
            tokens[start].string in "([." or word == "."
        ):  # fmt: skip
            break
        depth += (word in CLOSE) - (word in OPEN)
        start -= 1
    return _joined(tokens[start:operator]), _joined(tokens[right:end])


def string_runs(tokens: list[Token]) -> Iterator[tuple[int, bool, bool]]:
    """Strings that stand side by side: (line, whether one is an f-string, whether one has a placeholder)."""
    fstring_start = getattr(token, "FSTRING_START", -1)  # from Python 3.12 on, an f-string is several tokens
    fstring_end = getattr(token, "FSTRING_END", -1)
    run: tuple[int, bool, bool] | None = None
    inside = 0
    for item in tokens:
        if item.type == fstring_start:
            inside += 1
            if inside == 1:
                run = (run[0], True, run[2]) if run else (item.start[0], True, False)
        elif inside:
            inside -= item.type == fstring_end
            if item.type == token.OP and item.string == "{" and run:
                run = (run[0], True, True)
        elif item.type == token.STRING:
            prefix = item.string[: item.string.index(item.string[-1])].lower()
            formatted = "f" in prefix
            # Neither a doubled brace nor the name of a character, \\N{...}, opens a placeholder.
            filled = formatted and "{" in _NO_PLACEHOLDER.sub("", item.string)
            run = (run[0], run[1] or formatted, run[2] or filled) if run else (item.start[0], formatted, filled)
        elif run:
            yield run
            run = None
    if run:
        yield run


def _joined(tokens: list[Token]) -> str:
    return "".join(item.string for item in tokens)
