"""Asking many agents the same thing at once: one durable append for all, and no task, timer or future loop for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec import Raw

from swell.bus.caller import Call
from swell.client import Client
from swell.errors import BrokerUnavailable, CallTimeout, SwellError

Answer = Raw | SwellError


class Question:
    """What is asked of each agent.

    Attributes:
        name: the message's name.
        body: its body, encoded once for all.
        timeout_s: limit for all answers, seconds from the beginning of the call.
    """

    __slots__ = ("body", "name", "timeout_s")

    def __init__(self, name: str, body: Raw, timeout_s: float) -> None:
        self.name = name
        self.body = body
        self.timeout_s = timeout_s


async def ask_each(
    client: Client, ids: Sequence[str], question: Question, ended: Callable[[int, Answer], None]
) -> None:
    """Ask every agent of `ids`; returns when each has answered, or the time is up.

    Those whose answers the server has lost are asked again: the question must be one that may be repeated.
    Cancelled, it hears no more; what was appended is handled all the same.

    Args:
        client: whose reply stream the answers come by.
        ids: the agents, `type/key`.
        question: what is asked.
        ended: told once for each agent, by its place in `ids`: the raw result, or the error (`CallTimeout` for one
            that did not answer in time, `WireError` or `BrokerRefused` if it could not be asked).
    """
    calls: dict[int, Call] = {}
    again: list[int] = []
    all_ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(at: int, future: asyncio.Future[Raw]) -> None:
        error = future.exception()
        if calls.pop(at, None) is None:
            return
        if error is None:
            ended(at, future.result())
        elif isinstance(error, BrokerUnavailable):
            again.append(at)
        else:
            assert isinstance(error, SwellError)
            ended(at, error)
        if not calls and not all_ended.done():
            all_ended.set_result(None)

    def ask(at: int, now_us: int) -> tuple[str, tuple[Any, ...]]:
        call = calls[at] = client.caller.begin()
        call.future.add_done_callback(partial(answered, at))
        id = ids[at]
        return client.shard(id), (id, question.name, question.body, now_us, "", client.process, call.number)

    def fail_rest(error_for: Callable[[str], SwellError]) -> None:
        for at in list(calls):
            client.caller.end(calls.pop(at))
            ended(at, error_for(ids[at]))
        for at in again:
            ended(at, error_for(ids[at]))

    messages: list[tuple[str, tuple[Any, ...]]] = []
    try:
        async with asyncio.timeout(question.timeout_s):
            await client.caller.opened(question.timeout_s)
            now_us = time.time_ns() // 1000
            messages.extend(ask(at, now_us) for at in range(len(ids)))
            await client.producer.send_many(messages)
            while calls or again:
                if calls:
                    await all_ended
                    all_ended = asyncio.get_running_loop().create_future()
                repeated, again = again, []
                await client.producer.send_many([ask(at, now_us) for at in repeated])
    except TimeoutError:
        fail_rest(lambda id: CallTimeout(id, question.name, question.timeout_s))
        # While our reply stream cannot be made, nobody has been asked yet.
        for id_at in range(len(messages), len(ids)):
            ended(id_at, CallTimeout(ids[id_at], question.name, question.timeout_s))
    except SwellError as error:
        refused = error
        fail_rest(lambda _: refused)
    finally:
        for call in calls.values():
            client.caller.end(call)
        calls.clear()
