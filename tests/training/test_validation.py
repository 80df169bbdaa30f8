"""Figures of a validation part: exact in any batches, with errors that copies do not shrink."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_shop import PARTS, TOOLS, examples, job, without_dropout

from distill.training import Parts, train
from distill.training.validation import distinct, ratio

KINDS = ["rnn", "attention", "encoder", "open", "decoder"]


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_a_share_has_the_binomial_error(hits):
    share, error = ratio(np.array(hits, dtype=float), np.ones(len(hits)))
    assert share == pytest.approx(sum(hits) / len(hits))
    assert error == pytest.approx(math.sqrt(share * (1 - share) / len(hits)), abs=1e-9)


def test_the_error_of_a_ratio_is_how_far_chance_moves_it():
    """Against the spread of the figure over samples of rows with different numbers of tokens."""
    luck = np.random.default_rng(0)
    tokens = luck.integers(1, 30, size=(4000, 200)).astype(float)
    losses = tokens * luck.exponential(size=tokens.shape)
    found = [ratio(*sample) for sample in zip(losses, tokens, strict=True)]
    spread = np.std([mean for mean, _ in found])
    assert np.mean([error for _, error in found]) == pytest.approx(spread, rel=0.05)


def test_copies_are_one_row_that_counts_several_times():
    a, b, c = examples(3)
    kept, counts = distinct([a, a, b, c, c, c])
    assert kept == [a, b, c]
    assert counts.tolist() == [2, 1, 3]


def evaluations(run) -> list[dict[str, float]]:
    lines = map(orjson.loads, run.log.read_bytes().splitlines())
    keys = ("eval_loss", "eval_accuracy", "eval_standard_error")
    return [{k: line[k] for k in keys if k in line} for line in lines if "eval_loss" in line]


@pytest.fixture(scope="module")
def figures(config_of, tmp_path_factory):
    """The evaluations of a short training, by kind, validation part and micro batch."""

    def get(kind, validation, micro=4):
        # Dropout would draw other masks for other micro batches.
        config = without_dropout(config_of(kind, epochs=1, evaluations=1, micro_batch=micro))
        run = job(tmp_path_factory.mktemp(kind), parts=Parts(PARTS.train, validation, TOOLS))
        train(config, run)
        (found,) = evaluations(run.run)
        return found

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_figures_do_not_depend_on_the_micro_batch(figures, kind):
    """Validation rows have labels of different lengths, and do not fill the last batch."""
    part = PARTS.validation[:11]
    assert figures(kind, part, 8) == pytest.approx(figures(kind, part, 2), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_all_rows_change_nothing(figures, kind):
    part = PARTS.validation[:7]
    twice = [copy for example in part for copy in [example] * 2]
    assert figures(kind, twice) == pytest.approx(figures(kind, part), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_the_mean_over_rows(figures, kind):
    """Two parts of one row each against both together; the decoder's rows count by their tokens."""
    first, second = (e for e in PARTS.validation[:9] if e.group in ("g0", "g1"))
    (a, b), both = (
        (figures(kind, [one])["eval_loss"] for one in (first, second)),
        figures(kind, [first, second]),
    )
    weighted = figures(kind, [first, first, second])["eval_loss"]
    assert min(a, b) < both["eval_loss"] < max(a, b)
    share = (both["eval_loss"] - b) / (a - b)  # the first row's among both
    expected = (2 * share * a + (1 - share) * b) / (1 + share)
    assert weighted == pytest.approx(expected, rel=1e-4)
    if kind != "decoder":
        # Other batches are padded otherwise, which moves a loss in its last bits.
        assert share == pytest.approx(0.5, abs=1e-4)
