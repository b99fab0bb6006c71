"""The face that users import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import swell


def test_every_public_name_is_there() -> None:
    assert all(getattr(swell, name) is not None for name in swell.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        _ = swell.Agnet  # type: ignore[attr-defined]


def test_importing_swell_imports_nothing_heavy() -> None:
    code = "import sys, swell; print([m for m in ('redis', 'litestar', 'uvicorn', 'rich') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_library_does_not_import_the_services() -> None:
    code = (
        "import pkgutil, sys, importlib, swell\n"
        "for m in pkgutil.walk_packages(swell.__path__, 'swell.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
        "print([m for m in sys.modules if m.startswith(('swell_', 'services', 'shared'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
