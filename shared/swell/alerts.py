"""Alerts: the table of rules, and what is kept and shown of them.

The metrics service evaluates the rules (`swell_metrics.watch`) and keeps what fires in a record of its shard, so that
whoever owns the shard next goes on from there, and everybody can read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from swell.codec import decode
from swell.errors import ConfigError, WireError

#: The record of the shard `metrics` that holds the alerts.
RECORD = "alerts"
#: What a rule that looks back counts, seconds.
WINDOW_S = 60

Severity = Literal["critical", "warning"]
AlertState = Literal["inactive", "pending", "firing", "resolved"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition: a value above its threshold for some time.

    Attributes:
        name: as in the setting `alerts`.
        severity: critical: messages wait or were lost; warning: somebody should look.
        threshold: the value must be above it; None: the rule is off unless a threshold is set.
        for_s: how long the value must be above, seconds, before the alert fires.
        value: what is compared, with its unit.
        meaning: what it means that it fires.
        advice: what to do.
    """

    name: str
    severity: Severity
    threshold: float | None
    for_s: float
    value: str
    meaning: str
    advice: str


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "shard_unowned",
            "critical",
            0,
            5,
            "shards whose lease nobody holds",
            "messages of these shards wait: no process reads them",
            "start a worker (`control`: a manager); `swell workers` says who is alive",
        ),
        Rule(
            "role_missing",
            "critical",
            0,
            5,
            "roles (manager, worker) of which no process is alive",
            "nobody does this work; requests wait in their streams",
            "start `swell manager` or `swell worker`",
        ),
        Rule(
            "server",
            "critical",
            0,
            5,
            "1 if the server answers but cannot take or keep messages",
            "the server is loading, read-only, out of memory, deletes messages, or cannot write to its disk",
            "do what the text says; `swell doctor` checks it again",
        ),
        Rule(
            "ledger",
            "critical",
            0,
            5,
            "shards whose ledger does not balance",
            "what was sent is not what was settled and waits: the server's data was changed or cut",
            "`swell ledger` shows the figures; was the server restored from a copy?",
        ),
        Rule(
            "data_lost",
            "critical",
            0,
            0,
            "times in the last minute that the server had lost what it had acknowledged",
            "the server came back without its newest data, for example after a power loss",
            "see `appendfsync` and SWELL_DURABILITY, and the senders' logs for what must be sent again",
        ),
        Rule(
            "oldest_message_s",
            "warning",
            60,
            5,
            "age of the oldest message that is not settled, seconds",
            "a handler takes that long, or the workers do not keep up",
            "`swell agents` shows who is behind; start more workers, or set a timeout",
        ),
        Rule(
            "depth_ratio",
            "warning",
            0.8,
            5,
            "unsettled messages of the fullest shard over `max_depth`",
            "when a shard is full its senders wait, or are told Busy",
            "start more workers, slow the senders down, or raise `max_depth`",
        ),
        Rule(
            "memory_ratio",
            "warning",
            0.9,
            5,
            "memory that the server uses over its `maxmemory`",
            "at the limit the server takes no more messages",
            "raise `maxmemory`, or settle the backlog; dead letters take memory too (`swell dead drop`)",
        ),
        Rule(
            "takeovers",
            "warning",
            0,
            0,
            "shards taken over in the last minute because their owner had stopped renewing",
            "a process died, hung or was cut off; what it held was read again by the next",
            "look for the end of its log; `swell workers` says who is left",
        ),
        Rule(
            "redeliveries",
            "warning",
            0,
            0,
            "entries read again in the last minute because their owner had died",
            "handlers of these messages may have run twice",
            "handlers with outside effects must be idempotent; see docs/reliability.md",
        ),
        Rule(
            "dead_letters",
            "warning",
            0,
            0,
            "messages given up in the last minute",
            "handlers fail, bodies do not fit, or agents do not exist",
            "`swell dead list` says why, `swell dead replay` sends them again",
        ),
        Rule(
            "stale_settles",
            "warning",
            0,
            0,
            "settles refused in the last minute because of an older epoch",
            "a process was frozen for longer than its lease; nothing it wrote counted",
            "look for long pauses: a handler that blocks the loop, swapping, a suspended machine",
        ),
        Rule(
            "busy",
            "warning",
            0,
            0,
            "appends refused in the last minute because a shard was full",
            "senders are held back, or were told Busy",
            "start more workers, or slow the senders down",
        ),
        Rule(
            "failure_ratio",
            "warning",
            0.001,
            5,
            "messages given up or expired, of all that ended in the last minute, if those are 100 or more",
            "less than 99.9 % of the messages are handled",
            "`swell dead list` says why",
        ),
        Rule(
            "agents_crashed",
            "warning",
            0,
            0,
            "crashes of agents in the last minute",
            "agents raised Crash, or could not be started again",
            "`swell agents` shows restarts and reasons",
        ),
        Rule(
            "agents_failed",
            "warning",
            0,
            0,
            "agents given up in the last minute",
            "agents could not be started, or crashed more often than `max_restarts` allows",
            "`swell agents --state failed` shows the reasons",
        ),
        Rule(
            "p95_ms",
            "warning",
            None,
            5,
            "P95 from send() to the start of the handler over the last minute, milliseconds",
            "messages wait longer than you want them to",
            "start more workers; `/v1/summary` shows which type is slow",
        ),
    )
}


class Alert(Struct, omit_defaults=False):
    """The state of one rule.

    Attributes:
        name: the rule's.
        state: inactive; pending: above the threshold, not long enough yet; firing; resolved: fired until a moment ago.
        value: as found last; None if it could not be found.
        where: which shards, roles or what text it was found in.
        since_ms: when the state began, milliseconds since 1970; 0 before anything happened.
        started_ms: when it began to fire, of an alert that fires or is resolved.
    """

    name: str
    severity: Severity
    state: AlertState
    value: float | None
    threshold: float | None
    where: str = ""
    since_ms: int = 0
    started_ms: int = 0
    meaning: str = ""
    advice: str = ""


class Kept(Struct):
    """The record: alerts that fire or were resolved a moment ago, and changes that the webhook was not told of yet."""

    alerts: list[Alert] = []
    untold: list[Alert] = []


def read_record(record: bytes | None) -> Kept:
    """What is kept; nothing if the record is missing, or of a release that wrote it otherwise."""
    if record is None:
        return Kept()
    try:
        return decode(record, Kept)
    except WireError:
        return Kept()


def thresholds(setting: str) -> dict[str, float | None]:
    """The thresholds of all rules, None for those that are off.

    Args:
        setting: the setting `alerts`: `name=value` pairs with commas between; the value `off` turns a rule off.

    Raises:
        ConfigError: a name is no rule's, or a value is no number.
    """
    found = {rule.name: rule.threshold for rule in RULES.values()}
    for pair in filter(None, (part.strip() for part in setting.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name not in RULES:
            raise ConfigError("alerts", f"there is no rule {name!r}, only {', '.join(RULES)}")
        try:
            found[name] = None if value == "off" else float(value)
        except ValueError:
            equals = ""
        if not equals or (found[name] is not None and not 0 <= (found[name] or 0) < float("inf")):
            raise ConfigError("alerts", f"{pair!r} must be {name}=NUMBER, from 0 on, or {name}=off")
    return found
