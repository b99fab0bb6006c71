"""The rights of each service are what the code calls: nothing is missing, and nothing is there that nobody needs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from swell.bus.condition import SECTIONS
from swell.bus.functions import library
from swell.bus.rights import (
    CONTAINERS,
    FACTS,
    METHODS,
    SERVICES,
    SHARING,
    Needs,
    commands,
    commands_of_functions,
    fact_rules,
    functions,
    rules,
)

ROOT = Path(__file__).parents[2]
BUS = ROOT / "shared/swell/bus"
#: Helpers of the broker that pass a function's name on.
PASSING = {"_function", "_confirmed"}


def literals(node: ast.AST) -> Iterator[list[str]]:
    """Each command in a piece of the broker: the words it begins with. Our functions are FCALL with one name."""
    for found in ast.walk(node):
        elements = found.args if isinstance(found, ast.Call) else found.elts if isinstance(found, ast.Tuple) else []
        flat = [e for x in elements for e in (x.value.elts if _spread(x) else _named(x))]
        words = [e.value for e in flat[:2] if isinstance(e, ast.Constant) and isinstance(e.value, str)]
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Attribute) and found.func.attr in PASSING:
            yield ["FCALL", words[1]]
        elif words and re.fullmatch("[A-Z]{3,}", words[0]):
            if words[0] == "FCALL":
                assert isinstance(flat[1], ast.JoinedStr)
                words = ["FCALL", ast.unparse(flat[1]).split("}_")[1].rstrip("'\"")]
            yield words


def _named(node: ast.expr) -> list[ast.expr]:
    """The elements of `*SECTIONS`, the one constant that is spread into a command."""
    if isinstance(node, ast.Starred) and isinstance(node.value, ast.Name) and node.value.id == "SECTIONS":
        return [ast.Constant(section) for section in SECTIONS]
    return [node]


def _spread(node: ast.expr) -> bool:
    return isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple)


#: The parts of the broker that may be called by METHODS.
PARTS = (("redis.py", "RedisBroker"), ("redis_timed.py", "RedisTimed"), ("redis_records.py", "RedisRecords"))


def waiting_reads(method: str) -> list[list[str]]:
    """What a method of a `WaitingRead` says to the server."""
    tree = ast.parse((BUS / "waiting_read.py").read_text())
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "WaitingRead").body
    return list(literals(next(n for n in body if isinstance(n, ast.AsyncFunctionDef) and n.name == method)))


def called_by_the_broker(parts: Iterable[tuple[str, str]] = PARTS) -> dict[str, Needs]:
    bodies = []
    for file, name in parts:
        tree = ast.parse((BUS / file).read_text())
        bodies += next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name).body
    found = {}
    for method in bodies:
        if isinstance(method, ast.AsyncFunctionDef) and not method.name.startswith("_"):
            words = list(literals(method))
            if "_waiting_read(" in ast.unparse(method):
                words += waiting_reads("wake" if method.name.endswith("wake") else "call")
            direct = {
                f"{w[0]}|{w[1]}" if w[0] in CONTAINERS else w[0]
                for w in words
                if w[0] not in ("FCALL", "BLOCK", "GROUP")
            }
            found[method.name] = Needs(tuple(w[1] for w in words if w[0] == "FCALL"), tuple(direct))
    return found


def test_each_method_of_the_broker_needs_what_it_calls() -> None:
    calls = called_by_the_broker()
    del calls["close"]
    assert set(calls) == set(METHODS)
    for name, needs in calls.items():
        loading = {"FUNCTION|LIST"} if name == "open" else set()
        asking = {"leases"} if name == "open" else set()
        assert set(METHODS[name].functions) == set(needs.functions) | asking, name
        # INFO's one argument is a right of its own, and written as it is sent.
        assert {c.upper() for c in METHODS[name].commands} == {c.upper() for c in needs.commands} | loading, name


def test_each_method_of_facts_needs_what_it_calls() -> None:
    calls = called_by_the_broker([("facts_redis.py", "FactsOnRedis")])
    assert set(calls) == set(FACTS)
    for name, needs in calls.items():
        # The one method whose calls are in another, which repeats them.
        expected = ("fact_write", "fact_delete") if name == "fact_write" else needs.functions
        assert set(FACTS[name].functions) == set(expected), name
        assert set(FACTS[name].commands) == set(needs.commands), name


def test_facts_give_rights_on_the_keys_of_facts_alone() -> None:
    selector = fact_rules("x")
    assert selector.startswith("(~swell:x:{*}:facts:* +fcall|swell_v1_arrive ")
    assert "+hset " in selector
    for service in SERVICES:
        assert (selector in rules(service, "x", "local")) == (service in SHARING), service


def test_every_command_in_the_functions_is_found() -> None:
    source = library()
    calls = len(re.findall(r"redis\.p?call\(", source))
    assert calls == len(re.findall(r"redis\.p?call\(\s*'[A-Z]+'", source)), "a command is not written as a literal"
    registered = re.findall(r"register_function", source)
    assert len(commands_of_functions()) == len(registered)
    everything = frozenset().union(*commands_of_functions().values())
    assert {c.partition("|")[0] for c in everything} == set(re.findall(r"redis\.p?call\(\s*'([A-Z]+)'", source))


def test_a_function_needs_what_its_helpers_call() -> None:
    needed = commands_of_functions()
    assert needed["renew"] == {"TIME", "HMGET", "HSET"}
    assert needed["members"] == {"TIME", "ZRANGEBYSCORE", "HGET"}
    assert {"XGROUP|CREATE", "XGROUP|DESTROY", "XPENDING"} <= needed["acquire"]


#: Code that is a broker, or has one without users: in memory, for tests.
OWN = ("shared/swell/bus/redis", "shared/swell/bus/memory", "shared/swell/cli/system.py", "shared/swell/testing/")
#: Where the broker is called -> the services in which that code runs.
CALLERS = {
    "shared/swell/bus/consumer.py": ("manager", "worker", "metrics"),
    "shared/swell/bus/leases.py": ("manager", "worker", "metrics"),
    "shared/swell/bus/careful.py": ("manager", "worker", "metrics"),
    "shared/swell/bus/settler.py": ("manager", "worker", "metrics"),
    "shared/swell/bus/caller.py": ("manager", "worker", "client"),
    "shared/swell/bus/producer.py": ("manager", "worker", "metrics", "client"),
    "shared/swell/bus/keyed.py": ("manager", "worker", "client"),
    "shared/swell/client.py": ("manager", "client"),
    "shared/swell/looking.py": ("manager", "client"),
    "shared/swell/publishing.py": ("manager", "client"),
    "shared/swell/holding.py": ("manager", "client"),
    "shared/swell/submitting.py": ("manager", "client"),
    "shared/swell/planning.py": ("manager", "client"),
    "shared/swell/dead.py": ("manager", "client"),
    "shared/swell/timetable.py": ("manager", "client"),
    "shared/swell/registry.py": ("manager", "client"),
    "shared/swell/facts": SHARING,
    "shared/swell/lifecycle.py": ("manager", "worker", "metrics"),
    "shared/swell/http.py": ("manager", "worker", "metrics"),
    "shared/swell/cli/checks.py": ("operator",),
    "shared/swell/bench": ("client",),
    "services/swell_manager": ("manager",),
    "services/swell_worker": ("worker",),
    "services/swell_metrics": ("metrics",),
}


@pytest.mark.parametrize("place", CALLERS)
def test_a_service_may_do_what_its_code_asks_of_the_broker(place: str) -> None:
    path = ROOT / place
    text = "\n".join(p.read_text() for p in (path.rglob("*.py") if path.is_dir() else [path]))
    called = set(re.findall(r"broker\.(\w+)\(", text)) - {"close"}
    for service in CALLERS[place]:
        assert called <= {*SERVICES[service], *(FACTS if service in SHARING else ())}, service


def test_no_other_code_asks_the_broker() -> None:
    for path in [*(ROOT / "shared").rglob("*.py"), *(ROOT / "services").rglob("*.py")]:
        place = str(path.relative_to(ROOT))
        known = any(place == known or place.startswith(known + "/") for known in CALLERS)
        own = place.startswith(OWN)
        assert known or own or not re.search(r"broker\.\w+\(", path.read_text()), place


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_gets_a_dangerous_command(service: str) -> None:
    allowed = {command.partition("|")[0] for command in commands(service, "local")}
    assert not allowed & {
        "EVAL",
        "EVALSHA",
        "SCRIPT",
        "CONFIG",
        "DEBUG",
        "FLUSHALL",
        "FLUSHDB",
        "RESTORE",
        "KEYS",
        "ACL",
    }
    assert "FUNCTION|LOAD" not in commands(service, "local") or service == "operator"
    assert "+@" not in rules(service, "x", "local")


def test_only_the_durability_asked_for_gives_the_right_to_wait_for_it() -> None:
    assert "WAITAOF" in commands("worker", "fsync")
    assert "WAIT" in commands("worker", "replicas:2")
    assert not {"WAIT", "WAITAOF"} & set(commands("worker", "local"))


def test_a_client_can_neither_own_nor_settle() -> None:
    assert not {"swell_v1_acquire", "swell_v1_settle", "swell_v1_heartbeat"} & set(functions("client"))
    assert not {"XACK", "XREADGROUP", "HSET", "HDEL", "ZADD"} & set(commands("client", "local"))
