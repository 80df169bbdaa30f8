"""The decoder's grammar: every label is within it, and nothing invalid is."""

import logging
import string

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schema_values import labelled
from small_shop import CANCEL, GET, LIST, TOOLS, ask, call
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distill.render import completion
from distill.routers.decoding import parse_completion
from distill.routers.grammar import Constraint, Grammars, calls_text, grammar_text
from distill.types import Decision, ToolSpec

fast = settings(max_examples=40)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer)


@pytest.fixture(scope="module")
def accepts(tokenizer, grammars):
    """Whether a grammar allows each token of a text, and then the end."""

    def check(grammar: str, text: str) -> bool:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        constraint = Constraint([grammars.matcher(grammar)], tokenizer.eos_token_id)
        before = 0
        for token in ids:
            scores = constraint(torch.tensor([[before]]), torch.zeros(1, len(tokenizer)))
            if scores[0, token] != 0:
                return False
            before = token
        return True

    return check


def written(tools: tuple[ToolSpec, ...], *calls) -> str:
    return completion(Decision("call", calls), tools)


@fast
@given(labelled())
def test_every_valid_label_is_within_the_grammar(accepts, drawn):
    context = ask("x", drawn.tools)
    assert accepts(grammar_text(context), completion(drawn.label, drawn.tools))
    assert accepts(grammar_text(context), "reply")


@fast
@given(labelled(min_calls=1))
def test_asked_for_calls_are_within_the_grammar_of_those_tools(accepts, drawn):
    names = [call.name for call in drawn.label.calls]
    grammar = calls_text(ask("x", drawn.tools), names)
    assert accepts(grammar, completion(drawn.label, drawn.tools))
    assert not accepts(grammar, "reply")
    again = (*drawn.label.calls, drawn.label.calls[0])
    assert not accepts(grammar, written(drawn.tools, *again))


def walk(tokenizer, matchers, seed: int, steps: int = 200) -> list[str | None]:
    """Greedy texts under random scores, None where they do not end; closing signs are favoured."""
    generator = torch.Generator().manual_seed(seed)
    end = tokenizer.eos_token_id
    constraint = Constraint(matchers, end)
    ids = torch.zeros(len(matchers), 1, dtype=torch.long)
    liked = [end, *tokenizer.convert_tokens_to_ids(['"', "}", "]"])]
    for _ in range(steps):
        scores = torch.randn(len(matchers), len(tokenizer), generator=generator)
        scores[:, liked] += 3
        ids = torch.cat([ids, constraint(ids, scores).argmax(-1, keepdim=True)], dim=1)
    assert constraint.failed == [False] * len(matchers)
    rows = (row.tolist() for row in ids[:, 1:])
    return [tokenizer.decode(row[: row.index(end)]) if end in row else None for row in rows]


@fast
@given(labelled(), st.integers(0, 2**32))
def test_whatever_is_preferred_what_ends_is_valid(tokenizer, grammars, drawn, seed):
    context = ask("x", drawn.tools)
    grammar = grammar_text(context)
    specs = {tool.name: tool.parameters for tool in drawn.tools}
    for text in walk(tokenizer, [grammars.matcher(grammar) for _ in range(3)], seed):
        if text is None:
            continue
        decision = parse_completion(text, context)
        assert decision is not None, text
        assert decision.calls or text == "reply"
        for made in decision.calls:
            jsonschema.validate(made.arguments, specs[made.name])


def tool(name: str, schema: dict) -> ToolSpec:
    return ToolSpec(name, "", schema)


ODD = [
    tool("twice", {"type": "object", "properties": {"a": {"uniqueItems": True}}}),
    tool("other", {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {}]}}}),
    tool("ahead", {"type": "object", "properties": {"a": {"pattern": "^(?=x)", "type": "string"}}}),
    tool("afar", {"type": "object", "properties": {"a": {"$ref": "https://x.example/y"}}}),
    tool("circle", {"$ref": "#"}),
    tool("broken", {"type": "object", "properties": {"a": {"type": "no such type"}}}),
    tool("worse", {"type": "object", "properties": 3}),
    tool("never", {"type": "object", "properties": {"a": False}, "required": ["a"]}),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda tool: tool.name)
def test_a_schema_that_cannot_be_followed_is_loosened_and_said_once(accepts, caplog, odd):
    """The other tools keep their schemas."""
    caplog.set_level(logging.WARNING, "distill")
    for tools in ((odd, GET), (odd, GET, LIST)):
        grammar = grammar_text(ask("x", tools))
        assert accepts(grammar, written(tools, call(odd.name, a="x")))
        assert accepts(grammar, written(tools, call("get_order", order=3)))
        assert not accepts(grammar, written(tools, call("get_order", order="three")))
    assert [record.message.partition(":")[0] for record in caplog.records] == [odd.name]


