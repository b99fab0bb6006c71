"""`swell lock`, `lead` and `barrier` as processes: they exclude each other; one is killed, frozen, told to end."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from swell import Client
from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S, Service
from tests.integration.test_facts import environ

Start = Callable[..., Service]
#: Writes down when it begins and ends, under which token, and stays for as long as it is told.
NOTES = "\n".join(
    (
        "import os, sys, time",
        "def note(what):",
        "    with open(sys.argv[1], 'a') as file:",
        "        file.write(f'{what} {os.environ[\"SWELL_LOCK_TOKEN\"]} {os.getpid()}\\n')",
        "note('begin')",
        "time.sleep(float(sys.argv[2]))",
        "note('end')",
    )
)
#: Writes down each SIGINT and SIGTERM that reaches it, and ends a moment after the first.
HEARS = "\n".join(
    (
        "import signal, sys, time",
        "heard = []",
        "def note(text):",
        "    with open(sys.argv[1], 'a') as file: file.write(text + '\\n')",
        "def came(number, _):",
        "    heard.append(number)",
        "    note(signal.Signals(number).name)",
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, came)",
        "note('begin')",
        "for _ in range(1500):",
        "    if heard: time.sleep(0.5); sys.exit(3)",
        "    time.sleep(0.01)",
    )
)


class Shell:
    """Starts commands against one namespace."""

    def __init__(self, url: str, namespace: str) -> None:
        self.environ = environ(url, namespace)

    @asynccontextmanager
    async def swell(self, *words: object, stdin: int = asyncio.subprocess.DEVNULL) -> AsyncIterator[Running]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "swell", *map(str, words)),
            env=self.environ,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def to_end(self, *words: object) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        async with self.swell(*words) as running:
            return await running.ended()


class Running:
    """One command under way."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ended(self) -> tuple[int, str, str]:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
def shell(valkey: RealServer, namespace: str) -> Shell:
    return Shell(valkey.url, namespace)


def lines(file: Path) -> list[list[str]]:
    return [line.split() for line in read(file).splitlines()]


async def written(file: Path, count: int) -> list[list[str]]:
    """Return when so many lines are there."""
    async with asyncio.timeout(PATIENCE_S):
        while len(lines(file)) < count:
            await asyncio.sleep(0.01)
    return lines(file)


async def gone(pid: int) -> None:
    """Return when a process has ended, whether or not somebody has asked for its exit code."""
    status = Path(f"/proc/{pid}/status")
    async with asyncio.timeout(PATIENCE_S):
        while "\nState:\tZ" not in (read(status) or "\nState:\tZ"):
            await asyncio.sleep(0.01)


