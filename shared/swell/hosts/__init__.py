"""Agents of what people already have: functions, programs, HTTP endpoints, chat models.

Each call here makes an agent class, which an app declares like one that was written by hand:

    app.agent("resize", timeout=60)(hosts.function(resize))              a function: coroutine, thread or processes
    app.agent("linter")(hosts.command("python", "lint.py"))              a program that speaks JSON lines
    app.agent("scorer")(hosts.http("https://scores.example/score"))      an endpoint that is sent JSON
    app.agent("writer")(hosts.chat("https://api.example/v1", "small"))   a chat model, with its conversation

So time limits, attempts, restarts, dead letters and order are those of every agent.
"""

from swell.hosts.chat import chat
from swell.hosts.endpoint import http
from swell.hosts.function import function
from swell.hosts.program import command

__all__ = ["chat", "command", "function", "http"]
