"""Tests that are given a fleet: plain functions to pytest, whatever plugins there are."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from swell.app import App
from swell.errors import AppError
from swell.testing.fleet import running
from swell.testing.virtual_time import run_in_virtual_time

Test = Callable[..., Coroutine[Any, Any, None]]


def fleet_test(
    app: App, *, workers: int = 1, virtual_time: bool = True, **settings: Any
) -> Callable[[Test], Callable[..., None]]:
    """Make a test of a coroutine function whose first parameter is a fleet that runs the app; the others are fixtures.

    Args:
        app: what the fleet runs.
        workers: how many workers it has.
        virtual_time: whether waits are over at once. Without it, time is real: for agents that talk to sockets or
            processes.
        settings: as of `running`.

    Raises:
        AppError: the function is no coroutine function, or has no parameter.
    """

    def declare(test: Test) -> Callable[..., None]:
        parameters = list(inspect.signature(test).parameters.values())
        if not inspect.iscoroutinefunction(test) or not parameters:
            raise AppError(f"{test.__qualname__} must be 'async def' and take the fleet as its first parameter")

        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            async def main() -> None:
                async with running(app, workers=workers, **settings) as fleet:
                    await test(fleet, **fixtures)

            if virtual_time:
                run_in_virtual_time(main)
            else:
                asyncio.run(main())

        run.__signature__ = inspect.Signature(parameters[1:])  # type: ignore[attr-defined]
        # pytest looks through `wraps` for the parameters, and would ask for a fixture of the fleet's name.
        del run.__wrapped__
        return run

    return declare
