"""An LLM's server that answers at once, always alike: what is before it then shows in the times.

Plain asyncio on httptools, with keep-alive, in a process of its own. A request whose body asks for
a stream gets the same answer as events.
"""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import cast

import httptools
import orjson
import uvloop

_MESSAGE = {
    "role": "assistant",
    "content": "Your order 1042 left our warehouse on Tuesday and should be with you by Friday. "
    "I can have it sent to another address until it is out for delivery; shall I?",
}
_HEAD = {"id": "chatcmpl-stub", "created": 1_700_000_000, "model": "large"}
_USAGE = {"prompt_tokens": 2300, "completion_tokens": 36, "total_tokens": 2336}


def _plain() -> bytes:
    choice = {"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}
    body = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    return _answer(b"application/json", orjson.dumps(body))


def _streamed() -> bytes:
    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        head = {**_HEAD, "object": "chat.completion.chunk"}
        return b"data: " + orjson.dumps({**head, "choices": [choice]}) + b"\n\n"

    words = [event({"content": f"{word} "}) for word in _MESSAGE["content"].split()]
    return _answer(
        b"text/event-stream",
        event({"role": "assistant"}) + b"".join(words) + event({}, "stop") + b"data: [DONE]\n\n",
    )


def _answer(kind: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
    return head + body


class _Serving(asyncio.Protocol):
    """One connection."""

    plain, streamed = _plain(), _streamed()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        # Within a text of the body the quotes would be escaped.
        asked = b"".join(self._body).replace(b" ", b"")
        self._body.clear()
        self._transport.write(self.streamed if b'"stream":true' in asked else self.plain)
        if not self._parser.should_keep_alive():
            self._transport.close()


def _serve(told: Connection) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Serving, "127.0.0.1", 0, backlog=1024)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


@contextmanager
def stub_upstream() -> Iterator[tuple[int, int]]:
    """Its port on loopback and its process's id."""
    context = multiprocessing.get_context("spawn")
    told, tells = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(tells,), daemon=True)
    process.start()
    tells.close()
    try:
        assert process.pid is not None
        yield told.recv(), process.pid
    finally:
        process.kill()
        process.join()
