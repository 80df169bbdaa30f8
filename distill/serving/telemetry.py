"""Spans for OpenTelemetry, in the words of its GenAI semantic conventions; off unless asked for.

    POST /v1/chat/completions     server; its parent is the client's `traceparent`
      decide                      internal: the router
      chat MODEL                  client: the upstream, which gets this span as its parent

Where tracing is off, nothing is made and `traceparent` passes as it came. Spans carry tools' names,
and messages and arguments only where the config says so; what the store redacts is redacted there,
too. `OTEL_EXPORTER_OTLP_HEADERS` holds the collector's key, if it wants one.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from distill.chat import parse_messages
from distill.config import ServeConfig
from distill.serving import words
from distill.serving.upstream import Headers
from distill.serving.watching import Seen
from distill.serving.wire import Request
from distill.store.record import Record
from distill.store.redact import Redaction
from distill.types import Decision, Message, ToolCall, Usage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_PROPAGATED = (b"traceparent", b"tracestate")
_EXPORT_S = 5
_MOST_CONTENT = 64 * 1024
"""Characters of a span's messages; longer ones are left out whole."""


class Step:
    """A span that goes on, or none. `headers` are those for a request made within it."""

    def __init__(self, span: Span | None, headers: Headers, content: "_Content") -> None:
        self._span, self.headers, self._content = span, headers, content

    def decided(self, decision: Decision) -> None:
        """The router has answered."""
        if self._span is None:
            return
        names = [call.name for call in decision.calls]
        found: dict[str, Any] = {
            "distill.action": decision.action,
            "gen_ai.response.finish_reasons": ["tool_calls" if names else "stop"],
        }
        if decision.confidence is not None:
            found["distill.confidence"] = decision.confidence
        if names:
            found["gen_ai.tool.name"] = names[0]
            found["distill.tools"] = names
        if names:
            found |= self._content("output", [Message("assistant", None, decision.calls)])
        self._span.set_attributes(found)

    def answered(
        self, status: int, response: Mapping[str, Any] | None, usage: Usage, error: str | None
    ) -> None:
        """The upstream has answered, or has not."""
        if self._span is None:
            return
        found: dict[str, Any] = {
            "http.response.status_code": status,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        }
        if response is not None:
            found |= _of_response(response, self._content)
        self._span.set_attributes({key: item for key, item in found.items() if item is not None})
        if error is not None:
            self.failed(words.error(error) or words.OTHER)
        elif status >= 400:
            self.failed(str(status))

    def failed(self, kind: str) -> None:
        """It came to nothing; `kind` is of a fixed set."""
        if self._span is not None:
            self._span.set_attribute("error.type", kind)
            self._span.set_status(StatusCode.ERROR)


