"""Whatever bytes come: each reader of ours decodes them or raises `WireError`, and nothing else.

The unit tests feed the readers from hypothesis. To look further, guided by coverage, with atheris (which is not among
the project's dependencies, and needs a Python that it has a wheel for):

    python3.12 -m venv fuzzing && fuzzing/bin/pip install atheris msgspec 'redis[hiredis]' structlog
    PYTHONPATH=shared:services:. fuzzing/bin/python -m tests.fuzz.codec -max_total_time=300 -max_len=4096
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from swell import letters
from swell.codec import decode, decode_batch, decode_replies, encode
from swell.errors import WireError
from swell.letter_view import detail, view
from swell.wire import (
    MEASURE,
    SCHEMA,
    TO_METRICS,
    AgentRecord,
    Batch,
    DeadLetter,
    Failure,
    Live,
    LiveAnswer,
    LiveQuery,
    Measurements,
    Message,
    PlanCancel,
    PlanProgress,
    PlanRecord,
    PlanRequest,
    Reply,
    Snapshot,
    SpawnAgent,
    Spawned,
    Terminated,
    TerminateMany,
    WorkerInfo,
)
from swell_manager.admission import Refusal, check
from swell_metrics.collector import Totals
from swell_metrics.reading import read_report

#: What travels or is kept, besides batches and replies.
STRUCTS = (
    *(
        AgentRecord,
        Failure,
        LiveAnswer,
        LiveQuery,
        Measurements,
        PlanCancel,
        PlanProgress,
        PlanRecord,
        PlanRequest,
        Snapshot,
    ),
    *(SpawnAgent, Spawned, Terminated, TerminateMany, Totals, WorkerInfo, letters.KeptLetter, Any),
)


def read_batch(data: bytes) -> None:
    """An entry of an inbox: the first byte is its count; then each body, and the history it says it has."""
    for message in decode_batch(data[1:], data[0] + 1 if data else 0).messages:
        letters._origin(message.headers)
        decode(message.body, Any)


def read_letter(data: bytes) -> None:
    """A dead letter as people see it: nothing in it may hide the others, so this raises nothing at all."""
    view("0", "1-0", data)
    msgspec.json.encode(detail("0", "1-0", data))


def revive(data: bytes) -> None:
    """A dead letter that is replayed: it becomes a batch that can be read."""
    letter = decode(data, letters.KeptLetter)
    decode_batch(letters.revived(letter, 1), 1)


def read_measurements(data: bytes) -> None:
    """A report to the metrics service."""
    read_report(Message(TO_METRICS, MEASURE, Raw(data), 0))


def read_plan(data: bytes) -> None:
    """A plan's request, checked."""
    try:
        check(decode(data, PlanRequest))
    except Refusal:
        return


def _reader(type: Any) -> Callable[[bytes], object]:
    return lambda data: decode(data, type)


READERS: dict[str, Callable[[bytes], object]] = {
    "batch": read_batch,
    "replies": decode_replies,
    "letter": read_letter,
    "revived letter": revive,
    "measurements": read_measurements,
    "plan": read_plan,
    **{getattr(type, "__name__", "Any"): _reader(type) for type in STRUCTS},
}


def samples() -> list[bytes]:
    """Valid bytes of each kind, to begin with."""
    body = Raw(encode({"a": [1, "x", None, 2.5, b"y"]}))
    message = Message("echo/1", "echo", body, 1, "s", "p", 3, {letters.HEADER: '{"id":"0:1-0:0","history":[]}'})
    request = PlanRequest("p", "echo", keys=["a"], args=body)
    return [
        b"\x00" + encode(Batch(SCHEMA, "producer", 1, [message.alone()])),
        b"\x01" + encode(Batch(SCHEMA, "producer", 1, [message.alone(), message.alone()])),
        b"\x02" + encode([SCHEMA, "producer", 1, [["echo/1", "echo", 2, [1, {"a": b"x"}], 5], message.alone()]]),
        encode([Reply(1, 0, body)]),
        encode(DeadLetter("0:1-0:0", "echo/1", "echo", {"a": 1}, "poison", "why", 3, "trace", "s", 1, 2)),
        encode(AgentRecord("echo", "1", "ready", args=body)),
        encode(Snapshot(1, 1, bytes(body))),
        encode(PlanRecord(request, PlanProgress("p", "echo", "running", 1), [("p", 1)])),
        encode(request),
        encode(
            Measurements(
                "p", {"acked": {"echo": 1}}, {"handle": {"echo": {1: 2}}}, {"handle": {"echo": 5}}, {"agents": 1}
            )
        ),
        encode(WorkerInfo("p", "worker", 1, "h", types=["echo"])),
        encode(TerminateMany(ids=["echo/1"])),
        encode(SpawnAgent("p", body)),
        encode(Spawned(0.5, True)),
        encode(Terminated(1, {"echo/1": "why"})),
        encode(PlanCancel("p", "keep")),
        encode(PlanProgress("p", "echo", "running", 1)),
        encode(LiveQuery(["echo/1"])),
        encode(LiveAnswer("w", {"echo/1": Live("idle", 1, 2)})),
        encode(Totals()),
        encode(Failure("poison", "m", "echo/1", {"field": "$"})),
    ]


def read_all(data: bytes) -> None:
    """Give the same bytes to every reader."""
    for read in READERS.values():
        try:
            read(data)
        except WireError:
            continue


def main() -> None:
    """Run atheris with libFuzzer's own arguments."""
    import atheris

    with tempfile.TemporaryDirectory() as corpus:
        for number, sample in enumerate(samples()):
            (Path(corpus) / str(number)).write_bytes(sample)
        atheris.instrument_all()
        atheris.Setup([*sys.argv, corpus], read_all)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
