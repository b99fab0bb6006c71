"""Second looks at what is written, by the tokens alone: one function a rule, no syntax tree."""

from __future__ import annotations

import ast
import token
from collections.abc import Callable, Iterator
from typing import Any

from examples.review import measures
from examples.review.findings import Finding, Verdict
from examples.review.logical_lines import CLOSE, OPEN, Logical, LogicalLines, Token, operands, string_runs
from examples.review.rules import BROAD, MUTABLE_CALLS

CONFIRMED = Verdict(True)
_BRANCH_WORDS = frozenset({"if", "elif", "for", "while", "except", "and", "or"})
_COMPARISONS = frozenset({"==", "<", ">", "<=", ">=", "is", "in"})
_NEVER = Verdict(False, "nothing of the kind is written here")


def mutable_default(lines: LogicalLines, claim: Finding) -> Verdict:
    """`name = [`, `{` or a call that makes a container, among the parameters of the `def`."""
    index = lines.at(claim.line)
    if index is None or not _is_definition(lines.lines[index]):
        return _NEVER
    words = lines.once(index, _parameters).get(claim.name)
    if words is None:
        return Verdict(False, f"no parameter {claim.name!r}")
    made = len(words) > 1 and words[0] in MUTABLE_CALLS and words[1] == "("
    return CONFIRMED if made or words[:1] in (["["], ["{"]) else Verdict(False, f"its default begins with {words}")


def careless_except(lines: LogicalLines, claim: Finding) -> Verdict:
    """`except:` whose block has no `raise`, or a broad handler whose block is `pass` alone."""
    index = lines.at(claim.line)
    if index is None or lines.lines[index].words()[0] != "except":
        return _NEVER
    header = lines.lines[index]
    end = header.header_end()
    caught = [word for word in header.words()[1:end] if word != "*"]  # `except*` handles groups
    block = [*header.words()[end + 1 :], *(word for line in lines.suite(index) for word in line.words())]
    if claim.rule == "silent-except":
        broad = not caught or caught[0] in BROAD
        return (
            CONFIRMED if broad and block in (["pass"], ["..."]) else Verdict(False, f"its block is {len(block)} tokens")
        )
    return (
        CONFIRMED if not caught and "raise" not in block else Verdict(False, "names what it catches, or raises again")
    )


def is_literal(lines: LogicalLines, claim: Finding) -> Verdict:
    """A number or string on either side of `is`."""
    return _decide(lines, claim, _literal_identities, True)


def self_comparison(lines: LogicalLines, claim: Finding) -> Verdict:
    """A comparison with the same chain of names on both sides."""
    return _decide(lines, claim, _self_compared, claim.name)


def duplicate_key(lines: LogicalLines, claim: Finding) -> Verdict:
    """The claimed key is the second of its kind at the same level of one pair of braces."""
    return _decide(lines, claim, _repeated_keys, (claim.line, claim.name))


def empty_fstring(lines: LogicalLines, claim: Finding) -> Verdict:
    """A run of strings, one with the prefix `f`, none with a brace left open."""
    return _decide(lines, claim, _empty_fstrings, claim.line)


def assert_tuple(lines: LogicalLines, claim: Finding) -> Verdict:
    """`assert (`, a comma at that level, and nothing behind the closing bracket."""
    return _decide(lines, claim, _asserted_tuples, claim.line)


def missing_docstring(lines: LogicalLines, claim: Finding) -> Verdict:
    """The first token behind the header (or of the file) is no string."""
    if not claim.name:
        first = lines.lines[0].tokens[0] if lines.lines else None
        return Verdict(False, "it begins with a string") if first and first.type == token.STRING else CONFIRMED
    index = lines.at(claim.line)
    if index is None or claim.name not in lines.lines[index].words()[1:3]:
        return Verdict(False, f"{claim.name} is not defined here")
    header = lines.lines[index]
    suite = lines.suite(index)
    behind = header.tokens[header.header_end() + 1 :] or (suite[0].tokens if suite else [])
    return Verdict(False, "it begins with a string") if behind and behind[0].type == token.STRING else CONFIRMED


def measured(lines: LogicalLines, claim: Finding) -> Verdict:
    """The measure that passed its limit, counted again in the function's tokens."""
    index = lines.at(claim.line)
    if index is None or not _is_definition(lines.lines[index]):
        return Verdict(False, "no function begins here")
    header = lines.lines[index]
    suite = lines.suite(index)
    if claim.rule == "long-function":
        value, limit = (suite[-1] if suite else header).last - header.line + 1, measures.MAX_LENGTH
    elif claim.rule == "many-arguments":
        names = list(lines.once(index, _parameters))
        value, limit = len(names) - (names[:1] in (["self"], ["cls"])), measures.MAX_ARGUMENTS
    else:
        own = [header, *_without_definitions(suite)]
        if claim.rule == "deep-nesting":
            value, limit = max(line.depth for line in own) - header.depth - 1, measures.MAX_NESTING
        else:
            value, limit = 1 + sum(_branches(line) for line in own), measures.MAX_COMPLEXITY
    return CONFIRMED if value > limit else Verdict(False, f"the tokens say {value}, not more than {limit}")


