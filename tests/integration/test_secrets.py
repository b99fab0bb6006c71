"""A password and a token with a mark in them: it is found nowhere, whatever is asked and whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from swell import Client
from swell.bus.link import Link
from swell.config import Settings, load
from swell.errors import BrokerError, ConfigError, HandlerFailed, SwellError
from tests.conftest import RealServer
from tests.integration.services import Service
from tests.integration.test_up import swell

PASSWORD = "passw0rd-marked-4711"
TOKEN = "t0ken-marked-0815"
MARKS = (PASSWORD, TOKEN)
ROLES = ("manager", "worker", "metrics")


def clean(text: object) -> None:
    for mark in MARKS:
        assert mark not in str(text), text


@pytest.fixture
async def guarded(valkey: RealServer, namespace: str) -> Any:
    """The URL of a user of this namespace, with the marked password."""
    async with Redis.from_url(valkey.url) as admin:
        name = f"marked-{namespace}"
        await admin.acl_setuser(name, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
        yield valkey.url.replace("//", f"//{name}:{PASSWORD}@")
        await admin.acl_deluser(name)


def arguments(service: Service) -> str:
    """What the list of processes shows of a service."""
    return Path(f"/proc/{service.pid}/cmdline").read_text()


async def answers(service: Service) -> list[str]:
    """What a service says to right, wrong and malformed requests, with and without the token."""
    found = []
    async with httpx.AsyncClient(base_url=await service.url()) as http:
        for headers in ({}, {"authorization": f"Bearer {TOKEN}"}, {"authorization": f"Bearer {TOKEN}x"}):
            for method, path, body in (
                *(("GET", "/livez", ""), ("GET", "/readyz", ""), ("GET", "/metrics", ""), ("GET", "/openapi.json", "")),
                *(("GET", "/nowhere", ""), ("POST", "/v1/plans", "{bad"), ("GET", "/v1/workers", "")),
                *(("GET", "/v1/ledger", ""), ("GET", "/v1/dead", ""), ("GET", "/v1/summary", "")),
            ):
                answer = await http.request(method, path, content=body, headers=headers)
                found.append(f"{answer.headers} {answer.text}")
    return found


async def test_a_password_and_a_token_are_found_nowhere(
    guarded: str, valkey: RealServer, namespace: str, tmp_path: Path
) -> None:
    settings = {"token": TOKEN, "log_level": "debug"}
    services = [Service(role, guarded, namespace, tmp_path, **settings) for role in ROLES]
    try:
        for service in services:
            await service.ready()
        async with Client.connect(guarded, namespace=namespace) as client:
            await (await client.spawn("faulty", keys=["f"])).wait()
            with pytest.raises(HandlerFailed) as failed:
                await client.ask("faulty/f", "fail", {"failures": 9})
            clean(f"{failed.value} {failed.value.detail} {client.broker!r} {client.producer!r} {client!r}")
        said = [text for service in services for text in await answers(service)]
        where = ("--redis", guarded, "--namespace", namespace)
        for command in (
            ("doctor",),
            ("doctor", "--json"),
            ("doctor", "--acl"),
            ("workers", "--json"),
            ("dead", "list", "--json"),
        ):
            done = swell(*command, *where, SWELL_TOKEN=TOKEN)
            said.append(done.stdout + done.stderr)
        said += [arguments(service) for service in services]
        async with Redis.from_url(valkey.url, decode_responses=True) as admin:
            said += [str(await admin.client_list()), str([key async for key in admin.scan_iter("*")])]
        async with Redis.from_url(valkey.url) as admin:
            said += [str(await admin.dump(key)) async for key in admin.scan_iter(f"swell:{namespace}:*")]
            # The password changes under the running services: their errors name the server, never the password.
            await admin.acl_setuser(
                f"marked-{namespace}", enabled=True, reset_passwords=True, passwords=["+other"], keys=["*"]
            )
            await admin.client_kill_filter(user=f"marked-{namespace}")
        async with asyncio.timeout(20):
            while not all("refuses us" in service.log.read_text() for service in services):
                await asyncio.sleep(0.05)
        said += [text for service in services for text in await answers(service)]
        said.append(str([await service.stop() for service in services]))
    finally:
        for service in services:
            service.kill()
    said += [service.log.read_text() for service in services]
    for text in said:
        clean(text)
    assert any("refuses us" in text for text in said)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{PASSWORD}@127.0.0.1:1/0",
        f"redis://:{PASSWORD}@127.0.0.1:99999",
        f"redis://user:{PASSWORD}@127.0.0.1:port",
        f"redis://user:{PASSWORD}@",
        f"http://user:{PASSWORD}@host",
        f"redis://user:{PASSWORD}@host/database",
        f"redis://user:{PASSWORD}@[::1",
        f"redis://host?password={PASSWORD}",
        f"rediss://host?ssl_password={PASSWORD}&ssl_certfile=/no/such",
        f"rediss://user:{PASSWORD}@127.0.0.1:1?ssl_ca_certs=/no/such",
        f"unix://user:{PASSWORD}@/no/such.sock",
    ],
)
async def test_a_url_that_does_not_work_is_named_without_its_password(url: str) -> None:
    for command in (("agents",), ("doctor",), ("doctor", "--json"), ("doctor", "--load")):
        done = swell(*command, SWELL_REDIS=url, SWELL_TOKEN=TOKEN)
        assert done.returncode in (1, 2)
        clean(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr
    worker = swell("worker", SWELL_REDIS=url, SWELL_PORT="-1", SWELL_TOKEN=TOKEN)
    clean(worker.stdout + worker.stderr)
    try:
        load({}, {"SWELL_REDIS": url})
        await Link(url, "test", 1.0).call("PING")
    except (ConfigError, BrokerError) as error:
        cause: BaseException | None = error
        while cause is not None:
            clean(repr(cause))
            cause = cause.__cause__
    else:
        raise AssertionError("it worked")


def test_settings_never_show_what_is_secret() -> None:
    settings = Settings(redis=f"redis://u:{PASSWORD}@h", token=TOKEN)
    clean(f"{settings} {settings!r} {settings.masked()} {json.dumps(settings.masked())}")
    with pytest.raises(SwellError) as refused:
        Settings(redis=f"redis://u:{PASSWORD}@h", token=TOKEN, shards=0)
    clean(repr(refused.value))


def test_a_service_that_is_started_by_the_command_line_has_no_secret_among_its_arguments(tmp_path: Path) -> None:
    up = tmp_path / "secret"
    up.write_text(f"redis://u:{PASSWORD}@127.0.0.1:1\n")
    done = swell("manager", "--json", "--port", "0", "--log-level", "loud", SWELL_REDIS_FILE=str(up), SWELL_TOKEN=TOKEN)
    clean(done.stdout + done.stderr)
