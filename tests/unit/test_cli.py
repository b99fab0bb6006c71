"""The command line without a server: options, settings, output, and what wrong calls get."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from swell.cli import complain, hoist, leaves, main
from swell.cli.show import clean, duration
from swell.cli.state import UpState, data_directory, read_state, remove_state, write_state
from swell.cli.system import choose_ports
from swell.cli.talk import check_agent, parse_json
from swell.cli.target import Target, resolve
from swell.config import Settings
from swell.data_directory import port_free
from swell.errors import BrokerError, ConfigError, HandlerFailed, SwellError
from swell.lifecycle import run as run_service

COMMANDS = (
    *("up", "manager", "worker", "metrics", "spawn", "terminate", "send", "ask"),
    *("agents", "plans", "workers", "shards", "ledger", "doctor"),
)
#: A port that nobody listens on: the first one, which only root could use.
NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("SWELL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class Said:
    """What a command wrote, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return Said(ended.value.code, out, err)


def state(directory: Path, **changes: object) -> UpState:
    fields: dict[str, object] = {
        "pid": os.getpid(),
        "redis": "redis://127.0.0.1:7777/0",
        "namespace": "reviews",
        "app": "swell.echo:app",
        "data_dir": str(directory),
        "logs": str(directory / "logs"),
        "embedded": True,
    }
    return UpState(**(fields | changes))  # type: ignore[arg-type]


def test_help_lists_every_command_and_imports_none_of_them() -> None:
    code = (
        "import sys; from swell.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in COMMANDS)
    loaded = set(done.stderr.split())
    assert not loaded & {
        "asyncio",
        "redis",
        "msgspec.json",
        "litestar",
        "swell.client",
        "swell.cli.up",
        "swell.cli.look",
    }


@pytest.mark.parametrize("command", [*COMMANDS, *(f"dead {one}" for one in ("list", "show", "replay", "drop"))])
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, *command.split(), "--help")
    assert said.code == 0
    assert "--json" in said.out
    assert "--redis" in said.out


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "swell", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["agents"], ["agents"]),
        (["--json", "agents", "--limit", "3"], ["agents", "--json", "--limit", "3"]),
        (["--redis", "r", "--namespace=n", "send", "a/b", "x"], ["send", "--redis", "r", "--namespace=n", "a/b", "x"]),
        (["--json", "dead", "list", "--limit", "3"], ["dead", "list", "--json", "--limit", "3"]),
        (["--json", "dead", "--help"], ["dead", "--json", "--help"]),
        (["--help"], ["--help"]),
        ([], []),
    ],
)
def test_common_options_may_stand_before_the_command(arguments: list[str], expected: list[str]) -> None:
    assert hoist(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["frobnicate"], 2, 'Unknown command "frobnicate"'),
        (["spawn"], 2, "TYPE requires an argument"),
        (["spawn", "echo", "many"], 2, 'unable to convert "many" into int'),
        (["spawn", "echo", "0"], 2, "count: 0 must be at least 1"),
        (["spawn", "echo", "2", "--key", "a"], 2, "give a count or keys, not both"),
        (["spawn", "echo", "--args", "{"], 2, "args: '{' is not JSON"),
        (["send", "echo", "x"], 2, "agent: 'echo' must be type/key"),
        (["ask", "echo/1", "x", "hello"], 2, "a string needs its quotes"),
        (["terminate"], 2, "give exactly one of"),
        (["agents", "--limit", "0"], 2, "limit: 0 is not between 1 and 10000"),
        (["dead", "list", "--limit", "0"], 2, "limit: 0 is not between 1 and 10000"),
        (["dead", "list", "--since", "1w"], 2, "since: '1w' is no time"),
        (["dead", "replay"], 2, "give ids, or filters, or --all"),
        (["dead", "drop", "0:1-1:0", "--all"], 2, "give ids, or filters, not two of them"),
        (["dead", "frobnicate"], 2, "frobnicate"),
        (["agents", "--redis", "http://x"], 2, "must begin with redis://"),
        (["agents", "--namespace", "a b"], 2, "namespace: 'a b' must be"),
        (["agents", "--redis", NOWHERE], 1, "cannot be reached"),
        (["up", "--app", "nothing_of_that_name:app"], 2, "there is no module 'nothing_of_that_name'"),
        (["up", "--app", "swell.echo:nothing"], 2, "has no App named 'nothing'; it has: app"),
        (["up", "--workers", "0"], 2, "workers: 0 is not between 1 and 256"),
        (["worker", "--lease-ms", "1"], 2, "lease_ms: 1 is not between 500 and 60000"),
        (["manager", "--host", "0.0.0.0"], 2, "a token is required"),
    ],
)
def test_a_wrong_call_gets_one_line_that_names_what_is_wrong(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, *arguments)
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.startswith("swell: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_without_any_server_the_error_says_how_to_get_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.cli.target._DEFAULTS", Settings(redis=NOWHERE))
    monkeypatch.setattr("swell.cli.target.load", lambda flags, environ: Settings(redis=NOWHERE))
    ended = run(capsys, "agents")
    assert ended.code == 1
    assert "no `swell up` runs in" in ended.err
    assert "start `swell up`, or give --redis" in ended.err


