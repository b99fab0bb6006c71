"""The HTTP base of all services: health, errors as problem documents, who may ask, and the port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest
from litestar import get, post
from litestar.params import JSONBody
from litestar.types import ASGIApp

from swell import errors
from swell.config import Settings
from swell.http import Check, broker_check, service_app

SETTINGS, LOCAL = Settings(), "http://127.0.0.1:8700"


class Order(msgspec.Struct, forbid_unknown_fields=True):
    count: int
    note: str = ""


@post("/orders", status_code=200)
async def take_order(data: JSONBody[Order]) -> Order:
    return data


def raising(error: Exception) -> Any:
    @get("/raise")
    async def route() -> None:
        raise error

    return route


def app_with(
    *routes: Any, checks: Mapping[str, Check] | None = None, settings: Settings = SETTINGS, metrics: bytes = b"up 1\n"
) -> ASGIApp:
    return service_app("worker", settings, checks or {}, routes, lambda: metrics)


@contextlib.asynccontextmanager
async def asking(app: ASGIApp, base: str = LOCAL) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:  # type: ignore[arg-type]
        yield client


async def answer_to(error: Exception) -> httpx.Response:
    async with asking(app_with(raising(error))) as client:
        return await client.get("/raise")


def checked(ok: bool, reason: str) -> Check:
    async def check() -> tuple[bool, str]:
        return ok, reason

    return check


# Health.


async def test_livez_answers_although_every_check_fails() -> None:
    async with asking(app_with(checks={"redis": checked(False, "away")})) as client:
        answer = await client.get("/livez")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


async def test_readyz_gives_the_reason_of_each_check() -> None:
    checks = {"redis": checked(True, "answers"), "leases": checked(True, "owns 4 of 4 shards")}
    async with asking(app_with(checks=checks)) as client:
        answer = await client.get("/readyz?verbose")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "service": "worker",
        "checks": {
            "redis": {"ok": True, "reason": "answers"},
            "leases": {"ok": True, "reason": "owns 4 of 4 shards"},
        },
    }


async def test_one_failing_check_makes_the_service_unready_and_the_others_still_speak() -> None:
    checks = {"redis": checked(True, "answers"), "leases": checked(False, "owns none")}
    async with asking(app_with(checks=checks)) as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.json()["checks"]["redis"] == {"ok": True, "reason": "answers"}
    assert answer.json()["checks"]["leases"] == {"ok": False, "reason": "owns none"}


async def test_a_check_that_raises_our_error_has_failed_with_its_text() -> None:
    async def away() -> tuple[bool, str]:
        raise errors.BrokerUnavailable("redis://x cannot be reached")

    async with asking(app_with(checks={"redis": away})) as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["redis"]["reason"] == "redis://x cannot be reached"


async def test_a_check_that_hangs_has_failed_and_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swell.http.CHECK_TIMEOUT_S", 0.01)
    ended = asyncio.Event()

    async def hangs() -> tuple[bool, str]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return True, ""

    async with asking(app_with(checks={"redis": hangs})) as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, ended.is_set()) == (503, True)
    assert answer.json()["checks"]["redis"] == {"ok": False, "reason": "no answer within 0.01 s"}


@pytest.mark.parametrize(("trouble", "said"), [("", "answers in 0.5 ms"), ("it forgets", "it forgets")])
async def test_the_check_of_the_server_reports_how_long_it_took_or_what_is_wrong_with_it(
    trouble: str, said: str
) -> None:
    class Answering:
        async def ping(self) -> float:
            return 0.0005

        async def trouble(self) -> str:
            return trouble

    assert await broker_check(Answering())() == (not trouble, said)  # type: ignore[arg-type]


async def test_metrics_are_prometheus_text() -> None:
    async with asking(app_with(metrics=b"swell_up 1\n")) as client:
        answer = await client.get("/metrics")
    assert answer.content == b"swell_up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_openapi_describes_the_routes_and_is_the_only_page_about_them() -> None:
    async with asking(app_with(take_order)) as client:
        answer = await client.get("/openapi.json")
        pages = [(await client.get(path)).status_code for path in ("/schema", "/", "/schema/swagger", "/docs")]
    assert {"/livez", "/readyz", "/metrics", "/orders"} <= answer.json()["paths"].keys()
    assert answer.headers["content-type"].startswith("application/json")
    assert pages == [404, 404, 404, 404]


# Problem documents.

CASES: list[tuple[errors.SwellError, int, dict[str, Any]]] = [
    (errors.UnknownAgent("echo/1", "no agent echo/1"), 404, {"agent": "echo/1"}),
    (errors.UnknownType("ecko/1", "no type"), 404, {"agent": "ecko/1"}),
    (errors.UnknownHandler("echo/1", "no handler", handler="ecko"), 404, {"handler": "ecko"}),
    (errors.WrongBody("echo/1", "expected int", handler="echo", field="$.count"), 422, {"field": "$.count"}),
    (errors.AgentExists("echo/1", "exists"), 409, {"agent": "echo/1"}),
    (errors.CallTimeout("echo/1", "echo", 5.0), 504, {"agent": "echo/1", "handler": "echo", "timeout_s": 5.0}),
    (errors.Busy("3", 70_000, 1.6), 429, {"shard": "3", "depth": 70_000, "retry_after_s": 1.6}),
    (errors.BrokerUnavailable("away"), 503, {}),
    (errors.BrokerFull("OOM"), 503, {}),
    (errors.HandlerFailed("echo/1", "boom", attempts=3, traceback="secret"), 502, {"attempts": 3}),
    (errors.StartFailed("echo/1", "boom"), 502, {"agent": "echo/1"}),
    (errors.PlanAborted("p1", "too many failed", 90, 10), 409, {"plan": "p1", "ready": 90, "failed": 10}),
    (errors.ConfigError("count", "must be positive"), 400, {"setting": "count"}),
    (errors.AppError("no such app"), 400, {}),
    (errors.WireError("too large"), 400, {}),
    (errors.SwellError("something else"), 500, {}),
]


@pytest.mark.parametrize(("error", "status", "members"), CASES, ids=lambda one: type(one).__name__)
async def test_each_of_our_errors_is_a_problem_document_with_its_fields(
    error: errors.SwellError, status: int, members: dict[str, Any]
) -> None:
    answer = await answer_to(error)
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert document["detail"] == str(error)
    assert document["title"]
    assert members.items() <= document.items()
    assert "traceback" not in document


async def test_every_error_class_has_a_type_of_its_own() -> None:
    assert (await answer_to(errors.UnknownAgent("a/b", "none"))).json()["type"] == "urn:swell:unknown-agent"


async def test_who_is_told_to_come_again_is_told_when() -> None:
    assert (await answer_to(errors.Busy("3", 9, 1.2))).headers["retry-after"] == "2"
    part = (await answer_to(errors.Busy("3", 9, 1.6).of_many(2, [1, 3]))).json()
    assert (part["sent"], part["unsent"]) == (2, [1, 3])
    assert "sent" not in (await answer_to(errors.Busy("3", 9, 1.6).of_many(0, [0, 1]))).json()
    assert (await answer_to(errors.Busy("3", 9, 0.01))).headers["retry-after"] == "1"
    assert (await answer_to(errors.BrokerUnavailable("away"))).headers["retry-after"] == "1"


async def test_a_defect_is_a_problem_document_that_says_nothing_and_a_log_line_that_says_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await answer_to(RuntimeError("password=hunter2"))
    assert (answer.status_code, answer.json()["title"]) == (500, "Internal Server Error")
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


@pytest.mark.parametrize(
    ("body", "field"),
    [(b'{"count": "x"}', "count"), (b"{}", "count"), (b'{"count": 1, "extra": 2}', "extra")],
    ids=["wrong type", "missing", "unknown"],
)
async def test_a_wrong_body_names_the_field(body: bytes, field: str) -> None:
    async with asking(app_with(take_order)) as client:
        answer = await client.post("/orders", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert field in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
async def test_what_is_no_json_is_refused_as_a_problem_document(body: bytes) -> None:
    async with asking(app_with(take_order)) as client:
        answer = await client.post("/orders", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("application/problem+json")


async def test_unknown_paths_and_methods_are_problem_documents_too() -> None:
    async with asking(app_with(take_order)) as client:
        answers = [await client.get("/nowhere"), await client.delete("/orders")]
    assert [answer.status_code for answer in answers] == [404, 405]
    assert all(answer.headers["content-type"].startswith("application/problem+json") for answer in answers)


async def test_a_body_beyond_the_limit_is_refused_even_if_its_length_was_not_told() -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 65_536

    async with asking(app_with(take_order)) as client:
        told = await client.post("/orders", content=b" " * 1_200_000)
        untold = await client.post("/orders", content=stream())
        within = await client.post("/orders", content=b'{"count": 1}' + b" " * 1_048_576)
    assert [told.status_code, untold.status_code, within.status_code] == [413, 413, 200]


# Who may ask.

GUARDED = replace(SETTINGS, token="s3cret", host="0.0.0.0")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "STEAL"])
@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/orders", "/nowhere", "/", "/livez/", "/readyz/x"])
async def test_with_a_token_every_method_and_path_asks_for_it(method: str, path: str) -> None:
    async with asking(app_with(take_order, settings=GUARDED)) as client:
        answer = await client.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_need_no_token(path: str) -> None:
    async with asking(app_with(settings=GUARDED)) as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3cret2", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer", 401),
        ("Bearer \xe9", 401),
    ],
)
async def test_only_the_right_token_opens(authorization: str, status: int) -> None:
    async with asking(app_with(settings=GUARDED)) as client:
        answer = await client.get("/metrics", headers=[(b"authorization", authorization.encode("latin-1"))])
    assert answer.status_code == status


@pytest.mark.parametrize("host", ["127.0.0.1:8700", "localhost", "localhost:1", "[::1]:8700", "LOCALHOST"])
async def test_on_this_machine_its_own_names_are_answered(host: str) -> None:
    async with asking(app_with()) as client:
        assert (await client.get("/livez", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1", "a:b:c"]
)
async def test_on_this_machine_a_foreign_name_is_refused(host: str) -> None:
    async with asking(app_with()) as client:
        answer = await client.get("/metrics", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["title"] == "Misdirected Request"


async def test_reachable_from_elsewhere_any_name_is_answered() -> None:
    async with asking(app_with(settings=GUARDED), "http://swell.example") as client:
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:8700", 200), ("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:9999", 403)],
)
async def test_pages_of_other_sites_may_not_ask_through_the_users_browser(origin: str, status: int) -> None:
    async with asking(app_with(take_order)) as client:
        answer = await client.post("/orders", content=b'{"count": 1}', headers={"origin": origin})
    assert answer.status_code == status


async def test_requests_are_logged_at_debug_only_and_without_their_query(caplog: pytest.LogCaptureFixture) -> None:
    async with asking(app_with()) as client:
        caplog.set_level(logging.INFO, "swell.gate")
        await client.get("/livez?token=abc")
        quiet = [record for record in caplog.records if record.name == "swell.gate"]
        caplog.set_level(logging.DEBUG, "swell.gate")
        await client.get("/livez?token=abc")
    (record,) = [record for record in caplog.records if record.name == "swell.gate"]
    assert quiet == []
    assert (record.__dict__["method"], record.__dict__["path"], record.__dict__["status"]) == ("GET", "/livez", 200)
    assert "abc" not in str(record.__dict__["path"])
