"""Odd requests have a clear outcome with every router: a decision, or a refusal in words."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from small_shop import PARTS, TOOLS

from distill.errors import InputError
from distill.types import Context, Decision, Message, ToolSpec
from distill.validation import check_arguments

CLOSED = ["majority", "tfidf", "rnn", "attention", "encoder"]
KINDS = [*CLOSED, "open", "filling", "decoder"]
KNOWN = PARTS.validation[0].context


def ask(text: str, tools: tuple[ToolSpec, ...] = TOOLS) -> Context:
    return Context((Message("user", text),), tools)


def renamed(name: str, **changes: Any) -> ToolSpec:
    return replace(TOOLS[0], name=name, **changes)


NESTED = {
    "type": "object",
    "$defs": {"place": {"type": "object", "properties": {"city": {"type": "string"}}}},
    "properties": {
        "to": {"$ref": "#/$defs/place"},
        "how": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]},
    },
}
ODD = {
    "no tools": ask("cancel order 4", ()),
    "no messages": Context((), TOOLS),
    "a system prompt alone": Context((Message("system", "You are a shop."),), TOOLS),
    "an empty message": ask(""),
    "no description": ask("cancel order 4", tuple(replace(t, description="") for t in TOOLS)),
    "$ref, anyOf and nesting": ask(
        "cancel order 4", tuple(replace(t, parameters=NESTED) for t in TOOLS)
    ),
    "no properties": ask(
        "cancel order 4", tuple(replace(t, parameters={"type": "object"}) for t in TOOLS)
    ),
    "names that differ only in case": ask(
        "cancel order 4", (*TOOLS, replace(TOOLS[0], name=TOOLS[0].name.upper()))
    ),
    "a context longer than any model": ask("cancel order 4 " * 4000),
    "another language": ask("注文四番を取り消してください。Отмени заказ, bitte sofort! 🧾"),
    "control characters": ask("cancel\x00 order\x1b 4 \u202e"),
}


def acceptable(decision: Decision, context: Context) -> bool:
    """Whether only offered tools are called, and what is filled is valid."""
    offered = {tool.name: tool for tool in context.tools}
    sure = decision.confidence is None or 0 <= decision.confidence <= 1
    return sure and all(
        call.name in offered
        and (call.arguments is None or check_arguments(call, offered[call.name]) is None)
        for call in decision.calls
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_is_decided(trained: Any, kind: str, name: str) -> None:
    context = ODD[name]
    (decision,) = trained(kind).router.decide([context])
    assert acceptable(decision, context)
    if not context.tools:
        assert decision.action == "reply"


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_request_changes_no_other_of_its_batch(trained: Any, kind: str) -> None:
    router = trained(kind).router
    (alone,) = router.decide([KNOWN])
    together = router.decide([ODD["another language"], KNOWN, ODD["no tools"]])[1]
    assert together.calls == alone.calls
    assert together.confidence == pytest.approx(alone.confidence, abs=1e-5)


@pytest.mark.parametrize("kind", [*CLOSED, "open", "filling"])
def test_two_thousand_tools_are_decided_among(trained: Any, kind: str) -> None:
    many = tuple(renamed(f"tool_{i}", description=f"Tool number {i}.") for i in range(2000))
    context = ask("cancel order 4", (*TOOLS, *many))
    (decision,) = trained(kind).router.decide([context])
    assert acceptable(decision, context)


@pytest.mark.parametrize("kind", CLOSED)
def test_a_closed_router_is_not_confident_beside_an_unknown_tool(
    trained: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    router = trained(kind).router
    name = f"never_seen_{kind}"
    context = replace(KNOWN, tools=(*TOOLS, renamed(name)))
    with caplog.at_level(logging.WARNING):
        first, second = router.decide([context])[0], router.decide([context])[0]
    assert (first.confidence, second.confidence) == (None, None)
    assert [name in record.getMessage() for record in caplog.records] == [True], "told once"
    assert "the LLM is left to decide" in caplog.text


@pytest.mark.parametrize("kind", CLOSED)
def test_a_changed_description_is_told_once_and_routed(
    trained: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    router = trained(kind).router
    changed = tuple(replace(tool, description=f"{tool.description} ({kind})") for tool in TOOLS)
    with caplog.at_level(logging.WARNING):
        decided = [router.decide([replace(KNOWN, tools=changed)])[0] for _ in range(2)]
    assert decided[0] == router.decide([KNOWN])[0]
    assert caplog.text.count("described otherwise") <= 1


def test_an_open_router_knows_tools_it_never_saw(
    trained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    router = trained("open").router
    new = tuple(renamed(f"new_{tool.name}") for tool in TOOLS)
    (decision,) = router.decide([ask("cancel order 4", new)])
    assert decision.confidence is not None
    assert not caplog.records


REFUSED: dict[str, Callable[[], tuple[ToolSpec, ...]]] = {
    "two tools of one name": lambda: (*TOOLS, TOOLS[0]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_open_catalogue_cannot_tell_apart_is_refused(trained: Any, name: str) -> None:
    with pytest.raises(InputError, match=TOOLS[0].name):
        trained("open").router.decide([ask("cancel order 4", REFUSED[name]())])


@pytest.mark.parametrize("kind", [*CLOSED, "filling", "decoder"])
def test_a_name_offered_twice_is_one_tool_to_the_others(trained: Any, kind: str) -> None:
    context = ask("cancel order 4", (*TOOLS, TOOLS[0]))
    (decision,) = trained(kind).router.decide([context])
    assert acceptable(decision, context)
