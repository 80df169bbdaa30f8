"""The two baselines: counting, and TF-IDF chosen on validation."""

import numpy as np
import pytest
from scipy.sparse import hstack
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from small_shop import PARTS, TOOLS, ask, call, job

from distill.config import MajorityConfig, TfidfConfig
from distill.errors import DatasetError
from distill.routers.labels import LabelSpace
from distill.training import Parts, train
from distill.types import Decision, Example

REPLY = Decision("reply")
LIST = Decision("call", (call("list_orders"),))
GET = Decision("call", (call("get_order", order=1),))


def examples(*labelled: tuple[str, Decision]) -> list[Example]:
    return [
        Example(f"t{i}#0", f"t{i}", f"g{i}", ask(text), label)
        for i, (text, label) in enumerate(labelled)
    ]


def fit(tmp_path, train_part, validation=(), **settings):
    parts = Parts(train_part, list(validation), TOOLS)
    return train(TfidfConfig(**settings), job(tmp_path, parts=parts)).router


def accuracy(router, part) -> float:
    decisions = router.decide([example.context for example in part])
    return float(np.mean([d.tools == e.label.tools for d, e in zip(decisions, part, strict=True)]))


def test_majority_is_the_training_parts_frequencies(tmp_path):
    part = examples(("a", REPLY), ("b", LIST), ("c", LIST), ("d", GET))
    router = train(MajorityConfig(), job(tmp_path, parts=Parts(part, [], TOOLS))).router
    for text in ("a", "anything else"):
        (decision,) = router.decide([ask(text)])
        assert decision.tools == ("list_orders",)
        assert decision.confidence == pytest.approx(0.5)
        assert decision.scores == pytest.approx(
            {"list_orders": 0.5, "reply": 0.25, "get_order": 0.25}
        )


def test_majority_takes_the_most_frequent_of_what_is_offered(trained):
    counts = [e.label.tools for e in PARTS.train]
    without = tuple(tool for tool in TOOLS if tool.name == "list_orders")
    (decision,) = trained("majority").router.decide([ask("x", without)])
    offered = [names for names in counts if names in (("reply",), ("list_orders",))]
    assert decision.tools == max(set(offered), key=offered.count)


def test_the_regularisation_that_decides_validation_best_is_kept(tmp_path):
    candidates = [1e-4, 1.0, 100.0]
    scores, routers = {}, {}
    for c in candidates:
        routers[c] = fit(tmp_path / str(c), PARTS.train, PARTS.validation, regularisation=[c])
        scores[c] = accuracy(routers[c], PARTS.validation)
    best = max(candidates, key=scores.__getitem__)
    assert scores[best] > scores[1e-4], "the candidates must differ for this test to say anything"
    for ordering in (candidates, candidates[::-1]):
        chosen = fit(tmp_path / "all", PARTS.train, PARTS.validation, regularisation=ordering)
        assert accuracy(chosen, PARTS.validation) == scores[best]


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_scikit_learns(tmp_path, classes):
    """For two classes scikit-learn keeps one row of weights; the router keeps two."""
    labels = [REPLY, LIST, GET][:classes]
    part = [e for e in PARTS.train if e.label.tools in [label.tools for label in labels]]
    router = fit(tmp_path, part, regularisation=[1.0])
    texts = [router.text(e.context) for e in part]
    matrix = hstack([v.transform(texts) for v in router.features.values()])
    space = LabelSpace.of(e.label for e in part)
    assert len(space) == classes
    model = LogisticRegression(C=1.0, max_iter=1000)
    model.fit(matrix, [space.index(e.label) for e in part])
    expected = model.predict_proba(matrix)
    assert expected.max() < 0.95, "certain rows would hide a factor on the logits"
    # The router may stop a little earlier than scikit-learn's own tolerance.
    np.testing.assert_allclose(router.probabilities(texts), expected, atol=0.02)


def test_a_single_class_is_always_decided(tmp_path):
    part = examples(("where is it", LIST), ("what did I buy", LIST), ("show me it all", LIST))
    (decision,) = fit(tmp_path, part).decide([ask("hello")])
    assert decision.tools == ("list_orders",)
    assert decision.confidence == pytest.approx(1.0)


def test_nothing_known_in_a_text_leaves_the_prior(tmp_path):
    router = fit(tmp_path, PARTS.train, PARTS.validation)
    np.testing.assert_allclose(router.probabilities(["東京"])[0], softmax(router.bias))


def test_a_validation_decision_that_training_never_saw_is_only_wrong(tmp_path):
    replies = [example for example in PARTS.train if example.label == REPLY]
    listed = [example for example in PARTS.train if example.label == LIST]
    router = fit(tmp_path, replies + listed, examples(("where is order 1", GET)))
    assert router.decide([ask("thank you")])[0].tools == ("reply",)


def test_too_few_examples_to_learn_from_are_refused_in_one_line(tmp_path):
    with pytest.raises(
        DatasetError, match=r"1 examples leave no terms .* give more traces"
    ) as caught:
        fit(tmp_path, examples(("thank you", REPLY)))
    assert "\n" not in str(caught.value)
