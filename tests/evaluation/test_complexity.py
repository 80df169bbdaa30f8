"""What makes a decision hard, read off its conversation and the teacher's calls."""

from dataclasses import replace
from typing import Any

import pytest

from distill.evaluation.difficulty import COMPLEX, KINDS, Difficulty, argument_kind, branches
from distill.types import Context, Decision, Example, Message, ToolCall, ToolSpec

FIND = ToolSpec("find", "", {"type": "object", "properties": {"name": {"type": "string"}}})
ORDERS = ToolSpec("orders", "", {"type": "object", "properties": {"customer": {"type": "string"}}})
SHIP = ToolSpec(
    "ship",
    "",
    {
        "type": "object",
        "properties": {
            "order": {"type": "integer"},
            "speed": {"enum": ["slow", "fast"]},
            "gift": {"type": "boolean"},
            "to": {"type": "object"},
        },
    },
)
TOOLS = (FIND, ORDERS, SHIP)
CHAIN = (
    Message("system", "Today is 2024-05-01."),
    Message("user", "ship Ann's order"),
    Message("assistant", None, (ToolCall("find", {"name": "Ann"}, "a"),)),
    Message("tool", '{"customer": "cust-771"}', call_id="a"),
    Message("assistant", None, (ToolCall("orders", {"customer": "cust-771"}, "b"),)),
    Message("tool", "[40912]", call_id="b"),
)


def difficulty(messages: tuple[Message, ...], *calls: ToolCall, tools=TOOLS) -> Difficulty:
    label = Decision("call" if calls else "reply", calls)
    return Difficulty.of(Example("e", "t", "g", Context(messages, tools), label))


@pytest.mark.parametrize(
    ("kept", "call", "steps"),
    [
        (2, ToolCall("find", {"name": "Ann"}), 0),
        (4, ToolCall("orders", {"customer": "cust-771"}), 1),
        (6, ToolCall("ship", {"order": 40912}), 2),
        (6, ToolCall("orders", {"customer": "cust-771"}), 1),
        (6, ToolCall("find", {"name": "Ann"}), 0),
        (6, ToolCall("ship", {"order": 5}), 0),  # stands nowhere: made up, or computed
        (6, ToolCall("ship", {"speed": "fast"}), 0),  # the schema lists it
    ],
)
def test_a_call_depends_on_the_results_that_its_values_come_from(
    kept: int, call: ToolCall, steps: int
):
    assert difficulty(CHAIN[:kept], call).dependent_steps == steps


def test_what_the_user_said_depends_on_nothing():
    said = (*CHAIN[:1], Message("user", "ship order 40912 of cust-771"), *CHAIN[2:])
    assert difficulty(said, ToolCall("ship", {"order": 40912})).dependent_steps == 0


def test_the_longest_chain_counts():
    calls = (ToolCall("find", {"name": "Ann"}), ToolCall("ship", {"order": 40912}))
    assert difficulty(CHAIN, *calls).dependent_steps == 2


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({}, "none"),
        ({"speed": "fast"}, "choice"),
        ({"gift": True}, "choice"),
        ({"order": 3, "speed": "fast"}, "number"),
        ({"note": "please"}, "text"),
        ({"order": 3, "to": {"city": "Ulm"}}, "nested"),
        ({"items": [1]}, "nested"),
    ],
)
def test_the_most_demanding_argument_counts(arguments: dict[str, Any], kind: str):
    assert argument_kind([ToolCall("ship", arguments)], TOOLS) == kind
    assert kind in KINDS


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("plot the visits", 0),
        ("otherwise engaged", 0),
        ("If it fell, plot it", 1),
        ("Was it above 3? If so, plot it, otherwise send a mail", 2),
        ("Go, unless it rains", 1),
        ("an iffy gift", 0),
    ],
)
def test_branches_are_told_by_words(text: str, n: int):
    earlier = Message("user", "if you can: hello")
    assert branches([earlier, Message("assistant", "yes"), Message("user", text)]) == n


def test_replies_and_unfilled_calls_have_no_arguments_to_be_hard():
    for hard in (difficulty(CHAIN), difficulty(CHAIN, ToolCall("ship"))):
        assert hard.dependent_steps is None
        assert hard.argument_kind is None
        assert hard.complexity == 0


def test_a_point_of_complexity_for_each_property():
    easy = Difficulty(10, 0, 1, 2, branches=0, dependent_steps=0, argument_kind="text", length=2000)
    assert easy.complexity == 0
    changes = [
        {"n_tools": 11},
        {"n_calls": 2},
        {"n_arguments": 3},
        {"dependent_steps": 1},
        {"branches": 1},
        {"length": 2001},
    ]
    assert len(changes) == len(COMPLEX)
    assert [replace(easy, **change).complexity for change in changes] == [1] * 6
    together = {name: value for change in changes for name, value in change.items()}
    assert replace(easy, **together).complexity == 6
    assert Difficulty(11, 0, 2, 3).complexity is None


def test_the_system_prompt_is_no_part_of_the_length():
    assert difficulty(CHAIN[:2]).length == len("ship Ann's order")
