"""What can be listed is listed, whatever stands beside it."""

from __future__ import annotations

import pytest

from swell.codec import encode
from swell.keys import CONTROL
from swell.wire import AgentRecord
from tests.unit.brokers import rig_of


async def test_records_that_cannot_be_read_hide_no_others_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    async with rig_of() as rig:
        space = rig.server.namespace("tests")
        space.shard("0").records |= {
            "echo/1": encode(AgentRecord("echo", "1", "ready")),
            "echo/2": b"\xc1 no record",
            "echo/3": encode({"of": "another release"}),
        }
        space.shard(CONTROL).records |= {"plan/broken": b"\x00"}
        await rig.broker.heartbeat("worker", "strange", 60_000, b"\xff\xff")
        assert [one.id for one in await rig.client.agents()] == ["echo/1"]
        assert await rig.client.plans() == []
        assert await rig.client.workers() == []
    assert {record.__dict__.get("record") for record in caplog.records} >= {
        "echo/2",
        "echo/3",
        "plan/broken",
        "strange",
    }
