"""The client itself: asks, waits, asks again, and remembers.

Failed attempts are repeated after full-jitter exponential backoff (Brooker 2015, "Exponential
Backoff And Jitter"), or when the endpoint's Retry-After says.
"""

import random
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from threading import Event
from typing import Any, NamedTuple

import httpx
import orjson

from distill.chat import digest
from distill.config import EndpointConfig
from distill.endpoint.answer import Answer, failed, is_completion, read_answer
from distill.endpoint.cache import Cache
from distill.endpoint.key import key_of
from distill.endpoint.pace import Pace
from distill.endpoint.request import request_body
from distill.types import Context, Message, ToolSpec

_AGAIN = (408, 409, 429)
"""Statuses below 500 that may pass; others say that the request itself is refused."""

_FIRST_WAIT_S = 1.0
_LEAST_SECRET = 8
"""Characters of a key from which on it is kept out of answers; local servers take `EMPTY`."""
_DETAIL = 200


class _Reply(NamedTuple):
    status: int
    retry_after: str | None
    content: bytes
    latency_ms: float


class _FailedError(Exception):
    """An attempt without an answer; `again`: another may have one."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class Endpoint:
    """One model behind one endpoint. Use it from any number of threads.

    Args:
        settings: where it is, and how patiently it is asked.
        transport: what carries requests, in place of the network.
        sleep: waits so many seconds, in place of the clock.

    Raises:
        ConfigError: the key's environment variable is not set, or holds no key.
    """

    def __init__(
        self,
        settings: EndpointConfig,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.settings = settings
        self._key = key_of(settings.key_env)
        self._url = f"{settings.base_url}/chat/completions"
        self._cache = Cache(settings.cache)
        self._closed = Event()
        self._sleep = sleep or self._closed.wait
        self._pace = Pace(settings.requests_per_minute, time.monotonic, self._sleep)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(settings.read_s, connect=settings.connect_s, pool=None),
            limits=httpx.Limits(max_connections=None),
            transport=transport,
        )
        weakref.finalize(self, self._client.close)

    def close(self) -> None:
        """End waits and connections; requests under way fail."""
        self._closed.set()
        self._client.close()

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        max_tokens: int,
        tool_choice: str = "auto",
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Answer:
        """The model's answer to a conversation, from the cache where it was had before.

        Whatever the endpoint does, an answer comes of it; only a disk that refuses to keep one
        raises (OSError).

        Args:
            tool_choice: `auto`, `none` or `required`, else the name of the tool to call.
            seed: the endpoint's sampling seed; None sends none.
        """
        body = request_body(
            self.settings,
            messages,
            tools,
            tool_choice=tool_choice,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )
        key = digest({"url": self._url, "body": body})
        kept = self._cache.get(key)
        if kept is not None and is_completion(kept.response):
            return read_answer(kept.response, tools, kept.latency_ms, cached=True)
        try:
            response, latency_ms = self._ask(orjson.dumps(body))
        except _FailedError as error:
            return failed(str(error))
        self._cache.put(key, response, latency_ms)
        return read_answer(response, tools, latency_ms, cached=False)

    def complete_all(
        self,
        contexts: Sequence[Context],
        *,
        max_tokens: int,
        tool_choice: str = "auto",
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Answer]:
        """`complete` for each context, in their order, `concurrency` at a time."""
        complete = partial(
            self.complete,
            max_tokens=max_tokens,
            tool_choice=tool_choice,
            temperature=temperature,
            seed=seed,
        )
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            return list(pool.map(lambda c: complete(c.messages, c.tools), contexts))
        except BaseException:
            self.close()  # or Ctrl-C would wait for every wait
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _ask(self, content: bytes) -> tuple[dict[str, Any], float]:
        """A completion and the milliseconds that it took; raises _FailedError for none."""
        attempt = 0
        while True:
            self._pace.wait()
            try:
                reply = self._post(content)
                return self._completion(reply), reply.latency_ms
            except _FailedError as error:
                if not error.again or attempt == self.settings.retries or self._closed.is_set():
                    raise
            self._sleep(self._backoff(attempt))
            attempt += 1

    def _backoff(self, attempt: int) -> float:
        most = min(self.settings.max_wait_s, _FIRST_WAIT_S * 2**attempt)
        return random.uniform(0, most)

    def _post(self, content: bytes) -> _Reply:
        """Send once and read what comes, within the bounds on time and size."""
        start = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        parts, size = [], 0
        try:
            with self._client.stream("POST", self._url, content=content, headers=headers) as reply:
                # A server that trickles its headers is held by `read_s` alone.
                for part in reply.iter_bytes():
                    size += len(part)
                    parts.append(part)
                    if size > self.settings.max_answer_bytes:
                        raise _FailedError("too long: more than max_answer_bytes", again=False)
                    if time.perf_counter() - start > self.settings.total_s:
                        raise _FailedError("timeout: more than total_s", again=True)
        except httpx.TimeoutException as error:
            raise _FailedError(f"timeout: {type(error).__name__}", again=True) from None
        except httpx.TransportError as error:
            raise _FailedError(f"connection: {self._detail(error)}", again=True) from None
        except httpx.HTTPError as error:  # such as a body that is not compressed as it says
            raise _FailedError(f"not readable: {self._detail(error)}", again=False) from None
        except RuntimeError:  # httpx's word for a client that was closed meanwhile
            raise _FailedError("interrupted", again=False) from None
        latency_ms = 1000 * (time.perf_counter() - start)
        after = reply.headers.get("retry-after")
        return _Reply(reply.status_code, after, b"".join(parts), latency_ms)

    def _completion(self, reply: _Reply) -> dict[str, Any]:
        """The reply's completion; raises _FailedError where there is none in it."""
        try:
            value = self._without_key(orjson.loads(reply.content))
        except orjson.JSONDecodeError:
            value = None
        if reply.status == 200 and is_completion(value):
            assert isinstance(value, dict)
            return value
        stated = value.get("error") if isinstance(value, dict) else None
        stated = stated.get("message") if isinstance(stated, dict) else stated
        detail = self._detail(stated) if isinstance(stated, str) else ""
        if reply.status == 200:
            reason = "not JSON" if value is None else "no choices"
            raise _FailedError(f"{reason}: {detail}" if detail else reason, again=False)
        reason = f"HTTP {reply.status}: {detail}" if detail else f"HTTP {reply.status}"
        again = reply.status in _AGAIN or reply.status >= 500
        wanted = _seconds(reply.retry_after)
        if again and wanted is not None:
            if wanted > self.settings.max_wait_s:
                raise _FailedError(
                    f"{reason} (asks to wait {wanted:.0f} s, more than max_wait_s)", again=False
                )
            self._pace.hold(wanted)
        raise _FailedError(reason, again=again)

    def _detail(self, what: object) -> str:
        """An error's words on one short line, without the key."""
        text = " ".join(str(what).split())
        return (text.replace(self._key, "***") if self._key else text)[:_DETAIL]

    def _without_key(self, value: Any) -> Any:
        """The answer of a server that repeats what it was sent, without the key."""
        if self._key is None or len(self._key) < _LEAST_SECRET:
            return value
        text, key = orjson.dumps(value), orjson.dumps(self._key)[1:-1]
        return orjson.loads(text.replace(key, b"***")) if key in text else value


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds, which may state a date; None where it says nothing."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
