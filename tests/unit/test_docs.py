"""The documents say what is there: settings, commands, metrics, log fields, endpoints, links, snippets."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from swell import keys
from swell.alerts import RULES
from swell.app import App
from swell.bus.replies import MOST_UNWRITTEN_BYTES, REPLIES_BYTES
from swell.cli.commands import app as commands
from swell.cli.serve import Flags
from swell.cli.target import Target
from swell.codec import (
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    MAX_ENTRY_BYTES,
    MAX_EVENT_BYTES,
    MAX_RESULT_BYTES,
    MAX_STAMPED_EVENT_BYTES,
)
from swell.config import Settings, load
from swell.errors import ConfigError
from swell.facts.values import MAX_KEY_BYTES, MAX_VALUE_BYTES
from swell.http import MAX_REQUEST_BYTES
from swell.instruments import ALERT_FIRING, COUNTERS, GAUGES, LATENCIES, LEDGER_COUNTERS, SHARD_GAUGES
from swell.letters import KEEP_OWN_REASON
from swell.logs import MAX_TEXT
from swell.patience import MAX_HEAD_BYTES, MOST_CONNECTIONS, REQUEST_TIMEOUT_S
from swell.task import MOST_PARTS, MOST_PARTS_BYTES
from swell_manager.admission import MAX_AGENTS, MAX_ARGS_BYTES
from swell_worker.executor import KEEP_TRACEBACK
from tests.integration.services import Service

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDE = (DOCS / "guide.md").read_text()
HTTP = (DOCS / "http.md").read_text()
#: A port that nobody listens on: services answer HTTP while their server is away.
NOWHERE = "redis://127.0.0.1:1"


def section(text: str, title: str) -> str:
    """The part of a document under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"there is no section {title!r}"
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without their headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {at - 1 for at, line in enumerate(lines) if set(line) <= set("| -")}
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for at, row in enumerate(cells) if at not in heads and at - 1 not in heads]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


# Settings.


def settings_rows() -> dict[str, list[str]]:
    return {row[0].strip("`"): row[1:] for row in rows(section(GUIDE, "Settings"))}


def test_the_settings_table_has_every_setting_with_its_variable_and_default() -> None:
    fields = dataclasses.fields(Settings)
    table = settings_rows()
    assert list(table) == [field.name for field in fields]
    for field in fields:
        variable, _, default, *_ = table[field.name]
        assert variable == f"`SWELL_{field.name.upper()}`"
        spoken = {"": "empty", None: "the service's own"}.get(field.default, f"`{field.default}`")
        assert default == spoken, field.name


def test_the_settings_table_has_the_flags_that_there_are() -> None:
    flags = {field.name for holder in (Flags, Target) for field in dataclasses.fields(holder)}
    for name, (_, flag, *_) in settings_rows().items():
        expected = f"`--{name.replace('_', '-')}`" if name in flags else "none: flags can be seen by others"
        assert flag == expected


def test_the_bounds_in_the_settings_table_are_those_that_are_checked() -> None:
    bounded = {name: row[3].split("..") for name, row in settings_rows().items() if ".." in row[3]}
    assert set(bounded) == {
        "shards",
        "lease_ms",
        "max_deliveries",
        "max_depth",
        "mailbox",
        "buffer",
        "drain_s",
        "http_rate",
        "port",
    }
    for name, (least, most) in bounded.items():
        for value in (least, most):
            load({name: value}, {})
        for value in (str(int(least) - 1), str(int(most) + 1)):
            with pytest.raises(ConfigError, match=f"^{name}: "):
                load({name: value}, {})


# Commands, metrics, logs.


def test_every_command_is_in_the_guide_and_none_that_there_is_not() -> None:
    documented = {re.match(r"`swell ([\w-]+)", row[0]) for row in rows(section(GUIDE, "Command line"))}
    names = {name for name in commands if not name.startswith("-")}
    assert {found.group(1) for found in documented if found} == names


def test_the_metrics_table_is_the_table_of_instruments() -> None:
    tables = (
        *(("counter", COUNTERS), ("histogram", LATENCIES), ("gauge", GAUGES), ("gauge", SHARD_GAUGES)),
        *(("counter", LEDGER_COUNTERS), ("gauge", {"firing": ALERT_FIRING})),
    )
    expected = [[f"`{i.metric}`", kind, i.unit, i.meaning] for kind, table in tables for i in table.values()]
    assert rows(section(GUIDE, "Metrics")) == expected


def test_the_table_of_alerts_is_the_table_of_rules() -> None:
    expected = [
        [
            *(f"`{rule.name}`", rule.severity, "off" if rule.threshold is None else f"{rule.threshold:g}"),
            *(f"{rule.for_s:g} s", rule.value, rule.meaning, rule.advice),
        ]
        for rule in RULES.values()
    ]
    assert rows((DOCS / "alerts.md").read_text()) == expected


def test_every_field_that_is_logged_is_in_the_guide() -> None:
    logged = {name for folder in ("shared", "services") for name in fields_logged(ROOT / folder)}
    documented = {name for row in rows(section(GUIDE, "Logs")) for name in re.findall(r"`(\w+)`", row[0])}
    assert logged - documented == set()