def read(file: Path) -> str:
    """What is in a file, nothing if there is none."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def python(code: str, *arguments: object) -> tuple[object, ...]:
    return ("--", sys.executable, "-c", code, *arguments)


@pytest.mark.parametrize("command", ["lock", "lead"])
async def test_commands_under_one_name_run_one_at_a_time_under_growing_tokens(
    client: Client, shell: Shell, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "notes"
    done = await asyncio.gather(*(shell.to_end(command, "deploy", *python(NOTES, file, 0.1)) for _ in range(4)))
    assert [code for code, _, _ in done] == [0] * 4, done
    notes = lines(file)
    assert [what for what, _, _ in notes] == ["begin", "end"] * 4
    tokens = [int(token) for _, token, _ in notes]
    assert tokens[::2] == tokens[1::2] == sorted(set(tokens))
    assert await client.facts.locks() == []


async def test_a_semaphore_lets_so_many_run_at_once(client: Client, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    words = ("lock", "gpu", "--seats", 2, *python(NOTES, file, 600))
    async with shell.swell(*words), shell.swell(*words):
        await written(file, 2)
        code, _, said = await shell.to_end("lock", "gpu", "--seats", 2, "--wait", 0, *python(NOTES, file, 0))
        assert (code, said.startswith("swell: semaphore 'gpu' was not free in time: held by ")) == (1, True)
        code, _, said = await shell.to_end("lock", "gpu", "--seats", 3, *python(NOTES, file, 0))
        assert (code, "is used with limit 2 by others" in said) == (1, True)
    assert len(lines(file)) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_when_swell_lock_is_killed_the_next_one_is_let_in_after_the_ttl_and_its_command_is_dead(
    client: Client, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    async with shell.swell("lock", "deploy", "--ttl", 2, *python(NOTES, file, 600)) as first:
        ((_, token, pid),) = await written(file, 1)
        async with shell.swell("lock", "deploy", "--ttl", 2, *python(NOTES, file, 0)) as second:
            while not (await client.facts.locks())[0].waiting:
                await asyncio.sleep(0.01)
            assert len(lines(file)) == 1
            first.process.kill()
            await gone(int(pid))
            assert (await second.ended())[0] == 0
    notes = lines(file)
    assert [what for what, _, _ in notes] == ["begin", "begin", "end"]
    assert int(notes[1][1]) > int(token)


async def test_one_that_was_frozen_for_longer_than_its_ttl_ends_its_command_and_says_why(
    client: Client, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "heard"
    async with shell.swell("lock", "deploy", "--ttl", 1, *python(HEARS, file)) as frozen:
        await written(file, 1)
        frozen.process.send_signal(signal.SIGSTOP)
        async with client.facts.lock("deploy") as held:
            frozen.process.send_signal(signal.SIGCONT)
            code, _, said = await frozen.ended()
            assert (await client.facts.locks())[0].holders[0].token == held.token
    assert code == 75
    assert re.fullmatch(
        r"swell: 'deploy' could not be renewed in time and may be another's \(token \d+\); the command was ended\n",
        said,
    )
    assert lines(file) == [["begin"], ["SIGTERM"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_reaches_all_that_the_command_started(
    client: Client, shell: Shell, tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "heard"
    script = 'trap : INT TERM; "$@"; exit $?'
    async with shell.swell("lock", "x", "--", "sh", "-c", script, "sh", *python(HEARS, file)[1:]) as running:
        await written(file, 1)
        running.process.send_signal(number)
        assert (await running.ended())[0] == 3
    assert lines(file) == [["begin"], [number.name]]
    assert await client.facts.locks() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_it_waits_leaves_the_line(client: Client, shell: Shell, number: signal.Signals) -> None:
    async with client.facts.lock("x"), shell.swell("lock", "x", "--", "false") as waiting:
        async with asyncio.timeout(PATIENCE_S):
            while not (await client.facts.locks())[0].waiting:
                await asyncio.sleep(0.01)
        waiting.process.send_signal(number)
        assert await waiting.ended() == (128 + number, "", "")
        assert (await client.facts.locks())[0].waiting == 0


async def test_on_a_terminal_the_command_may_read_from_it_and_hears_of_ctrl_c(
    client: Client, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "heard"
    code = HEARS.replace("note('begin')", "note(input())")
    pid, terminal = pty.fork()
    if pid == 0:  # The session's leader, as a shell is; nothing but exec may happen here.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "swell", "lock", "x", *map(str, python(code, file))],
            shell.environ,
        )
    try:
        os.write(terminal, b"typed\n")
        assert await written(file, 1) == [["typed"]]
        os.write(terminal, b"\x03")
        assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, pid, 0))[1]) == 3
    finally:
        os.close(terminal)
    assert lines(file) == [["typed"], ["SIGINT"]]
    assert await client.facts.locks() == []


async def test_a_write_is_fenced_by_what_the_command_holds(client: Client, shell: Shell) -> None:
    put = '"$0" -m swell facts put version 2 --fence "lock/$SWELL_LOCK:$SWELL_LOCK_TOKEN"; echo $SWELL_LOCK_TOKEN'
    code, out, said = await shell.to_end("lock", "deploy", "--", "sh", "-c", put, sys.executable)
    assert (code, out.split()[0], said) == (0, "version", "")
    fact = await client.facts.get("version", int)
    assert fact is not None
    assert (fact.version, fact.value) == (int(out.split()[1]), 2)
    fence = f"lock/deploy:{out.split()[2]}"
    for words in (("put", "version", 3), ("swap", "version", fact.version, 3), ("delete", "version")):
        code, _, said = await shell.to_end("facts", *words, "--fence", fence)
        assert (code, f"'deploy' is no longer held under token {out.split()[2]}" in said) == (1, True), said
    assert (await shell.to_end("facts", "put", "version", 3, "--fence", "deploy:1"))[0] == 2
    assert await client.facts.get("version", int) == fact


async def test_the_command_line_and_http_wait_for_each_other(
    client: Client, shell: Shell, start: Start, tmp_path: Path
) -> None:
    managers = (start("manager"), start("manager"))
    for manager in managers:
        await manager.ready()
    one, other = [await manager.url() + "/v1/locks/lock/deploy" for manager in managers]
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        seat = (await http.post(one, json={"owner": "ci/7", "ttl": 60})).json()
        managers[0].kill()
        # Any manager renews it.
        assert (await http.post(other, json={"owner": "ci/7", "ttl": 60})).json()["token"] == seat["token"]
        file = tmp_path / "notes"
        code, _, said = await shell.to_end("lock", "deploy", "--wait", 0.1, *python(NOTES, file, 0))
        assert (code, said) == (
            1,
            f"swell: lock 'deploy' was not free in time: held by ci/7 under token {seat['token']}\n",
        )
        async with shell.swell("lock", "deploy", *python(NOTES, file, 0.2)) as running:
            while not (await client.facts.locks())[0].waiting:
                await asyncio.sleep(0.01)
            assert lines(file) == []
            assert (await http.delete(other, params={"owner": "ci/7"})).json()["released"] is True
            await written(file, 1)
            again = await http.post(other, params={"wait": 30}, json={"owner": "ci/8"})
            assert [what for what, _, _ in lines(file)] == ["begin", "end"]
            assert again.json()["token"] > int(lines(file)[0][1]) > seat["token"]
            assert (await running.ended())[0] == 0


async def test_commands_wait_for_each_other_at_a_barrier(client: Client, shell: Shell) -> None:
    done = await asyncio.gather(*(shell.to_end("barrier", "loaded", "--parties", 3) for _ in range(3)))
    found = [re.fullmatch(r"came as (\d) of 3, generation (\d+)\n", out) for _, out, _ in done]
    assert sorted(one.group(1) for one in found if one) == ["1", "2", "3"], done
    assert len({one.group(2) for one in found if one}) == 1
    code, _, said = await shell.to_end("barrier", "loaded", "--parties", 2, "--wait", 0.1)
    assert (code, said) == (1, "swell: barrier 'loaded': 1 of 2 had come after 0.1 s\n")
