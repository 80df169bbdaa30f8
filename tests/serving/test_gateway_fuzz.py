"""Ten thousand bodies that nobody would send, and the gateway's own OpenAPI: no 5xx, no hang."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import httpx
import orjson
from wires import Memory, Says, body, serve_config

from distill.serving.app import create_app
from distill.serving.gateway import Gateway
from distill.types import Context, Decision, ToolCall

BODIES = 10_000
WAIT_S = 20.0


def first_tool(context: Context) -> Decision:
    """A call of whatever is offered, so that hostile schemas are looked at."""
    return Decision("call", (ToolCall(context.tools[0].name, {"order": 7}),), 0.9)


def mutations(luck: Random) -> Iterator[bytes]:
    """A good request, with bytes changed, cut, repeated, or values swapped for others."""
    odd: list[Any] = [None, 0, -1, 1e308, "", "\U0001f600", [], {}, [[]], {"type": "\x00"}, True]
    while True:
        value: Any = orjson.loads(orjson.dumps(body(stream=luck.random() < 0.3)))
        kind = luck.randrange(4)
        if kind == 0:
            for _ in range(luck.randrange(1, 4)):
                holder, key = luck.choice(list(places(value)))
                holder[key] = luck.choice([*odd, *body().values()])
                value = orjson.loads(orjson.dumps(value))  # no two places share an object
            yield orjson.dumps(value)
        content = bytearray(orjson.dumps(value))
        if kind == 1:
            for _ in range(luck.randrange(1, 6)):
                content[luck.randrange(len(content))] = luck.randrange(256)
        elif kind == 2:
            del content[luck.randrange(len(content)) :]
        else:
            start = luck.randrange(len(content))
            content[start:start] = content[start : start + luck.randrange(1, 80)] * 50
        yield bytes(content)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a value that can be set."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def upstream(request: httpx.Request) -> httpx.Response:
    return httpx.Response(400, stream=httpx.ByteStream(b'{"error": {"message": "no"}}'))


def test_ten_thousand_malformed_bodies_are_answered():
    store = Memory()
    gateway = Gateway(
        serve_config("http://upstream/v1"),
        router=Says(first_tool),
        thresholds=(),
        store=store,
        transport=httpx.MockTransport(upstream),
    )
    bodies = mutations(Random(0))
    statuses: Counter[int] = Counter()

    async def some(client: httpx.AsyncClient, count: int) -> None:
        for _ in range(count):
            content = next(bodies)
            async with asyncio.timeout(WAIT_S):
                answer = await client.post("/v1/chat/completions", content=content)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, content

    async def all_of_them() -> None:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            await asyncio.gather(*(some(client, BODIES // 8) for _ in range(8)))

    asyncio.run(all_of_them())
    assert sum(statuses.values()) == BODIES
    assert set(statuses) == {200, 400}, "some were decided locally, others went upstream"
    assert len(store.kept) > BODIES * 0.9, "only what breaks a limit leaves no record"
    failed = {record.reason for record in store.kept if "failed" in record.reason}
    assert not failed, "the router was never given what it cannot read"
