"""Arguments of tasks that cannot be: who gives one is told which, and what it may be."""

from __future__ import annotations

from typing import Any

import pytest

from swell import Agent, App, WrongBody, handler
from swell.testing import Fleet, fleet_test


class Crew(Agent):
    @handler
    async def square(self, body: int) -> int:
        return body * body


app = App("tests")
app.agent("crew")(Crew)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"keep": "1h"}, "keep: '1h' must be 0 to 604800 seconds"),
        ({"keep": -1}, "keep: -1 must be 0 to"),
        ({"keep": float("nan")}, "keep: nan must be 0 to"),
        ({"ttl": "1h"}, "ttl: '1h' must be more than 0"),
        ({"key": 5}, "key: 5 must be 1 to 128 letters"),
        ({"priority": "urgent"}, "priority: 'urgent' must be one of critical, high"),
        ({"steps": "abc"}, r"steps: 'abc' is no list of \(type, handler\) pairs"),
        ({"steps": 5}, "steps: 5 is no list"),
        ({"steps": ["ab"]}, r"steps: 'ab' is no \(type, handler\) pair"),
        ({"steps": [("crew", "square", 1)]}, r"steps: \('crew', 'square', 1\) is no"),
        ({"steps": []}, "steps: 0 must be 1 to 100"),
        ({"steps": [(Crew, "square")]}, "type: <class .* is not the name of an agent type"),
        ({"steps": [("crew", Crew.square)]}, "handler: <.* is not the name of a handler"),
    ],
)
@fleet_test(app)
async def test_an_argument_that_cannot_be_is_named(fleet: Fleet, arguments: dict[str, Any], text: str) -> None:
    steps: Any = arguments.pop("steps", [("crew", "square")])
    with pytest.raises(WrongBody, match=f"^{text}") as caught:
        await fleet.client.chain(steps, 1, **arguments)
    assert caught.value.detail["field"] == text.partition(":")[0]


@fleet_test(app)
async def test_tasks_of_a_state_that_is_none_are_not_listed_as_none(fleet: Fleet) -> None:
    with pytest.raises(WrongBody, match=r"^state: 'bogus' must be one of queued, running, done, .* expired$") as caught:
        await fleet.client.tasks("bogus")
    assert caught.value.detail["field"] == "state"
    assert await fleet.client.tasks("done") == []
