"""The same work on Swell and on the systems that users would choose instead: `python -m benchmarks.peers`."""
