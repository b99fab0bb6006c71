"""Messages for later, as users ask for them: delays, moments, and schedules that recur."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from swell.codec import decode, raw
from swell.cron import Cron
from swell.errors import WireError, WrongBody
from swell.expiry import expiry, span_s
from swell.later import LEAST_EVERY_MS, Later, Scheduled, Unschedule, check_name, due_at, view
from swell.messenger import Messenger
from swell.priority import Priority
from swell.wire import LATER, TO_SHARD, UNSCHEDULE

#: How long the owner of a shard may take to answer that it has stored or removed a schedule, seconds.
SCHEDULE_TIMEOUT_S = 30.0


class Timetable(Messenger):
    """What a client schedules, and what waits for its time."""

    async def schedule(
        self,
        name: str,
        to: str,
        handler: str,
        body: Any = None,
        *,
        cron: str = "",
        every: float | None = None,
        at: datetime | None = None,
        ttl: float | None = None,
        priority: Priority = "normal",
        timeout: float = SCHEDULE_TIMEOUT_S,
    ) -> Scheduled:
        """Send an agent a message at times to come; returns when the schedule is stored.

        It is stored beside the agent's shard, survives every process, and sends each time once. Times that pass while
        no worker lives are not made up for: one message is sent when a worker is there again.

        Args:
            name: of the schedule; with the same name the agent's schedule is replaced.
            to: `type/key`.
            handler: what the messages are called.
            body: anything msgspec can encode; the same in each message.
            cron: five fields, in UTC: minute hour day month weekday; see `swell.cron`.
            every: the interval, 1 second or more; the first message is sent one interval from now.
            at: a moment, for a message that is sent once. Give exactly one of the three.
            ttl: each message expires so long after it was due, seconds.
            priority: of each message, as for `send`.
            timeout: limit for the answer, seconds.

        Raises:
            WrongBody: an argument cannot be; the text says which, and what to change.
            CallTimeout: nobody owns the agent's shard now; the request is durable, and is done when somebody does.
            CallError: as many messages wait in that shard as may.
        """
        if sum((bool(cron), every is not None, at is not None)) != 1:
            raise WrongBody("", "give exactly one of cron, every and at", field="cron")
        later = Later(to, handler, raw(body), id=check_name("name", name), schedule=True, priority=priority)
        until = expiry(ttl, None)
        later.ttl_us = until.ttl_us if until is not None else 0
        if cron:
            later.cron = Cron(cron).line
        elif every is not None:
            later.every_ms = round(span_s("every", every) * 1000)
            if later.every_ms < LEAST_EVERY_MS:
                raise WrongBody("", f"every: {every:g} must be 1 second or more", field="every")
        else:
            due_at(later, None, at)
        due_ms = decode(await self.request(self.inbox(to, priority), TO_SHARD, LATER, later, timeout), int)
        return Scheduled(to, handler, due_ms, name, True, later.every_ms / 1000, later.cron)

    async def unschedule(self, name: str, to: str, *, timeout: float = SCHEDULE_TIMEOUT_S) -> bool:
        """Remove a schedule; returns whether there was one. What it has sent already is not taken back.

        Raises:
            CallTimeout: as for `schedule`.
        """
        wanted = Unschedule(to, name)
        return decode(await self.request(self.shard(to), TO_SHARD, UNSCHEDULE, wanted, timeout), bool)

    async def scheduled(self, limit: int = 100) -> list[Scheduled]:
        """What waits for its time, schedules and single messages: the `limit` that are due first."""
        found: list[Scheduled] = []
        for shard in range(self.shards):
            for id, due_ms, value in await self.broker.scheduled(str(shard), limit):
                try:
                    found.append(view(id, due_ms, value))
                except WireError:
                    continue  # A stranger's; its shard's owner logs it when it is due.
        return sorted(found, key=lambda one: one.due_ms)[:limit]
