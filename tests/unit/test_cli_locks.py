"""`swell lock`, `lead` and `barrier` on a memory broker: what the command is given, how it ends, and our exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from swell.bus.memory import MemoryBroker, MemoryServer
from swell.cli import locks
from swell.cli.locks import LOST, NOT_FOUND, NOT_RUN
from swell.cli.target import Target
from swell.client import Client
from swell.errors import ConfigError, LockHeld, WrongBody
from swell.instruments import Recorder

PATIENCE_S = 20.0
#: Says in a file that it runs, then does nothing until SIGTERM, and says that, too.
WAITS = "\n".join(
    (
        "import pathlib, signal, sys, time",
        "said = pathlib.Path(sys.argv[1])",
        "def end(number, _):",
        "    said.write_text(f'signal {int(number)}')",
        "    sys.exit(5)",
        "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, end)",
        "said.write_text('runs')",
        "time.sleep(600)",
    )
)
_T = TypeVar("_T")


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """A client beside the command, on the same server."""
    server = MemoryServer()

    @asynccontextmanager
    async def facts_of(target: Target) -> AsyncIterator[Any]:
        async with process(server, f"cli-{secrets.token_hex(3)}") as one:
            yield one.facts

    monkeypatch.setattr(locks, "facts_of", facts_of)
    # On a terminal Ctrl-C would reach the command without us.
    monkeypatch.setattr(locks.os, "isatty", lambda _: False)
    async with process(server, "beside") as beside:
        yield beside


@asynccontextmanager
async def process(server: MemoryServer, name: str) -> AsyncIterator[Client]:
    client = Client(MemoryBroker(server, "tests"), name, 1_000_000, Recorder(name))
    client.shards = 4
    async with client:
        yield client


async def soon(what: Awaitable[_T]) -> _T:
    async with asyncio.timeout(PATIENCE_S):
        return await what


async def says(file: Path, text: str) -> None:
    """Return when the command has written this."""
    async with asyncio.timeout(PATIENCE_S):
        while read(file) != text:
            await asyncio.sleep(0.01)


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


async def test_the_command_knows_what_it_holds_and_its_exit_code_is_ours(client: Client, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['SWELL_LOCK_TOKEN'] + os.environ['SWELL_LOCK'])"
    before = await client.facts.claims.take("lock", "deploy", "x", ttl=10)
    await client.facts.claims.release("lock", "deploy", "x")
    assert await soon(locks.lock("deploy", *python(code + "; sys.exit(7)", out))) == 7
    token = int(out.read_text().removesuffix("deploy"))
    assert token > before.token
    assert await client.facts.locks() == []


async def test_each_command_holds_what_it_is_called_for(client: Client, tmp_path: Path) -> None:
    for kind, running in (
        ("lock", locks.lock("x", *python(WAITS, tmp_path / "lock"))),
        ("semaphore", locks.lock("x", *python(WAITS, tmp_path / "semaphore"), seats=3)),
        ("leader", locks.lead("x", *python(WAITS, tmp_path / "leader"))),
    ):
        task = asyncio.create_task(running)
        await says(tmp_path / kind, "runs")
        (view,) = await client.facts.locks()
        assert (view.kind, view.name, view.limit) == (kind, "x", 3 if kind == "semaphore" else 1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await soon(task) == 5
        assert (tmp_path / kind).read_text() == f"signal {int(signal.SIGTERM)}"


async def test_ctrl_c_reaches_the_command_and_frees_the_lock_when_it_has_ended(client: Client, tmp_path: Path) -> None:
    task = asyncio.create_task(locks.lock("x", *python(WAITS, tmp_path / "said")))
    await says(tmp_path / "said", "runs")
    os.kill(os.getpid(), signal.SIGINT)
    assert await soon(task) == 5
    assert (tmp_path / "said").read_text() == f"signal {int(signal.SIGINT)}"
    assert await client.facts.locks() == []


async def test_on_a_terminal_which_tells_the_command_of_ctrl_c_itself_it_is_not_told_twice(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks.os, "isatty", lambda _: True)
    task = asyncio.create_task(locks.lock("x", *python(WAITS, tmp_path / "said")))
    await says(tmp_path / "said", "runs")
    forwarded: list[int] = []
    forward = locks.Command.forward
    came = asyncio.Event()

    def told(command: locks.Command, number: signal.Signals) -> None:
        forward(command, number)
        forwarded.append(number)
        came.set()

    monkeypatch.setattr(locks.Command, "forward", told)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
        await soon(came.wait())
        came.clear()
        await asyncio.sleep(0.1 if number == signal.SIGINT else 0)  # What would have reached it, has.
    assert forwarded == [signal.SIGINT, signal.SIGTERM]
    assert await soon(task) == 5
    assert (tmp_path / "said").read_text() == f"signal {int(signal.SIGTERM)}"


async def test_a_command_that_a_signal_ends_is_told_as_shells_do(client: Client) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert await soon(locks.lock("x", *python(code))) == 128 + signal.SIGKILL


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_command_whose_lock_is_lost_is_ended(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], deaf: bool
) -> None:
    monkeypatch.setattr(locks, "GRACE_S", 1.0)
    code = WAITS.replace("sys.exit(5)", "None").replace("time.sleep(600)", "[time.sleep(600) for _ in range(9)]")
    task = asyncio.create_task(locks.lock("x", *python(code if deaf else WAITS, tmp_path / "said"), ttl=1.5))
    await says(tmp_path / "said", "runs")
    (view,) = await client.facts.locks()
    await client.facts.claims.release("lock", "x", view.holders[0].owner)
    assert await soon(task) == LOST
    assert (tmp_path / "said").read_text() == f"signal {int(signal.SIGTERM)}"
    said = capsys.readouterr().err
    assert said == (
        f"swell: 'x' could not be renewed in time and may be another's (token {view.holders[0].token}); "
        "the command was ended\n"
    )


async def test_a_wait_that_is_over_names_who_holds_it_and_runs_nothing(client: Client, tmp_path: Path) -> None:
    async with client.facts.lock("x") as held:
        for wait in (0.0, 0.05):
            with pytest.raises(LockHeld, match=rf"held by {held.owner} under token {held.token}$"):
                await soon(locks.lock("x", *python(WAITS, tmp_path / "said"), wait=wait))
    assert not (tmp_path / "said").exists()


async def test_a_signal_while_it_waits_leaves_the_line(client: Client) -> None:
    async with client.facts.lock("x"):
        for number in (signal.SIGTERM, signal.SIGINT):
            task = asyncio.create_task(locks.lock("x", *python("")))
            while not (await client.facts.locks())[0].waiting:
                await asyncio.sleep(0.01)
            os.kill(os.getpid(), number)
            assert await soon(task) == 128 + number
            assert (await client.facts.locks())[0].waiting == 0


async def test_a_command_that_cannot_be_run_is_named(
    client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await soon(locks.lock("x", "no-such-command-here")) == NOT_FOUND
    assert await soon(locks.lock("x", str(tmp_path))) == NOT_RUN
    first, second = capsys.readouterr().err.splitlines()
    assert first == "swell: command: there is no 'no-such-command-here' on PATH"
    assert second.startswith(f"swell: command: '{tmp_path}' cannot be run: ")
    assert await client.facts.locks() == []
    with pytest.raises(ConfigError, match="say what to run, behind --"):
        await locks.lock("x")
    with pytest.raises(WrongBody, match="wait: -1 is not between"):
        await locks.lock("x", "true", wait=-1)


async def there(client: Client, count: int) -> None:
    """Return when so many wait at the barrier `b`."""
    async with asyncio.timeout(PATIENCE_S):
        while (await client.broker.arrive(client.facts._shard("b"), "b", "looker", 2, 0, come=False)).number != count:
            await asyncio.sleep(0.01)


async def test_a_barrier_says_as_which_one_it_came(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = asyncio.create_task(client.facts.barrier("b", 2).wait())
    await there(client, 1)
    assert await soon(locks.barrier("b", parties=2, target=Target(json=True))) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"name": "b", "parties": 2, "arrived": 2, "generation": await waiting}
    first = asyncio.create_task(locks.barrier("b", parties=2))
    await there(client, 1)
    generation = await soon(client.facts.barrier("b", 2).wait())
    assert await soon(first) == 0
    assert capsys.readouterr().out == f"came as 1 of 2, generation {generation}\n"


async def test_a_barrier_that_is_left_counts_nobody(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert await soon(locks.barrier("b", parties=2, wait=0.02)) == 1
    assert capsys.readouterr().err == "swell: barrier 'b': 1 of 2 had come after 0.02 s\n"
    await there(client, 0)
    last = asyncio.create_task(locks.barrier("b", parties=2))
    await there(client, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await soon(last) == 128 + signal.SIGTERM
    await there(client, 0)
