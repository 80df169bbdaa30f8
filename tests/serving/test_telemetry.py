"""Spans as a collector gets them over HTTP, and what the upstream is told of the trace."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from stands import HELLO, post
from wires import Wire, answer_of, body, calls, events, http

from distill.types import Decision, Message, ToolCall

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"
KINDS = {1: "internal", 2: "server", 3: "client"}
SECRET = "sw0rdfish"


class Collector:
    """Takes in spans; `spans` are those of all requests, by name."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                content = self.rfile.read(int(self.headers["content-length"]))
                outer.bodies.append(content)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def spans(self) -> dict[str, Any]:
        found = {}
        for content in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
                (scope,) = resource.scope_spans
                found |= {span.name: span for span in scope.spans}
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def told(span: Any) -> dict[str, Any]:
    """A span's attributes."""
    return {item.key: _value(item.value) for item in span.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)


def trace(parent: str | bytes) -> tuple[str, str]:
    """Trace and span of a `traceparent`."""
    text = parent if isinstance(parent, str) else parent.decode()
    _, trace_id, span_id, _ = text.split("-")
    return trace_id, span_id


def test_a_request_is_a_server_span_with_router_and_upstream_below(stand, collector):
    client = stand(
        http(HELLO),
        calls("get_order", 0.75, order=7),
        rollout={"mode": "shadow"},
        telemetry={"otlp": collector.url},
    )
    post(client, body(), traceparent=PARENT, tracestate="a=b")
    stand.close()
    spans = collector.spans()
    server, router, upstream = (
        spans[name] for name in ("POST /v1/chat/completions", "decide", "chat large")
    )
    assert [KINDS[s.kind] for s in (server, router, upstream)] == ["server", "internal", "client"]
    assert {s.trace_id.hex() for s in (server, router, upstream)} == {trace(PARENT)[0]}
    assert server.parent_span_id.hex() == trace(PARENT)[1]
    assert router.parent_span_id == upstream.parent_span_id == server.span_id
    (sent,) = stand.upstream.requests
    (header,) = sent.header("traceparent")
    assert trace(header) == (trace(PARENT)[0], upstream.span_id.hex())
    assert sent.header("tracestate") == [b"a=b"]

    about = told(upstream)
    assert about["gen_ai.operation.name"] == "chat"
    assert about["gen_ai.request.model"] == about["gen_ai.response.model"] == "large"
    assert about["gen_ai.usage.input_tokens"] == 100
    assert about["gen_ai.usage.output_tokens"] == 20
    assert about["gen_ai.response.finish_reasons"] == ["stop"]
    assert told(router)["gen_ai.tool.name"] == "get_order"
    assert told(router)["distill.confidence"] == 0.75
    whole = told(server)
    assert (whole["distill.decided_by"], whole["distill.reason"]) == ("upstream", "taken")
    assert whole["http.response.status_code"] == 200
    assert whole["distill.request.id"] == stand.store.last().id


def test_the_names_are_those_of_the_conventions(stand, collector):
    known = {v for k, v in vars(gen_ai_attributes).items() if k.isupper()}
    made = Message("assistant", None, (ToolCall("get_order", {"order": 7}),))
    telemetry = {"otlp": collector.url, "content": True}
    client = stand(http(answer_of(made)), calls("get_order", 0.2), telemetry=telemetry)
    post(client, body())
    stand.close()
    used = {key for s in collector.spans().values() for key in told(s) if key.startswith("gen_ai.")}
    assert used >= {"gen_ai.tool.name", "gen_ai.input.messages", "gen_ai.output.messages"}
    assert used <= known


