"""Wrong inputs that a new user might give, each run as the user would: what is said, the exit code, and how soon.

Every error is one line that names what to change; exit code 2 says that the call or a setting is wrong, 1 that
something else is. Nothing is a traceback, and nothing waits for long without saying for what.

A full disk under the data directory, and one that cannot be written, are tested in `test_embedded.py`, which has a
small file system of its own for it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from swell.embedded import find_binary
from tests.conftest import RealServer, start_server, stop_server
from tests.integration.test_up import Up, free_base

ROOT = Path(__file__).parents[2]
#: A port that nobody listens on: the first one, which only root could use.
NOWHERE = "redis://127.0.0.1:1"
TOKEN = "a-token-for-tests"


class Said(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    def is_line(self, code: int, *parts: str) -> None:
        """One line on stderr that has all the parts, and that exit code."""
        assert (self.code, self.err.count("\n")) == (code, 1), self
        assert self.err.startswith("swell: "), self
        self.has(*parts)

    def has(self, *parts: str) -> None:
        """All the parts, in any line, and no traceback."""
        assert "Traceback" not in self.err
        assert [part for part in parts if part not in self.err] == [], self.err


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run `python -m MODULE ARGUMENTS...`, in an environment without settings, in the project's directory."""

    def run(*arguments: str, module: str = "swell", **environ: str) -> Said:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
        kept |= {"XDG_STATE_HOME": str(tmp_path / "state")}
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=kept | environ,
            check=False,
            timeout=30,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


