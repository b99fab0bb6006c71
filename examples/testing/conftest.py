"""The test kit's fixtures for this folder: a test that takes `fleet` is given one that runs the shop."""

from __future__ import annotations

import pytest

from examples.testing.app import app
from swell import App

pytest_plugins = ["swell.testing.plugin"]


@pytest.fixture
def swell_app() -> App:
    """What `fleet` runs."""
    return app
