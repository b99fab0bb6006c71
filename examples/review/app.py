"""The app that workers run: `swell up --app examples.review.app:app`."""

from __future__ import annotations

from examples.review.coordinator import Coordinator
from examples.review.roles import Analyst, Researcher, Reviewer, Tester
from swell.app import App

app = App("review")

app.agent("coordinator", timeout=3600)(Coordinator)  # a whole review is one run of its handler
app.agent("reviewer", timeout=600)(Reviewer)
app.agent("researcher")(Researcher)
app.agent("analyst")(Analyst)
app.agent("tester")(Tester)
