"""What the requests of one process share, and how a request is taken in."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Send

from distill.config import ServeConfig
from distill.errors import InputError, StoreError
from distill.policy import Policy
from distill.routers.confidence import Threshold
from distill.serving import wire, words
from distill.serving.access import Access
from distill.serving.answering import Answering, Incoming, Keeper, answer_json
from distill.serving.attended import Attended
from distill.serving.chooser import Chooser
from distill.serving.logs import log_request, log_rollback
from distill.serving.metrics import Metrics
from distill.serving.rollout import Rollout
from distill.serving.shared import Settings, SharedMode
from distill.serving.telemetry import Tracing
from distill.serving.upstream import Headers, Upstream, UpstreamError, inward
from distill.serving.watching import Seen, seen_of
from distill.serving.wire import LimitError
from distill.store.record import Record
from distill.types import Router

BODY_S = 60.0
"""Seconds in which a request's body must have come."""

SESSION = "x-session-id"
"""The header under which a client may name its conversation, for the sake of `canary`."""


class KeepsAll(Keeper, Settings, Protocol):
    """What a gateway asks of its store: `distill.store.Store`."""


class HasReady(Protocol):
    """An engine, as far as the gateway knows it."""

    @property
    def ready(self) -> bool:
        """Whether it answers."""


