"""Fixtures for pytest: a fleet that runs your app in memory and in virtual time.

    # conftest.py
    pytest_plugins = ["swell.testing.plugin"]

    @pytest.fixture
    def swell_app() -> App:
        return app

    # test_orders.py
    async def test_orders_are_counted(fleet: Fleet) -> None:
        await fleet.spawn("counter", keys=["tea"])

A test that takes `fleet` is run in the loop in which the fleet lives, with or without pytest-asyncio: that loop skips
time, and no other could wait for it. Needs pytest, which nothing else of Swell does.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest

from swell.app import App
from swell.testing.fleet import Fleet, running
from swell.testing.virtual_time import VirtualTimeLoop, virtual_clock

__all__ = ["fleet", "swell_app", "swell_settings"]

Test = Callable[..., Coroutine[Any, Any, None]]


class _Hosted:
    """A fleet that lives in a task of its own, from a fixture's beginning to its end.

    The task is one and the same for both, as its task group wants it; what runs in between runs beside it.
    """

    def __init__(self, runner: asyncio.Runner, app: App, settings: Mapping[str, Any]) -> None:
        self._runner = runner
        self._loop = runner.get_loop()
        self._fleet: asyncio.Future[Fleet] = self._loop.create_future()
        self._over = asyncio.Event()
        self._hosting = self._loop.create_task(self._host(app, settings))
        self._told = False

    async def _host(self, app: App, settings: Mapping[str, Any]) -> None:
        async with running(app, **settings) as fleet:
            self._fleet.set_result(fleet)
            await self._over.wait()

    def begin(self) -> Fleet:
        """Return when it runs."""

        async def begun() -> Fleet:
            return await self._fleet

        fleet: Fleet = self._runner.run(self._beside(begun()))
        return fleet

    def run(self, test: Coroutine[Any, Any, Any]) -> None:
        """Run a test in its loop."""
        self._runner.run(self._beside(test))

    def end(self) -> None:
        """Stop it; an error of its own comes out here, unless it ended a test before."""

        async def ended() -> None:
            self._over.set()
            await asyncio.wait({self._hosting})
            if not self._told:
                await self._hosting

        self._runner.run(ended())

    async def _beside(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await something, unless the fleet fails first: then its error is the one to see."""
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, self._hosting}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            self._told = True
            await self._hosting
        return await task


_HOSTED = pytest.StashKey[_Hosted]()


@pytest.fixture
def swell_app() -> App:
    """The app that `fleet` runs: override it, in a conftest, a module or a class."""
    raise pytest.UsageError(
        "define a fixture 'swell_app' that returns your App: @pytest.fixture def swell_app(): return app"
    )


@pytest.fixture
def swell_settings() -> dict[str, Any]:
    """How `fleet` runs it, as of `fleet_test`: `workers`, `virtual_time`, settings. Override it; there is none here."""
    return {}


@pytest.fixture
def fleet(request: pytest.FixtureRequest, swell_app: App, swell_settings: Mapping[str, Any]) -> Iterator[Fleet]:
    """A fleet that runs `swell_app`, for one test; see `swell.testing.Fleet`."""
    settings = dict(swell_settings)
    with contextlib.ExitStack() as stack:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if settings.pop("virtual_time", True):
            clock = stack.enter_context(virtual_clock())
            factory = lambda: VirtualTimeLoop(clock)  # noqa: E731
        runner = stack.enter_context(asyncio.Runner(loop_factory=factory))
        hosted = request.node.stash[_HOSTED] = _Hosted(runner, swell_app, settings)
        yield hosted.begin()
        hosted.end()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Run a test that takes `fleet` in the fleet's loop; all others are somebody else's affair."""
    hosted = pyfuncitem.stash.get(_HOSTED, None)
    if hosted is None:
        return None
    test = _coroutine_function(pyfuncitem.obj)
    if test is None:
        pytest.fail(f"{pyfuncitem.name} takes 'fleet', so it must be 'async def'", pytrace=False)
    wanted = pyfuncitem._fixtureinfo.argnames
    hosted.run(test(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


def _coroutine_function(test: Any) -> Test | None:
    """A test's coroutine function, also if pytest-asyncio has wrapped it to run it in a loop of its own."""
    while not inspect.iscoroutinefunction(test):
        test = getattr(test, "__wrapped__", None)
        if test is None:
            return None
    found: Test = test
    return found