@pytest.mark.parametrize(
    "schema",
    [{}, {"type": "object"}, {"type": ["object", "null"]}, {"properties": {}}, {"type": "string"}],
)
def test_arguments_are_an_object_whatever_the_schema_says(accepts, schema):
    tools = (tool("act", schema),)
    grammar = grammar_text(ask("x", tools))
    assert accepts(grammar, written(tools, call("act")))
    for wrong in ("null", '"x"', "3", "[]"):
        assert not accepts(grammar, written(tools, call("act")).replace("{}", wrong))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"a": {"type": "integer"}}}}},
        {"anyOf": [{"properties": {"a": {"type": "integer"}}, "additionalProperties": False}]},
        {"properties": {"a": {"anyOf": [{"type": "integer"}, {"enum": [None]}]}}},
    ],
)
def test_references_and_choices_constrain(accepts, schema):
    tools = (tool("act", schema),)
    grammar = grammar_text(ask("x", tools))
    assert accepts(grammar, written(tools, call("act", a=3)))
    assert not accepts(grammar, written(tools, call("act", a="x")))


def test_without_tools_there_is_only_a_reply(accepts):
    grammar = grammar_text(ask("x", ()))
    assert accepts(grammar, "reply")
    assert not accepts(grammar, written((LIST,), call("list_orders")))


def test_names_that_differ_in_case_or_go_on_are_other_tools(accepts):
    number = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    tools = (tool("get", {}), tool("Get", number), tool("get_all", number))
    grammar = grammar_text(ask("x", tools))
    assert accepts(grammar, written(tools, call("get"), call("Get", a=1), call("get_all", a=2)))
    assert not accepts(grammar, written(tools, call("Get")))
    assert not accepts(grammar, written(tools, call("GET")))


def test_only_completions_form_is_within(accepts):
    grammar = grammar_text(ask("x", TOOLS))
    good = written(TOOLS, call("cancel_order", order=3, reason="late"))
    assert accepts(grammar, good)
    assert accepts(grammar, f"{good}\n{good}")
    spaced, doubled = good.replace(":3", ": 3"), f"{good}\n\n{good}"
    swapped = good.replace('"order":3,"reason":"late"', '"reason":"late","order":3')
    unknown = good.replace("cancel_order", "void_order")
    for text in ("", "reply ", "Sure.", f"reply\n{good}", f"{good}\n", good[:-1], good + good):
        assert not accepts(grammar, text), text
    for text in (spaced, doubled, swapped, unknown):
        assert not accepts(grammar, text), text


@pytest.mark.parametrize("count", [100, 2000])
def test_many_tools(accepts, caplog, count):
    """Beyond what one grammar holds, the names are still held to, and the log says the rest."""
    tools = tuple(
        tool(f"tool_{i}", {"type": "object", "properties": {f"p{i}": {"type": "integer"}}})
        for i in range(count)
    )
    grammar = grammar_text(ask("x", tools))
    last = tools[-1].name
    assert accepts(grammar, written(tools, call(last, **{f"p{count - 1}": 3})))
    assert not accepts(grammar, written(tools, call(f"tool_{count}")))
    loose = accepts(grammar, written(tools, call(last, **{f"p{count - 1}": "three"})))
    assert loose == (count == 2000)
    assert len(caplog.records) == (count == 2000)
    # Filling is never loose: it needs the chosen tools only.
    grammar = calls_text(ask("x", tools), [last])
    assert not accepts(grammar, written(tools, call(last, **{f"p{count - 1}": "three"})))


def test_catalogues_that_differ_only_in_order_have_their_own_grammars(accepts):
    swapped = {"reason": {"type": "string"}, "order": {"type": "integer"}}
    other = (tool("cancel_order", CANCEL.parameters | {"properties": swapped}),)
    for tools in ((CANCEL,), other):
        text = written(tools, call("cancel_order", order=3, reason="late"))
        assert accepts(grammar_text(ask("x", tools)), text)


def test_a_row_that_leaves_its_grammar_ends_and_is_told(tokenizer, grammars):
    end = tokenizer.eos_token_id
    grammar = grammar_text(ask("x", TOOLS))
    constraint = Constraint([grammars.matcher(grammar), grammars.matcher(grammar)], end)
    scores = torch.zeros(2, len(tokenizer) + 70)  # models pad their vocabularies
    first = constraint(torch.zeros(2, 1, dtype=torch.long), scores)
    assert first[:, len(tokenizer) :].isinf().all()
    good = tokenizer("reply")["input_ids"][0]
    wrong = tokenizer("x")["input_ids"][0]
    after = constraint(torch.tensor([[0, good], [0, wrong]]), scores)
    assert constraint.failed == [False, True]
    assert after[1].isfinite().nonzero().flatten().tolist() == [end]


def test_a_space_that_a_tokenizer_puts_before_a_text_is_allowed():
    """As SentencePiece's do; decoding takes it away again."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    space = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*space, decoders.Strip(" ", 1, 0)])
    signs = [sign for sign in string.printable if sign != " "]
    trainer = trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], initial_alphabet=signs)
    made.train_from_iterator(["reply"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    grammars = Grammars(tokenizer)
    filled = written(TOOLS, call("cancel_order", order=3, reason="too late"))
    for text in ("reply", filled):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids[0]).startswith("▁")
        assert tokenizer.decode(ids) == text
        matcher = grammars.matcher(grammar_text(ask("x")))
        assert matcher.consume_tokens(ids)
        assert matcher.is_accepting()