def fields_logged(folder: Path) -> Iterator[str]:
    """The keys of all `extra={...}` under a folder."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Dict):
                yield from (key.value for key in node.value.keys if isinstance(key, ast.Constant))


# HTTP.


async def description(role: str, directory: Path) -> Mapping[str, Any]:
    """The OpenAPI document of a service, asked for over HTTP."""
    service = Service(role, NOWHERE, "docs", directory, app="swell.echo:app")
    try:
        _, found = await service.get(await service.url() + "/openapi.json")
    finally:
        service.kill()
    assert isinstance(found, dict)
    return found


def endpoints(document: Mapping[str, Any]) -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}


async def test_every_endpoint_is_in_the_document_and_none_that_there_is_not(tmp_path: Path) -> None:
    there = {"GET /openapi.json"}
    for role in ("manager", "metrics", "worker"):
        there |= endpoints(await description(role, tmp_path))
    documented = set(re.findall(r"^\| `((?:GET|POST|PUT|DELETE) [^`]+)`", HTTP, re.M))
    assert documented == there


def test_every_endpoint_has_an_example_and_every_example_an_endpoint() -> None:
    documented = set(re.findall(r"^\| `((?:GET|POST|PUT|DELETE) [^`]+)`", HTTP, re.M))
    patterns = {endpoint: re.compile(re.sub(r"\{\w+\}", "[^/ ]+", endpoint)) for endpoint in documented}
    shown = set()
    for line in "".join(blocks(HTTP, "sh")).splitlines():
        if line.startswith("curl"):
            matching = {endpoint for endpoint, pattern in patterns.items() if pattern.fullmatch(asked(line))}
            assert matching, line
            shown |= matching
    assert shown == documented


def asked(line: str) -> str:
    """The method and path of a curl command; its body must be JSON."""
    words = shlex.split(line)
    url = next(word for word in words if word.startswith("http://"))
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if "-d" in words else "GET"
    if "-d" in words:
        json.loads(words[words.index("-d") + 1])
    return f"{method} {httpx.URL(url).path}"


# Security.


def test_every_promise_of_security_names_a_place_and_a_test_that_are_there() -> None:
    promises = rows(section((DOCS / "security.md").read_text(), "What holds each promise"))
    assert len(promises) > 20
    for promise, place, test in promises:
        path, _, name = test.strip("`").partition("::")
        assert (ROOT / place.strip("`")).is_file(), promise
        assert f"def {name}(" in (ROOT / path).read_text(), promise


def test_the_limits_in_security_are_those_of_the_code() -> None:
    text = (DOCS / "security.md").read_text()
    for section_name, values in LIMITS.items():
        for said, value in values.items():
            assert said in section(text, section_name), said
            assert value[0] == value[1], said


#: Section -> what it says -> the limit in the code, and what that says.
LIMITS = {
    "HTTP": {
        "32 KiB": (MAX_HEAD_BYTES, 32 << 10),
        "1 MiB + 64 KiB": (MAX_REQUEST_BYTES, (1 << 20) + (64 << 10)),
        "| 30 s |": (REQUEST_TIMEOUT_S, 30),
        "| 500 |": (MOST_CONNECTIONS, 500),
        "`http_rate`, 1,000 a second": (Settings().http_rate, 1000),
    },
    "Messages": {
        "1 MiB; 256 messages": ((MAX_BATCH_BYTES, MAX_BATCH_MESSAGES), (1 << 20, 256)),
        "| 4 KiB less than 1 MiB; 2 KiB more |": (
            (MAX_BATCH_BYTES - MAX_EVENT_BYTES, MAX_STAMPED_EVENT_BYTES - MAX_EVENT_BYTES),
            (4 << 10, 2 << 10),
        ),
        "1 MiB + 1 KiB": (MAX_ENTRY_BYTES, (1 << 20) + 1024),
        "| the result of `ask` | 1 MiB |": (MAX_RESULT_BYTES, 1 << 20),
        "8 MiB, or one reply": (REPLIES_BYTES, 8 << 20),
        "not written yet | 8 MiB |": (MOST_UNWRITTEN_BYTES, 8 << 20),
        "10,000; 16 MiB": ((MOST_PARTS, MOST_PARTS_BYTES), (10_000, 16 << 20)),
        "512 bytes; 1 MiB": ((MAX_KEY_BYTES, MAX_VALUE_BYTES), (512, 1 << 20)),
        "100,000; 64 KiB": ((MAX_AGENTS, MAX_ARGS_BYTES), (100_000, 64 << 10)),
        "4,000; 8,000 characters": ((KEEP_OWN_REASON, KEEP_TRACEBACK), (4000, 8000)),
        "16,384 characters": (MAX_TEXT, 16_384),
    },
}


# Links and snippets.


def test_the_table_of_keys_has_every_key() -> None:
    told = set(re.findall(r"swell:\{ns\}:[^\s`]+", (DOCS / "design.md").read_text()))
    there = set(re.findall(r"swell:\{ns\}:\S+", keys.__doc__ or ""))
    assert there <= told


def test_every_example_finds_the_system_that_runs_here() -> None:
    """Their READMEs start `swell up` and name no server."""
    texts = {path.name: path.read_text() for path in (ROOT / "examples").rglob("*.py")}
    assert [name for name, text in texts.items() if "Client.connect()" in text] == []


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []


def test_the_guides_snippets_are_programs_and_the_first_is_an_app() -> None:
    snippets = blocks(GUIDE, "python")
    for snippet in snippets:
        compile(snippet, "guide.md", "exec")
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(snippets[0], "guide.md", "exec"), names)
    app = names["app"]
    assert isinstance(app, App)
    assert set(app.types["counter"].handlers) == {"order", "price"}
