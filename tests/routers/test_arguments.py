"""The filler behind an encoder: what it fills keeps to the schema, what it cannot is left alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_shop import CANCEL, GET, LIST, TOOLS, ask

from distill.errors import RouterError
from distill.routers import load_router
from distill.routers.arguments import FillingRouter
from distill.types import Context, Decision, ToolCall, ToolSpec
from distill.validation import check_arguments

REQUESTS = [f"where is order {n}" for n in range(10)] + [f"cancel order {n}" for n in range(10)]


@pytest.fixture(scope="module")
def saved(trained):
    return trained("filling")


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved.folder, tmp_path / "elsewhere"))


def chosen(*names: str) -> Decision:
    return Decision("call", tuple(ToolCall(name) for name in names), confidence=0.8)


def tool(schema: object, required: bool = True, **more: object) -> ToolSpec:
    """`get_order` with another schema of its parameter."""
    value = {"type": "object", "properties": {"order": schema}, **more}
    return ToolSpec("get_order", "Reads.", value | ({"required": ["order"]} if required else {}))


def fill(saved, decision: Decision, *tools: ToolSpec, text: str = "where is order 7") -> Decision:
    (filled,) = saved.router.filler.fill([decision], [ask(text, tools)])
    return filled


def test_numbers_of_requests_are_copied(saved):
    decisions = saved.router.filler.fill([chosen("get_order")] * 20, [ask(r) for r in REQUESTS])
    right = [
        decision.calls[0].arguments == {"order": int(request.split()[-1])}
        for decision, request in zip(decisions, REQUESTS, strict=True)
    ]
    assert sum(right) >= 15, "even a tiny model learns to point at the one number"


def test_confidence_is_of_tools_and_arguments_together(saved):
    filled = fill(saved, chosen("get_order"), GET)
    assert filled.calls[0].arguments is not None
    assert filled.confidence is not None
    assert 0 < filled.confidence < 0.8
    assert fill(saved, replace(chosen("get_order"), confidence=None), GET).confidence is None


def test_a_call_without_parameters_and_a_reply_stay_as_they_are(saved):
    reply = Decision("reply", confidence=0.7)
    done = Decision("call", (ToolCall("list_orders", {}),), confidence=0.7)
    assert fill(saved, reply, *TOOLS) == reply
    assert fill(saved, done, *TOOLS) == done


def test_calls_of_one_tool_are_not_told_apart(saved):
    twice = chosen("get_order", "get_order")
    assert fill(saved, twice, *TOOLS, text="show orders 1 and 2") == twice


def test_a_call_that_cannot_be_filled_leaves_the_others_and_the_confidence(saved):
    hard = ToolSpec("other", "", {"properties": {"a": {"$ref": "#/x"}}, "required": ["a"]})
    filled = fill(saved, chosen("get_order", "other"), GET, hard)
    assert filled.calls[0].arguments is not None
    assert filled.calls[1].arguments is None
    assert filled.confidence == 0.8


@pytest.mark.parametrize(
    "spec",
    [
        tool({"$ref": "#/$defs/number"}, **{"$defs": {"number": {"type": "integer"}}}),
        tool({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        tool({"type": "object", "properties": {"id": {"type": "integer"}}}),
        tool({"type": "array", "items": {"type": "object"}}),
        tool({"type": "integer"}, **{"not": {}}),
        tool({"type": "integer", "minimum": 100}),
        tool({"type": "integer", "minimum": "broken"}),
        tool({"type": "string", "pattern": "^[A-Z]{30}$"}),
        ToolSpec(
            "get_order", "", {"properties": {f"p{i}": {"type": "string"} for i in range(999)}}
        ),
        tool({"enum": []}),
        tool({"enum": ["x" * 99]}),
    ],
    ids=lambda spec: json.dumps(dict(spec.parameters))[:60],
)
def test_what_the_schema_does_not_allow_is_not_filled(saved, spec):
    assert fill(saved, chosen("get_order"), spec) == chosen("get_order")


def test_a_required_value_that_stands_nowhere_is_not_filled(saved):
    filled = fill(saved, chosen("get_order"), GET, text="hello")
    assert filled == chosen("get_order")


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"type": "boolean"}, [True, False]),
        ({"enum": ["open", "closed"]}, ["open", "closed"]),
        ({"type": "array", "items": {"enum": ["open"]}}, [["open"]]),
    ],
)
def test_an_option_is_answered_with_an_option(saved, schema, values):
    (call,) = fill(saved, chosen("get_order"), tool(schema)).calls
    assert call.arguments is None or call.arguments["order"] in values


def test_every_filled_call_satisfies_its_schema(saved):
    contexts = [ask(text) for text in [*REQUESTS, "cancel 3, it is late", "?", "late late 5 7 9"]]
    for name, spec in {"get_order": GET, "cancel_order": CANCEL}.items():
        for decision in saved.router.filler.fill([chosen(name)] * len(contexts), contexts):
            (call,) = decision.calls
            assert call.arguments is None or check_arguments(call, spec) is None


def test_the_router_fills_what_its_tools_part_chose(saved):
    contexts = [ask(text) for text in REQUESTS]
    decisions = saved.router.decide(contexts)
    assert [d.tools for d in decisions] == [d.tools for d in saved.router.tools.decide(contexts)]
    assert any(call.arguments for decision in decisions for call in decision.calls)


def test_nothing_to_fill_needs_no_model(saved):
    assert saved.router.filler.fill([], []) == []
    assert fill(saved, Decision("call", (ToolCall("list_orders", {}),)), LIST).confidence is None


def test_a_loaded_router_fills_alike(saved, copy):
    router = load_router(copy)
    assert isinstance(router, FillingRouter)
    contexts = [Context(ask(text).messages, TOOLS) for text in REQUESTS]
    expected = saved.router.decide(contexts)
    found = router.decide(contexts)
    assert [d.calls for d in found] == [d.calls for d in expected]
    assert [d.confidence for d in found] == pytest.approx([d.confidence for d in expected])
    assert router.filler.constants == saved.router.filler.constants


def test_a_head_of_another_encoder_is_refused(copy):
    head = copy / "arguments" / "head.safetensors"
    state = load_file(head)
    state["query.weight"] = torch.zeros(128, 99)
    save_file(state, head)
    with pytest.raises(RouterError, match=r"head\.safetensors: does not fit the encoder"):
        load_router(copy)


@pytest.mark.parametrize("content", ["[]", '{"tool": []}', '{"tool": {"p": 1}}', "{"])
def test_damaged_constants_are_refused(copy, content):
    (copy / "arguments" / "constants.json").write_text(content)
    with pytest.raises(RouterError, match=r"constants\.json"):
        load_router(copy)
