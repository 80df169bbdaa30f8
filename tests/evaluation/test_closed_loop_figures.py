"""Outcomes on disk and the figures made of them."""

import math
import weakref
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tasks import SAID, TAKEN, Answers, Says, Sums, add, failed, outcome

from distill.config import PolicyConfig
from distill.environment import Score
from distill.evaluation.closed_loop import Answer, Outcome, paired, play, summarise
from distill.evaluation.ledger import Ledger
from distill.policy import Policy
from distill.types import Usage

scores = st.builds(
    Score,
    st.booleans(),
    st.lists(st.text(), max_size=2).map(tuple),
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from([None, "not met", "resisted", "followed"]),
)
counts = st.none() | st.integers(0, 10**6)
outcomes = st.builds(
    Outcome,
    st.text(min_size=1),
    st.text(min_size=1),
    st.none() | st.text(),
    st.sampled_from(["done", "too many steps", "unresolved"]),
    st.none() | st.booleans(),
    scores,
    st.none(),
    st.lists(st.text(), max_size=2).map(tuple),
    st.lists(st.sampled_from([TAKEN, SAID]), min_size=1, max_size=4).map(tuple),
    st.builds(Usage, counts, counts, counts, st.none() | st.floats(0, 1e6), counts),
)


@given(st.lists(outcomes, max_size=4, unique_by=lambda made: made.id))
def test_outcomes_come_back_as_they_were(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("log") / "tasks.jsonl"
    ledger = Ledger(path, {})
    for each in made:
        ledger.add(each.row())
    assert [Outcome.of(row) for row in Ledger(path, {}).rows()] == made


def test_figures_of_known_outcomes():
    made = [outcome(i, success=i < 6) for i in range(8)]
    made[7] = replace(made[7], score=Score(False, ("x",), 3, 2))
    found = summarise(made, 200)
    assert (found["n_tasks"], found["n_groups"], found["ends"]) == (8, 8, {"done": 8})
    assert found["success"]["value"] == 6 / 8
    assert found["success"]["low"] < 6 / 8 < found["success"]["high"]
    assert found["unresolved"]["value"] == 0
    assert found["harmful"]["value"] == 1 / 8
    means = ["wrong_calls", "harmful_calls", "steps", "router_calls", "fallback_calls"]
    assert [found[name]["value"] for name in means] == [3 / 8, 2 / 8, 2, 1, 0]
    assert found["taken"]["value"] == 0.5
    assert [found[name]["value"] for name in ("llm_calls", "input_tokens")] == [1, 100]
    assert found["reasons"] == {"taken": 8, "reply": 8}
    assert found["attacks"] == {}
    assert found["attack_followed"] is None


def test_errors_are_counted_and_in_no_figure():
    known = [outcome(i, success=i > 0) for i in range(6)]
    without, with_errors = summarise(known, 200), summarise([*known, failed(6), failed(7)], 200)
    assert with_errors["ends"] == {"done": 6, "error": 2}
    assert with_errors["n_tasks"] == 8
    differing = {key for key in without if without[key] != with_errors[key]}
    assert differing == {"n_tasks", "ends"}


def test_unresolved_tasks_are_a_share_of_their_own():
    found = summarise([outcome(0), outcome(1), outcome(2, success=False), outcome(3, None)], 200)
    assert found["success"]["value"] == 0.5
    assert found["unresolved"]["value"] == 0.25
    assert found["success"]["low"] is None, "too few groups for an interval"


def test_what_is_not_known_of_one_task_has_no_mean():
    made = [outcome(0), outcome(1, usage=Usage(llm_calls=2))]
    found = summarise(made, 200)
    assert found["input_tokens"] is None
    assert found["llm_calls"]["value"] == 1.5


def test_arms_are_compared_task_by_task():
    dear = [outcome(i, success=i != 3, usage=Usage(300, 30, 3, 90.0)) for i in range(8)]
    cheap = [outcome(i, success=i != 2) for i in range(8)]
    found = {each["metric"]: each for each in paired({"own": dear, "handed": cheap}, 200)}
    assert list(found) == ["success", "llm_calls", "input_tokens", "output_tokens", "duration_ms"]
    assert all((each["a"], each["b"], each["n_tasks"]) == ("handed", "own", 8)
               for each in found.values())  # fmt: skip
    assert (found["success"]["difference"], found["llm_calls"]["difference"]) == (0, -2)
    assert found["input_tokens"]["low"] <= -200 <= found["input_tokens"]["high"] < 0
    assert found["duration_ms"]["p_value_holm"] is not None


def test_only_what_is_known_of_both_arms_is_compared():
    left = [failed(0), outcome(1, None), *(outcome(i) for i in range(2, 9))]
    right = [*(outcome(i) for i in range(8)), outcome(11)]
    right[2] = outcome(2, usage=Usage(llm_calls=1))
    found = {each["metric"]: each["n_tasks"] for each in paired({"a": left, "b": right}, 200)}
    assert found["success"] == found["llm_calls"] == 6
    assert found["input_tokens"] == found["duration_ms"] == 5
    assert paired({"a": [failed(0)], "b": right, "c": [outcome(12)]}, 200) == []


def test_attacks_by_kind():
    made = [
        outcome(i, kind=kind, score=Score(True, attack=state))
        for i, (kind, state) in enumerate(
            [("a", "followed"), ("a", "resisted"), ("b", "not met"), ("b", "resisted")]
        )
    ]
    found = summarise([*made, outcome(9)], 200)
    assert found["attacks"] == {
        "a": {"followed": 1, "resisted": 1},
        "b": {"not met": 1, "resisted": 1},
    }
    assert found["attack_followed"]["value"] == 1 / 4


@pytest.mark.parametrize("made", [[], [failed(0)]])
def test_nothing_known_gives_no_figure(made):
    found = summarise(made, 200)
    assert found["n_tasks"] == len(made)
    assert "success" not in found


@given(st.lists(outcomes, min_size=1, max_size=12))
def test_every_figure_lies_in_its_interval(made):
    for name, figure in summarise(made, 100).items():
        if isinstance(figure, dict) and figure.keys() == {"value", "low", "high"}:
            assert math.isfinite(figure["value"]), name
            assert figure["low"] is None or figure["low"] <= figure["value"] <= figure["high"], name


def test_no_outcome_is_held_in_memory(tmp_path):
    world, policy = Sums(count=300), Policy(PolicyConfig(threshold=0))
    ledger = Ledger(tmp_path / "tasks.jsonl", {})
    seen = []
    for task in world.tasks():
        made = play(Says([add(1)]), policy, world, task, Answers(Answer(words="1.")))
        seen.append(weakref.ref(made))
        ledger.add(made.row())
    del made
    assert not any(each() for each in seen)

    def watched():
        seen.clear()
        for each in map(Outcome.of, ledger.rows()):
            seen.append(weakref.ref(each))
            assert sum(one() is not None for one in seen) <= 2
            yield each

    found = summarise(watched(), 200)
    assert (found["n_tasks"], found["success"]["value"]) == (300, 1 / 300)
