"""`swell up` and the other commands, on real processes: started, killed, and ended as users do it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from swell.data_directory import port_free
from swell.keys import Keys

#: Short, so that a killed owner's shards are free again soon.
LEASE_MS = "1000"


class HasUrl(Protocol):
    """The servers of the fixtures."""

    url: str


def clean_environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
    return kept | {"SWELL_LEASE_MS": LEASE_MS, "SWELL_DRAIN_S": "5"} | more


def free_base() -> int:
    """A port with room for all services above it."""
    for base in range(20_000 + os.getpid() % 10_000, 60_000, 10):
        if all(port_free(base + n) for n in range(6)):
            return base
    raise AssertionError("no free ports")


def swell(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "swell", *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(**environ),
        check=False,
        timeout=60,
    )


class Up:
    """A running `swell up`.

    Attributes:
        state: what it said when it was ready.
    """

    def __init__(self, directory: Path, *arguments: str, **environ: str) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swell", "up", "--json", "--data-dir", str(directory), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(**environ),
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            _, why = self.process.communicate()
            raise AssertionError(f"`swell up` ended with code {self.process.returncode}: {why}")
        self.state: dict[str, Any] = json.loads(said)

    @property
    def now(self) -> dict[str, Any]:
        """What `up.json` says now."""
        found: dict[str, Any] = json.loads((self.directory / "up.json").read_text())
        return found

    def until(self, text: str) -> None:
        """Return when it has said `text` on stderr; the test's own time limit is the deadline."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                return
        raise AssertionError(f"`swell up` ended without saying {text!r}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """End it as a user does; returns its exit code and what it said on stderr since."""
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def close(self) -> None:
        """End all that a failed test left."""
        pids = self.now["pids"] if (self.directory / "up.json").exists() else {}
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        for pid in pids.values():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> None:
    """Return when a process has ended; the test's own time limit is the deadline."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
    finally:
        os.close(watched)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One system for all tests that do not break it."""
    running = Up(tmp_path_factory.mktemp("up") / "data", "--workers", "2", "--port", str(free_base()))
    yield running
    running.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Up]:
    """A system to break."""
    running = Up(tmp_path / "data", "--port", str(free_base()))
    yield running
    running.close()


def call(up: Up, *arguments: str) -> Any:
    """Run a command against the system, which it finds by the data directory; returns its JSON."""
    done = swell(*arguments, "--json", "--data-dir", str(up.directory))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_ready_soon_and_says_where_everything_is(up: Up) -> None:
    assert set(up.state["pids"]) == {"server", "manager", "metrics", "worker-1", "worker-2"}
    for url in up.state["http"].values():
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            assert answer.status == 200
    assert up.now == up.state
    assert stat.S_IMODE((up.directory / "up.json").stat().st_mode) == 0o600
    assert {path.stem for path in (up.directory / "logs").iterdir()} == set(up.state["pids"])


def test_no_setting_is_in_the_list_of_processes(up: Up) -> None:
    for name, pid in up.state["pids"].items():
        if name != "server":
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            assert command[1:] == [b"-m", b"swell_" + name.partition("-")[0].encode(), b""]


def test_agents_are_spawned_asked_listed_and_terminated(up: Up) -> None:
    plan = call(up, "spawn", "echo", "100", "--wave-size", "20")
    assert (plan["state"], plan["ready"], plan["failed"], plan["waves"]) == ("done", 100, 0, 5)
    assert 0 < plan["ready_p95_s"] <= plan["elapsed_s"] <= plan["command_to_ready_s"]
    assert [one["id"] for one in call(up, "plans")] == [plan["id"]]
    assert call(up, "plans", plan["id"])["ready"] == 100
    agents = call(up, "agents", "--type", "echo", "--limit", "1000")
    assert len(agents) == 100
    assert call(up, "ask", agents[0]["id"], "echo", '{"a": [1, null, "x"]}') == {"a": [1, None, "x"]}
    call(up, "send", agents[0]["id"], "count")
    assert call(up, "ask", agents[0]["id"], "count") == 3
    ended = call(up, "terminate", "--plan", plan["id"])
    assert ended == {"terminated": 100, "failed": {}}
    assert call(up, "ledger", "--check")["balanced"]


def test_keys_and_people_are_served_as_well(up: Up) -> None:
    where = ("--data-dir", str(up.directory))
    spawned = swell("spawn", "echo", "--key", "ada", "--key", "grace", *where)
    assert spawned.returncode == 0, spawned.stderr
    assert spawned.stdout.startswith("2 echo ready in ")
    assert swell("ask", "echo/ada", "echo", '"hello"', *where).stdout == '"hello"\n'
    assert "echo/grace" in swell("agents", "--after", "echo/a", *where).stdout
    assert "worker" in swell("workers", *where).stdout
    assert swell("ledger", "--check", *where).returncode == 0
    assert swell("terminate", "echo/ada", "echo/grace", *where).stdout == "2 agents ended\n"


def test_every_shard_is_owned_and_doctor_finds_nothing_wrong(up: Up) -> None:
    leases = call(up, "shards")
    assert len(leases) == 10
    assert all(lease["owner"] for lease in leases)
    assert {info["role"] for info in call(up, "workers")} == {"manager", "worker", "metrics"}
    found = call(up, "doctor")
    assert found["ok"]
    assert found["redis"] == found["settings"]["redis"] == up.state["redis"]
    assert {check["status"] for check in found["checks"]} <= {"ok", "warn"}


def test_a_second_up_in_the_same_directory_is_refused_and_names_the_first(up: Up) -> None:
    second = swell("up", "--data-dir", str(up.directory))
    assert second.returncode == 2
    assert f"in use by another `swell up` (process {up.process.pid})" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("spawn", "nothing", "3"), "nothing"),
        (("ask", "echo/missing", "echo"), "echo/missing"),
        (("plans", "missing"), "there is no plan 'missing'"),
    ],
)
def test_what_does_not_exist_is_one_line_that_names_it(up: Up, arguments: tuple[str, ...], said: str) -> None:
    done = swell(*arguments, "--data-dir", str(up.directory))
    assert done.returncode == 1
    assert done.stderr.startswith("swell: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_account_that_does_not_balance_is_named(up: Up) -> None:
    import redis

    namespace = "unbalanced"
    where = ("--redis", up.state["redis"], "--namespace", namespace)
    assert swell("ledger", "--check", *where).returncode == 0
    with redis.Redis.from_url(up.state["redis"], protocol=2) as server:
        server.hincrby(Keys(namespace).shard("3").ledger.decode(), "sent", 5)
    checked = swell("ledger", "--check", *where)
    assert checked.returncode == 1
    assert "swell: shard 3 does not balance: sent 5" in checked.stderr


def test_ctrl_c_ends_a_command_quietly(up: Up) -> None:
    command = [sys.executable, "-m", "swell", "send", "echo/x", "echo", "-", "--data-dir", str(up.directory)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A shell's background job ignores it.
    ) as waiting:
        # It reads its body from us: once it has taken more than a pipe holds, it has begun and waits for the rest.
        assert waiting.stdin is not None
        fill_pipe(waiting.stdin.fileno())
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate()
    assert (waiting.returncode, said) == (130, "")


def fill_pipe(descriptor: int) -> None:
    """Write more than a pipe holds, which returns when the other side has begun to read."""
    os.write(descriptor, b" " * 65_536)
    os.write(descriptor, b" " * 65_536)


def test_a_killed_worker_and_a_killed_server_come_back_with_what_they_knew(own: Up) -> None:
    call(own, "spawn", "echo", "--key", "ada")
    call(own, "ask", "echo/ada", "count")
    os.kill(own.state["pids"]["worker-1"], signal.SIGKILL)
    own.until("worker-1 runs again")
    assert own.now["pids"]["worker-1"] != own.state["pids"]["worker-1"]
    assert call(own, "ask", "echo/ada", "echo", "1") == 1
    os.kill(own.state["pids"]["server"], signal.SIGKILL)
    own.until("the server is back")
    assert own.now["redis"] == own.state["redis"]
    assert call(own, "ask", "echo/ada", "echo", "2") == 2
    assert call(own, "ledger", "--check")["balanced"]
    # And they still end by themselves, though all their connections to the first server are gone.
    code, said = own.stop()
    assert code == 0
    assert "was killed" not in said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_order_and_leaves_nothing_running(tmp_path: Path, how: signal.Signals) -> None:
    running = Up(tmp_path / "data", "--port", str(free_base()))
    try:
        code, said = running.stop(how)
        assert code == 0, said
        assert "was killed" not in said
        assert not [name for name, pid in running.state["pids"].items() if alive(pid)]
        assert not (running.directory / "up.json").exists()
    finally:
        running.close()


def test_after_a_kill_no_service_is_left_and_the_next_up_goes_on_with_the_server(own: Up) -> None:
    call(own, "spawn", "echo", "--key", "ada")
    own.process.kill()
    own.process.wait()
    for name, pid in own.state["pids"].items():
        if name != "server":
            wait_for_end(pid)
    assert alive(own.state["pids"]["server"])
    again = Up(own.directory, "--port", str(free_base()))
    try:
        assert again.state["adopted"]
        assert again.state["pids"]["server"] == own.state["pids"]["server"]
        assert call(again, "ask", "echo/ada", "echo", "1") == 1
        code, said = again.stop()
        assert code == 0, said
    finally:
        again.close()


def test_a_given_server_is_used_and_left_running(valkey: HasUrl, tmp_path: Path) -> None:
    running = Up(tmp_path / "data", "--redis", valkey.url, "--namespace", "given", "--port", str(free_base()))
    try:
        assert (running.state["redis"], running.state["embedded"]) == (valkey.url, False)
        assert call(running, "spawn", "echo", "2")["ready"] == 2
        code, said = running.stop()
        assert code == 0, said
        assert swell("ledger", "--check", "--redis", valkey.url, "--namespace", "given").returncode == 0
    finally:
        running.close()


def test_nothing_is_started_when_the_port_is_taken_or_the_app_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import swell\n1 / 0\n")
    directory = tmp_path / "data"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        taken = swell("up", "--data-dir", str(directory), "--port", port)
    assert (taken.returncode, taken.stderr.count("\n")) == (2, 1)
    assert f"port: {port} is taken" in taken.stderr
    broken = swell("up", "--data-dir", str(directory), "--app", "broken:app", PYTHONPATH=str(tmp_path))
    assert broken.returncode == 2
    assert "broken.py:2" in broken.stderr
    assert not directory.exists()


def test_a_server_without_functions_is_one_error_for_up_and_for_doctor(tmp_path: Path) -> None:
    from tests.conftest import start_server, stop_server

    old = old_server(tmp_path)
    server = start_server(str(old), tmp_path)
    try:
        refused = swell("up", "--data-dir", str(tmp_path / "data"), "--redis", server.url)
        assert refused.returncode == 1
        assert "has no functions: Redis 7.0 or Valkey 8 or newer is needed" in refused.stderr
        sick = swell("doctor", "--redis", server.url)
        assert sick.returncode == 1
        assert "use Redis 7.0 or newer, or Valkey 8 or newer" in sick.stdout
    finally:
        stop_server(server)


def old_server(tmp_path: Path) -> Path:
    """A server without functions, as before Redis 7.0: a present one whose command FUNCTION is taken away."""
    from swell.embedded import find_binary

    script = tmp_path / "old-server"
    script.write_text(f'#!/bin/sh\nexec {find_binary()} "$@" --rename-command FUNCTION "" --rename-command FCALL ""\n')
    script.chmod(0o700)
    return script
