"""The decoder's decisions: what its confidence means, and what it does with what it cannot read."""

import json
import math
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schema_values import labelled
from small_shop import CANCEL, GET, PARTS, TOOLS, ask, decoder
from transformers import LlamaConfig, LlamaForCausalLM

from distill.errors import ModelError
from distill.routers import load_router, pretrained
from distill.routers.decoder import DecoderRouter
from distill.routers.decoding import PromptFormat
from distill.routers.folder import RouterFile
from distill.routers.grammar import Grammars, calls_text, grammar_text
from distill.routers.grounding import UNSUPPORTED, unsupported
from distill.routers.labels import LabelSpace
from distill.types import Decision, ToolCall

CONTEXTS = [example.context for example in PARTS.validation]


@pytest.fixture(scope="module")
def folder(trained):
    return trained("decoder").folder


@pytest.fixture(scope="module")
def router(folder):
    return load_router(folder)


def greedy(router, context, grammar: str) -> tuple[list[int], list[float]]:
    """Greedy tokens within a grammar and the model's own log-probabilities of them.

    By whole forward passes, no cache and no generate; by attempts, no mask.
    """
    grammars = Grammars(router.tokenizer)
    prompt = router.format.ids(router.format.prompt(context))
    ids, log_probabilities = [], []
    for _ in range(router.config.max_new_tokens):
        with torch.inference_mode():
            logits = router.model(input_ids=torch.tensor([prompt + ids])).logits[0, -1]
        best = next(
            token
            for token in logits.argsort(descending=True).tolist()
            if grammars.matcher(grammar).validate_tokens([*ids, token]) == len(ids) + 1
        )
        ids.append(best)
        log_probabilities.append(float(logits.double().log_softmax(-1)[best]))
        if best == router.tokenizer.eos_token_id:
            break
    return ids, log_probabilities


def shares(router, ids: list[int], log_probabilities: list[float]) -> tuple[float, float]:
    """The log-probabilities of the tokens that choose tools, and of those that fill arguments."""
    ends = [len(router.tokenizer.decode(ids[:i])) for i in range(len(ids) + 1)]
    text = router.tokenizer.decode(ids[:-1])
    # From a tool's closing quote to its block's end: these characters fill, they don't choose.
    filling = [
        (m.end(1), m.end()) for m in re.finditer(r'("name":"\w+").*?</tool_call>', text, re.S)
    ]
    arguments = sum(
        value
        for (start, stop), value in zip(pairwise(ends), log_probabilities, strict=True)
        if any(low <= start and stop <= high for low, high in filling)
    )
    return sum(log_probabilities) - arguments, arguments


def doubt(decision, context) -> float:
    specs = {tool.name: tool for tool in context.tools}
    return UNSUPPORTED ** sum(len(unsupported(c, specs[c.name], context)) for c in decision.calls)


def test_confidence_is_the_probability_of_all_that_is_written_and_supported(router):
    kinds, doubts = set(), set()
    for context in CONTEXTS:
        choice, arguments = shares(router, *greedy(router, context, grammar_text(context)))
        (decision,) = router.decide([context])
        kinds.add(decision.action)
        doubts.add(doubt(decision, context))
        whole = math.exp(choice + arguments) * doubt(decision, context)
        assert decision.confidence == pytest.approx(whole, rel=1e-4)
        chosen = pytest.approx(math.exp(choice), rel=1e-4)
        assert decision.scores == dict.fromkeys(decision.tools, chosen)
    assert kinds == {"call", "reply"}
    assert doubts >= {1, UNSUPPORTED}  # this router reads orders' numbers poorly


def test_batches_change_no_decision(router):
    together, alone = router.decide(CONTEXTS), [router.decide([c])[0] for c in CONTEXTS]
    assert [d.calls for d in together] == [d.calls for d in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=1e-3)


def undecided(*names: str) -> Decision:
    return Decision("call", tuple(ToolCall(name) for name in names), 0.7, {names[0]: 0.9})


def test_filling_keeps_the_tools_and_says_how_sure_the_arguments_are(router, monkeypatch):
    longer = router.config.model_copy(update={"max_new_tokens": 128})
    monkeypatch.setattr(router, "config", longer)
    context = ask("show orders 4 and 5")
    asked = undecided("get_order", "cancel_order", "get_order")
    (filled,) = router.fill([context], [asked])
    assert [c.name for c in filled.calls] == ["get_order", "cancel_order", "get_order"]
    for made in filled.calls:
        jsonschema.validate(made.arguments, {t.name: t for t in TOOLS}[made.name].parameters)
    assert filled.scores == asked.scores
    grammar = calls_text(context, [c.name for c in asked.calls])
    _, arguments = shares(router, *greedy(router, context, grammar))
    whole = math.exp(arguments) * doubt(filled, context)
    assert filled.confidence == pytest.approx(whole, rel=1e-4)


def test_filling_what_was_decided_gives_the_decision_again(router):
    """The same prompt, the same greedy tokens: only who chose the tools differs."""
    decisions = router.decide(CONTEXTS)
    bare = [
        replace(d, calls=tuple(ToolCall(c.name) for c in d.calls), confidence=None)
        for d in decisions
    ]
    filled = router.fill(CONTEXTS, bare)
    assert [d.calls for d in filled] == [d.calls for d in decisions]
    for one, other in zip(filled, decisions, strict=True):
        parts = one.confidence * next(iter(other.scores.values()))
        assert parts == pytest.approx(other.confidence, rel=1e-3)


