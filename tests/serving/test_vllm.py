"""A real vLLM: the same tokens, the same decisions, and adapters that come and go.

Runs where DISTILL_VLLM_PYTHON names an interpreter with vLLM; DISTILL_VLLM_ENVIRONMENT may hold
further variables for it as JSON. Tiny models with random words: what is tried is the way there and
back, not what they know.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_shop import PARTS, TOOLS, call, decoder, encoder, job, open_encoder, teach_calls
from tiny_models import save_bert, save_llama

from distill.config import EngineConfig
from distill.render import render_chat
from distill.routers import load_router
from distill.serving.engine import Engine, served_router
from distill.training import train
from distill.types import Context, Decision, Message, ToolCall

PYTHON = os.environ.get("DISTILL_VLLM_PYTHON")

pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="DISTILL_VLLM_PYTHON names no interpreter with vLLM"),
    pytest.mark.timeout(3600),
]

ODD = Context(
    (
        Message("system", "You help."),
        Message("user", 'Ärger: "quoted" <b>\n\\ and 東京'),
        Message(
            "assistant", "Looking.", (call("get_order", order=1), ToolCall("list_orders", {}, "x"))
        ),
        Message("tool", '{"total": 1.5, "note": "späť"}', call_id="x"),
        Message("user", "and {{ messages }}?"),
    ),
    TOOLS,
)
CONTEXTS = [*(example.context for example in PARTS.validation), ODD]


def config(**changes: Any) -> EngineConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= json.loads(os.environ.get("DISTILL_VLLM_ENVIRONMENT", "{}"))
    values = {"python": PYTHON, "port": port, "start_s": 1800, "request_s": 600}
    return EngineConfig(**(values | {"environment": environment} | changes))


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
def make(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trains a router of a kind on a base whose one head is as wide as vLLM needs on processors."""

    def made(kind: str) -> Path:
        path = tmp_path_factory.mktemp(kind)
        if kind == "decoder":
            settings: Any = decoder(teach_calls(save_llama(path / "base", heads=1)))
        else:
            base = save_bert(path / "base", heads=1)
            settings = encoder(base, epochs=12) if kind == "encoder" else open_encoder(base)
        router = train(settings, job(path / "run")).router
        (path / "router").mkdir()
        router.save(path / "router")
        return path / "router"

    return made


@pytest.fixture(scope="module")
def folder(make: Any) -> Path:
    return make("decoder")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    adapters = tmp_path_factory.mktemp("adapters")
    shutil.copytree(folder, adapters / "second")
    return adapters


@pytest.fixture(scope="module")
def engine(folder: Path, adapters: Path) -> Iterator[Engine]:
    with Engine(folder, config(adapters=adapters)) as engine:
        engine.wait_ready()
        yield engine


def test_prompts_of_a_decoder_are_the_tokens_that_training_saw(folder: Path, engine: Engine):
    router: Any = load_router(folder)
    for context in CONTEXTS:
        chat = render_chat(context, router.config.render)
        messages = [over_the_wire(message) for message in chat.messages]
        found = engine.client.tokenize(engine.model(folder), messages, chat.tools)
        assert found == router.format.ids(router.format.prompt(context))


def test_a_decoder_decides_as_in_process(folder: Path, engine: Engine):
    expected = load_router(folder).decide(CONTEXTS)
    assert {d.action for d in expected} == {"call", "reply"}
    assert_same(served_router(folder, engine).decide(CONTEXTS), expected)


def test_adapters_come_and_go(folder: Path, engine: Engine):
    expected = load_router(folder).decide(CONTEXTS[:4])
    router = served_router(engine.load("second"), engine)
    assert_same(router.decide(CONTEXTS[:4]), expected)
    engine.unload("second")
    assert all(d.error for d in router.decide(CONTEXTS[:1]))


@pytest.mark.parametrize("kind", ["encoder", "open"])
def test_encoders_decide_as_in_process(make: Any, kind: str):
    folder = make(kind)
    with Engine(folder, config()) as engine:
        engine.wait_ready()
        found = served_router(folder, engine).decide(CONTEXTS)
    assert_same(found, load_router(folder).decide(CONTEXTS))