@contextmanager
def server(directory: Path, *options: str) -> Iterator[RealServer]:
    """A real server with options of its own."""
    directory.mkdir(exist_ok=True)
    script = directory / "server"
    quoted = " ".join(f"'{option}'" for option in options)
    script.write_text(f'#!/bin/sh\nexec {find_binary()} "$@" {quoted}\n')
    script.chmod(0o700)
    running = start_server(str(script), directory)
    try:
        yield running
    finally:
        stop_server(running)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One system for all tests, with a token."""
    directory = tmp_path_factory.mktemp("wrong") / "data"
    arguments = ("--port", str(free_base()), "--app", "tests.integration.fleet:app")
    running = Up(directory, *arguments, SWELL_TOKEN=TOKEN, SWELL_TEST_ACCOUNT=str(directory.parent))
    yield running
    running.close()


# The server's address.


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:6379", ("redis: 'http://127.0.0.1:6379' must begin with redis://, rediss:// or unix://",)),
        ("127.0.0.1:6379", ("redis: '127.0.0.1:6379' must begin with redis://",)),
        ("redis://127.0.0.1:port", ("the port must be a number from 1 to 65535, for example 6379",)),
        ("redis://127.0.0.1:99999", ("redis://127.0.0.1:99999", "the port must be a number from 1 to 65535")),
        ("redis://:6379", ("names no host, for example redis://127.0.0.1:6379/0",)),
        ("redis://127.0.0.1/database", ("the path must be a database number, not 'database'",)),
    ],
)
def test_a_malformed_url_is_refused_with_its_wrong_part(run: Any, url: str, parts: tuple[str, ...]) -> None:
    run("agents", "--redis", url).is_line(2, *parts)


@pytest.mark.parametrize("command", [("agents",), ("spawn", "echo", "3"), ("up",)])
def test_a_server_that_is_not_there_is_named_with_where_its_address_came_from(
    run: Any, command: tuple[str, ...], tmp_path: Path
) -> None:
    said = run(*command, "--redis", NOWHERE, "--data-dir", str(tmp_path / "data"))
    said.is_line(1, f"{NOWHERE} cannot be reached", "start that server, or name another (this one came from --redis")


def test_a_host_that_never_answers_is_given_up_after_seconds(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        run("agents", "--redis", url).is_line(1, f"{url} did not answer in time; start that server, or name another")


def test_without_any_server_it_says_how_to_start_one(run: Any) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 6379)) == 0:
            pytest.skip("this machine has a server on the default port")
    run("agents").is_line(1, "no server was named and no `swell up` runs in", "start `swell up`, or give --redis")


def test_a_worker_whose_server_is_away_says_that_it_waits(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
    environ |= {"SWELL_REDIS": NOWHERE, "SWELL_PORT": "0"}
    with subprocess.Popen(
        [sys.executable, "-m", "swell_worker"], stderr=subprocess.PIPE, text=True, env=environ
    ) as worker:
        assert worker.stderr is not None
        waiting = next(line for line in worker.stderr if "waiting for the server" in line)
        worker.kill()
    assert NOWHERE in waiting


# What the server is.


@pytest.mark.parametrize("given", ["", ":wrong@"])
def test_a_missing_or_wrong_password_is_told_apart_from_a_server_that_is_away(
    run: Any, tmp_path: Path, given: str
) -> None:
    with server(tmp_path / "server", "--requirepass", "right") as secured:
        url = secured.url.replace("//", f"//{given}")
        advice = "give the right user and password in the URL, redis://USER:PASSWORD@HOST:PORT"
        said = run("agents", "--redis", url)
        said.is_line(1, "refuses us", advice)
        assert "wrong@" not in said.err
        run("up", "--redis", url, "--data-dir", str(tmp_path / "data")).is_line(1, "refuses us", advice)
        run(module="swell_worker", SWELL_REDIS=url, SWELL_PORT="0", SWELL_LOG_LEVEL="error").is_line(2, "refuses us")
        doctor = run("doctor", "--redis", url)
        assert doctor.code == 1
        assert "check the user and the password in the URL" in doctor.out


def test_a_server_without_functions_is_refused_with_the_version_that_is_needed(run: Any, tmp_path: Path) -> None:
    """Redis 6 has no functions. Here is no Redis 6, so a present server has FUNCTION and FCALL renamed away."""
    with server(tmp_path / "server", "--rename-command", "FUNCTION", "", "--rename-command", "FCALL", "") as old:
        run("agents", "--redis", old.url).is_line(1, "has no functions: Redis 7.0 or Valkey 8 or newer is needed")
        worker = run(module="swell_worker", SWELL_REDIS=old.url, SWELL_PORT="0", SWELL_LOG_LEVEL="error")
        worker.is_line(2, "has no functions: Redis 7.0 or Valkey 8 or newer is needed")
        doctor = run("doctor", "--redis", old.url)
        assert doctor.code == 1
        assert "use Redis 7.0 or newer, or Valkey 8 or newer" in doctor.out


def test_doctor_fails_on_a_server_that_deletes_messages_when_memory_is_short(run: Any, tmp_path: Path) -> None:
    with server(tmp_path / "server", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as forgetful:
        doctor = run("doctor", "--redis", forgetful.url)
    assert doctor.code == 1
    assert "FAIL  maxmemory-policy: allkeys-lru (100.00M)" in doctor.out
    assert "set `maxmemory-policy noeviction`: any other policy deletes messages" in doctor.out


# Settings.


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SHARDS", "0", "shards: 0 is not between 1 and 1024"),
        ("SHARDS", "many", "shards: 'many' must be a whole number"),
        ("DRAIN_S", "long", "drain_s: 'long' must be a number"),
        ("NAMESPACE", "a:b", "namespace: 'a:b' must be 1 to 128 letters, digits, '.', '_' or '-'"),
        ("HOST", "0.0.0.0", "token: host 0.0.0.0 can be reached by others, so a token is required: set SWELL_TOKEN"),
        ("TOKEN_FILE", "/no/such/file", "SWELL_TOKEN_FILE: cannot read /no/such/file: No such file or directory"),
    ],
)
def test_a_wrong_setting_is_named_by_the_command_and_by_the_service(run: Any, name: str, value: str, text: str) -> None:
    environ = {f"SWELL_{name}": value}
    run("worker", **environ).is_line(2, text)
    service = run(module="swell_worker", **environ)
    service.is_line(2, text)


# The app.


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("no_such_module:app", "there is no module 'no_such_module' here or among the installed packages"),
        ("unreadable:app", "does not import: SyntaxError: invalid syntax ("),
        ("unreadable:app", "unreadable.py:2)"),
        ("needy:app", "it needs the module 'no_such_library', which is not installed"),
        ("failing:app", "does not import: ZeroDivisionError: division by zero ("),
        ("failing:app", "failing.py:3)"),
        ("swell.echo:application", "has no App named 'application'; it has: app"),
        ("swell.echo", "'swell.echo' must be 'module:attribute', for example 'swell.echo:app'"),
    ],
)
def test_an_app_that_does_not_load_is_one_line_with_its_place(run: Any, tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / "unreadable.py").write_text("import swell\ndef broken(:\n")
    (tmp_path / "needy.py").write_text("import no_such_library\n")
    (tmp_path / "failing.py").write_text("import swell\n\n1 / 0\n")
    where = {"PYTHONPATH": str(tmp_path)}
    run("up", "--app", path, "--data-dir", str(tmp_path / "data"), **where).is_line(2, text)
    service = run(module="swell_worker", SWELL_APP=path, SWELL_REDIS=NOWHERE, SWELL_PORT="0", **where)
    service.is_line(2, text)


# Ports and directories.


def test_a_taken_port_is_named_with_what_to_do(run: Any, tmp_path: Path, valkey: RealServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        taken = run("up", "--port", port, "--data-dir", str(tmp_path / "data"))
        taken.is_line(2, f"port: {port} is taken by another process; give another --port")
        service = run(module="swell_manager", SWELL_PORT=port, SWELL_REDIS=valkey.url)
        service.is_line(2, f"port {port} of 127.0.0.1 is taken", "--port or SWELL_PORT; 0 takes a free one")


def test_a_data_directory_in_use_names_who_uses_it(run: Any, up: Up) -> None:
    second = run("up", "--data-dir", str(up.directory))
    second.is_line(2, f"in use by another `swell up` (process {up.process.pid}); stop that one, or give another")


# Calls of the command line.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("spwan", "echo", "3"), 'Unknown command "spwan". Did you mean "spawn"?'),
        (("agents", "--colour"), "Unknown option: --colour."),
        (("ask", "echo/0000"), "parameter NAME requires an argument"),
        (("spawn", "echo", "-1"), "count: -1 must be at least 1"),
        (("spawn", "echo", "some"), 'Invalid value for COUNT: unable to convert "some" into int'),
        (("spawn", "echo", "3", "--key", "a"), "count: give a count or keys, not both"),
        (("spawn", "echo", "3", "--pacing", "fast"), 'Invalid value "fast" for --pacing. Choose from: "barrier"'),
        (("ask", "echo0000", "echo"), "agent: 'echo0000' must be type/key, for example echo/0000"),
        (("ask", "echo/0000", "echo", "{bad"), "body: '{bad' is not JSON"),
        (("send", "echo/0000", "echo", "text"), "a string needs its quotes, for example '\"text\"'"),
        (("ask", "echo/0000", "echo", "1", "--timeout", "0"), "timeout: 0 must be more than 0 seconds"),
        (("terminate",), "give exactly one of: ids, --type, --plan"),
        (("agents", "--limit", "0"), "limit: 0 is not between 1 and 10000"),
        (("up", "--workers", "0"), "workers: 0 is not between 1 and 256"),
    ],
)
def test_a_wrong_call_is_refused_before_any_server_is_asked(run: Any, arguments: tuple[str, ...], text: str) -> None:
    run(*arguments).is_line(2, text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("spawn", "nothing", "3"), "no worker runs agents of type 'nothing', only "),
        (("spawn", "notary", "3", "--wave-size", "0"), "wave_size: 0 is not between 1 and 100000"),
        (("spawn", "notary", "3", "--abort-ratio", "2"), "abort_ratio: 2 is not between 0 and 1"),
        (("spawn", "notary", "--key", "a b"), "keys[0]: 'a b' must be 1 to 128 letters, digits"),
        (("ask", "notary/nobody", "note"), "there is no agent notary/nobody: it was never spawned"),
        (("plans", "nothing"), "there is no plan 'nothing'; `swell plans` lists them"),
    ],
)
def test_what_the_system_refuses_is_one_line(run: Any, up: Up, arguments: tuple[str, ...], text: str) -> None:
    run(*arguments, "--data-dir", str(up.directory)).is_line(1, text)


def test_a_body_of_the_wrong_shape_names_the_field_and_an_unknown_handler_lists_those_there_are(
    run: Any, up: Up
) -> None:
    where = ("--data-dir", str(up.directory))
    assert run("spawn", "notary", "--key", "shape", *where).code == 0
    body = '{"sender": "me", "seq": "first"}'
    run("ask", "notary/shape", "note", body, *where).is_line(
        1, "the body for notary.note does not fit: Expected `int`, got `str` - at `$.seq`"
    )
    run("ask", "notary/shape", "notes", body, *where).is_line(
        1, "have no handler 'notes', only note, note_twice, process; did you mean 'note'?"
    )


# Nobody there.


def test_without_a_worker_an_ask_says_what_it_waits_for_and_its_limit(run: Any, valkey: RealServer) -> None:
    said = run("ask", "echo/0000", "echo", "1", "--timeout", "2.5", "--redis", valkey.url, "--namespace", "nobody")
    assert said.code == 1
    said.has(
        "waiting for echo/0000 to answer, 2.5 s at most; no worker is alive (start `swell up` or `swell worker`)",
        "echo/0000 did not answer 'echo' within 2.5 s",
    )


def test_without_a_manager_a_spawn_says_at_once_what_it_waits_for(valkey: RealServer) -> None:
    command = [sys.executable, "-m", "swell", "spawn", "echo", "3", "--redis", valkey.url, "--namespace", "nobody"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        first, second = waiting.stderr.readline(), waiting.stderr.readline()
        waiting.kill()
    assert first == "swell: no manager is alive; waiting for one (start `swell up` or `swell manager`)\n"
    assert second == "swell: no worker is alive; waiting for one (start `swell up` or `swell worker`)\n"


# HTTP.


class Answer(NamedTuple):
    """The status and the problem document."""

    status: int
    problem: dict[str, Any]


def ask(up: Up, method: str, path: str, body: str = "", **headers: str) -> Answer:
    """One request to the manager, by default with the right token."""
    sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"} | headers
    request = urllib.request.Request(up.state["http"]["manager"] + path, body.encode() or None, sent, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request, timeout=10):
        pass
    with refused.value as error:
        assert error.headers["Content-Type"] == "application/problem+json"
        return Answer(error.code, json.loads(error.read()))


def test_a_missing_or_wrong_token_is_401_and_says_what_to_send(up: Up) -> None:
    for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": ""}):
        answer = ask(up, "GET", "/v1/agents", **headers)
        assert answer.status == 401
        assert answer.problem["detail"].startswith("send 'Authorization: Bearer <token>' with the token")


def test_the_name_of_a_stranger_is_421_and_a_page_of_one_is_403(up: Up) -> None:
    misled = ask(up, "GET", "/v1/agents", Host="stranger.example")
    assert misled == Answer(421, misled.problem)
    assert misled.problem["detail"] == "this service is 127.0.0.1, ::1, localhost, not 'stranger.example'"
    page = ask(up, "GET", "/v1/agents", Origin="http://stranger.example")
    assert page.status == 403
    assert "'http://stranger.example' may not ask" in page.problem["detail"]


@pytest.mark.parametrize(
    ("path", "body", "status", "field", "detail"),
    [
        ("/v1/plans", "{bad", 400, None, "JSON is malformed"),
        ("/v1/plans", '{"type": "notary", "count": "three"}', 400, None, "count: Expected `int`, got `str`"),
        ("/v1/plans", '{"type": "notary", "cuont": 3}', 400, None, "unknown field `cuont`"),
        ("/v1/plans", '{"type": "notary", "count": -1}', 422, "count", "-1 is not between 1 and 100000"),
        ("/v1/plans", '{"type": "notary", "count": 3, "keys": ["a"]}', 422, "count", "leave one of them out"),
        ("/v1/plans", '{"type": "notary", "count": 3, "wave_size": 0}', 422, "wave_size", "0 is not between 1"),
        ("/v1/plans", '{"type": "notary", "count": 3, "abort_ratio": 2}', 422, "abort_ratio", "not between 0 and 1"),
        ("/v1/plans", '{"type": "nothing", "count": 3}', 404, None, "no worker runs agents of type 'nothing'"),
        ("/v1/messages", '[{"to": "notary", "name": "note"}]', 422, "[0].to", "'notary' is not 'type/key'"),
        ("/v1/messages", '{"to": "notary/a", "name": "note"}', 400, None, "Expected `array`, got `object`"),
        ("/v1/agents/notary/nobody/ask", '{"name": "note"}', 404, None, "there is no agent notary/nobody"),
    ],
)
def test_a_wrong_request_is_a_problem_document_that_names_the_field(
    up: Up, path: str, body: str, status: int, field: str | None, detail: str
) -> None:
    answer = ask(up, "POST", path, body)
    assert (answer.status, answer.problem.get("field")) == (status, field)
    assert detail in answer.problem["detail"]


def test_a_body_of_the_wrong_shape_is_422_and_names_the_field(run: Any, up: Up) -> None:
    assert run("spawn", "notary", "--key", "shape-http", "--data-dir", str(up.directory)).code == 0
    body = '{"name": "note", "body": {"sender": "me", "seq": "first"}}'
    answer = ask(up, "POST", "/v1/agents/notary/shape-http/ask", body)
    assert (answer.status, answer.problem["type"]) == (422, "urn:swell:wrong-body")
    assert (answer.problem["handler"], answer.problem["field"]) == ("note", "$.seq")
