"""The system tests need a container engine with Compose v2; SWELL_REQUIRE_ENGINE=1 makes its absence a failure."""

from __future__ import annotations

import os

import pytest

from tests.system.deployment import engine


@pytest.fixture(scope="session", autouse=True)
def docker() -> None:
    """Skip, with the reason, where no engine answers."""
    if problem := engine():
        if os.environ.get("SWELL_REQUIRE_ENGINE"):
            pytest.fail(f"an engine is required: {problem}")
        pytest.skip(problem)
