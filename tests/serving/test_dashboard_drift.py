"""What is called drift: rarely chance, and always much of it."""

import math
from random import Random

import pytest
from boards import calibrated_run
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import RouterError
from distill.serving.dashboard.drift import LEAST, OTHERS, drift, drift_of_names
from distill.serving.dashboard.reference import Histogram, reference_of

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=8)
pairs = counts.flatmap(
    lambda a: st.tuples(
        st.just(a), st.lists(st.integers(0, 1000), min_size=len(a), max_size=len(a))
    )
)


@given(pairs)
def test_the_index_is_a_divergence(pair):
    """Never negative, the same both ways, nothing between equal samples."""
    before, now = pair
    labels = [str(i) for i in range(len(before))]
    found = drift(labels, before, now, (100, 100))
    if not sum(before) or not sum(now):
        assert found.index is None
        return
    back = drift(labels, now, before, (100, 100))
    assert found.index is not None
    assert back.index is not None
    assert found.index >= 0
    assert math.isclose(found.index, back.index, abs_tol=1e-12)
    assert drift(labels, now, now, (100, 100)).index == 0


def test_without_drift_it_is_seldom_more_than_chance():
    """Of 1,000 pairs of samples of one population; 5% are to be expected."""
    random = Random(1)
    shares, labels = [40, 30, 20, 10], list("abcd")

    def sample(n):
        drawn = random.choices(labels, shares, k=n)
        return [drawn.count(label) for label in labels]

    found = [drift(labels, sample(200), sample(100), (200, 100)) for _ in range(1000)]
    alarms = sum(f.verdict != "no more than chance" for f in found)
    assert 25 <= alarms <= 75


def test_another_population_is_told():
    found = drift(list("abc"), [500, 300, 200], [200, 300, 500], (1000, 1000))
    assert found.verdict == "large"
    assert drift(list("ab"), [500, 500], [560, 440], (5000, 5000)).verdict == "slight"
    assert drift(list("ab"), [500, 500], [680, 320], (1000, 1000)).verdict == "moderate"


@pytest.mark.parametrize("sizes", [(LEAST - 1, 1000), (1000, LEAST - 1), (1000, 0)])
def test_few_conversations_say_nothing_however_many_decisions(sizes):
    found = drift(list("ab"), [1000, 0], [0, 1000], sizes)
    assert (found.index, found.verdict) == (None, "too few to tell")


def test_rare_and_unknown_tools_are_put_together():
    before = {"a": 600, "b": 390, "rare": 10}
    found = drift_of_names(before, {"a": 60, "b": 30, "new": 10}, (100, 100))
    assert [bar.label for bar in found.bars] == ["a", "b", OTHERS]
    assert [bar.now for bar in found.bars] == [0.6, 0.3, 0.1]
    assert drift_of_names({"a": 1}, {"a": 1}, (100, 100)).index is None, "one bin tells nothing"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 9)), min_size=1, max_size=200))
def test_a_histogram_holds_all_in_bins_of_a_fifth_or_one_value(pairs):
    values, weights = zip(*pairs, strict=True)
    found = Histogram.of(values, weights)
    assert math.isclose(sum(found.counts), sum(weights))
    assert found.edges == sorted(set(found.edges))
    assert len(found.counts) == len(found.edges) + 1 == len(found.labels(str))
    assert all(count > 0 for count in found.counts)


def test_the_reference_is_what_the_router_decided_in_calibration(tmp_path):
    decided = [("get", 0.5, 10)] * 3 + [("reply", 0.9, 100)]
    run = calibrated_run(tmp_path / "run", decided)
    for place in (run.path, run.router):
        found = reference_of(place)
        assert found.groups == 4
        assert found.tools == {"get": 3, "reply": 1}
        assert found.taught == {"get"}
        assert found.lengths is not None
        assert (found.lengths.edges, found.lengths.counts) == ([100.0], [3.0, 1.0])


def test_a_router_without_its_run_has_no_reference(tmp_path):
    run = calibrated_run(tmp_path / "run", [("get", 0.5, 10)])
    run.calibration.unlink()
    with pytest.raises(RouterError, match=r"calibration\.jsonl"):
        reference_of(run.path)
