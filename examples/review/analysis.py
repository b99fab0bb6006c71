"""The three looks at a file, one for each role, and a review of a whole tree without any fleet.

survey_file     researcher   reads, decodes, tokenises, asks the compiler for syntax errors, lists imports
measure_file    analyst      syntax tree: measures of each function, docstrings
inspect_file    tester       syntax tree: likely bugs
second_look     analyst, tester: checks what another one found (in `second_look.py`)
"""

from __future__ import annotations

import io
import os
import sys
import sysconfig
import token
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from examples.review import measures, names, rules, source
from examples.review.findings import MAX_FINDINGS, Finding, Function
from examples.review.second_look import second_look

#: Folders that hold no code of the tree's own.
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
#: Functions that the report names. An analyst tells of as many in each file, so none of the worst is left out.
WORST_FUNCTIONS = 20

_NO_CODE = frozenset({token.COMMENT, token.NL, token.NEWLINE, token.INDENT, token.DEDENT, token.ENDMARKER})


class Survey(Struct, frozen=True, omit_defaults=True):
    """What a researcher learns of a file.

    Attributes:
        characters: of the decoded text; 0 if it cannot be read.
        lines: physical lines; `code_lines` and `comment_lines` hold a token of that kind.
        imports: top-level names of the modules it imports, sorted.
        fault: why it cannot be reviewed further, if so.
    """

    path: str
    characters: int = 0
    lines: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    tokens: int = 0
    imports: tuple[str, ...] = ()
    fault: Finding | None = None


class Look(Struct, frozen=True, omit_defaults=True):
    """What an analyst or a tester learns of a file.

    Attributes:
        findings: at most `MAX_FINDINGS`, by line; those beyond are only counted, in `omitted`.
        functions: how many it has, and the sum of their `complexity`; analysts alone measure these.
        worst: its most complex functions, at most `WORST_FUNCTIONS`.
    """

    path: str
    findings: list[Finding] = []
    omitted: int = 0
    functions: int = 0
    complexity: int = 0
    worst: list[Function] = []


class Entry(NamedTuple):
    """One file of a folder, its path relative to the tree, and its size in bytes."""

    path: str
    bytes: int


def default_tree() -> str:
    """The standard library of the running interpreter."""
    return sysconfig.get_path("stdlib")


def list_folder(root: str, folder: str) -> tuple[list[str], list[Entry]]:
    """The folders and Python files directly in a folder, sorted.

    Args:
        root: the tree.
        folder: relative to it, with forward slashes; empty for the tree itself.

    Returns:
        Paths of folders (without hidden ones, links and those of installed packages), and of files.

    Raises:
        OSError: the folder cannot be listed.
    """
    folders: list[str] = []
    files: list[Entry] = []
    with os.scandir(Path(root, folder)) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED_FOLDERS and not entry.name.startswith("."):
                    folders.append(path)
            elif entry.name.endswith(".py") and entry.is_file():
                files.append(Entry(path, entry.stat().st_size))
    return sorted(folders), sorted(files)


def list_tree(root: str) -> Iterator[Entry]:
    """All Python files of a tree. See `list_folder`."""
    waiting = [""]
    while waiting:
        folders, files = list_folder(root, waiting.pop())
        yield from files
        waiting.extend(folders)


def survey_file(root: str, path: str) -> Survey:
    """Read a file: what it holds, by its tokens, and whether the compiler accepts it."""
    try:
        text = source.read(root, path)
        source.symbols(path, text)
    except source.Unusable as error:
        return Survey(path, fault=error.finding)
    count = 0
    code: set[int] = set()
    comments: set[int] = set()
    imports: set[str] = set()
    previous = beginning = ""
    try:
        for item in tokenize.generate_tokens(io.StringIO(text).readline):
            count += 1
            kind = item.type
            if kind in _NO_CODE:
                if kind == token.COMMENT:
                    comments.add(item.start[0])
                elif kind == token.NEWLINE:
                    beginning = ""
                continue
            code.add(item.start[0])
            beginning = beginning or item.string
            # `import a.b, c` and `from a import b`: what follows the first word, or a comma behind `import`.
            if kind == token.NAME and previous and (
                (beginning == "from" and previous == "from")
                or (beginning == "import" and previous in ("import", ","))
            ):  # fmt: skip
                imports.add(item.string)
            previous = item.string
    except (SyntaxError, tokenize.TokenError):
        # The compiler accepted it, so what the pure-Python tokeniser does not know is left uncounted.
        pass
    return Survey(
        path=path,
        characters=len(text),
        lines=text.count("\n") + (not text.endswith("\n") and bool(text)),
        code_lines=len(code),
        comment_lines=len(comments),
        tokens=count,
        imports=tuple(sorted(imports)),
    )


def measure_file(root: str, path: str) -> Look:
    """Measure the functions of a file and look for missing docstrings; empty if it does not parse."""
    try:
        tree = source.parse(path, source.read(root, path))
    except source.Unusable:
        return Look(path)  # the researcher's finding says why
    measured = measures.functions(path, tree)
    found = sorted([*measures.limits(measured), *measures.docstrings(path, tree)])
    worst = sorted(measured, key=lambda function: (-function.complexity, function.line))[:WORST_FUNCTIONS]
    return Look(
        path=path,
        functions=len(measured),
        complexity=sum(function.complexity for function in measured),
        worst=worst,
        findings=found[:MAX_FINDINGS],
        omitted=max(len(found) - MAX_FINDINGS, 0),
    )


def inspect_file(root: str, path: str) -> Look:
    """Look for likely bugs in a file; empty if it does not parse."""
    try:
        text = source.read(root, path)
        tree = source.parse(path, text)
    except source.Unusable:
        return Look(path)
    nodes = source.nodes_by_type(tree)
    lines = text.split("\n")
    found = sorted({*rules.likely_bugs(path, nodes), *names.name_faults(path, tree, nodes, lines)})
    return Look(path, found[:MAX_FINDINGS], max(len(found) - MAX_FINDINGS, 0))


def main() -> None:
    """Analyse a tree in this one process, for comparison: `python -m examples.review.analysis [TREE]`."""
    root = sys.argv[1] if len(sys.argv) > 1 else default_tree()
    files = lines = functions = claims = confirmed = 0
    for entry in list_tree(root):
        survey = survey_file(root, entry.path)
        files += 1
        lines += survey.lines
        if survey.fault is not None:
            found: list[Finding] = [survey.fault]
        else:
            measured = measure_file(root, entry.path)
            functions += measured.functions
            found = [*measured.findings, *inspect_file(root, entry.path).findings]
        claims += len(found)
        confirmed += sum(verdict.confirmed for verdict in second_look(root, entry.path, found))
    print(f"{files} files, {lines} lines, {functions} functions: {claims} findings, {confirmed} confirmed")


if __name__ == "__main__":
    main()
