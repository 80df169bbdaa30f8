"""A real vLLM, behind a gateway that is a process of its own and by itself: the same tokens, the
same decisions, faults, and adapters that come and go.

Runs where DISTILL_VLLM_PYTHON names an interpreter with vLLM; DISTILL_VLLM_ENVIRONMENT may hold
further variables for it as JSON. Tiny models with random words: what is tried is the way there and
back, not what they know. An engine takes long to start, and whatever is asked of one is one test.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from ports import free_port
from processes import Served, gateway
from small_shop import PARTS, TOOLS, decoder, filling, job, open_encoder, teach_calls
from stands import HELLO, post
from tiny_models import save_bert, save_llama
from wires import RawUpstream, http

from distill.chat import message_json, tool_json
from distill.config import EngineConfig, PolicyConfig
from distill.policy import Policy, Reason, Verdict
from distill.render import render_chat
from distill.routers import load_router
from distill.serving.engine import Engine, served_router
from distill.training import train
from distill.types import Context, Decision, Message, ToolCall

PYTHON = os.environ.get("DISTILL_VLLM_PYTHON")

pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="DISTILL_VLLM_PYTHON names no interpreter with vLLM"),
    pytest.mark.timeout(900),
]

ODD = Context(
    (
        Message("system", "You help."),
        Message("user", 'Ärger: "quoted" <b>\n\\ and 東京'),
        Message(
            "assistant",
            "Looking.",
            (ToolCall("get_order", {"order": 1}, "w"), ToolCall("list_orders", {}, "x")),
        ),
        Message("tool", '{"total": 1.5, "note": "späť"}', call_id="x"),
        Message("user", "and {{ messages }}?"),
    ),
    TOOLS,
)
Make = Callable[[str], Path]
CONTEXTS = [*(example.context for example in PARTS.validation), ODD]
START_S = 400
"""Seconds for an engine, on a busy processor."""
DECIDE_S, ASK_S = 10, 25
"""Seconds that the gateway gives a decision, and the engine a request."""


def engine_values(**changes: Any) -> dict[str, Any]:
    """`engine` of a gateway's config."""
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment |= json.loads(os.environ.get("DISTILL_VLLM_ENVIRONMENT", "{}"))
    values = {"python": PYTHON, "port": free_port(), "start_s": START_S, "request_s": 600}
    return values | {"environment": environment} | changes


def over_the_wire(message: dict[str, Any]) -> dict[str, Any]:
    """The message as the API has it: calls have ids, and their arguments are JSON in a string."""
    calls = []
    for made in message.get("tool_calls", []):
        function = made["function"]
        arguments = json.dumps(function["arguments"])
        calls.append({"id": "c", **made, "function": function | {"arguments": arguments}})
    return message | {"tool_calls": calls} if calls else message


def differing(found: list[Decision], expected: list[Decision]) -> list[tuple[Decision, Decision]]:
    """The pairs that differ in action, tools or arguments."""
    pairs = zip(found, expected, strict=True)
    return [(a, b) for a, b in pairs if (a.action, a.calls) != (b.action, b.calls)]


