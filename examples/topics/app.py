"""The app: a shop. Nobody who places or pays an order knows who wants to hear of it."""

from __future__ import annotations

from msgspec import Struct

from swell import Agent, App, field, handler

app = App("shop")


class Order(Struct):
    """What is told of an order."""

    number: int
    amount: int


class Seen(Struct):
    """The numbers that an agent was told, in order."""

    orders: list[int] = []


class Watcher(Agent):
    """Whoever listens keeps what it heard."""

    state: Seen

    @handler
    async def seen(self) -> list[int]:
        """All of it."""
        return self.state.orders


@app.agent("ledger")
class Ledger(Watcher):
    """Hears of every paid order."""

    @handler(topic="orders.*.paid")
    async def paid(self, body: Order) -> None:
        """Write it down."""
        self.state.orders.append(body.number)


@app.agent("auditor")
class Auditor(Watcher):
    """Hears of large orders, whatever happens to them; it is not woken for small ones."""

    @handler(topic="orders.**", where=field("amount") >= 1000)
    async def look(self, body: Order) -> None:
        """Look into it."""
        self.state.orders.append(body.number)


@app.agent("packer")
class Packer(Watcher):
    """One of all packers packs each paid order."""

    @handler(topic="orders.*.paid", group="packers")
    async def pack(self, body: Order) -> None:
        """Pack it."""
        self.state.orders.append(body.number)


@app.agent("till")
class Till(Agent):
    """Takes money, and tells whoever wants to hear of it."""

    @handler
    async def pay(self, body: Order) -> None:
        """Take the money for an order."""
        await self.publish(f"orders.{body.number}.paid", body)
