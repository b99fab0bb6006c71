"""A whole system of real processes under load, faults for it, and the look at everything when it has drained.

async with System(url, namespace, directory) as system:
    await system.begin(workers=2)            services, ready
    agents = await system.spawn(100)         through the manager
    async with system.load(agents, Load(rate=5000)) as load:
        await system.kill(...)               whatever the test does
    verdict = await system.settled()         drained; ledger, oracle, pending entries, keys
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import msgspec
from redis.asyncio import Redis

from swell import Client
from swell.config import Settings
from swell.errors import BrokerError, SwellError
from swell.priority import PRIORITIES
from tests.chaos.account import Account, Recovery, Sent, Verdict, judge
from tests.chaos.fleet import Note
from tests.conformance.backends import RedisBackend
from tests.integration.services import Service

APP = "tests.chaos.fleet:app"
LEASE_MS = 1000
#: A wait that is longer than this has failed, seconds: nothing that recovers takes so long, on a busy machine too.
PATIENCE_S = 60.0
#: How often conditions are looked at, seconds.
LOOK_S = 0.05


@dataclass
class Load:
    """Senders and what they send.

    Attributes:
        rate: messages a second, of all senders together; a sender that is held up does not catch up.
        senders: each is a client with connections of its own.
        batch: messages in one `send_many`.
        asks: asks in flight beside it.
        url: leads the senders to the server another way.
        priorities: one sender for each priority, in turns: order holds within one.
    """

    rate: int = 2000
    senders: int = 2
    batch: int = 50
    asks: int = 0
    url: str = ""
    priorities: bool = False


@dataclass
class Running:
    """A load under way, and what became of it.

    Attributes:
        errors: what sends and asks raised.
        asked: asks that were answered: when each was sent, monotonic nanoseconds, and how long it took, seconds.
        seconds: how long it ran.
    """

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    errors: list[Exception] = field(default_factory=list)
    asked: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


class System:
    """Services, clients and their account, in one namespace.

    Args:
        url: of the server.
        directory: logs and accounts; its own for each system.
        settings: of all services, without `SWELL_`; `lease_ms` and `app` have the chaos tests' own defaults.

    Attributes:
        services: all that were ever started, in this order.
        sent: what senders were told.
        client: a client for the test itself.
    """

    def __init__(self, url: str, namespace: str, directory: Path, **settings: object) -> None:
        self.url = url
        self.namespace = namespace
        self.directory = directory
        self.settings = {"app": APP, "lease_ms": LEASE_MS} | settings
        self.services: list[Service] = []
        self.sent = Sent()
        self.client: Client
        self._roles: dict[int, str] = {}
        self._senders = 0
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.client = await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._exits.aclose()
        finally:
            for service in self.services:
                self.thaw(service)
                service.kill()

    async def connect(self, url: str = "") -> Client:
        """A client that is closed with the system."""
        shared = {name: self.settings[name] for name in ("max_depth",) if name in self.settings}
        settings = msgspec.convert({"redis": url or self.url, "namespace": self.namespace, **shared}, Settings)
        return await self._exits.enter_async_context(Client.connect(settings=settings))

    # Services and faults.

    def start(self, role: str, url: str = "", **settings: object) -> Service:
        """Start a manager, worker or metrics; `url` leads it to the server another way."""
        service = Service(role, url or self.url, self.namespace, self.directory, **(self.settings | settings))
        self.services.append(service)
        self._roles[service.pid] = role
        return service

    async def begin(self, workers: int = 2, managers: int = 1, metrics: int = 0) -> None:
        """Start services, and return when all are ready and the shards are shared out."""
        roles = ["worker"] * workers + ["manager"] * managers + ["metrics"] * metrics
        await self.all_ready(*(self.start(role) for role in roles))

    async def all_ready(self, *services: Service) -> None:
        """Return when these are ready."""
        await asyncio.gather(*(service.ready() for service in services))

    def running(self, role: str) -> list[Service]:
        """The services of a role that run."""
        return [one for one in self.services if self._roles[one.pid] == role and one.process.poll() is None]

    def role(self, service: Service) -> str:
        """What a service is."""
        return self._roles[service.pid]

    async def kill(self, service: Service) -> int:
        """SIGKILL; returns when, monotonic nanoseconds."""
        at_ns = time.monotonic_ns()
        await asyncio.to_thread(service.kill)
        return at_ns

    def freeze(self, service: Service) -> int:
        """SIGSTOP; returns when, monotonic nanoseconds."""
        service.process.send_signal(signal.SIGSTOP)
        return time.monotonic_ns()

    def thaw(self, service: Service) -> None:
        """SIGCONT, if it runs."""
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGCONT)

    async def owned(self, service: Service) -> set[str]:
        """The agents' shards that a process owns now."""
        mark = f"-{service.pid}-"
        return {lease.shard for lease in await self.client.leases() if mark in lease.owner and lease.shard.isdigit()}

    async def owner(self, shard: str) -> Service | None:
        """The running service that owns a shard."""
        (lease,) = await self.client.broker.leases([shard])
        found = [one for one in self.services if f"-{one.pid}-" in lease.owner and one.process.poll() is None]
        return found[0] if found and lease.remaining_ms > 0 else None

    async def spawn(self, count: int, type: str = "notary", **options: Any) -> list[str]:
        """Spawn agents through the manager; returns their ids."""
        before = set(await self._ids(type))
        plan = await self.client.spawn(type, count, **options)
        await plan.wait(PATIENCE_S)
        return [id for id in await self._ids(type) if id not in before]

    async def _ids(self, type: str) -> list[str]:
        return [view.id for view in await self.client.agents(type, limit=10_000)]

    # Load.

    @contextlib.asynccontextmanager
    async def load(self, agents: Sequence[str], load: Load) -> AsyncIterator[Running]:
        """Send to all agents in turn while the block runs."""
        running = Running()
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(load.senders):
                client = await self.connect(load.url)
                group.create_task(self._send(client, agents, load, running))
                for _ in range(load.asks):
                    group.create_task(self._ask(client, agents, running))
            try:
                yield running
            finally:
                running.stop.set()
        running.seconds = time.monotonic() - began

    def sender(self) -> str:
        """A name for a sender that nobody else has."""
        self._senders += 1
        return f"s{self._senders}"

    async def _send(self, client: Client, agents: Sequence[str], load: Load, running: Running) -> None:
        sender = self.sender()
        priority = PRIORITIES[self._senders % len(PRIORITIES)] if load.priorities else "normal"
        every_s = load.batch * load.senders / load.rate
        at = 0
        due = time.monotonic()
        while not running.stop.is_set():
            chosen = [agents[(at + n) % len(agents)] for n in range(load.batch)]
            at += load.batch
            numbered = [self.sent.number(sender, agent) for agent in chosen]
            try:
                notes = ((one.agent, "note", Note(sender, one.seq)) for one in numbered)
                await client.send_many(notes, priority=priority)
            except SwellError as error:
                running.errors.append(error)
            else:
                self.sent.acknowledge(numbered)
            due = max(due + every_s, time.monotonic() - every_s)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, client: Client, agents: Sequence[str], running: Running) -> None:
        sender = self.sender()
        at = hash(sender)
        while not running.stop.is_set():
            at += 1
            one = self.sent.number(sender, agents[at % len(agents)])
            began_ns = time.monotonic_ns()
            try:
                assert await client.ask(one.agent, "note", Note(sender, one.seq), int, timeout=PATIENCE_S) == one.seq
            except SwellError as error:
                running.errors.append(error)
            else:
                self.sent.acknowledge([one])
                running.asked.append((began_ns, (time.monotonic_ns() - began_ns) / 1e9))
            await asyncio.sleep(LOOK_S / 10)

    # The end.

    async def until(self, condition: Any, what: str) -> None:
        """Return when an async condition holds; a server that is away counts as no."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with contextlib.suppress(BrokerError):
                        if await condition():
                            return
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE_S:g} s: {what}; {await self._state()}") from None

    async def _state(self) -> str:
        ledgers = [one for one in await self.client.ledger() if one.depth]
        owners = {lease.shard: lease.owner for lease in await self.client.leases()}
        return f"depths { {one.shard: one.depth for one in ledgers} }, owners {owners}"

    async def depth(self) -> int:
        """Unsettled messages of all shards but that of the metrics, which is never empty for long."""
        return sum(one.depth for one in await self.client.ledger() if one.shard != "metrics")

    async def drained(self) -> None:
        """Return when everything that was sent is settled."""

        async def empty() -> bool:
            return not await self.depth()

        await self.until(empty, "everything settled")

    async def counters(self, *names: str) -> dict[str, int]:
        """Counters of the whole system, from the metrics service that leads; a report comes once a second."""
        found = await self._counters(*names)
        assert found is not None, "no metrics service answers"
        return found

    async def _counters(self, *names: str) -> dict[str, int] | None:
        for service in self.running("metrics"):
            status, summary = await service.get(await service.url() + "/v1/summary")
            if status == 200:
                return {name: summary["counters"].get(name, 0) for name in names}
        return None

    async def counted(self, name: str, count: int) -> bool:
        """Whether a counter of the whole system says so; nobody may lead for a moment, whoever was killed before."""
        found = await self._counters(name)
        return found is not None and found[name] == count

    def account(self) -> Account:
        """What the agents wrote down so far."""
        return Account.read(self.directory)

    def recovery(self) -> Recovery:
        """When agents were heard of again."""
        return Recovery(self.account())

    async def settled(self, *, allow_dead: int = 0, forgetful: bool = False) -> Verdict:
        """What every test ends with: drained, the ledger balanced, the oracle clean, nothing pending, no stray key.

        Args:
            allow_dead: dead letters that the test made on purpose.
            forgetful: the server was killed, perhaps with a sync of its file under way: it may have forgotten settles,
                though it had answered them, and what they had ended was handled by the same agents again.
        """
        await self.drained()
        unbalanced = [ledger for ledger in await self.client.ledger() if not ledger.balanced]
        assert not unbalanced, unbalanced
        dead = sum(ledger.dead for ledger in await self.client.ledger())
        assert dead == allow_dead, f"{dead} dead letters instead of {allow_dead}: {await self.letters()}"
        verdict = await asyncio.to_thread(lambda: judge(self.sent, self.account()))
        assert verdict.clean or (forgetful and replace(verdict, twice=[]).clean), str(verdict)
        await self.no_stray_keys()
        return verdict

    async def letters(self) -> list[bytes]:
        """The newest dead letters, encoded."""
        found = [await self.client.broker.dead(shard, 5) for shard in self.client.shard_names]
        return [letter for letters in found for _, letter in letters]

    async def no_stray_keys(self) -> None:
        """Nothing is pending or half settled, and no key lives for ever that should not."""
        async with Redis.from_url(self.url, protocol=2) as redis:
            async for key in redis.scan_iter(f"swell:{self.namespace}:*", count=1000):
                await self._check_key(redis, key.decode())

    async def _check_key(self, redis: Redis, key: str) -> None:
        _, _, kind, *rest = key.split(":")
        of_shard = kind.startswith("{")
        lasting = rest[0] in RedisBackend.LASTING_OF_SHARD if of_shard else kind in RedisBackend.LASTING
        assert lasting or await redis.pttl(key) != -1, f"{key} lives for ever"
        if of_shard and kind != "{metrics}":
            if rest[0] in ("partial", "deliveries"):
                left = await redis.hkeys(key)
                assert not left, f"{key} remembers {left}, and everything is settled"
            if rest[0] == "inbox":
                pending = {group["name"]: group["pending"] for group in await redis.xinfo_groups(key)}
                assert not any(pending.values()), f"{key} has pending entries: {pending}"
                assert not await redis.xlen(key), f"{key} is not empty"


def resident_mib(pid: int) -> float:
    """Resident memory of a process, MiB; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
