"""The words of a review: what a finding is, which rules there are, and how much each weighs. No I/O here."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct

Severity = Literal["error", "warning", "info"]

#: What one finding adds to the score of its file. Notes on style add nothing: they would bury the likely bugs.
WEIGHT: dict[str, int] = {"error": 20, "warning": 5, "info": 0}

#: Findings reported for one file and role at most; the others are counted only, so that no message grows large.
MAX_FINDINGS = 400


class Rule(NamedTuple):
    """One thing that is looked for: how bad it is, and what it means in a sentence."""

    severity: Severity
    meaning: str


RULES: dict[str, Rule] = {
    # found by researchers
    "unreadable": Rule("error", "the file cannot be read"),
    "encoding-error": Rule("error", "the bytes are not text in the encoding declared"),
    "syntax-error": Rule("error", "the running interpreter cannot parse the file"),
    "too-large": Rule("info", "the file is larger than what is parsed"),
    # found by analysts
    "long-function": Rule("info", "the function has too many lines to be read at once"),
    "complex-function": Rule("warning", "the function has too many branches to be tested"),
    "deep-nesting": Rule("warning", "the function's blocks are nested too deep"),
    "many-arguments": Rule("info", "the function takes more arguments than a caller can keep apart"),
    "missing-docstring": Rule("info", "a public module, class or function says nothing of itself"),
    # found by testers
    "mutable-default": Rule("warning", "a default argument is one object shared by all calls"),
    "bare-except": Rule("warning", "catches everything, KeyboardInterrupt too, and does not raise again"),
    "silent-except": Rule("warning", "any error whatever disappears without a trace"),
    "is-literal": Rule("error", "identity with a literal depends on the interpreter's caching"),
    "self-comparison": Rule("error", "both sides of the comparison are the same"),
    "unreachable": Rule("warning", "the statement can never run"),
    "duplicate-key": Rule("error", "a dict display gives the same key twice; the first value is lost"),
    "empty-fstring": Rule("info", "an f-string has no placeholder"),
    "shadowed-builtin": Rule("info", "a parameter hides a builtin"),
    "assert-tuple": Rule("error", "an assert on a tuple is always true"),
    "unused-import": Rule("warning", "an imported name is never used"),
    "unused-variable": Rule("info", "a local variable is assigned and never used"),
}


class Finding(Struct, frozen=True, omit_defaults=True, order=True):
    """One fault at one place.

    Attributes:
        path: the file, relative to the tree, with forward slashes.
        line: 1-based.
        rule: a key of `RULES`.
        severity: that of the rule.
        message: a sentence for the reader.
        name: what the fault is about (a function, a parameter, a key), for whoever checks it again.
    """

    path: str
    line: int
    rule: str
    severity: Severity
    message: str
    name: str = ""


class Verdict(Struct, frozen=True, omit_defaults=True):
    """What a second look says of a finding: whether it holds, and if not, what was seen instead."""

    confirmed: bool
    seen: str = ""


class Function(Struct, frozen=True, omit_defaults=True):
    """One function, measured.

    Attributes:
        name: qualified with the classes and functions around it.
        line: of its `def`, 1-based.
        length: lines from `def` to the end.
        complexity: 1 + the number of branches (McCabe's cyclomatic complexity, with boolean operators).
        nesting: the deepest block inside it; 0 if it has none.
        arguments: parameters, without a leading `self` or `cls`.
    """

    path: str
    name: str
    line: int
    length: int
    complexity: int
    nesting: int
    arguments: int


def finding(path: str, line: int, rule: str, message: str, name: str = "") -> Finding:
    """A finding with the severity of its rule."""
    return Finding(path, line, rule, RULES[rule].severity, message, name)
