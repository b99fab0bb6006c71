"""The app: orders are charged by a service that fails now and then, one after another for each customer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from swell import Agent, App, handler


class Order(Struct):
    """What is bought, and for how much."""

    item: str
    cents: int


async def charge(customer: str, cents: int) -> None:
    """What stands here in the real app calls the payment service."""
    raise ConnectionError("no payment service in this example")


#: Tests put their own in its place.
charging: Callable[[str, int], Awaitable[None]] = charge

app = App("shop")


@app.agent("customer", max_attempts=5)
class Customer(Agent):
    """Charges orders, one at a time."""

    async def started(self) -> None:
        """Begin with nothing."""
        self.total = 0

    @handler
    async def order(self, body: Order) -> int:
        """Charge one order; returns what was charged in all, cents."""
        await charging(self.key, body.cents)
        self.total += body.cents
        return self.total
