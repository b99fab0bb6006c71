"""What is larger than it may be is refused in words, to whoever made it so, and harms nobody else."""

from __future__ import annotations

import pytest

from swell import Client
from swell.codec import MAX_BATCH_BYTES, MAX_RESULT_BYTES
from swell.errors import HandlerFailed, UnknownHandler, WireError, WrongBody
from tests.integration.conftest import Start


@pytest.fixture
async def faulty(client: Client, start: Start) -> str:
    for role in ("manager", "worker"):
        await start(role).ready()
    await (await client.spawn("faulty", keys=["f"])).wait()
    return "faulty/f"


async def test_a_result_of_a_mebibyte_arrives_and_a_larger_one_fails_at_the_asker(client: Client, faulty: str) -> None:
    overhead = 5
    fits = await client.ask(faulty, "long", MAX_RESULT_BYTES - overhead, bytes)
    assert len(fits) == MAX_RESULT_BYTES - overhead
    with pytest.raises(
        HandlerFailed, match=r"the result of 'long' cannot be sent: it has 1048577 bytes; at most 1048576"
    ):
        await client.ask(faulty, "long", MAX_RESULT_BYTES - overhead + 1, bytes)
    assert await client.ask(faulty, "ok", type=str) == "ok"


async def test_names_as_large_as_a_message_are_refused_with_few_words(client: Client, faulty: str) -> None:
    long = "n" * (MAX_BATCH_BYTES - 1000)
    with pytest.raises(UnknownHandler) as refused:
        await client.ask(faulty, long)
    assert len(str(refused.value)) < 5000
    with pytest.raises(WireError, match="at most 1048576 are allowed"):
        await client.send(faulty, long + "n" * 1000)
    assert await client.ask(faulty, "ok", type=str) == "ok"


async def test_arguments_of_agents_have_a_limit_of_their_own(client: Client, faulty: str) -> None:
    with pytest.raises(WrongBody, match="args: 65541 bytes are more than 65536"):
        await client.spawn("faulty", keys=["g"], args=b"x" * 65_536)
