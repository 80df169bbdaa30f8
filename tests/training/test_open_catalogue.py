"""What the matching encoder learns from: candidates, renamed rows, validation as it will serve."""

from collections import Counter
from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch
from small_shop import LIST, PARTS, TOOLS, examples, job, open_encoder

from distill.config import MatchConfig
from distill.errors import DatasetError
from distill.routers.open_encoder import OpenEncoder
from distill.training import Parts, open_catalogue, train
from distill.types import Context, Decision, Example, ToolSpec

OTHERS = tuple(ToolSpec(f"other_{i}", f"Something else, number {i}.") for i in range(6))


def offering_more(count: int) -> list[Example]:
    """Examples that offer tools nobody calls beside the shop's."""
    return [replace(e, context=replace(e.context, tools=TOOLS + OTHERS)) for e in examples(count)]


@pytest.fixture
def narrowed(tiny_bert, tmp_path_factory, monkeypatch):
    """The examples that a training on the given ones learns from."""
    made: list[list[Example]] = []
    real = open_catalogue._narrowed

    def keep(*args):
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(open_catalogue, "_narrowed", keep)

    def get(given: list[Example], match: MatchConfig, seed: int = 0) -> list[Example]:
        settings = open_encoder(tiny_bert, epochs=0.1, evaluations=1)
        settings = settings.model_copy(update={"match": match})
        parts = Parts(given, PARTS.validation[:2], TOOLS)
        train(settings, job(tmp_path_factory.mktemp("run"), seed, parts))
        return made[-1]

    return get


def test_an_example_chooses_among_its_calls_and_some_it_does_not_make(narrowed):
    match = MatchConfig(negatives=2, others=0, rename=0)
    given = offering_more(24)
    made = narrowed(given, match)
    for before, after in zip(given, made, strict=True):
        called = {call.name for call in before.label.calls}
        names = [tool.name for tool in after.context.tools]
        assert called <= set(names)
        assert len(names) == len(set(names)) == len(called) + 2
        assert after.context.messages == before.context.messages
        assert after.label == before.label


def test_negatives_from_elsewhere_are_tools_that_others_call(narrowed):
    match = MatchConfig(negatives=0, others=2, rename=0)
    given = offering_more(24)
    made = narrowed(given, match)
    added = Counter()
    for before, after in zip(given, made, strict=True):
        called = {call.name for call in before.label.calls}
        extra = {tool.name for tool in after.context.tools} - called
        assert extra <= {tool.name for tool in TOOLS}, "nobody calls the others"
        assert len(extra) >= 2 - len(called)
        added.update(extra)
    assert set(added) == {tool.name for tool in TOOLS}


def test_negatives_are_those_most_like_the_context(narrowed):
    context = examples(1)[0].context
    (text,) = [message.content for message in context.messages]
    twin, far = ToolSpec("twin", f"user: {text}"), ToolSpec("far", "0 1 2 3 4 5 6 7 8 9 " * 4)
    asked = replace(
        examples(1)[0],
        context=Context(context.messages, (LIST, far, twin)),
        label=Decision("call", (call_list(),)),
    )
    match = MatchConfig(negatives=1, others=0, rename=0, tool_chars=64)
    for example in narrowed([asked] * 8, match):
        assert [tool.name for tool in example.context.tools] == ["list_orders", "twin"]


def call_list():
    return next(
        e.label.calls[0] for e in examples(40) if [c.name for c in e.label.calls] == ["list_orders"]
    )


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 10, 38), (1.0, 48, 48)])
def test_the_share_of_renamed_examples(narrowed, share, least, most):
    match = MatchConfig(negatives=1, others=0, rename=share)
    made = narrowed(offering_more(48), match)
    known = {tool.name for tool in TOOLS + OTHERS}
    renamed = [e for e in made if not {tool.name for tool in e.context.tools} & known]
    assert least <= len(renamed) <= most


def test_rows_follow_from_the_seed(narrowed):
    match = MatchConfig(negatives=1, others=1, rename=0.5)
    one, same, other = (narrowed(offering_more(24), match, seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_validation_is_the_accuracy_of_the_routers_decisions(tiny_bert, tmp_path):
    run = job(tmp_path, parts=Parts(PARTS.train, examples(23, seed=1), TOOLS))
    router = train(open_encoder(tiny_bert, epochs=12, evaluations=1), run).router
    lines = map(orjson.loads, run.run.log.read_bytes().splitlines())
    (logged,) = [line["eval_accuracy"] for line in lines if "eval_accuracy" in line]
    decisions = router.decide([example.context for example in run.parts.validation])
    right = [d.tools == e.label.tools for d, e in zip(decisions, run.parts.validation, strict=True)]
    assert logged == pytest.approx(np.mean(right))
    assert 0.2 < logged < 1


def test_masked_positions_and_candidates_leave_finite_gradients(tiny_bert):
    from distill.routers import pretrained  # noqa: PLC0415

    model = OpenEncoder(pretrained.load_encoder(pretrained.resolve(str(tiny_bert))), 2, 64)
    ids = torch.tensor([[1, 5, 6, 7, 2], [1, 5, 2, 0, 0]])
    loss = model(
        ids,
        (ids > 0).long(),
        tool_ids=ids,
        tool_mask=(ids > 0).long(),
        candidates=torch.tensor([[0, 1], [0, -1]]),
        counts=torch.tensor([[1.0], [0.0]]),
    )["loss"]
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert model.head.log_sharpness.grad is not None


def test_labels_without_any_call_are_refused(tiny_bert, tmp_path):
    replies = [e for e in PARTS.train if not e.label.calls]
    with pytest.raises(DatasetError, match="no label calls a tool"):
        train(open_encoder(tiny_bert), job(tmp_path, parts=Parts(replies, replies, TOOLS)))
