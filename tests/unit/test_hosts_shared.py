"""What hosted agents of a type share: it serves one loop after another, and is gone when its workers are."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import ClassVar

import pytest

from swell import Agent, App, HandlerFailed, hosts
from swell.codec import decode
from swell.hosts.processes import Processes
from swell.testing import Fleet, fleet_test, run_in_virtual_time, running
from swell_worker import releasing
from tests.unit import hosted
from tests.unit.test_hosts import PATIENCE_S, gone, there
from tests.unit.test_hosts_http import Server, server

__all__ = ["server"]


def thread(body: str) -> str:
    return threading.current_thread().name


app = App("shared")
app.agent("process", timeout=PATIENCE_S)(hosts.function(hosted.process, run_in="process", workers=1))
app.agent("thread")(hosts.function(thread, workers=1))
#: Of the tests before: a second one gets others.
processes: set[int] = set()


@pytest.mark.parametrize("time", [1, 2])
@fleet_test(app, workers=2, virtual_time=False)
async def test_functions_in_processes_and_threads_serve_one_test_after_another(fleet: Fleet, time: int) -> None:
    assert not any(there(pid) for pid in processes)
    for type in ("process", "thread"):
        await fleet.spawn(type, keys=["a", "b", "c"])
        # More than there is room for: they wait for each other.
        asked = [fleet.client.ask(f"{type}/{key}", type, "", timeout=PATIENCE_S) for key in "abc"]
        assert len(set(await asyncio.gather(*asked))) == 1, "it is used again"
    processes.add(await fleet.client.ask("process/a", "process", "", int))
    await fleet.stop_worker()
    assert await fleet.client.ask("process/a", "process", "", int) in processes, "the other worker has it still"


async def test_what_a_type_shares_is_gone_when_its_workers_are(server: Server) -> None:
    scorer, writer = hosts.http(f"{server.url}/score"), hosts.chat(server.url, "small")
    one = App("released")
    one.agent("process", timeout=PATIENCE_S)(hosts.function(hosted.process, run_in="process"))
    one.agent("thread")(hosts.function(thread, name="wait"))
    one.agent("scorer")(scorer)
    one.agent("writer", max_attempts=1)(writer)
    async with running(one) as fleet:
        for type in one.types:
            await fleet.spawn(type, keys=["a"])
        pid = await fleet.client.ask("process/a", "process", "", int, timeout=PATIENCE_S)
        name = await fleet.client.ask("thread/a", "wait", "", str)
        assert await fleet.client.ask("scorer/a", "post", 1) == 1
        with pytest.raises(HandlerFailed, match="answered with no completion"):
            await fleet.client.ask("writer/a", "say", "hello")
        (its,) = [one for one in threading.enumerate() if one.name == name]
        clients = [kind.endpoint._client for kind in (scorer, writer)]  # type: ignore[attr-defined]
        assert there(pid)
    assert not there(pid)
    its.join(PATIENCE_S)
    assert not its.is_alive()
    assert [client.is_closed for client in clients] == [True, True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_children_of_a_loop_that_was_closed_over_them_are_killed_by_the_next() -> None:
    pool = Processes(hosted.process, 1)

    async def ask() -> int:
        answers = await asyncio.gather(*(pool.handle(Agent(), "") for _ in range(3)))
        (pid,) = {decode(answer, int) for answer in answers}
        return pid

    async def ask_again() -> tuple[int, int]:
        second = await ask()
        await gone(first)
        return second, await ask()

    first = asyncio.run(ask())
    assert there(first)
    second, third = asyncio.run(ask_again())
    assert first != second == third
    asyncio.run(pool.close())
    asyncio.run(gone(second))
    gc.collect()  # The pipes of the first loop's say here that nobody closed them.


class Sharing(Agent):
    released: ClassVar[list[type[Agent]]] = []

    @classmethod
    async def _swell_release(cls) -> None:
        cls.released.append(cls)


class Failing(Sharing):
    @classmethod
    async def _swell_release(cls) -> None:
        raise RuntimeError("cannot be closed")


class Hanging(Sharing):
    @classmethod
    async def _swell_release(cls) -> None:
        await asyncio.Event().wait()


def test_each_type_is_released_once_after_all_workers_whatever_others_do(caplog: pytest.LogCaptureFixture) -> None:
    Sharing.released.clear()
    one = App("released")
    for name, kind in (("failing", Failing), ("sharing", Sharing), ("again", Sharing), ("hanging", Hanging)):
        one.agent(name)(kind)

    async def main() -> None:
        async with running(one, workers=2) as fleet:
            await fleet.stop_worker()
            assert Sharing.released == []

    with caplog.at_level(logging.WARNING, releasing.__name__):
        run_in_virtual_time(main)
    assert Sharing.released == [Sharing]
    told = [record.getMessage() for record in caplog.records if record.name == releasing.__name__]
    assert told == [
        "what agents of class Failing shared was not let go: RuntimeError('cannot be closed')",
        "what agents shared was not let go within 2 s",
    ]
