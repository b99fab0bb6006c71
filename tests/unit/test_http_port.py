"""Where a service listens: the port it takes, the address it tells, and how it begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import httpx
import pytest

from swell import errors
from swell.http import Listening, announce, listen, serve
from swell.wire import WorkerInfo
from tests.unit.test_http import app_with


def port_of(listening: Listening) -> int:
    return int(listening.socket.getsockname()[1])


def test_a_taken_port_is_a_setting_error_that_says_which_and_what_to_do() -> None:
    with contextlib.closing(listen("127.0.0.1", 0, 8700).socket) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(errors.ConfigError) as raised:
            listen("127.0.0.1", port, 8700)
    assert raised.value.setting == "port"
    assert str(port) in str(raised.value)
    assert "SWELL_PORT" in str(raised.value)


def test_a_service_that_walks_takes_the_next_free_port_after_the_default_one() -> None:
    with contextlib.closing(listen("127.0.0.1", 0, 0).socket) as holder:
        taken = holder.getsockname()[1]
        walked = listen("127.0.0.1", None, taken, walk=True)
        walked.socket.close()
        with pytest.raises(errors.ConfigError):
            listen("127.0.0.1", taken, 1, walk=True)
    assert port_of_url(walked.url) > taken


def port_of_url(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_an_address_of_another_machine_is_a_setting_error() -> None:
    with pytest.raises(errors.ConfigError) as raised:
        listen("192.0.2.1", 0, 8700)
    assert raised.value.setting == "host"


def test_the_url_is_one_that_others_can_reach() -> None:
    info = WorkerInfo("worker-1", "worker", 1, "here")
    everywhere = listen("0.0.0.0", 0, 8700)
    announce(everywhere, info)
    port = port_of(everywhere)
    everywhere.socket.close()
    assert info.http == f"http://{socket.gethostname()}:{port}"


async def test_serving_answers_over_tcp_and_ends_with_the_stop_event() -> None:
    listening = listen("127.0.0.1", 0, 8700)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(app_with(), listening, stop))
        async with httpx.AsyncClient(base_url=listening.url) as client:
            answer = await client.get("/livez")
        stop.set()
    assert answer.json()["status"] == "ok"
    assert "server" not in answer.headers
    assert listening.socket.fileno() == -1


async def test_serving_that_is_cancelled_closes_its_port() -> None:
    listening = listen("127.0.0.1", 0, 8700)
    port = port_of(listening)
    serving = asyncio.ensure_future(serve(app_with(), listening, asyncio.Event()))
    async with httpx.AsyncClient(base_url=listening.url) as client:
        await client.get("/livez")
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    listen("127.0.0.1", port, 8700).socket.close()
