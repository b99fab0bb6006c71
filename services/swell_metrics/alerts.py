"""The states of alerts. Pure: values and the time come from outside.

    inactive --above the threshold--> pending --for `for_s`--> firing --not above for CLEAR_S--> resolved --> inactive
                                         |                                                          (after KEEP_S)
                                         +--not above--> inactive

A value that cannot be found changes nothing: what we do not know neither fires nor resolves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from swell.alerts import RULES, Alert, Kept

#: An alert that fires is resolved when its value has not been above the threshold for so long, seconds.
CLEAR_S = 10.0
#: A resolved alert stays visible for so long, seconds.
KEEP_S = 300.0
#: Changes kept for a webhook that does not answer; the oldest are given up then.
MOST_UNTOLD = 500


class Found(NamedTuple):
    """The value of a rule, and where it was found."""

    value: float
    where: str = ""


class Alerts:
    """The alerts of all rules that are on.

    Args:
        limits: rule -> threshold, None if the rule is off.
        kept: what the former owner of the shard left.

    Attributes:
        untold: changes (to firing, to resolved) that the webhook was not told of yet, in order; only if `tell` is set.
        lost: changes given up because too many waited.
    """

    def __init__(self, limits: Mapping[str, float | None], kept: Kept | None = None, *, tell: bool = False) -> None:
        kept = kept or Kept()
        before = {alert.name: alert for alert in kept.alerts}
        self.untold = list(kept.untold) if tell else []
        self.lost = 0
        self._tell = tell
        self._alerts: dict[str, Alert] = {}
        # When the value was above its threshold last, or became so; monotonic seconds.
        self._above: dict[str, float] = {}
        self._since: dict[str, float] = {}
        for name, rule in RULES.items():
            if limits[name] is None:
                continue
            alert = Alert(name, rule.severity, "inactive", None, limits[name], "", 0, 0, rule.meaning, rule.advice)
            if name in before and before[name].state in ("firing", "resolved"):
                old = before[name]
                alert.state, alert.value, alert.where = old.state, old.value, old.where
                alert.since_ms, alert.started_ms = old.since_ms, old.started_ms
            self._alerts[name] = alert

    def all(self) -> list[Alert]:
        """All alerts, in the order of the table of rules."""
        return list(self._alerts.values())

    def kept(self) -> Kept:
        """What the next owner needs."""
        return Kept([alert for alert in self.all() if alert.state in ("firing", "resolved")], self.untold)

    def update(self, found: Mapping[str, Found | None], now_s: float, now_ms: int) -> list[Alert]:
        """Take values into account.

        Args:
            found: rule -> its value; None, or no entry, if it could not be found.
            now_s: monotonic seconds.
            now_ms: milliseconds since 1970.

        Returns:
            the alerts that began to fire or were resolved, as they are now.
        """
        changes = []
        for name, alert in self._alerts.items():
            value = found.get(name)
            if value is None:
                continue
            alert.value = value.value
            assert alert.threshold is not None
            before = alert.state
            if value.value > alert.threshold:
                self._is_above(alert, value.where, now_s, now_ms)
            else:
                self._is_below(alert, now_s, now_ms)
            if alert.state != before and (alert.state == "firing" or before == "firing"):
                changes.append(msgspec.structs.replace(alert))
        if self._tell:
            self.untold += changes
            self.lost += max(0, len(self.untold) - MOST_UNTOLD)
            del self.untold[:-MOST_UNTOLD]
        return changes

    def told(self, changes: Sequence[Alert]) -> None:
        """These changes have been told."""
        self.untold = [one for one in self.untold if one not in changes]

    def _is_above(self, alert: Alert, where: str, now_s: float, now_ms: int) -> None:
        alert.where = where
        self._above[alert.name] = now_s
        if alert.state in ("inactive", "resolved"):
            self._since[alert.name] = now_s
            _enter(alert, "pending", now_ms)
        if alert.state == "pending" and now_s - self._since[alert.name] >= RULES[alert.name].for_s:
            _enter(alert, "firing", now_ms)
            alert.started_ms = now_ms

    def _is_below(self, alert: Alert, now_s: float, now_ms: int) -> None:
        if alert.state == "pending":
            _enter(alert, "inactive", now_ms)
            alert.where = ""
        elif alert.state == "firing":
            # An owner that has just taken over counts from now.
            if now_s - self._above.setdefault(alert.name, now_s) >= CLEAR_S:
                _enter(alert, "resolved", now_ms)
        elif alert.state == "resolved" and now_ms - alert.since_ms >= KEEP_S * 1000:
            _enter(alert, "inactive", now_ms)
            alert.where, alert.started_ms = "", 0


def _enter(alert: Alert, state: str, now_ms: int) -> None:
    alert.state = state  # type: ignore[assignment]
    alert.since_ms = now_ms
