"""Outcomes on disk and the figures made of them."""

import math
import weakref
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tasks import COST, Answers, Says, Sums, add

from distill.config import PolicyConfig
from distill.environment import Score
from distill.errors import RouterError
from distill.evaluation.closed_loop import Answer, Outcome, TaskLog, play, summarise
from distill.policy import Policy
from distill.types import Usage

TAKEN = {"reason": "taken", "by": "router", "calls": [{"name": "add", "arguments": "{}"}]}
SAID = {"reason": "reply", "by": "fallback", "calls": []}


def outcome(i: int = 0, success: bool | None = True, **changes) -> Outcome:
    end = "unresolved" if success is None else "done"
    made = Outcome(
        f"t{i}", f"g{i}", None, end, success, Score(bool(success)), None, (TAKEN, SAID), COST
    )
    return replace(made, **changes)


def failed(i: int) -> Outcome:
    return outcome(i, None, end="error", score=None, error="environment: KeyError: 'x'", steps=())


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
    st.lists(st.sampled_from([TAKEN, SAID]), min_size=1, max_size=4).map(tuple),
    st.builds(Usage, counts, counts, counts, st.none() | st.floats(0, 1e6)),
)


@given(st.lists(outcomes, max_size=4, unique_by=lambda made: made.task))
def test_outcomes_come_back_as_they_were(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("log") / "tasks.jsonl"
    log = TaskLog(path, "a", "s")
    for each in made:
        log.add(each)
    assert list(log.outcomes()) == made
    assert list(TaskLog(path, "a", "s").outcomes()) == made


def test_a_log_goes_on_after_its_last_whole_line(tmp_path):
    path = tmp_path / "tasks.jsonl"
    log = TaskLog(path, "a", "s")
    for i in range(3):
        log.add(outcome(i))
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    again = TaskLog(path, "a", "s")
    assert again.done == {"t0", "t1"}
    again.add(outcome(2))
    assert path.read_bytes() == whole
    path.write_bytes(b'{"arm":"a","x":"' + b"x" * 200_000)
    assert TaskLog(path, "a", "s").done == set()
    assert path.read_bytes() == b""


def test_errors_are_tried_again_and_the_later_outcome_counts(tmp_path):
    path = tmp_path / "tasks.jsonl"
    log = TaskLog(path, "a", "s")
    for each in (failed(0), outcome(1), failed(2)):
        log.add(each)
    assert log.done == {"t1"}
    again = TaskLog(path, "a", "s")
    again.add(outcome(0))
    assert list(TaskLog(path, "a", "s").outcomes()) == [outcome(0), outcome(1), failed(2)]


def test_arms_share_a_file_and_do_not_mix(tmp_path):
    path = tmp_path / "tasks.jsonl"
    TaskLog(path, "a", "s").add(outcome(0))
    TaskLog(path, "b", "other").add(outcome(1))
    assert TaskLog(path, "a", "s").done == {"t0"}
    with pytest.raises(RouterError, match=r"tasks\.jsonl:1: a was simulated with other settings"):
        TaskLog(path, "a", "changed")


@pytest.mark.parametrize("line", [b"{oops", b"[]", b'{"task": "a"}'])
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path, line: bytes, ending: bytes):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(line + ending)
    with pytest.raises(RouterError, match=r"tasks\.jsonl:1: not an outcome"):
        TaskLog(path, "a", "s")
    assert path.read_bytes() == line + ending


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
    log = TaskLog(tmp_path / "tasks.jsonl", "a", "s")
    seen = []
    for task in world.tasks():
        made = play(Says([add(1)]), policy, world, task, Answers(Answer(words="1.")))
        seen.append(weakref.ref(made))
        log.add(made)
    del made
    assert not any(each() for each in seen)

    def watched():
        seen.clear()
        for each in log.outcomes():
            seen.append(weakref.ref(each))
            assert sum(one() is not None for one in seen) <= 2
            yield each

    found = summarise(watched(), 200)
    assert (found["n_tasks"], found["success"]["value"]) == (300, 1 / 300)
