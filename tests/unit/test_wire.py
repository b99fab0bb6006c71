"""The wire: its layout is fixed byte by byte, and older and newer processes read each other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from swell import topics, wire
from swell.codec import decode, encode, raw
from swell.errors import FAILURES, CallError, WireError
from swell.where import Where


def plain(value: Any) -> Any:
    """A struct as any other MessagePack reader sees it."""
    return msgspec.msgpack.decode(encode(value))


def test_a_batch_is_laid_out_as_the_module_says() -> None:
    message = wire.Message("echo/1", "echo", raw({"a": 1}), 12, "s/1", "client", 3, {"traceparent": "00"}, 99)
    batch = wire.Batch(wire.SCHEMA, "producer", 7, [message.alone()])
    fields = ["echo/1", "echo", 1, [{"a": 1}], 12, "s/1", "client", 3, {"traceparent": "00"}, 99]
    assert plain(batch) == [2, "producer", 7, [fields]]


def test_a_series_is_its_messages() -> None:
    series = decode(encode(["echo/1", "echo", 3, [1, "two", None], 12, "s/1"]), wire.Series)
    messages = [wire.Message("echo/1", "echo", raw(body), 12, "s/1") for body in (1, "two", None)]
    assert series.messages() == messages
    assert [series.message(place) for place in range(3)] == messages
    assert series.singles() == [message.alone() for message in messages]
    assert wire.Batch(wire.SCHEMA, "p", 1, [messages[0].alone(), series]).messages == [messages[0], *messages]


def test_trailing_defaults_of_a_series_may_be_left_out() -> None:
    read = decode(encode(["echo/1", "echo", 1, [None], 12]), wire.Series)
    assert (read.sender, read.reply_to, read.call, read.headers) == ("", "", 0, None)


def test_fields_that_a_newer_release_adds_to_a_series_are_passed_over() -> None:
    read = decode(encode(["echo/1", "echo", 1, [None], 12, "", "", 0, None, 0, "new"]), wire.Series)
    assert read.to == "echo/1"


def test_a_reply_is_laid_out_as_the_module_says() -> None:
    assert plain([wire.Reply(3, wire.DONE, raw("x"))]) == [[3, 0, "x"]]
    assert len({wire.DONE, wire.FAILED, wire.PROGRESS}) == 3


def test_the_systems_own_names_cannot_be_handlers_nor_agents() -> None:
    names = [wire.SPAWN, wire.TERMINATE, wire.LIVE, wire.PLAN, wire.PLAN_CANCEL, wire.TERMINATE_MANY, wire.MEASURE]
    names += [wire.EVENT, wire.SUBSCRIBE, wire.MEMBER]
    names += [wire.TO_CONTROL, wire.TO_METRICS, wire.TO_SHARD]
    assert len(set(names)) == len(names)
    assert all(name.startswith("$") and "/" not in name for name in names)


LIVES: list[Any] = [
    wire.Failure("wrong_body", "no", "echo/1", {"field": "$.a"}),
    wire.DeadLetter("0:1-0:1", "echo/1", "echo", {"a": [1]}, "handler_failed", "why", 3, at_ms=5),
    wire.Death("poison", "why", 2, 5),
    wire.Snapshot(3, 1, b"\x80"),
    wire.AgentRecord("echo", "1", "idle", plan="p", generation=2, args=raw({"a": 1}), reason="r", since_ms=1),
    wire.Hold("quarantined", "it keeps crashing", 1),
    wire.ResizeRequest("echo", 5, wave_size=2, args=raw({"a": 1})),
    wire.Subscription("a.*", "note", Where("eq", "size", 1), "group", "random"),
    wire.SpawnAgent("p", raw([1])),
    wire.Spawned(0.5, already=True),
    wire.TerminateAgent("p"),
    wire.LiveQuery(["echo/1"]),
    wire.Live("working", 3, 4),
    wire.LiveAnswer("worker", {"echo/1": wire.Live("idle", 0, 1)}),
    wire.PlanRequest("p", "echo", count=3, keys=["a"], pacing="barrier", on_abort="keep", args=raw(1)),
    wire.PlanProgress("p", "echo", "running", 10, ready=3, failures={"echo/1": "why"}),
    wire.PlanRecord(wire.PlanRequest("p", "echo"), wire.PlanProgress("p", "echo", "done", 0), [("client", 3)]),
    wire.PlanCancel("p", "rollback", "key"),
    wire.TerminateMany(type="echo", key="key"),
    wire.Terminated(3, {"echo/1": "why"}),
    wire.WorkerInfo("w", "worker", 1, "host", types=["echo"], started_ms=1),
    wire.Measurements("w", {"handled": {"echo": 3}}, {"start": {"echo": {17: 2}}}, {"start": {"echo": 9}}, {"g": 0.5}),
]


#: Bodies of the messages that are about events.
EVENTS: list[Any] = [
    topics.Event("a.b", raw({"size": 1})),
    topics.Subscribe("echo/1", wire.Subscription("a.*", "note"), end=True),
    topics.Member("echo/1", wire.Subscription("a.*", "note", group="group")),
]


@pytest.mark.parametrize("value", [*LIVES, *EVENTS], ids=lambda value: type(value).__name__)
def test_everything_on_the_wire_comes_back_as_it_was_sent(value: Any) -> None:
    again = decode(encode(value), type(value))
    assert plain(again) == plain(value)
    assert encode(again) == encode(value)


def test_every_struct_of_the_wire_is_tried_here() -> None:
    structs = {t for t in vars(wire).values() if isinstance(t, type) and issubclass(t, msgspec.Struct)}
    assert structs - {msgspec.Struct} == {type(value) for value in LIVES} | {
        wire.Message,
        wire.Series,
        wire.Batch,
        wire.Reply,
    }


def test_defaults_are_not_sent() -> None:
    assert plain(wire.PlanRequest("p", "echo")) == {"id": "p", "type": "echo"}
    assert plain(wire.SpawnAgent("p")) == {"plan": "p"}


def test_defaults_are_not_shared_between_requests() -> None:
    wire.PlanRequest("p", "echo").keys.append("x")
    wire.Measurements("w").counts["a"] = {}
    assert wire.PlanRequest("q", "echo").keys == []
    assert wire.Measurements("w").counts == {}


@pytest.mark.parametrize(
    ("sent", "type", "says"),
    [
        ({"id": "p", "type": "echo", "wave_sise": 3}, wire.PlanRequest, "wave_sise"),
        ({"id": "p", "type": "echo", "pacing": "fast"}, wire.PlanRequest, r"\$\.pacing"),
        ({"id": "p"}, wire.PlanRequest, "type"),
        ({"id": "p", "type": "echo", "count": "three"}, wire.PlanRequest, r"\$\.count"),
        ({"idz": ["a/1"]}, wire.TerminateMany, "idz"),
        ({"type": "echo", "key": "1", "state": "asleep"}, wire.AgentRecord, r"\$\.state"),
    ],
)
def test_a_wrong_request_names_the_wrong_field(sent: dict[str, Any], type: type[Any], says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode(encode(sent), type)


def test_a_process_may_say_more_of_itself_than_an_older_one_knows() -> None:
    info = {"process": "w", "role": "worker", "pid": 1, "host": "h", "gpu": True}
    assert decode(encode(info), wire.WorkerInfo).process == "w"


def test_every_kind_of_failure_becomes_an_error_with_its_fields() -> None:
    for error in FAILURES.values():
        raised = error("echo/1", "text", field="$.a")
        assert isinstance(raised, CallError)
        assert (raised.agent, raised.detail, str(raised)) == ("echo/1", {"field": "$.a"}, "text")
