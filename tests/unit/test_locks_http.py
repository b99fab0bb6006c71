"""Locks, semaphores, leaders and barriers over HTTP, on a memory broker: what is answered, and what is refused how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from swell.bus.memory import MemoryBroker, MemoryServer
from swell.client import Client
from swell.config import Settings
from swell.http import service_app
from swell.instruments import Recorder

#: Litestar is about to rename how routes declare their parameters, and says so of all the manager's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:litestar", "ignore:Deprecated:DeprecationWarning")
PATIENCE_S = 10.0
LOCAL = "http://127.0.0.1:8700"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client(MemoryBroker(MemoryServer(), "tests"), "m1", 1_000_000, Recorder("m1"))
    client.shards = 4
    async with asyncio.timeout(PATIENCE_S), client:
        yield client


def app(client: Client, **settings: Any) -> Any:
    from swell_manager.api import routes  # Here, where its warnings are let pass.

    return service_app("manager", Settings(**settings), {}, routes(client), lambda: b"")


@pytest.fixture
async def http(client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app(client)), base_url=LOCAL + "/v1") as http:
        yield http


def refused(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The members of a problem document of this kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["type"] == f"urn:swell:{kind}"
    return found


async def test_a_lock_is_taken_renewed_refused_to_others_and_given_back(http: httpx.AsyncClient) -> None:
    taken = await http.post("/locks/lock/deploy", json={"owner": "ci/7", "ttl": 30})
    assert taken.status_code == 200
    seat = taken.json()
    token = seat.pop("token")
    assert seat == {"kind": "lock", "name": "deploy", "owner": "ci/7", "expires_s": 30}
    again = await http.post("/locks/lock/deploy", json={"owner": "ci/7", "ttl": 5})
    assert (again.json()["token"], again.json()["expires_s"]) == (token, 5)
    renewed = await http.post("/locks/lock/deploy", json={"owner": "ci/7", "ttl": 60, "token": token})
    assert renewed.json()["token"] == token
    problem = refused(await http.post("/locks/lock/deploy", json={"owner": "ci/8"}), 423, "lock-held")
    assert (problem["kind"], problem["name"], "ci/7" in problem["detail"]) == ("lock", "deploy", True)
    (holder,) = problem["holders"]
    assert (holder["owner"], holder["token"], 50 < holder["left_s"] <= 60) == ("ci/7", token, True)
    (listed,) = (await http.get("/locks")).json()
    assert (listed["waiting"], listed["holders"][0]["owner"]) == (0, "ci/7")
    for released in (True, False):
        given = await http.delete("/locks/lock/deploy", params={"owner": "ci/7"})
        assert given.json() == {"kind": "lock", "name": "deploy", "owner": "ci/7", "released": released}
    assert (await http.post("/locks/lock/deploy", json={"owner": "ci/8"})).json()["token"] > token


async def test_a_request_waits_in_the_line_until_the_lock_is_free(client: Client, http: httpx.AsyncClient) -> None:
    await http.post("/locks/lock/x", json={"owner": "a"})
    waiting = asyncio.create_task(http.post("/locks/lock/x", params={"wait": 60}, json={"owner": "b"}))
    while not any(lock.waiting for lock in await client.facts.locks()):
        pass
    assert not waiting.done()
    await http.delete("/locks/lock/x", params={"owner": "a"})
    assert (await waiting).json()["owner"] == "b"


async def test_a_lost_seat_is_told_and_its_late_return_frees_nobody(http: httpx.AsyncClient) -> None:
    lost = (await http.post("/locks/leader/x", json={"owner": "a", "ttl": 0.1})).json()["token"]
    found = await http.post("/locks/leader/x", params={"wait": 5}, json={"owner": "b"})
    assert found.json()["token"] > lost
    problem = refused(await http.post("/locks/leader/x", json={"owner": "a", "token": lost}), 409, "lock-lost")
    assert (problem["name"], problem["token"]) == ("x", lost)
    refused(await http.post("/locks/leader/x", json={"owner": "a"}), 423, "lock-held")
    for owner in ("a", "b"):
        late = await http.delete("/locks/leader/x", params={"owner": owner, "token": lost})
        assert late.json()["released"] is False
    assert (await http.get("/locks")).json()[0]["holders"][0]["owner"] == "b"


async def test_a_semaphore_has_as_many_seats_as_all_say(http: httpx.AsyncClient) -> None:
    for owner in ("a", "b"):
        assert (await http.post("/locks/semaphore/gpu", json={"owner": owner, "seats": 2})).status_code == 200
    problem = refused(await http.post("/locks/semaphore/gpu", json={"owner": "c", "seats": 2}), 423, "lock-held")
    assert [holder["owner"] for holder in problem["holders"]] == ["a", "b"]
    other = refused(await http.post("/locks/semaphore/gpu", json={"owner": "c", "seats": 3}), 409, "in-use")
    assert other["number"] == 2


async def test_names_with_slashes_are_what_they_are(client: Client, http: httpx.AsyncClient) -> None:
    for name in ("a/b", "a//b", "a/"):
        assert (await http.post(f"/locks/lock/{name}", json={"owner": "o"})).json()["name"] == name
    assert sorted(lock.name for lock in await client.facts.locks()) == ["a/", "a//b", "a/b"]
    assert (await http.delete("/locks/lock/a//b", params={"owner": "o"})).json()["released"] is True
    assert (await http.post("/barriers/a//b", json={"party": "p", "parties": 1})).json()["name"] == "a//b"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/locks/lock/$plans", {"owner": "o"}, "name"),
        ("/barriers/$plans", {"party": "p", "parties": 1}, "name"),
        ("/locks/lock/x", {"owner": ""}, "owner"),
        ("/locks/lock/x", {"owner": "o\n"}, "owner"),
        ("/locks/lock/x", {"owner": "o", "ttl": 0.01}, "ttl"),
        ("/locks/lock/x", {"owner": "o", "ttl": 4000}, "ttl"),
        ("/locks/lock/x", {"owner": "o", "token": 0}, "token"),
        ("/locks/lock/x", {"owner": "o", "seats": 2}, "seats"),
        ("/locks/semaphore/x", {"owner": "o"}, "seats"),
        ("/locks/semaphore/x", {"owner": "o", "seats": 10_001}, "seats"),
        ("/locks/lock/" + "x" * 513, {"owner": "o"}, "name"),
        ("/barriers/x", {"party": "", "parties": 2}, "party"),
        ("/barriers/x", {"party": "p", "parties": 0}, "parties"),
        ("/barriers/x", {"party": "p", "parties": 2, "ttl": 0}, "ttl"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field_named(
    client: Client, http: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    assert refused(await http.post(path, json=body), 422, "wrong-body")["field"] == field
    assert await client.facts.locks() == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/locks/door/x", {"owner": "o"}, "kind"),
        ("/locks/lock/x?wait=61", {"owner": "o"}, "wait"),
        ("/locks/lock/x", {"ttl": 10}, "owner"),
        ("/locks/lock/x", {"owner": "o", "seat": 2}, "seat"),
        ("/barriers/x?wait=-1", {"party": "p", "parties": 2}, "wait"),
        ("/barriers/x", {"party": "p"}, "parties"),
    ],
)
async def test_a_request_that_is_none_of_ours_is_refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    answer = await http.post(path, json=body)
    assert (answer.status_code, field in answer.text) == (400, True), answer.text


async def test_parties_come_wait_and_pass_with_one_generation(http: httpx.AsyncClient) -> None:
    first = (await http.post("/barriers/loaded", json={"party": "a", "parties": 2})).json()
    assert first == {
        "name": "loaded", "party": "a", "passed": False, "present": 1, "parties": 2, "generation": None
    }  # fmt: skip
    waiting = asyncio.create_task(http.post("/barriers/loaded", params={"wait": 60}, json={"party": "a", "parties": 2}))
    problem = refused(await http.post("/barriers/loaded", json={"party": "c", "parties": 3}), 409, "in-use")
    assert problem["number"] == 2
    last = (await http.post("/barriers/loaded", json={"party": "b", "parties": 2})).json()
    assert (last["passed"], last["present"], last["generation"] > 0) == (True, 2, True)
    assert (await waiting).json()["generation"] == last["generation"]
    again = (await http.post("/barriers/loaded", json={"party": "a", "parties": 2})).json()
    assert again["generation"] == last["generation"]


async def test_a_fact_is_written_only_while_its_fence_is_held(http: httpx.AsyncClient) -> None:
    token = (await http.post("/locks/lock/deploy", json={"owner": "ci"})).json()["token"]
    fence = f"lock/deploy:{token}"
    version = (await http.put("/facts/k", json={"value": 1, "fence": fence})).json()["version"]
    assert (await http.put("/facts/k", json={"value": 2, "fence": fence, "version": version})).status_code == 200
    await http.delete("/locks/lock/deploy", params={"owner": "ci"})
    for stale in (
        await http.put("/facts/k", json={"value": 3, "fence": fence}),
        await http.delete("/facts/k", params={"fence": fence}),
    ):
        problem = refused(stale, 409, "stale-fence")
        assert (problem["key"], problem["name"], problem["token"]) == ("k", "deploy", token)
    assert (
        refused(await http.put("/facts/k", json={"value": 3, "fence": "deploy"}), 422, "wrong-body")["field"] == "fence"
    )
    assert (await http.get("/facts/k")).json()["value"] == 2


async def test_locks_ask_for_the_token_as_all_else_does(client: Client) -> None:
    guarded = httpx.ASGITransport(app(client, token="secret", host="0.0.0.0"))
    async with httpx.AsyncClient(transport=guarded, base_url=LOCAL + "/v1") as http:
        asked = (
            http.post("/locks/lock/x", json={"owner": "o"}),
            http.delete("/locks/lock/x", params={"owner": "o"}),
            http.post("/barriers/x", json={"party": "p", "parties": 1}),
        )
        assert [(await one).status_code for one in asked] == [401, 401, 401]
    assert await client.facts.locks() == []


async def test_they_are_described(http: httpx.AsyncClient) -> None:
    found = (await http.get(LOCAL + "/openapi.json")).json()
    taking = found["paths"]["/v1/locks/{kind}/{name}"]["post"]
    kind = next(one for one in taking["parameters"] if one["name"] == "kind")
    assert kind["schema"]["enum"] == ["lock", "semaphore", "leader"]
    assert set(found["components"]["schemas"]["NewSeat"]["properties"]) == {"owner", "ttl", "seats", "token"}
    assert "post" in found["paths"]["/v1/barriers/{name}"]
