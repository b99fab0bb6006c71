"""The tables and drawings of `make cost`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cost import SWEEPS, batches_of, draw, table
from tests.unit.brokers import rig_of

ROWS = [{"agents": 10, "messages_per_s": 500_000, "p95_ms": 0.5}, {"agents": 100, "messages_per_s": 4, "p95_ms": 1.5}]


def test_a_table_has_a_row_for_each_point() -> None:
    assert table(ROWS).splitlines() == [
        "| agents | messages_per_s | p95_ms |",
        "| ---: | ---: | ---: |",
        "| 10 | 500,000 | 0.5 |",
        "| 100 | 4 | 1.5 |",
    ]


def test_each_sweep_is_drawn_with_its_values(tmp_path: Path) -> None:
    memory = [{"agents": 1000, "worker_kib_per_agent": 6.5, "server_kib_per_agent": 0.5}]
    draw({"agents": ROWS, "memory": memory}, tmp_path)
    assert "messages_per_s for agents 10, 100" in (tmp_path / "agents.svg").read_text()
    assert "worker_kib_per_agent for memory 1,000" in (tmp_path / "memory.svg").read_text()


def test_the_sweeps_reach_what_was_asked_for() -> None:
    assert {name: (min(full), max(full)) for name, (full, _) in SWEEPS.items()} == {
        "agents": (10, 100_000),
        "shards": (1, 64),
        "senders": (1, 100),
        "body": (10, 1_000_000),
        "workers": (1, 2),
        "batch": (1, 256),
    }


async def test_batches_are_as_small_as_asked_for_and_lose_nothing() -> None:
    async with rig_of() as rig:
        with batches_of(3):
            await rig.client.send_many((f"any/{n % 2}", "note", n) for n in range(100))
        await rig.client.send_many(("any/1", "note", n) for n in range(100))
        await rig.broker.acquire("0", "reader", 60_000)
        counts = [one.count for one in await rig.broker.read("reader", ["0"], 1000, 0)]
    assert sum(counts) == 200
    assert max(counts[:-1]) == 3
    assert counts[-1] == 100
