"""The fixtures of the test kit, as users have them: with and without pytest-asyncio, in a pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import asyncio, time
import pytest
from swell import Agent, App, handler

pytest_plugins = ["swell.testing.plugin"]
app = App("shop")

@app.agent("counter", timeout=None)
class Counter(Agent):
    @handler
    async def rest(self, body: float) -> float:
        await asyncio.sleep(body)
        return body

@pytest.fixture
def swell_app() -> App:
    return app
"""
PASSING = """
import time
import pytest

async def test_an_hour_is_over_at_once(fleet):
    began = time.time()
    await fleet.spawn("counter", keys=["a"])
    assert await fleet.client.ask("counter/a", "rest", 3600.0, timeout=1e5) == 3600
    assert time.time() - began >= 3600

class TestMany:
    @pytest.fixture
    def swell_settings(self):
        return {"workers": 3, "shards": 2, "virtual_time": False}

    @pytest.mark.parametrize("key", ["a", "b"])
    async def test_settings_and_other_fixtures(self, fleet, key, tmp_path):
        assert len(fleet.workers) == 3 and fleet.client.shards == 2 and tmp_path.exists()
        await fleet.spawn("counter", keys=[key])
        assert await fleet.client.ask(f"counter/{key}", "rest", 0.01) == 0.01

def test_the_clock_is_given_back():
    assert abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 1
"""
FAILING = """
import pytest

async def test_its_own_error(fleet):
    raise KeyError("its own")

def test_not_async(fleet):
    pass

async def test_a_worker_that_fails_ends_the_test(fleet):
    async def broken():
        raise OSError("the fleet broke")
    fleet._group.create_task(broken())
    await fleet.quiet()
    import asyncio
    await asyncio.Event().wait()

class TestNoApp:
    @pytest.fixture
    def swell_settings(self):
        return {"no_such_setting": 1}

    async def test_wrong_setting(self, fleet):
        pass
"""
WITHOUT = ["-p", "no:asyncio"]
SCOPE = ["-o", "asyncio_default_fixture_loop_scope=function", "-o"]
AUTO = [*SCOPE, "asyncio_mode=auto"]
STRICT = [*SCOPE, "asyncio_mode=strict"]


def run(folder: Path, tests: str, *options: str, conftest: str = CONFTEST) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_shop.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "--rootdir", str(folder)]
    return subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("options", [WITHOUT, AUTO, STRICT], ids=["without", "auto", "strict"])
def test_a_coroutine_function_that_takes_the_fleet_is_a_test(tmp_path: Path, options: list[str]) -> None:
    ended = run(tmp_path, PASSING, *options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 passed" in ended.stdout


@pytest.mark.parametrize("options", [WITHOUT, AUTO], ids=["without", "auto"])
def test_what_fails_says_why(tmp_path: Path, options: list[str]) -> None:
    ended = run(tmp_path, FAILING, *options)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    for said in ("KeyError: 'its own'", "must be 'async def'", "OSError: the fleet broke", "no_such_setting"):
        assert said in ended.stdout, said


def test_without_an_app_it_says_what_to_define(tmp_path: Path) -> None:
    conftest = 'pytest_plugins = ["swell.testing.plugin"]\n'
    ended = run(tmp_path, "async def test_it(fleet): ...\n", *WITHOUT, conftest=conftest)
    assert "define a fixture 'swell_app'" in ended.stdout
