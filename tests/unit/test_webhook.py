"""The webhook and what a person may set wrong about it."""

from __future__ import annotations

import asyncio

import pytest

from swell.alerts import thresholds
from swell.instruments import Recorder
from swell_metrics.alerts import Alerts, Found
from swell_metrics.webhook import Webhook


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("http://127.0.0.1:1/caf\u00e9-hunter2", ""),
        ("http://127.0.0.1:1/a hunter2", ""),
        ("http://127.0.0.1:x/hunter2", ""),
        ("http://[::1/hunter2", ""),
        ("http://127.0.0.1:1/", "hunter2\u2713"),
        ("http://127.0.0.1:1/", "hunter2\nX: y"),
    ],
)
async def test_what_http_cannot_carry_is_a_failure_that_is_counted_and_shows_no_secret(
    url: str, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    alerts = Alerts(thresholds(""), tell=True)
    alerts.update({"dead_letters": Found(1)}, 0.0, 0)
    recorder = Recorder("metrics-1")
    webhook = Webhook(url, secret, "default", lambda: alerts.untold, alerts.told, recorder)
    running = asyncio.ensure_future(webhook.run())
    async with asyncio.timeout(10):
        while not caplog.records and not running.done():
            await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    assert [change.state for change in alerts.untold] == ["firing"]
    assert "the webhook was not told: http://" in caplog.text
    assert "hunter2" not in caplog.text