class Tracing:
    """Makes the spans of one process."""

    def __init__(self, config: ServeConfig) -> None:
        self._content = _Content(config)
        self._upstream = config.upstream.base_url
        self._provider: TracerProvider | None = None
        if config.telemetry.otlp is None:
            return
        # Only here: most gateways trace nothing.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import SpanLimits  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider as Provider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        self._provider = Provider(
            resource=Resource.create({"service.name": config.telemetry.service}),
            span_limits=SpanLimits(max_span_attribute_length=_MOST_CONTENT),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(f"{config.telemetry.otlp}/v1/traces", timeout=_EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("distill.serving")
        self._propagator = TraceContextTextMapPropagator()

    def request(self, scope: Scope, seen: Seen) -> AbstractContextManager[object]:
        """Around one HTTP request."""
        return nullcontext() if self._provider is None else self._request(scope, seen)

    def decision(self, request: Request, kind: str) -> AbstractContextManager[Step]:
        """Around the router's work for a request."""
        if self._provider is None:
            return nullcontext(Step(None, [], self._content))
        about = _asked(request) | {"gen_ai.provider.name": "distill", "distill.router": kind}
        return self._step("decide", SpanKind.INTERNAL, about, [], self._said(request))

    def upstream(self, headers: Headers, request: Request | None) -> AbstractContextManager[Step]:
        """Around a request to the upstream; `request` is what a chat completion's body says."""
        if self._provider is None:
            return nullcontext(Step(None, headers, self._content))
        where = urlsplit(self._upstream)
        about: dict[str, Any] = {"server.address": where.hostname or ""}
        if where.port is not None:
            about["server.port"] = where.port
        if request is None:
            return self._step("upstream", SpanKind.CLIENT, about, headers, {})
        # The API's own name stands for all who speak it.
        about |= _asked(request) | {"gen_ai.provider.name": "openai"}
        name = f"chat {request.model}".rstrip()
        return self._step(name[:200], SpanKind.CLIENT, about, headers, self._said(request))

    def record(self, record: Record) -> None:
        """A chat completion has its record: said of the span of its HTTP request."""
        if self._provider is None:
            return
        span = trace.get_current_span()
        if not span.is_recording():
            return  # the client left, and the span ended before
        found: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "distill.client": record.client,
            "distill.mode": record.mode,
            "distill.decided_by": record.decided_by,
            "distill.reason": words.reason(record.reason),
            "distill.agreed": record.agreed,
            "error.type": words.error(record.error),
        }
        span.set_attributes({key: item for key, item in found.items() if item is not None})

    def close(self) -> None:
        """Send what is left, for some seconds at most."""
        if self._provider is not None:
            self._provider.force_flush(_EXPORT_S * 1000)
            self._provider.shutdown()

    def _said(self, request: Request) -> dict[str, Any]:
        return {} if request.context is None else self._content("input", request.context.messages)

    @contextmanager
    def _request(self, scope: Scope, seen: Seen) -> Iterator[object]:
        headers: Headers = scope["headers"]
        carrier = {n.decode(): v.decode("latin-1") for n, v in headers if n in _PROPAGATED}
        parent = self._propagator.extract(carrier)
        about = {"http.request.method": seen.method, "distill.request.id": seen.id}
        with self._tracer.start_as_current_span(
            seen.method,
            parent,
            SpanKind.SERVER,
            about,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield None
            finally:
                span.update_name(f"{seen.method} {seen.route}")
                span.set_attribute("http.route", seen.route)
                span.set_attribute("http.response.status_code", seen.status)
                if seen.error is not None:
                    span.set_attribute("error.type", seen.error)
                if seen.error is not None or seen.status >= 500:
                    span.set_status(StatusCode.ERROR)

    @contextmanager
    def _step(
        self,
        name: str,
        kind: SpanKind,
        about: Mapping[str, Any],
        headers: Headers,
        said: Mapping[str, Any],
    ) -> Iterator[Step]:
        with self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes={**about, **said},
            record_exception=False,  # its text may quote the conversation
            set_status_on_exception=False,
        ) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            kept = [(n, v) for n, v in headers if n not in _PROPAGATED]
            ours = [(n.encode(), v.encode()) for n, v in carrier.items()]
            step = Step(span, [*kept, *ours], self._content)
            try:
                yield step
            except asyncio.CancelledError:
                step.failed(words.CLIENT_LEFT)
                raise
            except Exception as error:
                step.failed(type(error).__name__)
                raise


def _asked(request: Request) -> dict[str, Any]:
    return {"gen_ai.operation.name": "chat", "gen_ai.request.model": request.model}


def _of_response(response: Mapping[str, Any], content: "_Content") -> dict[str, Any]:
    """What a completion says of itself; nothing where it is none."""
    found: dict[str, Any] = {}
    for key in ("id", "model"):
        if isinstance(response.get(key), str):
            found[f"gen_ai.response.{key}"] = response[key]
    choices = response.get("choices")
    choices = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
    finishes = [c["finish_reason"] for c in choices if isinstance(c.get("finish_reason"), str)]
    if finishes:
        found["gen_ai.response.finish_reasons"] = finishes
    try:
        messages = parse_messages([choice["message"] for choice in choices])
    except (KeyError, ValueError):
        return found
    names = [call.name for message in messages for call in message.calls]
    if names:
        found["gen_ai.tool.name"] = names[0]
        found["distill.tools"] = names
    return found | content("output", messages, finishes)


class _Content:
    """Messages as attributes in the conventions' JSON; none where they are not wanted."""

    def __init__(self, config: ServeConfig) -> None:
        self._wanted = config.telemetry.content
        self._redaction = Redaction(config.store.redact)

    def __call__(
        self, side: str, messages: Sequence[Message], finishes: Sequence[str] = ()
    ) -> dict[str, str]:
        """`gen_ai.input.messages` or `gen_ai.output.messages`."""
        if not self._wanted:
            return {}
        said: list[dict[str, Any]] = [{"role": m.role, "parts": _parts(m)} for m in messages]
        for message, finish in zip(said, finishes, strict=False):
            message["finish_reason"] = finish
        text = json.dumps(self._redaction.value(said))
        return {f"gen_ai.{side}.messages": text} if len(text) <= _MOST_CONTENT else {}


def _parts(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [
            {"type": "tool_call_response", "id": message.call_id, "response": message.content or ""}
        ]
    text = [] if message.content is None else [{"type": "text", "content": message.content}]
    return [*text, *map(_call, message.calls)]


def _call(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