def test_doctor_says_that_the_server_is_away_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, "doctor", "--redis", NOWHERE)
    assert ended.code == 1
    assert "FAIL  server" in ended.out
    assert "start `swell up`" in ended.out


def test_doctor_never_prints_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--json"]):
        ended = run(capsys, "doctor", "--redis", "redis://user:hunter2@127.0.0.1:1/0", *more)
        assert "hunter2" not in ended.out + ended.err


# Where the server is.


def test_the_flag_comes_first_then_the_variable_then_the_running_up_then_the_default(tmp_path: Path) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path)}
    variable = {"SWELL_REDIS": "redis://variable:1/0"}
    (tmp_path / "swell" / "default").mkdir(parents=True)
    assert resolve(Target(), home).settings.redis == "redis://127.0.0.1:6379/0"
    write_state(state(tmp_path / "swell" / "default"))
    assert resolve(Target(), home).settings.redis == "redis://127.0.0.1:7777/0"
    assert resolve(Target(), home | variable).settings.redis == "redis://variable:1/0"
    assert resolve(Target(redis="redis://flag:1/0"), home | variable).settings.redis == "redis://flag:1/0"


def test_the_default_given_explicitly_beats_the_running_up(tmp_path: Path) -> None:
    write_state(state(tmp_path))
    environ = {"SWELL_DATA_DIR": str(tmp_path), "SWELL_REDIS": "redis://127.0.0.1:6379/0"}
    assert resolve(Target(), environ).settings.redis == "redis://127.0.0.1:6379/0"


def test_the_running_up_also_tells_the_namespace_unless_one_is_named(tmp_path: Path) -> None:
    write_state(state(tmp_path))
    environ = {"SWELL_DATA_DIR": str(tmp_path)}
    assert resolve(Target(), environ).settings.namespace == "reviews"
    assert resolve(Target(namespace="default"), environ).settings.namespace == "default"
    assert resolve(Target(), environ | {"SWELL_NAMESPACE": "other"}).settings.namespace == "other"


def test_an_up_that_has_ended_is_ignored(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    write_state(state(tmp_path, pid=process.pid))
    assert read_state(tmp_path) is None


def test_what_up_leaves_is_readable_by_its_owner_only_and_goes_away(tmp_path: Path) -> None:
    write_state(state(tmp_path))
    assert stat.S_IMODE((tmp_path / "up.json").stat().st_mode) == 0o600
    assert read_state(tmp_path) == state(tmp_path)
    remove_state(tmp_path)
    assert read_state(tmp_path) is None


def test_the_data_directory_follows_the_settings_then_xdg_then_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert data_directory(Settings(data_dir=str(tmp_path)), {}) == tmp_path
    assert data_directory(Settings(namespace="n"), {"XDG_STATE_HOME": "/state"}) == Path("/state/swell/n")
    assert data_directory(Settings(), {"XDG_STATE_HOME": "relative"}) == Path(
        "/home/someone/.local/state/swell/default"
    )
    assert data_directory(Settings(), {}) == Path("/home/someone/.local/state/swell/default")


# Ports.


def test_a_port_that_is_taken_is_passed_over() -> None:
    # Below the ports that the system gives to others, so that nobody takes one of these meanwhile.
    base = next(n for n in range(20_000, 30_000, 10) if all(port_free(n + k) for k in range(5)))
    with socket.socket() as other:
        other.bind(("127.0.0.1", base + 1))
        other.listen()
        assert choose_ports("127.0.0.1", 2, base) == [base, base + 2, base + 3, base + 4]


def test_a_port_that_was_asked_for_and_is_taken_is_an_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port: {taken} is taken"):
            choose_ports("127.0.0.1", 1, taken)


# Small things.


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "12.3 ms"), (0, "0 ms"), (1.234, "1.23 s"), (300, "5 min"), (10_000, "3 h"), (900_000, "10 d")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert clean("a\x1b[31mb\nc") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}c"


def test_a_body_is_json_or_nothing() -> None:
    assert parse_json("body", None) is None
    assert parse_json("body", '{"a": [1, "x"]}') == {"a": [1, "x"]}


@pytest.mark.parametrize("id", ["", "a", "a/", "/b", "a/b/c", "a b/c", "$control"])
def test_an_agent_is_type_slash_key(id: str) -> None:
    with pytest.raises(ConfigError, match="must be type/key"):
        check_agent(id)


def test_leaves_of_nested_groups_are_found() -> None:
    one, two = ValueError(1), ValueError(2)
    assert list(leaves(ExceptionGroup("", [ExceptionGroup("", [one]), two]))) == [one, two]


@pytest.mark.parametrize(
    ("error", "lines"),
    [(HandlerFailed("a/1", "\x1b[2Jno\nswell: yes\u202e"), 1), (BrokerError("its words:\n\x1b[2J\x9b"), 2)],
)
def test_an_error_that_quotes_strangers_commands_no_terminal(
    capsys: pytest.CaptureFixture[str], error: SwellError, lines: int
) -> None:
    complain(error)
    said = capsys.readouterr().err
    assert said.count("\n") == lines
    assert not set(said) & {"\x1b", "\u202e", "\x9b"}


def test_a_service_that_ends_with_an_error_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(_: object) -> None:
        raise BrokerError("\x1b[2J\u202e")

    assert run_service(main) == 2
    assert capsys.readouterr().err == "swell: \\x1b[2J\\u202e\n"
