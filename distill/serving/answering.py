"""One chat-completions request, from its body to its record.

The router is asked, and the policy says what becomes of its decision; the client gets either that
decision, as though the LLM had made it, or the LLM's answer, byte for byte. Where no decision may
be answered, router and LLM are asked side by side and then compared.

A client has its whole answer only when the record is kept: the last piece of it (a whole body; of
a stream its end) is held back until then. If the record cannot be kept, `StoreConfig.on_failure`
says what happens. An answer that breaks off is passed on as one that breaks off.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Protocol

import httpx
import orjson
from starlette.types import Send

from distill.chat import parse_usage, same_calls
from distill.config import ServeConfig
from distill.endpoint.answer import Answer, is_completion, read_answer
from distill.errors import StoreError
from distill.policy import Policy, Reason
from distill.serving import wire, words
from distill.serving.chooser import Chooser, ChooserError
from distill.serving.rollout import Plan, Rollout
from distill.serving.telemetry import Tracing
from distill.serving.upstream import Headers, Upstream, UpstreamError, inward
from distill.serving.watching import Seen
from distill.serving.wire import Obstacle, Request
from distill.serving.words import CLIENT_LEFT, NOT_ASKED, OVER_BUDGET
from distill.store.record import TOOLS_LEFT_OUT, Record
from distill.traces.stream import assembled
from distill.types import Decision, Usage

_NO_STATUS = 499
"""As nginx has it: the client left before there was a status."""


class Keeper(Protocol):
    """Where records go: `distill.store.Store`."""

    async def put(self, record: Record) -> None:
        """Returns once the record is kept, and raises StoreError otherwise."""

    def healthy(self) -> bool:
        """Whether a record can be kept, as far as is known; returns at once."""


@dataclass(frozen=True)
class Incoming:
    """A request as it came: `target` is its path and query, still encoded."""

    seen: Seen
    at: datetime
    started: float
    """By `time.perf_counter`, when its last byte had come."""
    client: str
    target: str
    headers: Headers
    content: bytes
    request: Request

    @property
    def id(self) -> str:
        return self.seen.id


@dataclass(frozen=True)
class _Asked:
    """What the router said, and the policy of it: taken, or why not."""

    reason: str
    decision: Decision | None = None
    router_ms: float | None = None
    taken: bool = False


@dataclass(frozen=True)
class _Had:
    """What came from upstream: the answer as JSON where it can be read, and as a decision."""

    status: int
    upstream_ms: float
    response: dict[str, Any] | None = None
    answer: Answer | None = None
    usage: Usage = field(default_factory=Usage)
    error: str | None = None


class Answering:
    """Answers requests by the rules of a config; one for each process.

    Args:
        observe: told every request, its record, and whether that was kept.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        chooser: Chooser,
        policy: Policy,
        rollout: Rollout,
        upstream: Upstream,
        store: Keeper,
        tracing: Tracing,
        observe: Callable[[Incoming, Record, bool], object],
    ) -> None:
        self.config, self.policy, self.rollout = config, policy, rollout
        self._chooser, self._upstream, self._store = chooser, upstream, store
        self._tracing, self._observe = tracing, observe
        self._background: set[asyncio.Task[bool]] = set()

    async def __call__(self, incoming: Incoming, send: Send) -> None:
        """Answer a request."""
        if self.config.store.on_failure == "refuse" and not self._store.healthy():
            # Before the LLM is paid for an answer that could not be handed over.
            await _refuse(send, incoming.id)
            return
        request, plan = incoming.request, self.rollout.plan(incoming.request.session)
        if request.obstacle is not None or not plan.ask:
            known = _Asked(request.obstacle or NOT_ASKED)
            await self._from_upstream(incoming, plan, _value(known), send)
        elif plan.answer:
            try:
                asked = await self._ask(request)
            except asyncio.CancelledError:
                self._note_left(incoming, plan, _Asked(CLIENT_LEFT), _Had(_NO_STATUS, 0.0))
                raise
            if asked.taken and self.rollout.spend():
                await self._locally(incoming, plan, asked, send)
            elif asked.taken:
                over = _Asked(OVER_BUDGET, asked.decision, asked.router_ms, taken=True)
                await self._from_upstream(incoming, plan, _value(over), send)
            else:
                await self._from_upstream(incoming, plan, _value(asked), send)
        else:
            await self._from_upstream(incoming, plan, self._ask(request), send)

    async def drained(self) -> None:
        """Wait for the records of clients that left."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _ask(self, request: Request) -> _Asked:
        assert request.context is not None
        start = time.perf_counter()
        with self._tracing.decision(request, self._chooser.router.kind) as step:
            try:
                decision = await self._chooser.decide(request.context)
            except ChooserError as error:
                step.failed(words.reason(str(error)))
                self.rollout.asked(failed=True)
                return _Asked(str(error), router_ms=_ms(start))
            step.decided(decision)
        try:
            verdict = self.policy(decision, request.context)
        except Exception as error:
            # A fault of ours, which costs the client no answer, and is counted.
            self.rollout.asked(failed=True)
            return _Asked(f"router failed: {type(error).__name__}", decision, _ms(start))
        self.rollout.asked(failed=False)
        reason: str = verdict.reason
        if verdict and request.one_call and len(decision.calls) > 1:
            reason = Obstacle.PARALLEL
        return _Asked(reason, decision, _ms(start), taken=reason == Reason.TAKEN)

    async def _locally(self, incoming: Incoming, plan: Plan, asked: _Asked, send: Send) -> None:
        request, decision = incoming.request, asked.decision
        assert request.context is not None
        assert decision is not None
        calls = wire.made_calls(request.context, decision)
        created = int(incoming.at.timestamp())
        whole = wire.completion(request, calls, incoming.id, created)
        had = _Had(200, 0.0, whole)
        if not await self._keep(
            incoming, self._record(incoming, plan, asked, had, decided_by="local")
        ):
            await _refuse(send, incoming.id)
            return
        said = _said(incoming, "local", asked)
        if request.stream:
            await _start(send, 200, [(b"content-type", b"text/event-stream; charset=utf-8"), *said])
            for chunk in wire.chunks(request, calls, incoming.id, created):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await answer_json(send, 200, orjson.dumps(whole), said)

    async def _from_upstream(
        self, incoming: Incoming, plan: Plan, asking: Awaitable[_Asked], send: Send
    ) -> None:
        asked = asyncio.ensure_future(asking)
        await asyncio.sleep(0)  # what is known already is known now
        content = incoming.content
        left_out = plan.answer and self._needs_no_tools(asked)
        if left_out:
            content = wire.without_tools(incoming.request)
        start = time.perf_counter()
        relay = _Relay(incoming, send, self.config.upstream.max_answer_bytes)
        try:
            had = await self._ask_upstream(incoming, content, relay, _done(asked))
            known = await asked
        except asyncio.CancelledError:
            known = _done(asked) or _Asked(CLIENT_LEFT)
            self._note_left(incoming, plan, known, _Had(relay.status, _ms(start)))
            asked.cancel()
            raise
        if left_out:
            known = replace(known, reason=TOOLS_LEFT_OUT)
        agreed = None
        if known.taken and had.answer is not None and had.answer.decision is not None:
            assert known.decision is not None
            agreed = same_calls(known.decision, had.answer.decision)
            self.rollout.compared(agreed)
        record = self._record(incoming, plan, known, had, decided_by="upstream", agreed=agreed)
        kept = await self._keep(incoming, record)
        if had.error is not None and not relay.begun:
            body = wire.error_body(had.error, "upstream_error", "upstream_failed")
            await answer_json(send, had.status, body, _said(incoming, "upstream", known))
        elif had.error is None and kept:
            await relay.finish(_said(incoming, "upstream", known))
        elif not relay.begun:
            await _refuse(send, incoming.id)
        # Else it has begun and is not whole: it breaks off.

    def _note_left(self, incoming: Incoming, plan: Plan, asked: _Asked, had: _Had) -> None:
        """Record that the client left, while its connection ends."""
        left = replace(had, error=CLIENT_LEFT)
        record = self._record(incoming, plan, asked, left, decided_by="upstream")
        task = asyncio.ensure_future(self._keep(incoming, record))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _ask_upstream(
        self, incoming: Incoming, content: bytes, relay: "_Relay", known: _Asked | None
    ) -> _Had:
        with self._tracing.upstream(incoming.headers, incoming.request) as step:
            had = await self._exchange(incoming, step.headers, content, relay, known)
            step.answered(had.status, had.response, had.usage, had.error)
        return had

    async def _exchange(
        self,
        incoming: Incoming,
        headers: Headers,
        content: bytes,
        relay: "_Relay",
        known: _Asked | None,
    ) -> _Had:
        start = time.perf_counter()
        try:
            response = await self._upstream.send("POST", incoming.target, headers, content)
        except UpstreamError as error:
            return _Had(error.status, _ms(start), error=str(error))
        try:
            return await relay.receive(response, start, _said(incoming, "upstream", known))
        finally:
            await response.aclose()

    def _needs_no_tools(self, asked: "asyncio.Future[_Asked]") -> bool:
        known = _done(asked)
        return (
            self.config.reply_without_tools
            and known is not None
            and known.decision is not None
            and self.policy.sure_of_reply(known.decision)
        )

    async def _keep(self, incoming: Incoming, record: Record) -> bool:
        """Whether the answer may be handed over: its record is kept, or need not be."""
        try:
            await self._store.put(record)
        except StoreError:
            self._observe(incoming, record, False)
            return self.config.store.on_failure == "serve"
        self._observe(incoming, record, True)
        return True

    def _record(
        self,
        incoming: Incoming,
        plan: Plan,
        asked: _Asked,
        had: _Had,
        *,
        decided_by: Literal["local", "upstream"],
        agreed: bool | None = None,
    ) -> Record:
        unusable = had.answer.error if had.answer is not None else None
        return Record(
            id=incoming.id,
            at=incoming.at,
            client=incoming.client,
            session=incoming.request.session,
            mode=plan.mode,
            decided_by=decided_by,
            reason=asked.reason,
            decision=asked.decision,
            request=incoming.request.body,
            response=had.response,
            status=had.status,
            agreed=agreed,
            router_ms=asked.router_ms,
            upstream_ms=had.upstream_ms if decided_by == "upstream" else None,
            usage=had.usage,
            error=f"answer: {unusable}" if unusable is not None else had.error,
        )


class _Relay:
    """Hands an answer on as it comes, but its last piece, and remembers it."""

    def __init__(self, incoming: Incoming, send: Send, most: int) -> None:
        self._incoming, self._send, self._most = incoming, send, most
        self.begun = False
        self.status = _NO_STATUS
        self._headers: Headers = []
        self._held: list[bytes] = []
        """What the client gets only when the record is kept."""

    async def receive(self, response: httpx.Response, start: float, said: Headers) -> _Had:
        """Read an answer to its end; of a stream, hand on all but the end."""
        self.status, self._headers = response.status_code, inward(response)
        events = response.headers.get("content-type", "").startswith("text/event-stream")
        if events:
            self.begun = True
            await _start(self._send, self.status, [*self._headers, *said])
        pieces: list[bytes] = []
        size, ending = 0, False
        try:
            async for piece in response.aiter_raw():
                pieces.append(piece)
                size += len(piece)
                if size > self._most:
                    return _Had(self._failed(), _ms(start), error="upstream answer too long")
                self._held.append(piece)
                ending = ending or _ends(pieces)
                if events and not ending:
                    await self._flush()
        except httpx.TimeoutException:
            return _Had(self._failed(504), _ms(start), error="upstream too late")
        except (httpx.TransportError, httpx.StreamError):
            return _Had(self._failed(), _ms(start), error="upstream cut off")
        whole = _read(b"".join(pieces), events=events)
        answer = None
        context = self._incoming.request.context
        if whole is not None and context is not None and is_completion(whole):
            answer = read_answer(whole, context.tools, _ms(start), cached=False)
        usage = Usage() if whole is None else parse_usage(whole.get("usage"))
        return _Had(self.status, _ms(start), whole, answer, usage)

    async def finish(self, said: Headers) -> None:
        """Hand on what was held back."""
        rest = b"".join(self._held)
        if not self.begun:
            # The length may be missing, where the body came in chunks.
            kept = [(n, v) for n, v in self._headers if n != b"content-length"]
            length = (b"content-length", str(len(rest)).encode())
            await _start(self._send, self.status, [*kept, length, *said])
        await self._send({"type": "http.response.body", "body": rest})

    async def _flush(self) -> None:
        body = b"".join(self._held)
        self._held.clear()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _failed(self, status: int = 502) -> int:
        """The status of a failure: what the client was told, where it was told one."""
        return self.status if self.begun else status


def _ends(pieces: list[bytes]) -> bool:
    """Whether the end mark of a stream stands in what came last, torn in pieces or not.

    Within JSON no line begins, so no text of the LLM is taken for it.
    """
    tail = b"\n" * (len(pieces) <= 3) + b"".join(pieces[-3:])
    return b"\ndata: [DONE]" in tail or b"\ndata:[DONE]" in tail


def _read(content: bytes, *, events: bool) -> dict[str, Any] | None:
    """An answer's JSON, of a stream put together; None where it cannot be read."""
    try:
        if not events:
            value = orjson.loads(content)
            return value if isinstance(value, dict) else None
        lines = (line[5:].strip() for line in content.splitlines() if line.startswith(b"data:"))
        return assembled([orjson.loads(line) for line in lines if line and line != b"[DONE]"])
    except ValueError:
        return None


def _said(incoming: Incoming, by: str, asked: _Asked | None) -> Headers:
    """Our own headers: who decided, and why."""
    said = [
        (b"x-distill-request", incoming.id.encode()),
        (b"x-distill-decided-by", by.encode()),
    ]
    if asked is not None:
        said.append((b"x-distill-reason", asked.reason.encode()))
        if asked.decision is not None and asked.decision.confidence is not None:
            said.append((b"x-distill-confidence", f"{asked.decision.confidence:.4f}".encode()))
    return said


async def answer_json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a whole JSON body."""
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await _start(send, status, [*own, *headers])
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, request_id: str) -> None:
    body = wire.error_body("the gateway cannot keep records now", "server_error", "record_not_kept")
    headers = [(b"retry-after", b"1"), (b"x-distill-request", request_id.encode())]
    await answer_json(send, 503, body, headers)


async def _start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _value(asked: _Asked) -> _Asked:
    return asked


def _done(asked: "asyncio.Future[_Asked]") -> _Asked | None:
    return asked.result() if asked.done() and not asked.cancelled() else None


def _ms(start: float) -> float:
    return 1000 * (time.perf_counter() - start)
