"""The transformer reads order, the catalogue's words, and nothing that is not there."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_shop import PARTS, TOOLS, attention

from distill.routers.attention import AttentionRouter, rotated, rotation
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace
from distill.routers.scratch import learn_tokenizer
from distill.types import ToolSpec

LABELS = LabelSpace.of(example.label for example in PARTS.train)
TEXTS = ["where is order 7", "cancel order 3", ""]


def router(tools: tuple[ToolSpec, ...] = TOOLS, labels: LabelSpace = LABELS) -> AttentionRouter:
    """An untrained router, the same weights for the same sizes."""
    torch.manual_seed(0)
    tokenizer = learn_tokenizer(["user: where is order 7, cancel it"], 300)
    return AttentionRouter.untrained(RouterFile(attention(), tools, labels), tokenizer)


def test_the_order_of_words_matters(trained):
    """Also of whole requests, which a sum over tokens could not tell apart."""
    asked = trained("attention").router
    one, other = asked.probabilities(["user: cancel 4, show 5", "user: show 5, cancel 4"])
    assert abs(one - other).max() > 1e-3


@pytest.mark.parametrize("order", list(permutations(TOOLS)))
def test_the_order_of_the_catalogue_does_not(order):
    found = router(order).probabilities(TEXTS)
    assert found == pytest.approx(router().probabilities(TEXTS), abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Calls off an order that was placed."},
        {"parameters": {"type": "object", "properties": {"why": {"type": "string"}}}},
    ],
)
def test_each_of_a_tools_texts_is_read(change):
    other = router((replace(TOOLS[0], **change), *TOOLS[1:]))
    assert abs(other.probabilities(TEXTS) - router().probabilities(TEXTS)).max() > 1e-6


def test_the_catalogue_is_saved_once(trained):
    """In `router.json`; the weights hold nothing that follows from it."""
    saved = trained("attention")
    weights = load_file(saved.folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@given(
    st.lists(
        st.builds(
            ToolSpec,
            st.text(min_size=1, max_size=20),
            st.text(max_size=300),
            st.fixed_dictionaries(
                {}, optional={"properties": st.none() | st.dictionaries(st.text(), st.none())}
            ),
        ),
        max_size=4,
        unique_by=lambda tool: tool.name,
    )
)
@settings(deadline=None, max_examples=25)
def test_any_catalogue_gives_probabilities(tools):
    """Without descriptions or parameters, in any script, longer than what is read; even none."""
    labels = LabelSpace((("reply",), *((tool.name,) for tool in tools if tool.name != "reply")))
    found = router(tuple(tools), labels).probabilities(TEXTS)
    assert found.shape == (len(TEXTS), len(labels))
    assert found.sum(1) == pytest.approx(1)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_attention_sees_distances_not_places(query, key, shift):
    torch.manual_seed(0)
    vectors = torch.randn(2, 1, 1, 1, 8)
    turns = rotation(81, 8, torch.device("cpu"))

    def score(at: int, to: int) -> float:
        asked, asks = (
            rotated(vector, turns[:, place : place + 1])
            for vector, place in zip(vectors, (at, to), strict=True)
        )
        return float((asked * asks).sum())

    assert score(query + shift, key + shift) == pytest.approx(score(query, key), abs=1e-4)


def test_it_computes_in_bfloat16():
    """As `precision: bfloat16` has it, to the accuracy of that format."""
    made = router()
    ids, mask = torch.tensor([made.tokens(TEXTS[0])]), torch.ones(1, 1).long()
    mask = mask.expand_as(ids)
    with torch.no_grad():
        exact = made.model(ids, mask)["logits"]
        with torch.autocast("cpu", torch.bfloat16):
            found = made.model(ids, mask)["logits"]
    torch.testing.assert_close(found.float(), exact, atol=0.1, rtol=0.1)
