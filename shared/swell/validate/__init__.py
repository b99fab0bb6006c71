"""`swell validate`: scenarios with targets, each measured at the receivers.

scenarios.py  what is done, and which target applies
running.py    one scenario on a system, with the account of its messages
report.py     each target beside what was measured: console, JSON, CSV, Markdown
"""
