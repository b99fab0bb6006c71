"""Its tests, as a user writes them: `pytest examples/testing`."""

from __future__ import annotations

import asyncio
import time

import pytest

from examples.testing import app as shop
from swell import HandlerFailed
from swell.testing import Fleet, fleet_test


class Payments:
    """A payment service in memory.

    Attributes:
        charged: who was charged how much, in order.
        outage: how many of the next calls fail.
    """

    def __init__(self) -> None:
        self.charged: list[tuple[str, int]] = []
        self.outage = 0

    async def charge(self, customer: str, cents: int) -> None:
        """Take a second, then charge, or fail."""
        await asyncio.sleep(1)
        if self.outage:
            self.outage -= 1
            raise ConnectionError("the payment service is away")
        self.charged.append((customer, cents))


@pytest.fixture
def payments(monkeypatch: pytest.MonkeyPatch) -> Payments:
    """The service that the app calls in this test."""
    service = Payments()
    monkeypatch.setattr(shop, "charging", service.charge)
    return service


@fleet_test(shop.app)
async def test_orders_are_charged_in_order(fleet: Fleet, payments: Payments) -> None:
    """Sixty orders take a minute, which is over at once."""
    await fleet.spawn("customer", keys=["ada"])
    began = time.time()
    await fleet.client.send_many(("customer/ada", "order", shop.Order("tea", n)) for n in range(60))
    await fleet.quiet()
    assert payments.charged == [("ada", n) for n in range(60)]
    assert time.time() - began >= 60


@fleet_test(shop.app)
async def test_an_outage_is_waited_out(fleet: Fleet, payments: Payments) -> None:
    """Four failures, with growing waits, and the fifth attempt succeeds."""
    payments.outage = 4
    await fleet.spawn("customer", keys=["ada"])
    assert await fleet.client.ask("customer/ada", "order", shop.Order("tea", 5), timeout=600) == 5
    assert await fleet.dead() == []


@fleet_test(shop.app)
async def test_a_long_outage_is_a_dead_letter(fleet: Fleet, payments: Payments) -> None:
    """After the fifth attempt the order is given up, and said so."""
    payments.outage = 5
    await fleet.spawn("customer", keys=["ada"])
    with pytest.raises(HandlerFailed, match="failed 5 times"):
        await fleet.client.ask("customer/ada", "order", shop.Order("tea", 5), timeout=600)
    (letter,) = await fleet.dead()
    assert letter.body == {"item": "tea", "cents": 5}


@fleet_test(shop.app, workers=2)
async def test_a_killed_worker_loses_no_order(fleet: Fleet, payments: Payments) -> None:
    """What it was at may be charged twice (at least once), nothing is left out."""
    customers = [f"c{n}" for n in range(8)]
    await fleet.spawn("customer", keys=customers)
    await fleet.client.send_many((f"customer/{who}", "order", shop.Order("tea", 1)) for who in customers)
    await asyncio.sleep(0.5)
    await fleet.kill_worker()
    await fleet.quiet()
    assert {who for who, _ in payments.charged} == set(customers)


async def test_two_customers_do_not_wait_for_each_other(fleet: Fleet, payments: Payments) -> None:
    """The same with the fixture `fleet`, which `conftest.py` brings."""
    await fleet.spawn("customer", keys=["ada", "bob"])
    began = time.time()
    await fleet.client.send_many((f"customer/{who}", "order", shop.Order("tea", 1)) for who in ("ada", "bob") * 10)
    await fleet.quiet()
    assert 10 <= time.time() - began < 15