def test_nothing_to_fill_is_certain(router):
    given = [Decision("reply", confidence=0.4), Decision("call", (ToolCall("list_orders", {}),))]
    filled = router.fill([ask("thank you"), ask("what did I buy")], given)
    assert filled == [replace(decision, confidence=1.0) for decision in given]
    assert router.fill([], []) == []


def test_arguments_that_do_not_end_are_a_reply_of_confidence_zero(router, monkeypatch):
    short = router.config.model_copy(update={"max_new_tokens": 12})
    monkeypatch.setattr(router, "config", short)
    (filled,) = router.fill([ask("cancel order 4")], [undecided("cancel_order")])
    assert filled == Decision("reply", confidence=0.0)


@pytest.fixture(scope="module")
def untrained(tiny_llama):
    """A decoder of random weights, of a given seed."""
    tokenizer = pretrained.load_tokenizer(pretrained.resolve(str(tiny_llama)))
    config = LlamaConfig.from_pretrained(tiny_llama)
    PromptFormat.new(tokenizer, decoder(tiny_llama))

    def make(seed: int) -> DecoderRouter:
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # Larger than at the start of a training, so that what it prefers varies with the context.
        for weights in model.parameters():
            weights.data.mul_(8)
        return DecoderRouter(RouterFile(decoder(tiny_llama), (), LabelSpace(())), tokenizer, model)

    return make


@settings(max_examples=8)
@given(labelled(min_calls=1), st.integers(0, 2**32))
def test_a_model_of_random_weights_decides_validly(untrained, drawn, seed):
    router = untrained(seed)
    contexts = [ask(text, drawn.tools) for text in ("hello", "cancel order 4", "7")]
    specs = {tool.name: tool.parameters for tool in drawn.tools}
    asked = [replace(drawn.label, calls=tuple(ToolCall(c.name) for c in drawn.label.calls))] * 3
    for decision in router.decide(contexts) + router.fill(contexts, asked):
        assert 0 <= decision.confidence <= 1
        for made in decision.calls:
            jsonschema.validate(made.arguments, specs[made.name])
    for decision in router.fill(contexts, asked):
        assert decision.tools in (drawn.label.tools, ("reply",))


def test_arguments_fit_the_schema(router):
    specs = {tool.name: tool.parameters for tool in TOOLS}
    calls = [call for decision in router.decide(CONTEXTS) for call in decision.calls]
    assert len(calls) > 5
    for call in calls:
        jsonschema.validate(call.arguments, specs[call.name])


def test_a_call_of_a_tool_that_is_not_offered_is_no_decision(router):
    (decision,) = router.decide([ask("please: cancel order 4", TOOLS)])
    assert decision.tools == ("cancel_order",)
    # The same weights under a catalogue that calls it otherwise: they write the name they know.
    renamed = tuple(replace(t, name="void_order") if t == CANCEL else t for t in TOOLS)
    loose = router.decide([ask("please: cancel order 4", renamed)])[0]
    assert {c.name for c in loose.calls} <= {t.name for t in renamed}
    (alone,) = router.decide([ask("please: cancel order 4", ())])
    assert alone.action == "reply"


def test_output_that_is_cut_off_is_a_reply_of_confidence_zero(trained, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    value = json.loads((copy / "router.json").read_text())
    value["config"]["max_new_tokens"] = 12  # enough to open a call, not to close it
    (copy / "router.json").write_text(json.dumps(value))
    (whole,) = load_router(folder).decide([ask("cancel order 4")])
    (cut,) = load_router(copy).decide([ask("cancel order 4")])
    assert whole.action == "call"
    assert cut == Decision("reply", confidence=0.0)


def test_a_prompt_over_the_limit_is_still_decided(router):
    tools = (*TOOLS, *(replace(GET, name=f"get_{i}") for i in range(60)))
    context = ask("where is order 3", tools)
    assert len(router.format.ids(router.format.prompt(context))) > router.config.max_tokens
    (decision,) = router.decide([context])
    assert {c.name for c in decision.calls} <= {t.name for t in tools}


def test_the_bases_own_decoding_settings_do_not_bend_decisions(
    trained, folder, taught_llama, tmp_path
):
    """Chat models ship repetition penalties, which speak against tools the prompt has named."""
    base = tmp_path / "base"
    shutil.copytree(taught_llama, base)
    settings = base / "generation_config.json"
    value = json.loads(settings.read_text())
    settings.write_text(json.dumps(value | {"repetition_penalty": 1.5, "min_new_tokens": 40}))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    value = json.loads((copy / "router.json").read_text())
    value["config"]["model"] = str(base)
    (copy / "router.json").write_text(json.dumps(value))
    assert load_router(copy).decide(CONTEXTS) == load_router(folder).decide(CONTEXTS)


def test_a_base_model_that_is_gone_is_named(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    value = json.loads((copy / "router.json").read_text())
    value["config"]["model"] = str(tmp_path / "gone")
    (copy / "router.json").write_text(json.dumps(value))
    with pytest.raises(ModelError, match="gone: no such folder; give a model folder"):
        load_router(copy)
