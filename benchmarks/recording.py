"""What measuring costs: nanoseconds for each latency recorded, and for each report of a second's measurements.

python -m benchmarks.recording
"""

from __future__ import annotations

import random
import time
import timeit

from swell.codec import encode
from swell.instruments import Recorder

VALUES = 4096
LOOPS = 200
REPEATS = 7


def cost_ns(statement: str, names: dict[str, object], loops: int, each: int = 1) -> float:
    """The least of several runs: what the machine can do when nothing else disturbs it."""
    return min(timeit.repeat(statement, globals=names, number=loops, repeat=REPEATS)) / loops / each * 1e9


def main() -> None:
    """Measure and print."""
    chance = random.Random(1)
    recorder = Recorder("benchmark")
    latency = recorder.latency("start", "echo")
    # Log-normal around 1 ms, as latencies are: 50 us to 20 ms, so that both tables and the caches are really used.
    values = [int(chance.lognormvariate(6.9, 1.0)) for _ in range(VALUES)]
    names: dict[str, object] = {"record": latency.record, "values": values, "recorder": recorder, "encode": encode}
    empty = cost_ns("for us in values: pass", names, LOOPS, VALUES)
    record = cost_ns("for us in values: record(us)", names, LOOPS, VALUES) - empty
    count = cost_ns("for us in values: recorder.count('handled', 'echo')", names, LOOPS, VALUES) - empty

    told: list[float] = []
    size = 0
    for _ in range(REPEATS):
        for us in values:
            latency.record(us)
        recorder.count("handled", "echo", VALUES)
        began = time.perf_counter_ns()
        size = len(encode(recorder.take()))
        told.append(time.perf_counter_ns() - began)
    print(f"record a latency       {record:8.0f} ns")
    print(f"count                  {count:8.0f} ns")
    print(f"take and encode        {min(told):8.0f} ns once a second for each agent type ({size} bytes)")


if __name__ == "__main__":
    main()
