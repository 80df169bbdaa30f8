"""Routers on an engine decide what they decide in process; only the numbers come over HTTP.

The engine is a stand-in: a transport that answers from the router in process.
"""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from chat_values import contexts as any_contexts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema_values import labelled
from small_shop import PARTS, TOOLS, ask

from distill.config import PolicyConfig
from distill.errors import EngineError, RouterError
from distill.policy import Policy
from distill.render import render_chat
from distill.routers import load_router
from distill.routers.encoding import EncodingRouter
from distill.routers.folder import RouterFile
from distill.serving.engine import served_router
from distill.serving.engine.client import Client
from distill.serving.engine.installed import Installed
from distill.serving.engine.plan import NAME, served
from distill.types import Decision, Router

CONTEXTS = [example.context for example in PARTS.validation]
ANYTHING = "start: /(.|\\n)*/"
SEVERAL = settings(max_examples=10, suppress_health_check=list(HealthCheck))


class StandIn:
    """An engine as far as routers know it. `changes` rewrites its answers on their way."""

    def __init__(self, folder: Path) -> None:
        self.part = served(folder)
        self.installed = Installed("0.32.0", cpu=True)
        self.local: Any = load_router(self.part.folder)
        self.local = getattr(self.local, "tools", self.local)
        self.url, self.down = "http://127.0.0.1:1", False
        self.changes = lambda answer: answer
        self.steps = 0
        transport = httpx.MockTransport(self.answer)
        self.client = Client(self.url, "key", 30, transport=transport, together=1)

    def model(self, folder: Path) -> str:
        if folder.resolve() != self.part.folder:
            raise RouterError(folder, "is not served by this engine", "load it first")
        return NAME

    def require_ready(self) -> None:
        if self.down:
            raise EngineError(self.url, "is not ready", "wait")

    def answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        made = self.changes((self.write if "prompt" in body else self.pool)(body))
        return made if isinstance(made, httpx.Response) else httpx.Response(200, json=made)

    def write(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["temperature"] == 0
        if body["max_tokens"] == 1:
            return self.step(body)
        (made,) = self.local.complete([body["prompt"]], [ANYTHING])
        ids = made.ids[: body["max_tokens"]]
        choice = {
            "token_ids": ids,
            "logprobs": {"token_logprobs": made.log_probabilities[: len(ids)]},
        }
        return {"choices": [choice]}

    def step(self, body: dict[str, Any]) -> dict[str, Any]:
        self.steps += 1
        with torch.inference_mode():
            logits = self.local.model(input_ids=torch.tensor([body["prompt"]])).logits[0, -1]
        found = logits.log_softmax(-1).tolist()
        token = max(body.get("allowed_token_ids", range(len(found))), key=found.__getitem__)
        logprobs = {"token_logprobs": [found[token]]}
        return {"choices": [{"token_ids": [token], "logprobs": logprobs}]}

    def pool(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["use_activation"] is False
        found = [self.vectors(torch.tensor([row])) for row in body["input"]]
        data = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in found]
        entries = [{"index": i, "data": text} for i, text in enumerate(data)]
        return {"data": entries[::-1]}  # in any order

    def vectors(self, ids: Any) -> Any:
        mask = torch.ones_like(ids)
        if self.part.task == "embed":
            assert isinstance(self.local, EncodingRouter)
            return self.local.logits(ids.numpy(), mask.numpy())[0]
        with torch.no_grad():
            return self.local.model.states(ids, mask)[0].numpy()


def both(folder: Path) -> tuple[Router, Any, StandIn]:
    """The router in process, and served by a stand-in."""
    engine: Any = StandIn(folder)
    return load_router(folder), served_router(folder, engine), engine


def assert_same(found: list[Decision], expected: list[Decision]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.action, one.calls, one.stage) == (other.action, other.calls, other.stage)
        assert one.error is None
        assert one.confidence == pytest.approx(other.confidence, rel=1e-3)
        assert one.scores == pytest.approx(other.scores, rel=1e-3, abs=1e-6)


@pytest.fixture(scope="module")
def folders(trained, cascade) -> dict[str, Path]:
    kinds = {kind: trained(kind).folder for kind in ("decoder", "encoder", "open", "filling")}
    return kinds | {"cascade": cascade}


@pytest.mark.parametrize("kind", ["decoder", "encoder", "open", "filling", "cascade"])
def test_the_same_decisions_in_process_and_served(folders, kind):
    local, served_one, _ = both(folders[kind])
    assert_same(served_one.decide(CONTEXTS), local.decide(CONTEXTS))
    assert served_one.kind == local.kind
    assert isinstance(served_one.file, RouterFile)
    assert served_one.decide([]) == []


@SEVERAL
@given(text=st.text(max_size=40), tools=st.sets(st.sampled_from(range(3))))
@pytest.mark.parametrize("kind", ["encoder", "open"])
def test_whatever_is_asked_encoders_agree(folders, kind, text, tools):
    local, served_one, _ = both(folders[kind])
    context = ask(text, tuple(TOOLS[i] for i in sorted(tools)))
    assert_same(served_one.decide([context]), local.decide([context]))


@SEVERAL
@given(any_contexts)
def test_a_server_with_the_folders_template_renders_the_same_tokens(folders, context):
    """What vLLM does with the messages that a context is rendered to, however odd they are."""
    router: Any = load_router(folders["decoder"])
    chat = json.loads(json.dumps(vars(render_chat(context, router.config.render))))
    rendered = router.tokenizer.apply_chat_template(
        chat["messages"], tools=chat["tools"] or None, add_generation_prompt=True, return_dict=False
    )
    whole = router.format.ids(router.format.prompt(context))
    assert rendered == whole or len(rendered) > router.config.max_tokens


RENAMED = tuple(replace(tool, name=f"do_{tool.name}") for tool in TOOLS)


def test_a_grammar_changes_what_is_written_where_it_must(folders):
    """And then the confidence is the model's own, and not that of the few tokens allowed."""
    local, served_one, engine = both(folders["decoder"])
    assert_same(served_one.decide(CONTEXTS[:4]), local.decide(CONTEXTS[:4]))
    before = engine.steps
    texts = [f"{start} order {n}" for start in ("cancel", "where is") for n in range(3)]
    contexts = [ask(text, RENAMED) for text in [*texts, "what did I buy"]]
    expected = local.decide(contexts)
    assert_same(served_one.decide(contexts), expected)
    assert engine.steps - before >= len(contexts)
    assert all(d.confidence < 0.1 for d in expected if d.calls)
    assert any(d.calls for d in expected)


@SEVERAL
@given(text=st.text(max_size=40), drawn=labelled(min_calls=1))
def test_whatever_is_asked_of_whatever_tools_decoders_agree(folders, text, drawn):
    local, served_one, _ = both(folders["decoder"])
    context = ask(text, drawn.tools)
    assert_same(served_one.decide([context]), local.decide([context]))


def test_what_does_not_end_is_a_reply_of_confidence_zero(folders, monkeypatch):
    _, served_one, _ = both(folders["decoder"])
    short = served_one.router.config.model_copy(update={"max_new_tokens": 12})
    monkeypatch.setattr(served_one.router, "config", short)
    assert served_one.decide([ask("cancel order 4")]) == [Decision("reply", confidence=0.0)]


def test_an_engine_that_does_not_heed_what_is_allowed_is_not_relied_on(folders):
    _, served_one, engine = both(folders["decoder"])
    wrong = {"token_ids": [399], "logprobs": {"token_logprobs": [-0.1]}}
    engine.step = lambda body: {"choices": [wrong]}
    found = served_one.decide([ask("cancel order 4", RENAMED)])
    assert found == [Decision("reply", confidence=0.0)]


FAULTS = {
    "500": lambda answer: httpx.Response(500, json={"error": {"message": "engine is dead"}}),
    "400": lambda answer: httpx.Response(400, json={"object": "error", "message": "too long"}),
    "html": lambda answer: httpx.Response(200, text="<html>"),
    "list": lambda answer: [],
    "empty": lambda answer: {"choices": [], "data": []},
    "none": lambda answer: {"choices": [None], "data": [None]},
}


@pytest.mark.parametrize("kind", ["decoder", "encoder", "open", "filling"])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_answer_is_an_error_and_no_exception(folders, kind, fault):
    _, served_one, engine = both(folders[kind])
    engine.changes = FAULTS[fault]
    decisions = served_one.decide(CONTEXTS[:2])
    assert all(d.action == "reply" and d.error.startswith("engine: ") for d in decisions)
    assert all(d.confidence is None for d in decisions)
    # Nobody takes such a reply for the router's.
    policy = Policy(PolicyConfig())
    assert not any(policy(d, c) for d, c in zip(decisions, CONTEXTS, strict=False))


@pytest.mark.parametrize("kind", ["encoder", "open"])
@pytest.mark.parametrize("values", [b"", b"\0" * 4, np.float32([np.nan] * 4).tobytes(), b"abc"])
def test_vectors_that_cannot_be_are_no_decision(folders, kind, values):
    _, served_one, engine = both(folders[kind])
    data = base64.b64encode(values).decode()
    engine.changes = lambda answer: {"data": [e | {"data": data} for e in answer["data"]]}
    assert all(d.error for d in served_one.decide(CONTEXTS[:2]))


def test_one_prompt_that_is_refused_spoils_no_other(folders):
    local, served_one, engine = both(folders["decoder"])
    refused = iter([True, False])
    engine.changes = lambda answer: FAULTS["400"](answer) if next(refused) else answer
    found = served_one.decide([ask("cancel order 4"), ask("cancel order 4")])
    assert [d.error for d in found].count(None) == 1
    assert "engine: HTTP 400: too long" in [d.error for d in found]
    (fine,) = (d for d in found if d.error is None)
    assert_same([fine], local.decide([ask("cancel order 4")]))


def test_a_cascade_without_its_engine_decides_what_its_encoder_can(folders):
    local, served_one, engine = both(folders["cascade"])
    expected = local.decide(CONTEXTS)
    engine.down = True
    for one, other in zip(served_one.decide(CONTEXTS), expected, strict=True):
        if other.stage == "encoder":
            assert_same([one], [replace(other)])
        else:
            assert one.error == "engine: is not ready"
    assert {d.stage for d in expected} == {"encoder", "decoder"}


@pytest.mark.parametrize("kind", ["decoder", "encoder", "open"])
def test_served_routers_have_no_weights_to_save(folders, kind, tmp_path):
    _, served_one, _ = both(folders[kind])
    with pytest.raises(RouterError, match="copy its folder"):
        served_one.save(tmp_path)


def test_another_folder_is_not_served(folders):
    engine: Any = StandIn(folders["decoder"])
    with pytest.raises(RouterError, match="is not served by this engine"):
        served_router(folders["encoder"], engine)
