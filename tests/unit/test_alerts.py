"""Rules and the states of alerts, with a clock of the tests' own."""

from __future__ import annotations

from typing import Any

import pytest

from swell.alerts import RULES, WINDOW_S, Kept, read_record, thresholds
from swell.bus.broker import Glance, Ledger
from swell.codec import decode, encode
from swell.config import Settings, load
from swell.errors import ConfigError
from swell.wire import Measurements
from swell_metrics.alerts import CLEAR_S, KEEP_S, MOST_UNTOLD, Alerts, Found
from swell_metrics.collector import Totals
from swell_metrics.rules import History, Sight, values

LIMITS = thresholds("")


class Clocked:
    """Alerts, and a clock that the test moves."""

    def __init__(self, setting: str = "", kept: Kept | None = None) -> None:
        self.alerts = Alerts(thresholds(setting), kept, tell=True)
        self.now_s = 1000.0

    def see(self, value: float | None, name: str = "shard_unowned", after_s: float = 0.0) -> str:
        """Move the clock, take a value into account; returns the alert's state."""
        self.now_s += after_s
        found = {name: None if value is None else Found(value, "shard 3")}
        self.alerts.update(found, self.now_s, int(self.now_s * 1000))
        return self.state(name)

    def state(self, name: str = "shard_unowned") -> str:
        return next(alert.state for alert in self.alerts.all() if alert.name == name)

    def changes(self) -> list[str]:
        return [change.state for change in self.alerts.untold]


def test_it_fires_when_the_value_was_above_for_long_enough_and_is_resolved_when_it_was_not_for_a_while() -> None:
    one = Clocked()
    assert one.see(0) == "inactive"
    assert one.see(1) == "pending"
    assert one.see(1, after_s=4.9) == "pending"
    assert one.see(1, after_s=0.1) == "firing"
    assert one.see(0, after_s=CLEAR_S - 0.1) == "firing"
    assert one.see(0, after_s=0.1) == "resolved"
    assert one.see(0, after_s=KEEP_S - 1) == "resolved"
    assert one.see(0, after_s=1) == "inactive"
    assert one.changes() == ["firing", "resolved"]


def test_a_short_moment_does_not_fire_and_tells_nobody() -> None:
    one = Clocked()
    for _ in range(10):
        assert one.see(1, after_s=4.0) == "pending"
        assert one.see(0, after_s=0.5) == "inactive"
    assert one.changes() == []


def test_a_value_that_flaps_while_it_fires_is_one_alert() -> None:
    one = Clocked()
    one.see(1)
    one.see(1, after_s=5)
    for _ in range(20):
        assert one.see(0, after_s=CLEAR_S - 1) == "firing"
        assert one.see(1, after_s=1) == "firing"
    assert one.changes() == ["firing"]


def test_a_resolved_one_may_fire_again_and_both_are_told() -> None:
    one = Clocked()
    one.see(1)
    one.see(1, after_s=5)
    one.see(0, after_s=CLEAR_S)
    assert one.see(1, after_s=1) == "pending"
    assert one.see(1, after_s=5) == "firing"
    assert one.changes() == ["firing", "resolved", "firing"]


def test_what_cannot_be_told_neither_fires_nor_resolves() -> None:
    one = Clocked()
    assert one.see(None, after_s=100) == "inactive"
    one.see(1)
    one.see(1, after_s=5)
    assert one.see(None, after_s=100) == "firing"


def test_a_rule_without_a_time_fires_at_once() -> None:
    one = Clocked()
    assert one.see(1, "dead_letters") == "firing"


def test_what_fires_is_the_next_owners_too_and_is_not_told_again() -> None:
    first = Clocked()
    first.see(1)
    first.see(1, after_s=5)
    first.alerts.told(list(first.alerts.untold))
    kept = read_record(encode(first.alerts.kept()))
    second = Clocked(kept=kept)
    assert second.state() == "firing"
    assert second.see(1, after_s=50) == "firing"
    assert second.changes() == []
    # Resolved while nobody watched: it takes CLEAR_S of the new owner's own time.
    third = Clocked(kept=kept)
    assert third.see(0, after_s=500) == "firing"
    assert third.see(0, after_s=CLEAR_S) == "resolved"
    assert third.changes() == ["resolved"]


