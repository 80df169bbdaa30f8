"""A gateway before an upstream, and all that a test wants to look at."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import orjson
from wires import REPLIES, Memory, RawUpstream, Says, Sent, Wire, answer_of, listening, serve_config

from distill.serving.gateway import Gateway
from distill.types import Context, Decision, Message

HELLO = answer_of(Message("assistant", "Hello."))
"""What the upstream says, where a test does not care."""

_DELTA = b'{"index":0,"delta":{"content":"Hel"},"finish_reason":"stop"}'
FIRST = b'data: {"id":"x","choices":[' + _DELTA + b"]}\n\n"
DONE = b"data: [DONE]\n\n"


class Stand:
    """Called, it sets all up for what the upstream says and the router decides."""

    said: Wire
    client: httpx.Client

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(
        self,
        said: Wire | Callable[[Sent], Wire],
        decided: Decision | Callable[[Context], Decision] = REPLIES,
        observe: Callable[..., object] = lambda record, kept: None,
        reload: Callable[[], Any] | None = None,
        log_config: dict[str, Any] | None = None,
        **changes: Any,
    ) -> httpx.Client:
        answer = said if callable(said) else lambda sent: said
        self.router = Says(decided if callable(decided) else lambda context: decided)
        self.upstream = self._stack.enter_context(RawUpstream(answer))
        self.store = Memory()
        self.rollbacks: list[str] = []
        self.gateway = Gateway(
            serve_config(self.upstream.url, **changes),
            router=self.router,
            thresholds=(),
            store=self.store,
            observe=observe,
            reload=reload,
            on_rollback=self.rollbacks.append,
        )
        self.url = self._stack.enter_context(listening(self.gateway, log_config))
        client = httpx.Client(base_url=self.url, timeout=20, trust_env=False)
        return self._stack.enter_context(client)

    def close(self) -> None:
        """Stop it all, so that everything that it does has been done."""
        self._stack.close()

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="k", max_retries=0)


def stands() -> Iterator[Stand]:
    with ExitStack() as stack:
        yield Stand(stack)


def post(client: httpx.Client, value: dict[str, Any], **headers: str) -> httpx.Response:
    return client.post("/v1/chat/completions", content=orjson.dumps(value), headers=headers)


def streamed(client: httpx.Client, url: str) -> bytes:
    """A streamed answer, whole; raises what the client's library does where it is not."""
    with client.stream("POST", url, json={"messages": [], "stream": True}) as answer:
        return b"".join(answer.iter_raw())
