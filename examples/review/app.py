"""The app that workers run: `swell up --app examples.review.app:app`."""

from __future__ import annotations

from examples.review.coordinator import Coordinator
from examples.review.roles import Analyst, Researcher, Reviewer, Tester
from swell.app import App

app = App("review")

# Spawning a crew is one run of a handler of the coordinator's, and waits for each of its waves.
app.agent("coordinator", timeout=120)(Coordinator)
app.agent("researcher")(Researcher)
app.agent("analyst")(Analyst)
app.agent("tester")(Tester)
app.agent("reviewer")(Reviewer)
