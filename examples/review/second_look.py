"""The second look at findings: derived anew from the file by other means than the first.

The first look walks the syntax tree. This one asks the tokens where a rule is about what is written, the compiler's
symbol tables where it is about names, and the compiled code where it is about what can run. Neither shares code with
the other.
"""

from __future__ import annotations

import tokenize
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from examples.review import source, token_checks
from examples.review.findings import Finding, Verdict
from examples.review.logical_lines import LogicalLines
from examples.review.symbol_checks import Symbols

CONFIRMED = Verdict(True)


def second_look(root: str, path: str, claims: Sequence[Finding]) -> list[Verdict]:
    """Check what others found in one file, by reading it again.

    Args:
        root: the tree.
        path: the file, relative to it.
        claims: what was found there.

    Returns:
        One verdict for each claim, in that order.
    """
    if not claims:
        return []
    try:
        text = source.read(root, path)
    except source.Unusable as error:
        return [_same_failure(claim, error.finding) for claim in claims]
    look = _Look(path, text)
    return [look.verdict(claim) for claim in claims]


class _Look:
    """One file under the second look. Tokens, symbols and code are each made when the first claim needs them."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text
        self._lines: LogicalLines | None = None
        self._symbols: Symbols | None = None
        self._running: set[int] | None = None

    def verdict(self, claim: Finding) -> Verdict:
        try:
            if claim.rule == "syntax-error":
                source.code(self._path, self._text)
                return Verdict(False, "it compiles")
            if claim.rule == "unreachable":
                return self._unreachable(claim)
            by_name = _BY_SYMBOLS.get(claim.rule)
            if by_name is not None:
                return by_name(self.symbols(), claim)
            by_token = token_checks.CHECKS.get(claim.rule)
            if by_token is not None:
                return by_token(self.lines(), claim)
            return Verdict(False, "the file can be read now")
        except source.Unusable as error:
            return _same_failure(claim, error.finding)
        except (SyntaxError, tokenize.TokenError) as error:
            return Verdict(False, f"the file does not split into tokens: {error}")

    def lines(self) -> LogicalLines:
        if self._lines is None:
            self._lines = LogicalLines(self._text)
        return self._lines

    def symbols(self) -> Symbols:
        if self._symbols is None:
            self._symbols = Symbols(source.symbols(self._path, self._text))
        return self._symbols

    def _unreachable(self, claim: Finding) -> Verdict:
        # The compiler drops code that nothing leads to, so a line with code can be reached.
        index = self.lines().at(claim.line)
        if index is None or self.lines().lines[index].line != claim.line:
            return Verdict(False, "no statement begins here")
        if self._running is None:
            self._running = set(_lines_with_code(source.code(self._path, self._text)))
        return Verdict(False, "the compiler kept code for this line") if claim.line in self._running else CONFIRMED


_BY_SYMBOLS: dict[str, Callable[[Symbols, Finding], Verdict]] = {
    "unused-import": Symbols.unused_import,
    "unused-variable": Symbols.unused_variable,
    "shadowed-builtin": Symbols.shadowed_builtin,
}


def _lines_with_code(code: Any) -> Iterator[int]:
    stack = [code]
    while stack:
        code = stack.pop()
        for _, _, line in code.co_lines():
            if line is not None:
                yield line
        stack.extend(item for item in code.co_consts if hasattr(item, "co_lines"))


def _same_failure(claim: Finding, failure: Finding) -> Verdict:
    return CONFIRMED if claim.rule == failure.rule else Verdict(False, failure.message)