def assert_same(found: list[Decision], expected: list[Decision]) -> None:
    assert [d.error for d in found] == [None] * len(found)
    assert differing(found, expected) == []
    for one, other in zip(found, expected, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=0.02, abs=1e-4)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Trains a router of a kind on a base whose one head is as wide as vLLM needs on processors."""

    @cache
    def made(kind: str) -> Path:
        path = tmp_path_factory.mktemp(kind)
        if kind == "decoder":
            settings: Any = decoder(teach_calls(save_llama(path / "base", heads=1)))
        else:
            base = save_bert(path / "base", heads=1)
            settings = filling(base, epochs=12) if kind == "filling" else open_encoder(base)
        router = train(settings, job(path / "run")).router
        (path / "router").mkdir()
        router.save(path / "router")
        return path / "router"

    return made


# Through a gateway.


@contextmanager
def before_vllm(router: Path, folder: Path) -> Iterator[Served]:
    """A gateway with an engine and an upstream that says hello, once the engine is ready."""
    with (
        RawUpstream(lambda sent: http(HELLO)) as upstream,
        gateway(
            router,
            folder,
            upstream={"base_url": upstream.url},
            engine=engine_values(request_s=ASK_S),
            limits={"decide_s": DECIDE_S},
            rollout={"mode": "on", "compare": 0.0, "rollback": None},
        ) as served,
    ):
        with served.client() as client:
            eventually(lambda: client.get("/readyz").json()["engine"])
        yield served


def eventually(holds: Callable[[], object]) -> None:
    end = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < end, "never came"
        time.sleep(0.2)


def body(context: Context) -> dict[str, Any]:
    messages = [message_json(message) for message in context.messages]
    return {"model": "m", "messages": messages, "tools": list(map(tool_json, context.tools))}


@dataclass(frozen=True)
class Expected:
    """What the router decides in process, and what the gateway's policy says of it."""

    context: Context
    decision: Decision
    verdict: Verdict


def expectations(folder: Path) -> list[Expected]:
    policy = Policy(PolicyConfig(threshold=0.0))
    pairs = zip(CONTEXTS, load_router(folder).decide(CONTEXTS), strict=True)
    found = [Expected(context, made, policy(made, context)) for context, made in pairs]
    assert {one.verdict.reason for one in found} >= {Reason.TAKEN, Reason.REPLY}
    return found


def first(expected: Sequence[Expected], reason: Reason) -> Expected:
    return next(one for one in expected if one.verdict.reason == reason)


def calls_of(message: Any) -> list[tuple[str, Any]]:
    made = [call["function"] for call in message["tool_calls"]]
    return [(function["name"], json.loads(function["arguments"])) for function in made]


def assert_decides_as_in_process(client: httpx.Client, expected: Sequence[Expected]) -> None:
    """What the policy takes is answered with the same calls, and the rest by the upstream."""
    for one in expected:
        answer, decision = post(client, body(one.context)), one.decision
        said = answer.headers
        assert said["x-distill-reason"] == one.verdict.reason
        assert said["x-distill-decided-by"] == ("local" if one.verdict else "upstream")
        confidence = pytest.approx(decision.confidence, rel=0.02, abs=2e-4)
        assert float(said["x-distill-confidence"]) == confidence
        if one.verdict:
            message = answer.json()["choices"][0]["message"]
            assert calls_of(message) == [(c.name, c.arguments) for c in decision.calls]
        else:
            assert answer.content == HELLO


def assert_openai_client_is_answered(url: str, expected: Sequence[Expected]) -> None:
    """The official client: whole and streamed, a local call and a reply of the LLM's."""
    local, reply = first(expected, Reason.TAKEN), first(expected, Reason.REPLY)
    calls = [(call.name, call.arguments) for call in local.decision.calls]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response
        answer = raw.create(**body(local.context))
        whole = answer.parse()
        (choice,) = whole.choices
        assert answer.headers["x-distill-decided-by"] == "local"
        assert answer.headers["x-distill-reason"] == "taken"
        assert choice.finish_reason == "tool_calls"
        assert calls_of(choice.message.model_dump()) == calls
        ids = [call.id for call in choice.message.tool_calls]
        assert all(ids)
        assert len(set(ids)) == len(ids)
        assert whole.usage.total_tokens == 0

        options = {"stream": True, "stream_options": {"include_usage": True}}
        begun = raw.create(**body(local.context), **options)
        chunks = list(begun.parse())
        assert begun.headers["x-distill-decided-by"] == "local"
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        deltas = [delta for choice in choices for delta in choice.delta.tool_calls or []]
        assert [delta.id for delta in deltas if delta.id] == ids
        for i, (name, arguments) in enumerate(calls):
            of = [delta.function for delta in deltas if delta.index == i]
            assert [function.name for function in of if function.name] == [name]
            assert json.loads("".join(function.arguments for function in of)) == arguments
        assert [c.finish_reason for c in choices if c.finish_reason] == ["tool_calls"]
        assert chunks[-1].usage.total_tokens == 0

        passed = raw.create(**body(reply.context))
        assert passed.headers["x-distill-decided-by"] == "upstream"
        assert passed.headers["x-distill-reason"] == "reply"
        assert passed.parse().choices[0].message.content == "Hello."


