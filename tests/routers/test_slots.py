"""A value that was copied from a text is found there, and read back as the same JSON value."""

import chat_values
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.chat import canonical
from distill.routers.slots import MOST_OPTIONS, MOST_SLOTS, NoValueError, Slot, question, slots
from distill.types import ToolSpec

OBJECT = {"type": "object", "properties": {"inner": {"type": "string"}}}
plain = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=20)


def slot(schema: object, **constants: list[object]) -> Slot:
    spec = ToolSpec("tool", "", {"type": "object", "properties": {"it": schema}})
    found = slots(spec, {"tool": constants})
    assert found is not None
    return found[0]


def found_values(made: Slot, value: object, text: str) -> list[object]:
    return [made.read(text, *span) for span in made.find(value, text)]


@given(plain, st.text(max_size=10), st.text(max_size=10))
def test_a_string_copied_into_a_text_is_read_back(value: str, before: str, after: str):
    found = found_values(slot({"type": "string"}), value, f"{before} {value} {after}")
    assert found
    assert set(found) == {value}


@given(chat_values.texts.filter(bool))
def test_a_string_within_json_is_read_back(value: str):
    text = "result: " + orjson.dumps({"key": value}).decode()
    found = found_values(slot({"type": "string"}), value, text)
    # A line's end is written as an escape, so that even a value of several lines stands in one.
    assert value in found
    assert set(found) == {value}


@given(st.integers(-(10**12), 10**12), st.sampled_from(["integer", "number"]))
def test_a_whole_number_is_read_back(value: int, kind: str):
    assert set(found_values(slot({"type": kind}), value, f"set it to {value}%, please")) == {value}


@given(st.decimals(-1000, 1000, places=2).map(float))
def test_a_number_is_read_back_as_written(value: float):
    found = found_values(slot({"type": "number"}), value, f"between 5000 and {value:.2f}")
    assert {canonical(v) for v in found} == {canonical(value)}


def test_a_list_of_one_string_is_read_from_its_item():
    made = slot({"type": "array", "items": {"type": "string"}})
    assert found_values(made, ["lamp"], "the lamp is on") == [["lamp"]]
    assert found_values(made, ["lamp", "door"], "the lamp and the door") == []
    assert found_values(made, "lamp", "the lamp") == []


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "seven"),
        ({"type": "integer"}, "7.5"),
        ({"type": "integer"}, "7" * 30),
        ({"type": "number"}, "1e5"),
        ({"type": "string"}, "two\nlines"),
        ({"type": "string"}, ""),
        ({"type": "boolean"}, "true"),
        (OBJECT, "{}"),
    ],
)
def test_a_stretch_that_is_no_value_is_refused(schema, text):
    with pytest.raises(NoValueError):
        slot(schema).read(text, 0, len(text))


@pytest.mark.parametrize(
    ("schema", "options"),
    [
        ({"type": "boolean"}, (True, False)),
        ({"enum": ["a", "b", 3, None, ""]}, ("a", "b", 3)),
        ({"const": "only"}, ("only",)),
        ({"type": "array", "items": {"enum": ["x", "y"]}}, (["x"], ["y"])),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, (True, False)),
        ({"type": "string"}, ("often",)),
        ({"type": "array", "items": {"type": "string"}}, ("often",)),
        ({"enum": list(range(1000))}, tuple(range(MOST_OPTIONS))),
    ],
)
def test_options_are_what_the_schema_names_else_what_the_teacher_gives(schema, options):
    made = slot(schema, it=["often", "long " * 50])
    assert made.options == options
    assert [made.option(option) for option in options] == list(range(len(options)))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/thing"},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": ["string", "integer"]},
        {"type": "array", "items": OBJECT},
        {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        {"type": "array"},
        OBJECT,
        {},
        True,
        "string",
    ],
)
def test_what_no_stretch_can_be_has_neither_kind_nor_options(schema):
    made = slot(schema)
    assert (made.kind, made.options) == (None, ())
    assert list(made.find("word", "a word")) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {f"p{i}": {"type": "string"} for i in range(MOST_SLOTS + 1)}},
        {"properties": {f"p{i}": {"type": "string"} for i in range(5000)}},
        {"properties": ["a"]},
        {"properties": {"a": {"type": "string"}}, "required": "a"},
    ],
)
def test_a_schema_that_is_too_large_or_odd_has_no_slots(parameters):
    assert slots(ToolSpec("tool", "", parameters), {}) is None


@given(st.text(max_size=80), st.text(min_size=1, max_size=80), st.lists(plain, max_size=3))
def test_the_question_says_where_names_and_options_stand(tool: str, name: str, options: list[str]):
    schema = {"type": "object", "properties": {name: {"enum": options}}, "required": [name]}
    spec = ToolSpec(tool, "Does\nit.", schema)
    found = slots(spec, {})
    assert found is not None
    asked = question(spec, found)
    ((start, end),) = asked.names
    assert asked.text[start:end].endswith("(choice, required)")
    places = [asked.text[a:b] for a, b in asked.options[0]]
    assert places == [str(option) for option in found[0].options]
