"""Nothing that came from elsewhere becomes code: no pickle, no eval, and one place that imports by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py"))
#: Modules that make code or arbitrary objects out of bytes.
FORBIDDEN = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "code"}
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
#: File -> why it imports by name: the app that the worker was started with, and our own public names.
BY_NAME = {"shared/swell/app.py", "shared/swell/__init__.py"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def called(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_makes_code_of_bytes(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not set(imported(tree)) & FORBIDDEN
    bare = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not bare & CALLS
    assert "system" not in set(called(tree))


def test_modules_are_imported_by_name_in_known_places_only() -> None:
    found = {str(p.relative_to(ROOT)) for p in FILES if "import_module" in set(called(ast.parse(p.read_text())))}
    assert found <= BY_NAME


def test_the_search_finds_what_it_looks_for() -> None:
    tree = ast.parse(
        "import os, pickle\nfrom yaml import load\neval('1')\nos.system('x')\nimportlib.import_module('y')"
    )
    assert set(imported(tree)) & FORBIDDEN == {"pickle", "yaml"}
    assert {"eval", "system", "import_module"} <= set(called(tree))


def test_no_process_is_started_through_a_shell() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                raise AssertionError(f"{path}: shell=")
