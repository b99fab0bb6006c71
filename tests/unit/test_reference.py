"""The reference is what the docstrings say now, and every public name has one."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import swell

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    code = "import build_reference as b, sys; sys.exit(b.render() != b.OUT.read_text(encoding='utf-8'))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, f"run `make reference`\n{ended.stderr}"


@pytest.mark.parametrize("module", ["swell", "swell.facts", "swell.hosts", "swell.testing"])
def test_every_public_name_says_what_it_is_and_is_in_the_reference(module: str) -> None:
    text = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    public = importlib.import_module(module)
    for name in public.__all__:
        assert (getattr(public, name).__doc__ or "").strip(), name
        assert f"### `{name}" in text, name


def test_every_public_method_says_what_it_does() -> None:
    for name in swell.__all__:
        kind = getattr(swell, name)
        if isinstance(kind, type):
            for member, value in vars(kind).items():
                assert member.startswith("_") or not callable(value) or value.__doc__, f"{name}.{member}"
