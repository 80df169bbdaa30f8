"""The proof beside DSPy's optimisers: all compile on the same parts, and what they take is told."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dspy.utils.dummies import DummyLM

from distill.runs import read_json

PROOFS = Path(__file__).parents[2] / "scripts" / "proofs"
TRAIN, HELD_OUT, TEST = 25, 10, 25


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a proof as it is run: from its own folder."""
    monkeypatch.syspath_prepend(str(PROOFS))
    return importlib.import_module


def test_all_are_counted_and_the_workflow_asks_no_lm(
    proof: Callable[[str], Any],
    tmp_path: Path,
    tiny_bert: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    optimisers = proof("dspy_optimisers")
    # An LM that always says the same.
    lm = DummyLM({"": {"tool": "track"}})
    monkeypatch.setattr(optimisers, "local_lm", lambda name, **options: lm)
    sizes = ["--demos", "4", "--candidates", "2", "--epochs", "10", "--encoder", str(tiny_bert)]
    optimisers.main([*sizes, "--output", str(tmp_path)])
    rows = {row["optimiser"]: row for row in read_json(tmp_path / "figures.json")["result"]}

    learned = rows.pop("LearnOutcomes")
    assert learned["compile"]["lm_calls"] == learned["decide"]["lm_calls"] == 0
    # Every way of every request in each epoch, and the likeliest at eleven evaluations.
    assert learned["compile"]["metric_calls"] == 10 * 5 * TRAIN + 11 * HELD_OUT
    for row in rows.values():
        assert row["phrasings"] == learned["phrasings"]
        assert len(row["right"]) == TEST
        assert sum(row["right"]) == TEST / 5
        assert row["decide"]["lm_calls"] == row["decide"]["metric_calls"] == 1
        assert row["unanswered"] == 0
    compiled = {name: row["compile"] for name, row in rows.items()}
    assert compiled["none"]["lm_calls"] == compiled["LabeledFewShot"]["lm_calls"] == 0
    assert 2 <= compiled["BootstrapFewShot"]["lm_calls"] <= TRAIN
    # Two candidates, and the program as it is, with labels and with what it did right.
    assert compiled["BootstrapFewShotWithRandomSearch"]["lm_calls"] > 5 * HELD_OUT
    assert "| LearnOutcomes |" in (tmp_path / "table.md").read_text()


def test_no_phrasing_is_in_two_parts(proof: Callable[[str], Any]):
    parts = proof("requests_of_customers").requests(3, 2)
    assert [len(part) for part in parts.values()] == [2 * TRAIN, 2 * HELD_OUT, 2 * TEST]
    phrasings = [{example.phrasing for example in part} for part in parts.values()]
    assert len(set.union(*phrasings)) == sum(map(len, phrasings)) == 60


def test_a_local_lm_answers_alike_whatever_it_was_asked_before(
    proof: Callable[[str], Any], tiny_llama: Path
):
    def asked(*texts: str, **options: Any) -> str:
        local_lm = proof("local_models").local_lm
        lm = local_lm(str(tiny_llama), max_tokens=20, cache=False, **options)
        answers = [lm(text)[0] for text in texts]
        assert all(entry["usage"]["prompt_tokens"] > 5 for entry in lm.history)
        return str(answers[-1])

    alone = asked("please cancel order 3")
    assert len(alone) > 6
    assert asked("please cancel order 7, it is late", "please cancel order 3") == alone
    assert asked("please cancel order 3", "please cancel order 3") == alone
    stop = alone[3:6]
    assert asked("please cancel order 3", stop=[stop]) == alone.partition(stop)[0]
