"""`swell bench`: what this system, or a deployment of yours, does in a second, and how long a message takes.

agents.py   the agents that are measured with: each keeps its own account
system.py   a system to measure on: our own for the time, or yours
parts.py    throughput, latency, ask, spawn, fanout, memory, soak
result.py   what a part found, and whether every message arrived once and in order
"""
