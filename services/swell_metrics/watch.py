"""Looking at the whole namespace every two seconds, and what follows from it: gauges of shards, and alerts.

server --glance, members, INFO--> Sight --rules--> values --> Alerts --changed--> record of the shard, webhook
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from swell import alerts as table
from swell.alerts import Alert
from swell.bus.broker import Broker, Glance
from swell.clock import now_ms
from swell.codec import encode
from swell.config import Settings
from swell.errors import BrokerError
from swell.instruments import Recorder
from swell.keys import CONTROL, METRICS
from swell_metrics.alerts import Alerts
from swell_metrics.collector import Totals
from swell_metrics.rules import History, Sight, values
from swell_metrics.webhook import Webhook

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
#: How often inboxes of at most MOST_AUDITED messages are counted: that walks through them, and each may have 1 MiB.
AUDIT_EVERY_S = 30.0
MOST_AUDITED = 256

Record = Callable[[str, str, bytes | None], None]


class Watch:
    """What the owner of the shard `metrics` watches.

    Args:
        broker: where to look.
        settings: thresholds, `max_depth`, the webhook.
        recorder: counts what the webhook was not told.
        totals: what all processes counted so far.
        record: writes a record of the shard `metrics`.

    Attributes:
        shards: as seen last; empty while another process owns the shard.
    """

    def __init__(
        self, broker: Broker, settings: Settings, recorder: Recorder, totals: Callable[[], Totals], record: Record
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._recorder = recorder
        self._totals = totals
        self._record = record
        self._limits = table.thresholds(settings.alerts)
        self._names: list[str] = []
        self._blind = False
        self.close()
        self._webhook: Webhook | None = None
        if settings.alert_webhook:
            self._webhook = Webhook(
                settings.alert_webhook,
                settings.alert_secret,
                settings.namespace,
                lambda: self._alerts.untold,
                self._told,
                recorder,
            )

    def open(self, shards: Sequence[str], record: bytes | None) -> None:
        """The shard `metrics` is ours: go on from what its former owner kept.

        Args:
            shards: names of the agents' shards.
            record: `swell.alerts.RECORD`, None if there is none.
        """
        self._names = [*shards, CONTROL, METRICS]
        self._history = History()
        self._alerts = Alerts(self._limits, table.read_record(record), tell=bool(self._settings.alert_webhook))
        self._owned = True
        self._news()

    def close(self) -> None:
        """The shard is not ours any more; the next owner watches."""
        self._owned = False
        self._history = History()
        self._alerts = Alerts(self._limits)
        self.shards: list[Glance] = []
        self._unbalanced: list[str] = []
        self._audit_at = 0.0

    def alerts(self) -> list[Alert]:
        """All alerts that are on, in the order of the table of rules."""
        return self._alerts.all()

    async def run(self) -> None:
        """Watch while the shard is ours, until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._webhook is not None:
                group.create_task(self._webhook.run())
            while True:
                if self._owned:
                    await self._look()
                await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        sight = Sight(time.monotonic(), totals=self._totals())
        alerts = self._alerts
        try:
            sight.shards = await self._broker.glance(self._names)
            sight.alive = {role: len(await self._broker.members(role)) for role in ("manager", "worker")}
            sight.trouble = await self._broker.trouble()
            sight.memory = await self._broker.memory()
            sight.unbalanced = await self._audited(sight)
        except BrokerError as error:
            # Without the server there is nothing to compare, and nowhere to keep what changes.
            if not self._blind:
                log.warning("alerts wait, nothing can be seen: %s", error)
            self._blind = True
            return
        self._blind = False
        if alerts is not self._alerts or not self._owned:
            return  # Lost meanwhile.
        self.shards = sight.shards
        self._history.add(sight)
        changes = alerts.update(values(sight, self._history, self._settings.max_depth), sight.at_s, now_ms())
        for alert in changes:
            level = logging.WARNING if alert.state == "firing" else logging.INFO
            text = f"alert {alert.state}: {alert.name}, {alert.value:g}" + (f" ({alert.where})" if alert.where else "")
            log.log(level, text, extra={"alert": alert.name, "severity": alert.severity})
        if alerts.lost:
            self._recorder.count("alerts_untold", by=alerts.lost)
            alerts.lost = 0
        if changes:
            self._keep()
            self._news()

    async def _audited(self, sight: Sight) -> list[str]:
        """The shards that do not balance: by their counters now, or by the last audit of their inboxes."""
        if sight.at_s >= self._audit_at:
            self._audit_at = sight.at_s + AUDIT_EVERY_S
            self._unbalanced = []
            for one in sight.shards:
                if one.ledger.depth <= MOST_AUDITED and not (await self._broker.ledger(one.ledger.shard)).balanced:
                    self._unbalanced.append(one.ledger.shard)
        wrong = [one.ledger.shard for one in sight.shards if not one.ledger.adds_up]
        return [*wrong, *(shard for shard in self._unbalanced if shard not in wrong)]

    def _told(self, changes: Sequence[Alert]) -> None:
        self._alerts.told(changes)
        self._keep()

    def _keep(self) -> None:
        if self._owned:
            self._record(METRICS, table.RECORD, encode(self._alerts.kept()))

    def _news(self) -> None:
        if self._webhook is not None:
            self._webhook.news.set()