CHECKS: dict[str, Callable[[LogicalLines, Finding], Verdict]] = {
    "mutable-default": mutable_default,
    "bare-except": careless_except,
    "silent-except": careless_except,
    "is-literal": is_literal,
    "self-comparison": self_comparison,
    "duplicate-key": duplicate_key,
    "empty-fstring": empty_fstring,
    "assert-tuple": assert_tuple,
    "missing-docstring": missing_docstring,
    "long-function": measured,
    "many-arguments": measured,
    "deep-nesting": measured,
    "complex-function": measured,
}


def _decide(lines: LogicalLines, claim: Finding, seek: Callable[[list[Token]], set[Any]], sought: Any) -> Verdict:
    """Whether what the finding claims is among all that `seek` finds in its logical line."""
    index = lines.at(claim.line)
    return CONFIRMED if index is not None and sought in lines.once(index, seek) else _NEVER


def _literal_identities(tokens: list[Token]) -> set[bool]:
    for index, item in enumerate(tokens):
        if item.string != "is" or item.type != token.NAME:
            continue
        after = index + 1
        while after < len(tokens) and tokens[after].string in ("not", "-"):
            after += 1
        sides = (*tokens[index - 1 : index], *tokens[after : after + 1])
        if any(side.type in (token.NUMBER, token.STRING) for side in sides):
            return {True}
    return set()


def _self_compared(tokens: list[Token]) -> set[str]:
    found: set[str] = set()
    for index, item in enumerate(tokens):
        if item.string not in _COMPARISONS:
            continue
        left = right = index
        if item.string == "is" and index + 1 < len(tokens) and tokens[index + 1].string == "not":
            right += 1
        if item.string == "in" and tokens[index - 1].string == "not":
            left -= 1
        before, after = operands(tokens, left)[0], operands(tokens, right)[1]
        if before == after:
            found.add(before)
    return found


def _empty_fstrings(tokens: list[Token]) -> set[int]:
    return {line for line, formatted, filled in string_runs(tokens) if formatted and not filled}


def _asserted_tuples(tokens: list[Token]) -> set[int]:
    found: set[int] = set()
    for index, item in enumerate(tokens[:-1]):
        if item.string != "assert" or tokens[index + 1].string != "(":
            continue
        depth = commas = 0
        for position in range(index + 1, len(tokens)):
            word = tokens[position].string
            depth += (word in OPEN) - (word in CLOSE)
            commas += depth == 1 and word == ","
            if depth == 0:
                closed = position + 1 == len(tokens) or tokens[position + 1].string == ";"
                if commas and closed:
                    found.add(item.start[0])
                break
    return found


def _is_definition(line: Logical) -> bool:
    words = [item.string for item in line.tokens[:2]]
    return words[0] == "def" or words == ["async", "def"]


def _parameters(tokens: list[Token]) -> dict[str, list[str]]:
    """The parameters of a `def`, each with the first two words of its default."""
    found: dict[str, list[str]] = {}
    depth = 0
    name = ""
    in_default = False
    for item in tokens[next(index for index, item in enumerate(tokens) if item.string == "(") :]:
        word = item.string
        depth += (word in OPEN) - (word in CLOSE)
        if depth == 0:
            break
        if depth == 1 and word == ",":
            name, in_default = "", False
        elif in_default:
            if len(found[name]) < 2:
                found[name].append(word)
        elif depth == 1 and word == "=":
            in_default = True
        elif depth == 1 and not name and item.type == token.NAME:
            name = word
            found[name] = []
    return found


def _repeated_keys(tokens: list[Token]) -> set[tuple[int, str]]:
    """Constant keys that their braces hold already: (line, repr of the key)."""
    repeated: set[tuple[int, str]] = set()
    seen: list[set[str]] = []  # per open bracket: the keys it holds so far
    keys: list[list[Token] | None] = []  # per open bracket: tokens of the key being read; None outside of keys
    braces: list[bool] = []
    for item in tokens:
        word = item.string
        if item.type == token.OP and word in OPEN:
            if keys:
                keys[-1] = None  # a bracket within a key: no constant
            seen.append(set())
            keys.append([] if word == "{" else None)
            braces.append(word == "{")
        elif item.type == token.OP and word in CLOSE:
            for stack in (seen, keys, braces):
                del stack[-1:]
        elif braces and braces[-1]:
            key = keys[-1]
            if word == ",":
                keys[-1] = []
            elif word != ":" or item.type != token.OP:
                if key is not None:
                    key.append(item)
            elif key:
                constant = _constant(key)
                if constant in seen[-1]:
                    repeated.add((key[0].start[0], constant))
                if constant:
                    seen[-1].add(constant)
                keys[-1] = None
    return repeated


def _constant(key: list[Token]) -> str:
    """The repr of a constant, empty if the tokens are none."""
    try:
        return repr(ast.literal_eval(" ".join(part.string for part in key)))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ""


def _without_definitions(suite: list[Logical]) -> Iterator[Logical]:
    """The lines of a block, without the functions and classes in it."""
    skip_above: int | None = None
    for line in suite:
        if skip_above is not None and line.depth > skip_above:
            continue
        words = line.words()
        skip_above = line.depth if words[0] in ("def", "class") or words[:2] == ["async", "def"] else None
        if skip_above is None and words[0] != "@":
            yield line


def _branches(line: Logical) -> int:
    words = line.words()
    case = words[0] == "case" and len(words) > 1 and line.header_end() < len(words) and words[1] not in ("=", ".", ":")
    return case + sum(word in _BRANCH_WORDS for word in words)
