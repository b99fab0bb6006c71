"""What came in a message commands no terminal and forges no line: in logs, tables, errors and problem documents."""

from __future__ import annotations

import json
import subprocess
import unicodedata
from pathlib import Path

import httpx
import pytest

from swell import Client
from swell.errors import HandlerFailed, UnknownAgent, UnknownHandler
from tests.conftest import RealServer
from tests.integration.conftest import Start
from tests.integration.fleet import Order
from tests.integration.test_up import swell

#: Clears the screen, sets the title, turns the direction, ends the line and forges another, NUL, C1, separators.
EVIL = "\x1b[2J\x1b]0;owned\x07\u202eeman\u2066\r\nswell: all is well\x00\x9b31m\u2028\u2029\x7f\u200f"


def assert_harmless(text: str) -> None:
    found = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
    assert not found, f"{found!r} in {text!r}"
    assert not [line for line in text.splitlines() if line.startswith("swell: all is well")], text


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_control_characters_of_messages_are_neutralised_everywhere(
    client: Client, start: Start, valkey: RealServer, namespace: str, log_format: str, tmp_path: Path
) -> None:
    services = {role: start(role, log_format=log_format) for role in ("manager", "worker", "metrics")}
    where = ("--redis", valkey.url, "--namespace", namespace)
    if log_format == "json":
        for service in services.values():
            await service.ready()
    await (await client.spawn("faulty", keys=["f"])).wait()
    with pytest.raises(HandlerFailed):
        await client.ask("faulty/f", "fail", Order(9, EVIL))
    with pytest.raises(UnknownHandler):
        await client.ask("faulty/f", EVIL, EVIL)
    with pytest.raises(UnknownAgent):
        await client.ask(f"faulty/{EVIL}", "fail", EVIL)
    await client.send(EVIL, EVIL, EVIL, sender=EVIL)
    await client.append("control", ("$control", EVIL, EVIL, 0, EVIL, "", 0))
    await client.append("metrics", ("$metrics", EVIL, EVIL, 0, EVIL, "", 0))
    assert await client.ask("faulty/f", "ok", type=str) == "ok"

    order = json.dumps({"failures": 9, "text": EVIL})
    asked = swell("ask", "faulty/f", "fail", order, *where)
    assert (asked.returncode, asked.stderr.count("\n")) == (1, 1), asked.stderr
    commands: list[subprocess.CompletedProcess[str]] = [asked, swell("ask", "faulty/f", EVIL.replace("\0", ""), *where)]
    letters = await client.letters.list()
    assert len(letters) >= 6
    commands += [
        swell("dead", "list", *where),
        swell("agents", *where),
        swell("plans", *where),
        swell("doctor", *where),
    ]
    commands += [swell("dead", "show", letter.id, *where) for letter in letters[:6]]
    for done in commands:
        assert_harmless(done.stdout)
        assert_harmless(done.stderr)

    if log_format == "json":
        async with httpx.AsyncClient(base_url=await services["manager"].url()) as http:
            answer = await http.post(
                "/v1/agents/faulty/f/ask", json={"name": "fail", "body": {"failures": 9, "text": EVIL}}
            )
            assert answer.headers["content-type"] == "application/problem+json"
            assert_harmless(answer.text)
    for service in services.values():
        written = service.log.read_text()
        assert_harmless(written.replace("\\n", ""))
        if log_format == "json":
            assert all(json.loads(line)["level"] for line in written.splitlines())


async def test_a_plan_that_fails_with_such_a_text_is_told_in_one_line(
    client: Client, start: Start, valkey: RealServer, namespace: str
) -> None:
    for role in ("manager", "worker"):
        await start(role).ready()
    args = json.dumps({"mood": EVIL, EVIL: 1})
    where = ("--redis", valkey.url, "--namespace", namespace)
    done = swell("spawn", "fragile", "3", "--args", args, *where)
    assert done.returncode == 1
    assert_harmless(done.stdout + done.stderr)
    assert_harmless(swell("agents", *where).stdout)