def test_a_local_answer_has_no_upstream_span(stand, collector):
    client = stand(http(HELLO), calls("get_order", order=7), telemetry={"otlp": collector.url})
    post(client, body())
    stand.close()
    spans = collector.spans()
    assert set(spans) == {"POST /v1/chat/completions", "decide"}
    assert told(spans["POST /v1/chat/completions"])["distill.decided_by"] == "local"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (http(b"{}", "429 Too Many Requests"), "429"),
        (Wire([b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"]), "upstream cut off"),
        (Wire([]), "upstream not reached"),
    ],
    ids=["429", "cut", "gone"],
)
def test_a_failing_upstream_is_an_error_of_its_span(stand, collector, said, kind):
    client = stand(said, telemetry={"otlp": collector.url})
    post(client, body())
    stand.close()
    span = collector.spans()["chat large"]
    assert told(span)["error.type"] == kind
    assert span.status.code == 2


def test_a_failing_router_is_an_error_of_its_span(stand, collector):
    def fails(context: object) -> Decision:
        raise ValueError(SECRET)

    client = stand(http(HELLO), fails, telemetry={"otlp": collector.url})
    post(client, body())
    stand.close()
    assert told(collector.spans()["decide"])["error.type"] == "router failed"
    assert SECRET.encode() not in b"".join(collector.bodies)


def test_a_client_that_leaves_is_an_error_of_both_spans(stand, collector):
    first = b'data: {"choices": []}\n\n'
    client = stand(events(first, 15.0), telemetry={"otlp": collector.url})
    with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        assert next(answer.iter_raw()) == first
    stand.store.last()
    stand.close()
    spans = collector.spans()
    for name in ("POST /v1/chat/completions", "chat large"):
        assert told(spans[name])["error.type"] == "client left"


def test_other_paths_are_traced_too(stand, collector):
    client = stand(http(b"{}"), telemetry={"otlp": collector.url})
    client.get("/v1/models", headers={"traceparent": PARENT})
    stand.close()
    spans = collector.spans()
    (header,) = stand.upstream.requests[0].header("traceparent")
    assert trace(header)[1] == spans["upstream"].span_id.hex()
    assert spans["upstream"].parent_span_id == spans["GET /v1/models"].span_id


def test_what_the_client_does_not_sample_is_not_sent(stand, collector):
    client = stand(http(HELLO), telemetry={"otlp": collector.url})
    post(client, body(), traceparent=UNSAMPLED)
    stand.close()
    assert collector.spans() == {}
    (header,) = stand.upstream.requests[0].header("traceparent")
    assert trace(header)[0] == trace(PARENT)[0]
    assert header.endswith(b"-00")


def test_without_tracing_the_headers_pass_untouched(stand):
    client = stand(http(HELLO))
    post(client, body(), traceparent=PARENT, tracestate="a=b")
    client.get("/v1/models", headers={"traceparent": PARENT})
    first, second = stand.upstream.requests
    assert first.header("traceparent") == second.header("traceparent") == [PARENT.encode()]
    assert first.header("tracestate") == [b"a=b"]


@pytest.mark.parametrize("content", [False, True])
def test_content_is_told_only_where_the_config_says_so(stand, collector, content):
    made = Message("assistant", None, (ToolCall("get_order", {"order": SECRET}),))
    client = stand(
        http(answer_of(made)),
        calls("get_order", order=SECRET),
        telemetry={"otlp": collector.url, "content": content},
    )
    post(client, body(f"Where is {SECRET}?"), authorization="Bearer topsecret")
    stand.close()
    sent = b"".join(collector.bodies)
    assert (SECRET.encode() in sent) == content
    assert b"topsecret" not in sent
    about = told(collector.spans()["chat large"])
    if content:
        (asked,) = orjson.loads(about["gen_ai.input.messages"])
        assert asked == {
            "role": "user",
            "parts": [{"type": "text", "content": f"Where is {SECRET}?"}],
        }
        (answered,) = orjson.loads(about["gen_ai.output.messages"])
        assert answered["parts"][0]["arguments"] == {"order": SECRET}
        assert answered["finish_reason"] == "tool_calls"


def test_what_the_store_redacts_is_redacted_in_spans(stand, collector):
    made = Message("assistant", None, (ToolCall("get_order", {"order": SECRET}),))
    result = {"role": "tool", "tool_call_id": "a", "content": f'{{"order": "{SECRET}"}}'}
    call = {"id": "a", "type": "function"}
    call["function"] = {"name": "get_order", "arguments": f'{{"order": "{SECRET}"}}'}
    asked = [*body()["messages"], {"role": "assistant", "tool_calls": [call]}, result]
    client = stand(
        http(answer_of(made)),
        calls("get_order", order=SECRET),
        telemetry={"otlp": collector.url, "content": True},
        store={"redact": ["order"]},
    )
    post(client, body(messages=asked))
    stand.close()
    assert b"[redacted]" in b"".join(collector.bodies)
    assert SECRET.encode() not in b"".join(collector.bodies)


def test_a_collector_that_is_gone_costs_no_request(stand, collector):
    client = stand(http(HELLO), telemetry={"otlp": "http://127.0.0.1:9"})
    assert post(client, body()).content == HELLO
