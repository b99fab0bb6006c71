"""Who subscribes when: agents that are born, that end, and that change their mind.

born  --> among its type's members, and into what it subscribed to at run time; into its groups before it is ready
ended --> out of all of them
$subscribe --> into the agent's record, with the end of the request; into a group's home before that
$member    --> (at a group's home) into the group, and its record
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swell.backoff import RECONNECT
from swell.bus.broker import Broker
from swell.bus.entry import Entry
from swell.bus.producer import Producer
from swell.codec import MAX_BATCH_MESSAGES, Gathered
from swell.errors import BrokerError, WrongBody
from swell.topics import MOST_SUBSCRIPTIONS, Member, Subscribe, Subscription, checked, home_of
from swell.wire import MEMBER, TO_SHARD, Message
from swell_worker.executor import Failed, unknown_handler

if TYPE_CHECKING:
    from swell_worker.events import Line
    from swell_worker.host import Fleet
    from swell_worker.life import Life

log = logging.getLogger(__name__)


class Subscriptions:
    """Keeps what the shards' lines know of their subscribers up to date.

    Attributes:
        lines: those of the shards that are ours, by the shard's name.
    """

    def __init__(self, fleet: Fleet, broker: Broker) -> None:
        self.lines: dict[str, Line] = {}
        self._fleet = fleet
        self._broker = broker
        # What goes to groups passes the line of senders up to twice a shard's limit: they wait for room that only
        # events may make. A server lets in at once whoever may fill a shard to twice as much and more.
        most = 4 * (fleet.client.max_depth + MAX_BATCH_MESSAGES)
        self._producer = Producer(broker, f"{fleet.client.process}.groups", most, fleet.recorder)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which this works."""
        self._group = group
        self.begin(self._producer.run())

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside the reading."""
        assert self._group is not None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def closing(self, shard: str) -> None:
        """A shard is handed over: what is being fanned out is finished."""
        line = self.lines.get(shard)
        tasks = {one.task for one in line.all if one.task is not None} if line is not None else set()
        if tasks:
            await asyncio.wait(tasks)
        if self.lines.get(shard) is line:
            self.lines.pop(shard, None)

    def lost(self, shard: str) -> None:
        """A shard is no longer ours."""
        line = self.lines.pop(shard, None)
        for one in line.all if line is not None else ():
            if one.task is not None:
                one.task.cancel()

    def end(self) -> None:
        """Cancel whatever still runs."""
        for task in self._tasks:
            task.cancel()

    # Agents.

    def born(self, cell: Life) -> None:
        """An agent is here."""
        line = self.lines.get(cell.shard.name)
        if line is not None:
            line.subscribers.add(cell.id, cell.record.subscriptions)

    async def join(self, cell: Life) -> None:
        """Bring an agent into the groups that its class declares; returns when that is durable."""
        members = [Member(cell.id, one) for one in cell.type.subscriptions if one.group]
        if members:
            await self._tell(members)

    def back(self, cell: Life) -> None:
        """An agent that lived elsewhere is here; its class may declare groups that it did not before."""
        self.born(cell)
        if any(one.group for one in cell.type.subscriptions):
            self.begin(self.join(cell))

    def gone(self, cell: Life) -> None:
        """An agent has ended."""
        line = self.lines.get(cell.shard.name)
        if line is not None:
            line.subscribers.remove(cell.id)
        groups = {one.group for one in (*cell.type.subscriptions, *cell.record.subscriptions) if one.group}
        if groups:
            self.leave(cell.id, groups)
        cell.record.subscriptions = []

    def leave(self, agent: str, groups: Iterable[str], handler: str = "") -> None:
        """Take an agent, or one handler of it, out of groups."""
        members = [Member(agent, Subscription("", handler, None, group), end=True) for group in groups]
        if not self._fleet.ending:
            self.begin(self._tell(members))

    async def _tell(self, members: Iterable[Member]) -> None:
        """Tell the homes of the groups."""
        client = self._fleet.client
        now_us = time.time_ns() // 1000
        await self.send(
            [(client.shard(home_of(one.subscription.group)), (TO_SHARD, MEMBER, one, now_us)) for one in members]
        )

    async def send(self, messages: Sequence[tuple[str, tuple[Any, ...] | Gathered]]) -> None:
        """Send, however often it takes: what the server refuses now must end neither the worker nor an agent's turn."""
        failures = 0
        while True:
            try:
                await self._producer.send_many(messages)
            except BrokerError as error:
                failures += 1
                if failures == 1:
                    log.warning("what groups are sent waits: %s", error)
                await asyncio.sleep(RECONNECT.wait_s(failures))
            else:
                return

    # Requests.

    def subscribe(self, entry: Entry, index: int, message: Message, cells: Mapping[str, Life]) -> None:
        """An agent wants to hear of something, or no more; whoever asks is told when that is recorded."""
        wanted = self._fleet.read(entry, index, message, Subscribe, lambda wanted: checked(wanted.subscription))
        if wanted is None:
            return
        one, cell = wanted.subscription, cells.get(wanted.agent)
        failed: Failed | None = None
        if cell is None or cell.record.state in ("stopped", "failed"):
            failed = Failed("unknown_agent", f"there is no agent {wanted.agent} that lives")
        elif not wanted.end and one.handler not in cell.type.handlers:
            failed = unknown_handler(cell.type, one.handler)
        elif not wanted.end and len(_others(cell, one)) >= MOST_SUBSCRIPTIONS:
            failed = Failed("wrong_body", f"{wanted.agent} has {MOST_SUBSCRIPTIONS} subscriptions, and no more may be")
        if failed is not None or cell is None:
            assert failed is not None
            self._fleet.end_dead(None, entry, index, message, failed)
        elif one.group:
            self.begin(self._subscribe_in_group(entry, index, message, cell, wanted))
        else:
            self._record(entry, index, message, cell, wanted)

    async def _subscribe_in_group(
        self, entry: Entry, index: int, message: Message, cell: Life, wanted: Subscribe
    ) -> None:
        await self._tell([Member(cell.id, wanted.subscription, wanted.end)])
        if cell.record.state in ("stopped", "failed"):  # Meanwhile, before its record could say that it is a member.
            self.leave(cell.id, [wanted.subscription.group])
            failed = Failed("unknown_agent", f"there is no agent {wanted.agent} that lives")
            self._fleet.end_dead(None, entry, index, message, failed)
        else:
            self._record(entry, index, message, cell, wanted)

    def _record(self, entry: Entry, index: int, message: Message, cell: Life, wanted: Subscribe) -> None:
        """Change the agent's record, and say whether there was such a subscription (or that there is)."""
        one, record = wanted.subscription, cell.record
        others = _others(cell, one)
        there = len(others) < len(record.subscriptions)
        line = self.lines.get(cell.shard.name)
        if line is not None:
            (line.subscribers.unsubscribe if wanted.end else line.subscribers.subscribe)(cell.id, one)
        record.subscriptions = others if wanted.end else [*others, one]  # In place: its life may hold the record.
        self._fleet.keep(cell)
        self._fleet.reply(message, there or not wanted.end)
        entry.ack(index)

    def member(self, entry: Entry, index: int, message: Message) -> None:
        """A group that is at home here changes."""
        member = self._fleet.read(entry, index, message, Member, _check_member)
        if member is None:
            return
        changed = self.lines[entry.shard.name].groups.change(member)
        if changed is not None:
            entry.shard.record(*changed)
        entry.ack(index)


def _check_member(member: Member) -> None:
    if member.subscription.topic or not member.end:
        checked(member.subscription)
        if not member.subscription.group:
            raise WrongBody("", "group: it is empty", field="group")


def _others(cell: Life, one: Subscription) -> list[Subscription]:
    """An agent's subscriptions but this."""
    this = (one.topic, one.handler, one.group)
    return [kept for kept in cell.record.subscriptions if (kept.topic, kept.handler, kept.group) != this]