def reasons_until_local(client: httpx.Client, local: Expected) -> set[str]:
    """Until there are local answers again every client has an LLM's; returns why.

    The client waits for `limits.decide_s` and little more, which is less than the engine may take.
    """
    reasons: set[str] = set()

    def answered_locally() -> bool:
        answer = post(client, body(local.context))
        assert answer.status_code == 200
        if answer.headers["x-distill-decided-by"] == "local":
            return True
        assert answer.content == HELLO
        reasons.add(answer.headers["x-distill-reason"])
        return False

    eventually(answered_locally)
    return reasons


def vllm_of(served: Served) -> int:
    """The process of vLLM's server: of the gateway's child, the warden, the child."""
    (warden,) = children(served.process.pid)
    (server,) = children(warden)
    return server


def children(pid: int) -> list[int]:
    """Those of all its threads."""
    places = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for place in places for child in place.read_text().split()]


def assert_ends_without_a_trace(served: Served) -> None:
    server = vllm_of(served)
    whole = [server, *children(server)]
    served.process.terminate()
    served.process.wait(60)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in whole))


def test_a_decoder_through_a_gateway_and_after_its_engine_was_killed(make: Make, tmp_path: Path):
    folder = make("decoder")
    expected = expectations(folder)
    with before_vllm(folder, tmp_path) as served, served.client() as client:
        assert_openai_client_is_answered(served.url, expected)
        assert_decides_as_in_process(client, expected)
        os.kill(vllm_of(served), signal.SIGKILL)
        reasons = reasons_until_local(client, first(expected, Reason.TAKEN))
        assert reasons == {"router failed: engine"}
        assert_decides_as_in_process(client, expected)
        assert_ends_without_a_trace(served)


def test_an_encoder_through_a_gateway_and_after_its_engine_hung(make: Make, tmp_path: Path):
    folder = make("filling")
    expected = expectations(folder)
    with before_vllm(folder, tmp_path) as served, served.client() as client:
        assert_openai_client_is_answered(served.url, expected)
        assert_decides_as_in_process(client, expected)
        # What computes hangs; what answers for its health does not.
        for computing in children(vllm_of(served)):
            os.kill(computing, signal.SIGSTOP)
        reasons = reasons_until_local(client, first(expected, Reason.TAKEN))
        assert "router too late" in reasons
        assert reasons <= {"router too late", "router hangs", "router failed: engine"}
        assert_ends_without_a_trace(served)


# By itself.


def test_a_decoder_its_prompts_and_its_adapters(make: Make, tmp_path: Path):
    folder = make("decoder")
    shutil.copytree(folder, tmp_path / "second")
    router: Any = load_router(folder)
    expected = router.decide(CONTEXTS)
    assert {d.action for d in expected} == {"call", "reply"}
    with Engine(folder, EngineConfig(**engine_values(adapters=tmp_path))) as engine:
        engine.wait_ready()
        for context in CONTEXTS:
            chat = render_chat(context, router.config.render)
            messages = [over_the_wire(message) for message in chat.messages]
            found = engine.client.tokenize(engine.model(folder), messages, chat.tools)
            assert found == router.format.ids(router.format.prompt(context))
        assert_same(served_router(folder, engine).decide(CONTEXTS), expected)
        second = served_router(engine.load("second"), engine)
        assert_same(second.decide(CONTEXTS[:4]), expected[:4])
        engine.unload("second")
        assert all(d.error for d in second.decide(CONTEXTS[:1]))


def test_an_open_encoder_decides_as_in_process(make: Make):
    folder = make("open")
    with Engine(folder, EngineConfig(**engine_values())) as engine:
        engine.wait_ready()
        found = served_router(folder, engine).decide(CONTEXTS)
    assert_same(found, load_router(folder).decide(CONTEXTS))
