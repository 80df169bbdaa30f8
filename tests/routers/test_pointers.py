"""Pointers: where a value's pointers should be, that value is read, and never a part of one."""

import chat_values
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from small_shop import CANCEL, GET, ask

from distill.chat import canonical
from distill.routers import pretrained
from distill.routers.pointers import Missing, PointerReader, Reading, padded, read
from distill.routers.slots import slots
from distill.types import Context, Message, ToolSpec

COLOUR = {"type": "string", "enum": ["red", "dark blue"]}
PAINT = ToolSpec(
    "paint",
    "Paints.",
    {
        "type": "object",
        "properties": {
            "what": {"type": "string"},
            "colour": COLOUR,
            "coats": {"type": "integer"},
            "glossy": {"type": "boolean"},
            "rooms": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["what"],
    },
)
WHAT, COLOUR_AT, COATS, GLOSSY, ROOMS = range(5)
words = st.from_regex(r"[a-zé]{1,8}( [A-Z0-9é]{1,8}){0,2}", fullmatch=True)


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return pretrained.load_tokenizer(pretrained.resolve(str(tiny_bert)))


@pytest.fixture(scope="module")
def reading(tokenizer):
    """Reads a context, or a request, to call a tool."""

    def make(context: Context | str, tool: ToolSpec = PAINT, limit: int = 256) -> Reading:
        asked = slots(tool, {})
        assert asked is not None
        if isinstance(context, str):
            context = ask(context)
        made = read(context, tool, asked, tokenizer, limit)
        assert made is not None
        return made

    return make


def answer(made: Reading, i: int, starts: list[int], ends: list[int]) -> object:
    """What slot `i` answers when its pointers are sure of these tokens."""
    at = np.zeros((2, len(made.ids)))
    at[0, starts] = 1 / len(starts)
    if ends:
        at[1, ends] = 1 / len(ends)
    value, probability = made.answer(i, at[0], at[1])
    assert probability == pytest.approx(1)
    return value


@given(words, words, st.booleans())
def test_a_value_in_the_context_is_pointed_at_and_read_back(reading, value, other, quoted):
    text = f"{other}\ntake '{value}' please" if quoted else f"paint {value}\n{other}"
    made = reading(text)
    starts, ends = made.targets(WHAT, value)
    assert ends, "found in the evidence"
    assert answer(made, WHAT, starts, ends) == value
    assert answer(made, ROOMS, *made.targets(ROOMS, [value])) == [value]


@given(st.integers(-(10**9), 10**9))
def test_a_number_in_the_context_is_pointed_at_and_read_back(reading, value):
    made = reading(f"coats: {value}.")
    starts, ends = made.targets(COATS, value)
    assert ends
    assert answer(made, COATS, starts, ends) == value


@given(chat_values.texts, st.integers(90, 256), st.sampled_from(["user", "tool", "system"]))
def test_whatever_is_cut_off_no_other_value_is_taken_for_it(reading, text, limit, role):
    """Long and odd texts: a value is read back whole, or it is not to be found."""
    assume(text)
    said = Message(role, f"{'word ' * 30}{text} {'word ' * 30}")
    made = reading(Context((said, Message("user", "go")), ()), GET, limit)
    assert len(made.ids) <= limit
    made = reading(Context((said, Message("user", "go")), ()), PAINT, 256)
    starts, ends = made.targets(WHAT, text)
    found = answer(made, WHAT, starts, ends)
    assert found is Missing.UNKNOWN or canonical(found) == canonical(text)
    assert (found is Missing.UNKNOWN) == (starts == made.names[WHAT][:1])


@pytest.mark.parametrize("value", ["red", "dark blue"])
def test_an_enum_is_answered_by_an_option_in_the_question(reading, value):
    made = reading(f"something {value}")
    starts, ends = made.targets(COLOUR_AT, value)
    assert ends == []
    assert answer(made, COLOUR_AT, starts, ends) == value


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_is_answered_by_an_option(reading, value):
    made = reading("shine")
    assert answer(made, GLOSSY, *made.targets(GLOSSY, value)) is value


def test_a_required_parameter_cannot_be_left_out(reading):
    made = reading("paint")
    assert answer(made, COATS, *made.targets(COATS, Missing.OMITTED)) is Missing.OMITTED
    assert answer(made, WHAT, *made.targets(WHAT, Missing.OMITTED)) is Missing.UNKNOWN
    sure = np.zeros(len(made.ids))
    sure[0] = 1.0
    assert made.answer(WHAT, sure, sure) == (Missing.UNKNOWN, 0.0)


@pytest.mark.parametrize(
    ("slot", "value"),
    [(WHAT, "a fence"), (COATS, 3), (COLOUR_AT, "green"), (ROOMS, ["a", "b"]), (COATS, "door")],
)
def test_what_does_not_stand_there_is_not_to_be_found(reading, slot, value):
    made = reading("paint the door 2 times in a and b")
    starts, ends = made.targets(slot, value)
    assert answer(made, slot, starts, ends) is Missing.UNKNOWN


def test_no_part_of_a_word_or_number_is_a_value(reading):
    made = reading("the doorway 125 東京都")
    assert made.targets(WHAT, "door")[1] == []
    assert made.targets(COATS, 12)[1] == []
    assert made.targets(WHAT, "東京")[1] != [], "scripts without spaces have no such borders"


def test_a_value_in_two_places_has_the_probability_of_both(reading):
    made = reading("red door\nblue door")
    starts, ends = made.targets(WHAT, "door")
    assert len(starts) == 2
    at = np.zeros((2, len(made.ids)))
    at[0, starts], at[0, made.names[WHAT][0]] = 0.3, 0.4
    at[1, ends] = 0.5
    assert made.answer(WHAT, at[0], at[1]) == ("door", pytest.approx(0.6))


def test_a_question_that_leaves_no_room_is_not_asked(tokenizer):
    properties = {f"parameter{i}": {"type": "string"} for i in range(20)}
    tool = ToolSpec("tool", "", {"type": "object", "properties": properties})
    asked = slots(tool, {})
    assert asked is not None
    assert read(ask("hello"), tool, asked, tokenizer, 200) is None


def test_a_batch_changes_neither_pointers_nor_losses(reading, tiny_bert):
    torch.manual_seed(0)
    model = PointerReader(pretrained.load_encoder(pretrained.resolve(str(tiny_bert)))).eval()
    readings = [
        reading("paint the door", PAINT),
        reading(f"cancel {'order ' * 30}", CANCEL),
        reading("where is order 7", GET),
    ]
    together = padded(readings, 0)
    starts = torch.zeros_like(together["starts"])
    starts[:, :, 0] = True
    alone = []
    with torch.inference_mode():
        found = model(**together, start_targets=starts, end_targets=torch.zeros_like(starts))
        for made in readings:
            batch = padded([made], 0)
            first = torch.zeros_like(batch["starts"])
            first[:, :, 0] = True
            alone.append(model(**batch, start_targets=first, end_targets=torch.zeros_like(first)))
    for row, (made, expected) in enumerate(zip(readings, alone, strict=True)):
        slot_count, time = len(made.slots), len(made.ids)
        allowed = padded([made], 0)["starts"][0]
        got = found["pointers"][0, row, :slot_count, :time][allowed]
        torch.testing.assert_close(got, expected["pointers"][0, 0][allowed])
        torch.testing.assert_close(found["losses"][row], expected["losses"][0])


def test_what_may_be_pointed_at_sums_to_one(reading, tiny_bert):
    torch.manual_seed(0)
    model = PointerReader(pretrained.load_encoder(pretrained.resolve(str(tiny_bert)))).eval()
    made = reading("paint the door red 3 times")
    with torch.inference_mode():
        starts, ends = model(**padded([made], 0))["pointers"].exp()[:, 0].double().numpy()
    for i, slot in enumerate(made.slots):
        allowed = {made.names[i][0], *made.options[i], *made.begins[i]}
        allowed |= set() if slot.required else {0}
        assert starts[i, sorted(allowed)].sum() == pytest.approx(1)
        _, probability = made.answer(i, starts[i], ends[i])
        assert 0 < probability <= 1 + 1e-6