def test_changes_that_were_not_told_are_the_next_owners_too() -> None:
    first = Clocked()
    first.see(1, "dead_letters")
    second = Clocked(kept=decode(encode(first.alerts.kept()), Kept))
    assert second.changes() == ["firing"]


def test_changes_that_nobody_takes_are_bounded_and_counted() -> None:
    one = Clocked()
    for _ in range(MOST_UNTOLD):
        one.see(1, "dead_letters")
        one.see(0, "dead_letters", after_s=CLEAR_S)
    assert len(one.alerts.untold) == MOST_UNTOLD
    assert one.alerts.lost == MOST_UNTOLD


def test_told_takes_away_those_and_no_others() -> None:
    one = Clocked()
    one.see(1, "dead_letters")
    told = list(one.alerts.untold)
    one.see(0, "dead_letters", after_s=CLEAR_S)
    one.alerts.told(told)
    assert one.changes() == ["resolved"]


def test_a_record_that_cannot_be_read_is_none() -> None:
    assert read_record(b"\xc1") == read_record(None) == Kept()


# The setting.


def test_thresholds_are_changed_and_rules_turned_off_and_on() -> None:
    found = thresholds(" p95_ms=10 , redeliveries=off,depth_ratio = 0.5,")
    assert (found["p95_ms"], found["redeliveries"], found["depth_ratio"]) == (10.0, None, 0.5)
    assert LIMITS["p95_ms"] is None
    names = [alert.name for alert in Alerts(found).all()]
    assert "redeliveries" not in names
    assert "p95_ms" in names


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("p95=10", "there is no rule 'p95', only shard_unowned, "),
        ("p95_ms", "'p95_ms' must be p95_ms=NUMBER"),
        ("p95_ms=fast", "'p95_ms=fast' must be p95_ms=NUMBER"),
        ("p95_ms=-1", "from 0 on, or p95_ms=off"),
        ("p95_ms=nan", "must be"),
    ],
)
def test_a_wrong_threshold_is_named(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^alerts: ") as raised:
        load({"alerts": setting}, {})
    assert says in str(raised.value)


@pytest.mark.parametrize("url", ["ftp://host/x", "hooks.example/secret", "https://", "file:///etc/passwd"])
def test_a_webhook_must_be_http_and_its_secret_path_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^alert_webhook: ") as raised:
        load({"alert_webhook": url}, {})
    assert "secret" not in str(raised.value)


def test_the_webhooks_secrets_are_masked() -> None:
    settings = Settings(alert_webhook="https://me:pw@hooks.example/T0/B1?x=y", alert_secret="hunter2")
    assert settings.masked()["alert_webhook"] == "https://hooks.example/***"
    assert settings.masked()["alert_secret"] == "***"


# Values.


def glance(shard: str = "0", **more: Any) -> Glance:
    ledger = Ledger(shard, **{k: v for k, v in more.items() if k in Ledger.__slots__})
    rest = {"oldest_ms": None, "owner": "w", "remaining_ms": 900, "held_ms": 10}
    return Glance(ledger, **rest | {k: v for k, v in more.items() if k in rest})


def counted(**counts: int) -> Totals:
    totals = Totals()
    totals.add(Measurements("worker-1", {name: {"echo": count} for name, count in counts.items()}))
    return totals


def value(name: str, *sights: Sight) -> Found | None:
    """The value of a rule after these sights."""
    history = History()
    for sight in sights:
        history.add(sight)
    return values(sights[-1], history, 1000).get(name)


def grown(name: str, before: Sight, after: Sight) -> float:
    found = value(name, before, after)
    assert found is not None
    return found.value


def test_every_rule_has_a_value() -> None:
    sight = Sight(0.0, [glance()], {"manager": 1, "worker": 1}, "", (1, 2), [], counted(handled=1))
    history = History()
    history.add(sight)
    assert set(values(sight, history, 1000)) == set(RULES)


def test_what_the_server_did_not_tell_has_no_value() -> None:
    sight = Sight(0.0)
    history = History()
    history.add(sight)
    found = values(sight, history, 1000)
    unknown = {"shard_unowned", "oldest_message_s", "depth_ratio", "role_missing", "server", "memory_ratio", "ledger"}
    assert {name for name in RULES if found.get(name) is None} == unknown | {"p95_ms"}


@pytest.mark.parametrize(
    ("name", "sight", "expected"),
    [
        ("shard_unowned", Sight(0.0, [glance("0", owner=""), glance("1", remaining_ms=0), glance("2")]), (2, "0, 1")),
        ("oldest_message_s", Sight(0.0, [glance("0", oldest_ms=90_000), glance("1", oldest_ms=5)]), (90, "shard 0")),
        ("depth_ratio", Sight(0.0, [glance("0", depth=10), glance("7", depth=900)]), (0.9, "shard 7")),
        ("role_missing", Sight(0.0, alive={"manager": 1}), (1, "worker")),
        ("server", Sight(0.0, trouble="out of memory"), (1, "out of memory")),
        ("memory_ratio", Sight(0.0, memory=(95, 100)), (0.95, "95 of 100")),
        ("memory_ratio", Sight(0.0, memory=(95, 0)), (0, "")),
        ("ledger", Sight(0.0, unbalanced=["4"]), (1, "shard 4")),
    ],
)
def test_values_of_a_moment(name: str, sight: Sight, expected: tuple[float, str]) -> None:
    found = value(name, sight)
    assert found is not None
    assert found.value == pytest.approx(expected[0])
    assert expected[1] in found.where


@pytest.mark.parametrize(
    ("name", "counter"),
    [
        ("dead_letters", "dead"),
        ("redeliveries", "redelivered"),
        ("agents_crashed", "crashed"),
        ("agents_failed", "failed"),
    ],
)
def test_counters_count_by_what_they_grew_within_the_last_minute(name: str, counter: str) -> None:
    before, after = Sight(0.0, totals=counted(**{counter: 5})), Sight(2.0, totals=counted(**{counter: 8}))
    assert grown(name, before, before) == 0
    assert grown(name, before, after) == 3
    later = [Sight(2.0 + second, totals=counted(**{counter: 8})) for second in range(0, WINDOW_S + 3, 2)]
    found = value(name, before, *later)
    assert found is not None
    assert found.value == 0


@pytest.mark.parametrize(
    ("name", "counter"),
    [("takeovers", "lapsed"), ("stale_settles", "stale"), ("busy", "refused"), ("data_lost", "rewinds")],
)
def test_counters_of_the_ledgers_count_together(name: str, counter: str) -> None:
    before = Sight(0.0, [glance("0", **{counter: 1}), glance("1")])
    after = Sight(2.0, [glance("0", **{counter: 2}), glance("1", **{counter: 4})])
    assert grown(name, before, after) == 5
    assert grown(name, after, before) == 0  # Flushed.


def test_failures_are_a_share_of_what_ended_and_say_nothing_of_a_few() -> None:
    none = Sight(0.0, totals=counted(handled=1))
    assert grown("failure_ratio", none, Sight(2.0, totals=counted(handled=1, dead=9))) == 0
    assert grown("failure_ratio", none, Sight(2.0, totals=counted(handled=991, dead=10))) == pytest.approx(0.01)


def test_p95_is_that_of_the_window() -> None:
    def told(*us: int) -> Totals:
        totals = Totals()
        for one in us:
            totals.add(Measurements("w", latencies={"start": {"echo": {one: 10}}}, sums={"start": {"echo": 0}}))
        return totals

    slow, both = told(400), told(400, 3)
    found = value("p95_ms", Sight(0.0, totals=slow), Sight(2.0, totals=both))
    assert found is not None
    assert found.value < 1.0
