"""What each service may do on the server: the commands it calls, on its namespace's keys, and nothing else.

Redis checks the rights of the caller for every command inside a function too. So a service needs FCALL of the
functions that it calls, what those functions call (read from their source, so that it cannot be forgotten), and what
the broker calls directly. What facts and locks need is given for their keys alone (a selector): who may share facts
may not write records of agents.

    service --methods--> METHODS --functions--> library source --> commands
                         FACTS ---------commands-----------------> commands
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from swell.bus.condition import SECTIONS
from swell.bus.functions import LIBRARY, library

#: Commands of which each first argument is a right of its own.
CONTAINERS = frozenset({"CLIENT", "CONFIG", "FUNCTION", "INFO", "XGROUP"})
#: What every connection says when it is made (AUTH and QUIT need no right), and the question for a sign of life.
_ALWAYS = ("CLIENT|SETNAME", "PING", "SELECT")


class Needs(NamedTuple):
    """What one method of the broker calls: our functions by name, and commands."""

    functions: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


#: Method of `RedisBroker` -> what it needs. Confirmations depend on the durability; see `commands`.
METHODS: dict[str, Needs] = {
    "open": Needs(("leases",), ("FUNCTION|LIST", "HSETNX", "HMGET")),
    "ping": Needs((), ("PING",)),
    "trouble": Needs((), (f"INFO|{SECTIONS[0]}",)),
    "append": Needs(("append",)),
    "acquire": Needs(("acquire",)),
    "inherit": Needs((), ("HGETALL",)),
    "trial": Needs(("trial",)),
    "renew": Needs(("renew",)),
    "release": Needs(("release",)),
    "read": Needs((), ("CLIENT|ID", "XREADGROUP")),
    "wake": Needs((), ("CLIENT|UNBLOCK",)),
    "pending": Needs((), ("XREADGROUP",)),
    "fetch": Needs((), ("XRANGE",)),
    "settle": Needs(("settle", "settle_timed", "reply")),
    "fire": Needs(("fire",)),
    "fan_out": Needs(("fan_out",)),
    "scheduled": Needs((), ("ZRANGE", "HMGET")),
    "waits": Needs((), ("HGET",)),
    "open_replies": Needs((), ("PEXPIRE", "XGROUP|CREATE")),
    "read_replies": Needs((), ("XREAD", "EXISTS", "XTRIM")),
    "heartbeat": Needs(("heartbeat",)),
    "members": Needs(("members",)),
    "leases": Needs(("leases",)),
    "memory": Needs((), (f"INFO|{SECTIONS[0]}",)),
    "glance": Needs(("glance",)),
    "ledger": Needs(("audit",)),
    "records": Needs((), ("HGETALL",)),
    "record": Needs((), ("HGET",)),
    "tasks": Needs((), ("HGETALL",)),
    "dead": Needs((), ("XREVRANGE",)),
    "dead_at": Needs((), ("XRANGE",)),
    "replay": Needs(("replay",)),
    "drop": Needs(("drop",)),
}

#: Method of `FactsOnRedis` -> what it needs, on the keys of facts.
FACTS: dict[str, Needs] = {
    "fact_write": Needs(("fact_write", "fact_delete")),
    "fact_read": Needs(("fact_read",)),
    "fact_names": Needs(("fact_names",)),
    "fact_tail": Needs(("fact_tail",)),
    "fact_follow": Needs((), ("CLIENT|ID", "XREAD")),
    "fact_wake": Needs((), ("CLIENT|UNBLOCK",)),
    "hold": Needs(("hold",)),
    "hold_renew": Needs(("hold_renew",)),
    "hold_leave": Needs(("hold_leave",)),
    "hold_list": Needs(("hold_names", "hold_show")),
    "arrive": Needs(("arrive",)),
}

_OWNER = ("acquire", "inherit", "trial", "renew", "release", "read", "wake", "pending", "settle", "heartbeat", "leases")
_ASKER = ("append", "open_replies", "read_replies")
_LETTERS = ("dead", "dead_at", "replay", "drop")
_LOOK = ("members", "leases", "ledger", "glance", "records", "record", "tasks", "scheduled", *_LETTERS)

#: Service -> the methods that it calls. `client` is any program with a `swell.Client`, and the command line.
SERVICES: dict[str, tuple[str, ...]] = {
    "manager": ("open", "ping", "trouble", *_OWNER, *_ASKER, *_LOOK),
    "worker": ("open", "ping", "trouble", *_OWNER, "fetch", "fire", "waits", "fan_out", "records", "record", *_ASKER),
    "metrics": ("open", "ping", "trouble", *_OWNER, "append", "members", "memory", "glance", "ledger"),
    "client": ("open", "ping", *_ASKER, *_LOOK),
    "operator": ("open", "ping", "trouble", "members", "leases", "ledger", "record"),
}
#: The services that share facts, by all methods of FACTS: an agent may, and so may whoever has a client.
SHARING = ("manager", "worker", "client")
#: What a service calls besides the broker: the operator loads the functions and runs `swell doctor`.
_BESIDE: dict[str, tuple[str, ...]] = {"operator": ("FUNCTION|LOAD", "INFO", "TIME", "XLEN")}

_FUNCTION = re.compile(r"^local function (\w+)\(.*?\n(.*?)^end$", re.M | re.S)
_REGISTERED = re.compile(rf"function_name = '{LIBRARY}_(\w+)', callback = (\w+)")
_CALL = re.compile(r"redis\.p?call\(\s*'(\w+)'(?:, '(\w+)')?")


@cache
def commands_of_functions() -> dict[str, frozenset[str]]:
    """Function (without the library's name) -> all commands that it calls, itself or through what it uses."""
    source = library()
    bodies = dict(_FUNCTION.findall(source))
    return {name: frozenset(_reached(callback, bodies, set())) for name, callback in _REGISTERED.findall(source)}


def _reached(name: str, bodies: dict[str, str], seen: set[str]) -> set[str]:
    """The commands in one Lua function and in those that it calls."""
    seen.add(name)
    found = {f"{c}|{sub}" if c in CONTAINERS else c for c, sub in _CALL.findall(bodies[name])}
    for used in set(re.findall(r"\b(\w+)\(", bodies[name])) & (bodies.keys() - seen):
        found |= _reached(used, bodies, seen)
    return found


def functions(service: str) -> list[str]:
    """The functions that a service calls, by their full names."""
    return sorted({f"{LIBRARY}_{name}" for method in SERVICES[service] for name in METHODS[method].functions})


def fact_rules(namespace: str) -> str:
    """The selector that lets a service share facts: the functions and commands for it, on the keys of facts alone."""
    called = {name for needs in FACTS.values() for name in needs.functions}
    found = {command for needs in FACTS.values() for command in needs.commands}
    found.update(*(commands_of_functions()[name] for name in called))
    allowed = [f"+fcall|{LIBRARY}_{name}" for name in sorted(called)] + [f"+{c.lower()}" for c in sorted(found)]
    return f"(~swell:{namespace}:{{*}}:facts:* {' '.join(allowed)})"


def commands(service: str, durability: str) -> list[str]:
    """The commands that a service calls, FCALL left out, in capital letters; `XGROUP|CREATE` is XGROUP CREATE.

    Args:
        service: a key of SERVICES.
        durability: `local`, `fsync` or `replicas:N`: how appends and leases are confirmed.
    """
    found = {*_ALWAYS, *_BESIDE.get(service, ())}
    for method in SERVICES[service]:
        needs = METHODS[method]
        found.update(needs.commands, *(commands_of_functions()[name] for name in needs.functions))
    if durability == "fsync":
        found.add("WAITAOF")
    elif durability != "local":
        found.add("WAIT")
    if "INFO" in found:
        found = {command for command in found if not command.startswith("INFO|")}
    return sorted(found)


def rules(service: str, namespace: str, durability: str) -> str:
    """The rules of a service's user as ACL SETUSER and the ACL file take them, without the password."""
    allowed = [f"+fcall|{name}" for name in functions(service)]
    allowed += [f"+{command.lower()}" for command in commands(service, durability)]
    selector = f" {fact_rules(namespace)}" if service in SHARING else ""
    return f"resetchannels resetkeys clearselectors ~swell:{namespace}:* -@all {' '.join(allowed)}{selector}"
