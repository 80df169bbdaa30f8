"""The decoder's decisions: what its confidence means, and what it does with what it cannot read."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import jsonschema
import pytest
import torch
from small_shop import CANCEL, GET, PARTS, TOOLS, ask

from distill.errors import ModelError
from distill.render import REPLY_COMPLETION
from distill.routers import load_router
from distill.types import Decision

CONTEXTS = [example.context for example in PARTS.validation]


@pytest.fixture(scope="module")
def folder(trained):
    return trained("decoder").folder


@pytest.fixture(scope="module")
def router(folder):
    return load_router(folder)


def greedy(router, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities by whole forward passes: no cache, no generate."""
    ids, log_probabilities = list(prompt), []
    for _ in range(router.config.max_new_tokens):
        with torch.inference_mode():
            logits = router.model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
        log_probabilities.append(float(logits.double().log_softmax(-1)[ids[-1]]))
        if ids[-1] == router.tokenizer.eos_token_id:
            break
    return ids[len(prompt) :], log_probabilities


def test_confidence_is_the_probability_of_the_tokens_that_choose_the_tools(router):
    kinds = set()
    for context in CONTEXTS:
        ids, log_probabilities = greedy(router, router.format.ids(router.format.prompt(context)))
        ends = [len(router.tokenizer.decode(ids[:i])) for i in range(len(ids) + 1)]
        text = router.tokenizer.decode(ids[:-1])
        # From a tool's closing quote to its block's end: these characters fill, they don't choose.
        filling = [
            (m.end(1), m.end()) for m in re.finditer(r'("name":"\w+").*?</tool_call>', text, re.S)
        ]
        total = sum(
            value
            for (start, stop), value in zip(pairwise(ends), log_probabilities, strict=True)
            if not any(low <= start and stop <= high for low, high in filling)
        )
        (decision,) = router.decide([context])
        kinds.add(decision.action)
        assert decision.confidence == pytest.approx(float(torch.tensor(total).exp()), rel=1e-4)
        assert decision.scores == dict.fromkeys(decision.tools, decision.confidence)
        assert text == REPLY_COMPLETION or decision.action == "call"
    assert kinds == {"call", "reply"}


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