class Gateway:
    """What the requests of one process share.

    Args:
        config: its settings.
        router: decides.
        thresholds: the router's promises (`RouterFile.thresholds`).
        store: where records go.
        reload: reads the config anew; None: it came from no file.
        engine: of a served router, to tell whether it is ready.
        transport: what carries requests upstream, in place of the network.
        observe: told every record, and whether it was kept.

    Raises:
        ConfigError: the policy asks for a promise that the router does not have, or the upstream's
            key is not set.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        router: Router,
        thresholds: tuple[Threshold, ...],
        store: KeepsAll,
        reload: Callable[[], ServeConfig] | None = None,
        engine: HasReady | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        observe: Callable[[Record, bool], object] = lambda record, kept: None,
        on_rollback: Callable[[str], object] = lambda reason: None,
    ) -> None:
        self.config, self.store, self.engine = config, store, engine
        self._thresholds, self._reload = thresholds, reload
        self._observe, self._on_rollback = observe, on_rollback
        self.metrics = Metrics()
        self.tracing = Tracing(config)
        self.access = Access(config.access)
        self.rollout = Rollout(config.rollout, self._fell_back, on_switch=self.metrics.mode)
        self.mode = SharedMode(self.rollout, store)
        self._following: asyncio.Task[None] | None = None
        self.chooser = Chooser(router, config.limits.decide_s)
        self.upstream = Upstream(
            config.upstream, private=bool(config.access.clients), transport=transport
        )
        self.answering = Answering(
            config,
            chooser=self.chooser,
            policy=Policy(config.policy, thresholds),
            rollout=self.rollout,
            upstream=self.upstream,
            store=store,
            tracing=self.tracing,
            observe=self._observed,
        )
        self.open = 0
        """Requests under way."""

    def reload(self) -> ServeConfig:
        """Read the config file again, and go by it from the next request on.

        Raises:
            ConfigError: the file is at fault; everything stays as it was.
        """
        if self._reload is None:
            raise InputError("reload", "the config came from no file", "start it with one")
        new = self._reload()
        policy = Policy(new.policy, self._thresholds)
        fixed = {"router", "upstream", "host", "port", "workers", "store", "engine", "telemetry"}
        kept = self.config.model_dump(include=fixed)
        config = ServeConfig.model_validate(new.model_dump() | kept)
        if config.rollout.mode != self.config.rollout.mode:
            self.rollout.switch(config.rollout.mode)
        self.config, self.answering.config = config, config
        self.answering.policy, self.rollout.config = policy, config.rollout
        self.chooser.patience = config.limits.decide_s
        self.access = Access(config.access)
        return config

    async def start(self) -> None:
        """Go by the mode that other processes share, from now on."""
        with suppress(StoreError):  # looked for again
            await self.mode.look()
        self._following = asyncio.create_task(self.mode.follow())

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
        self.chooser.close()
        await self.answering.drained()
        await self.upstream.close()
        await asyncio.to_thread(self.tracing.close)

    def over(self, seen: Seen) -> None:
        """An HTTP request is over."""
        self.metrics.http(seen.route, seen.status)
        log_request(seen)

    def _observed(self, incoming: Incoming, record: Record, kept: bool) -> None:
        incoming.seen.record, incoming.seen.kept = record, kept
        self.metrics.record(record, kept, time.perf_counter() - incoming.started)
        self.tracing.record(record)
        self._observe(record, kept)

    def _fell_back(self, reason: str) -> None:
        self.mode.fell_back()
        self.metrics.rollback()
        log_rollback(reason)
        self._on_rollback(reason)

    async def chat(self, request: Request) -> Response:
        """Answer a chat-completions request."""
        incoming = await self._incoming(request)
        return self._counted(lambda send: self.answering(incoming, send))

    async def passed(self, request: Request) -> Response:
        """Pass any other request of the API on."""
        self._client(request)
        content = await read_body(request, self.config.limits.body_bytes)
        return self._counted(lambda send: self._pass(request, content, send))

    async def _pass(self, request: Request, content: bytes, send: Send) -> None:
        headers: Headers = request.scope["headers"]
        with self.tracing.upstream(headers, None) as step:
            try:
                response = await self.upstream.send(
                    request.method, _target(request), step.headers, content
                )
            except UpstreamError as error:
                step.failed(words.error(str(error)) or words.OTHER)
                body = wire.error_body(str(error), "upstream_error", "upstream_failed")
                await answer_json(send, error.status, body, [])
                return
            try:
                start = {"status": response.status_code, "headers": inward(response)}
                await send({"type": "http.response.start", **start})
                async for piece in response.aiter_raw():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except httpx.HTTPError:
                step.failed("upstream cut off")
                return  # it breaks off here as it did there
            finally:
                await response.aclose()
        await send({"type": "http.response.body", "body": b""})

    async def _incoming(self, request: Request) -> Incoming:
        at, seen = datetime.now(UTC), seen_of(request.scope)
        client = self._client(request)
        limits = self.config.limits
        content = await read_body(request, limits.body_bytes)
        return Incoming(
            seen=seen,
            at=at,
            started=time.perf_counter(),
            client=client,
            target=_target(request),
            headers=request.scope["headers"],
            content=content,
            request=wire.read_request(content, limits, request.headers.get(SESSION), client),
        )

    def _client(self, request: Request) -> str:
        client = self.access.client(request.headers.get("authorization"))
        if client is None:
            raise HTTPException(401, "no such API key", {"www-authenticate": "Bearer"})
        return client

    def _counted(self, handle: Callable[[Send], Any]) -> Response:
        """The handler's response, or a refusal where too much is under way."""
        if self.open >= self.config.limits.concurrency:
            raise HTTPException(503, "too many requests under way", {"retry-after": "1"})
        self.open += 1
        self.metrics.under_way(1)

        async def attend(send: Send) -> None:
            try:
                await handle(send)
            finally:
                self.open -= 1
                self.metrics.under_way(-1)

        return Attended(attend)


async def read_body(request: Request, most: int) -> bytes:
    """A request's body; LimitError where it is longer, or does not come."""
    declared = request.headers.get("content-length", "")
    too_long = LimitError(413, f"a body of more than {most} bytes")
    if declared.isdigit() and int(declared) > most:
        raise too_long
    pieces, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise too_long
                pieces.append(piece)
    except TimeoutError:
        raise LimitError(408, "the body did not come in time") from None
    return b"".join(pieces)


def _target(request: Request) -> str:
    """Path and query as the client sent them, still encoded."""
    scope = request.scope
    path = bytes(scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    query = bytes(scope["query_string"])
    return (path + (b"?" + query if query else b"")).decode("latin-1")
