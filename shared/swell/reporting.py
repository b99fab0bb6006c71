"""Telling the metrics service, once a second, what a process measured since it last told."""

from __future__ import annotations

import asyncio
import logging
import time

from swell.client import Client
from swell.errors import SwellError
from swell.instruments import Recorder
from swell.keys import METRICS
from swell.wire import MEASURE, TO_METRICS

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0


async def report(client: Client, recorder: Recorder) -> None:
    """Report what was recorded, and the gauges, until cancelled, and once more then.

    A report goes the way of every message: durable, once, in order. While one is under way, measurements go on
    adding up in the recorder, so that a metrics service that is away costs neither memory nor a measurement.
    """
    try:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            await _report(client, recorder)
    finally:
        try:
            async with asyncio.timeout(REPORT_EVERY_S):
                await _report(client, recorder)
        except TimeoutError:
            log.warning("the last measurements could not be told in time")


async def _report(client: Client, recorder: Recorder) -> None:
    measurements = recorder.take()
    if measurements is None:
        return
    message = (TO_METRICS, MEASURE, measurements, time.time_ns() // 1000, client.process)
    try:
        await client.append(METRICS, message)
    except SwellError as error:
        recorder.restore(measurements)
        log.warning("measurements wait: %s", error)
