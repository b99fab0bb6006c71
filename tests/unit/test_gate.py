"""What a hostile or careless client of HTTP cannot do: ask too often, stay silent, send for ever, learn about us."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from litestar import Response, get

from swell.config import Settings
from swell.http import MAX_REQUEST_BYTES, listen, serve, service_app
from swell.patience import MAX_HEAD_BYTES
from swell.rate import MOST_ADDRESSES, RateLimit
from tests.unit.test_http import GUARDED, app_with, asking, raising, take_order

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "STEAL")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# How often.


def test_an_address_may_ask_a_seconds_worth_at_once_and_then_at_its_rate() -> None:
    clock = Clock()
    limit = RateLimit(10, clock)
    assert [limit.wait_s("a") for _ in range(10)] == [0.0] * 10
    assert limit.wait_s("a") == pytest.approx(0.1)
    clock.now += 0.1001
    assert limit.wait_s("a") == 0.0
    assert limit.wait_s("a") > 0
    clock.now += 60
    assert [limit.wait_s("a") for _ in range(10)] == [0.0] * 10
    assert limit.wait_s("a") > 0


def test_one_address_costs_another_nothing() -> None:
    limit = RateLimit(1, Clock())
    assert [limit.wait_s("10.0.0.1"), limit.wait_s("10.0.0.2")] == [0.0, 0.0]
    assert limit.wait_s("10.0.0.1") > 0


def test_all_addresses_of_one_ipv6_network_share_a_bucket() -> None:
    limit = RateLimit(1, Clock())
    assert limit.wait_s("2001:db8::1") == 0.0
    assert limit.wait_s("2001:db8::2") > 0
    assert limit.wait_s("2001:db8:0:1::1") == 0.0
    assert limit.wait_s("fe80::1%eth0") == 0.0
    assert limit.wait_s("not: an address") == 0.0


def test_the_addresses_remembered_are_bounded() -> None:
    limit = RateLimit(1, Clock())
    for number in range(MOST_ADDRESSES + 100):
        limit.wait_s(str(number))
    assert len(limit._full_at) == MOST_ADDRESSES


async def test_who_asks_too_often_is_told_to_wait_with_or_without_the_token() -> None:
    settings = replace(GUARDED, http_rate=3)
    for headers in ({}, {"authorization": "Bearer s3cret"}):
        async with asking(app_with(settings=settings)) as client:
            answers = [await client.get("/metrics", headers=headers) for _ in range(4)]
        assert answers[-1].status_code == 429
        assert answers[-1].headers["retry-after"] == "1"
        assert answers[-1].json()["detail"].startswith("this address asks too often; try again in 0.")
        assert answers[-2].status_code != 429


async def test_at_the_default_rate_a_burst_of_a_thousand_passes() -> None:
    async with asking(app_with()) as client:
        assert {(await client.get("/livez")).status_code for _ in range(1000)} == {200}


# Who.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ["/metrics", "/orders", "//livez", "/LIVEZ", "/livez%2f", "/livez/../metrics"])
async def test_without_the_token_nothing_but_the_two_probes_is_told(method: str, path: str) -> None:
    async with asking(app_with(take_order, settings=GUARDED)) as client:
        answer = await client.request(method, path)
    assert answer.status_code == 401


@pytest.mark.parametrize("method", METHODS)
async def test_the_probes_answer_to_get_alone(method: str) -> None:
    async with asking(app_with(settings=GUARDED)) as client:
        answer = await client.request(method, "/livez?x")
    assert answer.status_code == {"GET": 200, "OPTIONS": 204}.get(method, 405)


async def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []
    real = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr("swell.gate.hmac.compare_digest", compare)
    async with asking(app_with(settings=GUARDED)) as client:
        await client.get("/metrics", headers={"authorization": "Bearer s3creT"})
    assert compared == [(b"s3creT", b"s3cret")]


# What browsers are told.


@get("/page", media_type="text/html", sync_to_thread=False)
def page() -> Response[str]:
    return Response("<p>", headers={"content-security-policy": "default-src 'self'"}, media_type="text/html")


async def test_every_answer_forbids_browsers_to_guess_keep_frame_or_run_it() -> None:
    async with asking(app_with(raising(ValueError("defect")), settings=GUARDED)) as client:
        token = {"authorization": "Bearer s3cret"}
        answers = [
            *(await client.get("/livez"), await client.get("/metrics"), await client.get("/metrics", headers=token)),
            *(await client.get("/nowhere", headers=token), await client.get("/raise", headers=token)),
        ]
    assert [answer.status_code for answer in answers] == [200, 401, 200, 404, 500]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["referrer-policy"] == "no-referrer"


async def test_a_page_may_have_a_policy_of_its_own() -> None:
    async with asking(app_with(page)) as client:
        answer = await client.get("/page")
    assert answer.headers.get_list("content-security-policy") == ["default-src 'self'"]


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_no_answer_lets_pages_of_other_sites_read_it(method: str) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for settings in (Settings(), GUARDED):
        async with asking(app_with(take_order, settings=settings)) as client:
            answer = await client.request(method, "/orders", headers=asked | {"authorization": "Bearer s3cret"})
        assert not [name for name in answer.headers if name.startswith("access-control-")]


# What comes in, byte by byte.


@contextlib.asynccontextmanager
async def serving(*routes: Any) -> AsyncIterator[tuple[str, int]]:
    listening = listen("127.0.0.1", 0, 0)
    stop = asyncio.Event()
    app = service_app("worker", Settings(), {}, routes, lambda: b"")
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(app, listening, stop))
        try:
            yield listening.socket.getsockname()[:2]
        finally:
            stop.set()


async def said(place: tuple[str, int], *parts: bytes) -> bytes:
    """All that the service answers to these bytes until it closes the connection."""
    reader, writer = await asyncio.open_connection(*place)
    try:
        for part in parts:
            writer.write(part)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


HEAD = b"POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"GET /livez HT",),
        (b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n",),
        (HEAD + b"Content-Length: 9\r\n\r\n{",),
    ],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
async def test_a_request_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]) -> None:
    monkeypatch.setattr("swell.patience.REQUEST_TIMEOUT_S", 0.05)
    async with serving(take_order) as place:
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in await said(place, *parts)


async def test_a_drip_after_the_answer_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swell.patience.REQUEST_TIMEOUT_S", 0.3)
    async with serving(take_order) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 404 " in await reader.readline()
        with contextlib.suppress(OSError):
            async with asyncio.timeout(20):
                while not writer.transport.is_closing():
                    writer.write(b"1\r\nx\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
        writer.close()


async def test_a_request_that_takes_its_time_within_the_limit_is_answered_and_the_connection_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swell.patience.REQUEST_TIMEOUT_S", 5.0)
    async with serving(take_order) as place:
        reader, writer = await asyncio.open_connection(*place)
        for _ in range(2):
            for part in (HEAD, b"Content-Length: 12\r\n\r\n", b'{"count"', b": 1}"):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b'"count":1' in await reader.readuntil(b"}")
        writer.close()


async def test_an_endless_body_without_a_length_is_cut_at_the_limit() -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    async with serving(take_order) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        while not answer.done():
            writer.write(chunk)
            sent += 65_536
            await writer.drain()
            assert sent < 50 * MAX_REQUEST_BYTES
        assert b" 413 " in await answer
        assert b"problem+json" in answer.result()
        writer.transport.abort()


async def test_a_head_larger_than_the_limit_is_refused() -> None:
    async with serving() as place:
        with contextlib.suppress(ConnectionResetError):
            answer = await said(
                place, b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 65_536)
            )
            assert b" 400 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_without_a_word_about_us(garbage: bytes) -> None:
    async with serving() as place:
        answer = await said(place, garbage)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == b"Invalid HTTP request received."
    assert b"server:" not in head.lower()


async def test_contradicting_lengths_are_refused() -> None:
    """What one server reads as one request must not be two to another (request smuggling)."""
    async with serving(take_order) as place:
        for lengths in (b"Content-Length: 3\r\nContent-Length: 5\r\n", b"Content-Length: -1\r\n"):
            assert b" 400 " in (await said(place, HEAD + lengths + b"\r\n{}")).splitlines()[0]


async def test_one_connection_too_many_is_refused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swell.patience.MOST_CONNECTIONS", 2)
    async with serving() as place, httpx.AsyncClient(base_url=f"http://{place[0]}:{place[1]}") as client:
        assert (await client.get("/livez")).status_code == 200
        _, second = await asyncio.open_connection(*place)
        assert (await said(place)).startswith(b"HTTP/1.1 503 ")
        assert (await client.get("/livez")).status_code == 200
        second.close()
        await second.wait_closed()
