"""Whatever the user's code raises where an agent is made, and where bodies are checked, its worker goes on."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import msgspec
import pytest

from swell import Agent, App, HandlerFailed, StartFailed, UnknownAgent, handler
from swell.instruments import Recorder
from swell.testing import run_in_virtual_time
from swell_worker import life, retrying
from swell_worker.pools import Pools
from tests.unit.brokers import NO_WAIT, Rig, rig_of

EXITS = [SystemExit(3), asyncio.CancelledError(), BaseExceptionGroup("both", [SystemExit(3)])]
NAMES = ["SystemExit", "cancelled", "BaseExceptionGroup"]
app = App("exits")


class Made(Agent):
    """Cannot be made as long as there is trouble."""

    trouble: ClassVar[list[BaseException]] = []
    made: ClassVar[list[Made]] = []
    dropped: ClassVar[list[Made]] = []

    def __init__(self) -> None:
        if self.trouble:
            raise self.trouble[0]
        self.made.append(self)

    def _swell_dropped(self) -> None:
        self.dropped.append(self)

    @handler
    async def note(self, body: int) -> int:
        return body


class Prepared(Made):
    async def prepare(self) -> None:
        raise SystemExit(4)


class Strict(msgspec.Struct):
    """Its own check ends the process, or would."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise SystemExit(5)


class Checked(Agent):
    async def started(self, body: Strict) -> None:
        pass

    @handler
    async def take(self, body: Strict) -> int:
        return body.number


app.agent("made", max_restarts=1)(Made)
app.agent("prepared")(Prepared)
app.agent("checked", max_attempts=2)(Checked)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    monkeypatch.setattr(life, "RESTART", NO_WAIT)
    for told in (Made.trouble, Made.made, Made.dropped):
        told.clear()


async def spawn(rig: Rig, id: str, args: object = None) -> None:
    await rig.client.request("0", id, "$spawn", {"plan": "p", "args": args}, 10.0)


@pytest.mark.parametrize(("what", "name"), list(zip(EXITS, NAMES, strict=True)), ids=NAMES)
async def test_an_agent_that_cannot_be_made_is_failed_and_its_worker_goes_on(what: BaseException, name: str) -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await spawn(rig, "made/1")
        Made.trouble.append(what)
        with pytest.raises(StartFailed, match=name):
            await spawn(rig, "made/2")
        record = await rig.record("made/2")
        assert record is not None
        assert record.state == "failed"
        assert name in record.reason
        assert await rig.client.ask("made/1", "note", 1) == 1


async def test_an_agent_that_cannot_be_made_at_a_takeover_is_failed_when_its_restarts_are_used_up() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await spawn(rig, "made/1")
        await first.leave()
        Made.trouble.append(SystemExit(3))
        await rig.start(app)
        with pytest.raises(UnknownAgent, match=r"started again 1 times within 60 s: .*SystemExit: 3"):
            await rig.client.ask("made/1", "note", 1)
        Made.trouble.clear()
        await spawn(rig, "made/1")
        assert await rig.client.ask("made/1", "note", 1) == 1


async def test_an_instance_whose_set_up_fails_is_dropped() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        with pytest.raises(StartFailed, match="SystemExit: 4"):
            await spawn(rig, "prepared/1")
        assert len(Made.made) == 1
        assert Made.dropped == Made.made


async def test_checks_of_bodies_and_of_arguments_end_no_worker() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        with pytest.raises(StartFailed, match="SystemExit: 5"):
            await spawn(rig, "checked/1", {"number": -1})
        await spawn(rig, "checked/1", {"number": 1})
        with pytest.raises(HandlerFailed, match="failed 2 times, at last: RuntimeError: SystemExit: 5"):
            await rig.client.ask("checked/1", "take", {"number": -1})
        assert await rig.client.ask("checked/1", "take", {"number": 2}) == 2


@pytest.mark.parametrize("what", EXITS, ids=NAMES)
def test_a_pool_whose_instances_cannot_be_made_counts_it_and_tries_again(what: BaseException) -> None:
    async def main() -> None:
        warm = App("warm")
        warm.agent("made", warm=1)(Made)
        recorder = Recorder("test")
        pools = Pools(warm, recorder)
        Made.trouble.append(what)
        async with asyncio.TaskGroup() as group:
            pools.attach(group)
            await asyncio.sleep(600)
            assert recorder.counter("pool_failures", "made").n > 3
            assert pools.ready()[0], "it holds up no start"
            Made.trouble.clear()
            await asyncio.sleep(600)
            assert pools.count() == 1
            await pools.close(1)
        assert Made.dropped == Made.made

    run_in_virtual_time(main)
