"""Testing agents: an app on a broker in memory, with the real manager and workers, in virtual time.

from swell.testing import Fleet, fleet_test

@fleet_test(app, workers=2)
async def test_orders_are_counted(fleet: Fleet) -> None:
await fleet.spawn("counter", keys=["tea"])
await fleet.client.send("counter/tea", "order", {"item": "tea"})
await fleet.quiet()
"""

from swell.testing.fleet import Fleet, running
from swell.testing.tests import fleet_test
from swell.testing.virtual_time import run_in_virtual_time

__all__ = ["Fleet", "fleet_test", "run_in_virtual_time", "running"]
