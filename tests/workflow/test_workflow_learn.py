"""Learning from outcomes: it finds what there is, resumes exactly, and does no harm."""

import logging
import math
import random

import orjson
import pytest
import torch
from flows import Table, fork, rounds

from distill.config import LearnConfig
from distill.errors import WorkflowError
from distill.workflow import Mlp, Threshold, Workflow, branch, end, imitate, learn, router, tool
from distill.workflow.learn import _rows


def inputs(seed: int, count: int = 64) -> list[dict[str, float]]:
    chance = random.Random(seed)
    return [{"x": chance.uniform(-2, 2)} for _ in range(count)]


def gate(limit: float, start: float) -> Workflow:
    """Above a hidden limit one way is right, below it the other."""
    return Workflow(
        ["x"],
        [
            branch("gate", on="x", threshold=Threshold(start, 0.3), above="high", below="low"),
            tool(lambda x: "high", then="end", name="high", gives="way"),
            tool(lambda x: "low", then="end", name="low", gives="way"),
            end(lambda x, way: float((way == "high") != (x > limit))),
        ],
    )


def limit_of(flow: Workflow) -> float:
    return flow.decisions["gate"].threshold.value.item()


def test_outcomes_alone_give_away_the_hidden_threshold(tmp_path):
    flow = gate(0.5, start=-1.0)
    config = LearnConfig(epochs=40, learning_rate=0.05)
    learned = learn(flow, inputs(0), inputs(1), config, folder=tmp_path / "run")
    assert limit_of(flow) == pytest.approx(0.5, abs=0.15)
    assert learned.evaluations[-1].objective < 0.1 < learned.evaluations[0].objective
    lines = [orjson.loads(line) for line in (tmp_path / "run/log.jsonl").read_bytes().splitlines()]
    assert [line["step"] for line in lines if "grad_norm" in line] == list(range(1, 81))


def test_labels_teach_the_same_by_imitation(tmp_path):
    flow = gate(0.5, start=-1.0)

    def labelled(rows):
        return [(known, {"gate": "high" if known["x"] > 0.5 else "low"}) for known in rows]

    config = LearnConfig(epochs=40, learning_rate=0.05)
    imitate(flow, labelled(inputs(0)), labelled(inputs(1)), config, folder=tmp_path / "run")
    assert limit_of(flow) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("estimator", ["exact", "score"])
def test_a_killed_run_ends_where_an_unbroken_one_does(tmp_path, estimator):
    config = LearnConfig(epochs=8, learning_rate=0.05, evaluations=4, batch_size=24)

    def flow() -> Workflow:
        return fork(Threshold(2.5, 0.5), estimator=estimator)

    whole = flow()
    expected = learn(whole, inputs(0), inputs(1), config, folder=tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(stage: str, done: int, total: int | None = None) -> None:
        if done == 13:
            raise KilledError

    with pytest.raises(KilledError):
        learn(flow(), inputs(0), inputs(1), config, folder=tmp_path / "cut", progress=kill)
    resumed = flow()
    found = learn(resumed, inputs(0), inputs(1), config, folder=tmp_path / "cut")
    assert found == expected
    assert torch.equal(
        resumed.decisions["big"].threshold.value, whole.decisions["big"].threshold.value
    )

    again = flow()
    assert learn(again, inputs(0), inputs(1), config, folder=tmp_path / "cut") == expected
    assert torch.equal(
        again.decisions["big"].threshold.value, whole.decisions["big"].threshold.value
    )
    other = config.model_copy(update={"learning_rate": 0.1})
    with pytest.raises(WorkflowError, match="holds what was learned otherwise"):
        learn(flow(), inputs(0), inputs(1), other, folder=tmp_path / "cut")
    with pytest.raises(WorkflowError, match="holds what was learned otherwise"):
        learn(gate(0.5, 0.0), inputs(0), inputs(1), config, folder=tmp_path / "cut")


def test_outcomes_that_mislead_change_nothing(tmp_path):
    """What the training's outcomes teach is wrong on the held-out inputs: the beginning is kept."""

    def judge(x: float, way: str, honest: bool) -> float:
        return float(((way == "high") != (x > 0)) == honest)

    def flow() -> Workflow:
        return Workflow(
            ["x", "honest"],
            [
                branch("gate", on="x", threshold=Threshold(0.0, 0.3), above="high", below="low"),
                tool(lambda x: "high", then="end", name="high", gives="way"),
                tool(lambda x: "low", then="end", name="low", gives="way"),
                end(judge),
            ],
        )

    lies = [{**known, "honest": False} for known in inputs(0)]
    truth = [{**known, "honest": True} for known in inputs(1)]
    made = flow()
    config = LearnConfig(epochs=10, learning_rate=0.2)
    learned = learn(made, lies, truth, config, folder=tmp_path / "run")
    assert learned.kept == 0
    assert limit_of(made) == 0.0
    assert (
        min(each.objective for each in learned.evaluations[1:]) > learned.evaluations[0].objective
    )


def test_trust_holds_learning_near_where_it_began(tmp_path):
    moved = {}
    for trust in (0.0, 1.0, 10.0):
        flow = gate(1.0, start=0.0)
        config = LearnConfig(epochs=20, learning_rate=0.05, trust=trust)
        learn(flow, inputs(0), inputs(1), config, folder=tmp_path / str(trust))
        moved[trust] = limit_of(flow)
    assert moved[0.0] > moved[1.0] > moved[10.0] >= 0.0


def test_frozen_decisions_stay(tmp_path):
    flow = Workflow(
        ["x"],
        [
            branch("first", on="x", threshold=Threshold(0.0), above="second", below="end"),
            branch("second", on="x", threshold=Threshold(1.0), above="end", below="other"),
            end(lambda x: x),
            end(lambda x: -x, name="other"),
        ],
    )
    config = LearnConfig(epochs=4, frozen=["first"])
    learn(flow, inputs(0), inputs(1), config, folder=tmp_path / "run")
    assert flow.decisions["first"].threshold.value.item() == 0.0
    assert flow.decisions["second"].threshold.value.item() != 1.0
    assert flow.decisions["first"].threshold.value.requires_grad
    for frozen, fault in (["first", "second"], "nothing in it learns"), (["third"], "no decision"):
        config = LearnConfig(epochs=4, frozen=frozen)
        with pytest.raises(WorkflowError, match=fault):
            learn(flow, inputs(0), inputs(1), config, folder=tmp_path / "other")


def test_a_loop_learns_when_to_stop(tmp_path):
    policy = Mlp(lambda known: [known["total"], 1.0], 2, 2, hidden=8)
    torch.manual_seed(0)
    flow = Workflow(
        ["n"],
        [*[*rounds(6, policy).nodes.values()][:-1], end(lambda total: (total - 4.0) ** 2)],
    )
    known = [{"n": float(n)} for n in range(1, 5)] * 4
    config = LearnConfig(epochs=60, learning_rate=0.03, samples=8)
    learned = learn(flow, known, known, config, folder=tmp_path / "run")
    assert learned.evaluations[-1].objective < 0.5 * learned.evaluations[0].objective


@pytest.mark.parametrize(
    ("flow", "warning"),
    [
        (
            Workflow(
                ["x"],
                [
                    router("r", Table(0.0, 0.0), ["end", "other"]),
                    end(lambda x: 7.0),
                    end(lambda x: 7.0, name="other"),
                ],
            ),
            "every path ended with the same loss, 7: nothing to learn from",
        ),
        (gate(100.0, start=50.0), "gate: hardly ever went to high"),
    ],
)
def test_what_cannot_teach_is_said(tmp_path, caplog, flow, warning):
    with caplog.at_level(logging.WARNING):
        learned = learn(flow, inputs(0), inputs(1), LearnConfig(epochs=2), folder=tmp_path / "run")
    assert warning in learned.warnings
    assert warning in caplog.text


def test_rewards_that_are_no_numbers_stop_it_with_the_last_good_state(tmp_path):
    """The outcomes break off in the midst of training: what was best before is kept."""
    calls = 0

    def judge(x: float, way: str) -> float:
        nonlocal calls
        calls += 1
        return math.nan if calls > 2500 else float((way == "high") != (x > 0.5))

    flow = gate(0.5, start=-1.0)
    nodes = [*[*flow.nodes.values()][:-1], end(judge)]
    flow = Workflow(["x"], nodes)
    config = LearnConfig(epochs=100, learning_rate=0.05, evaluations=50)
    learned = learn(flow, inputs(0), inputs(1), config, folder=tmp_path / "run")
    assert learned.stopped is not None
    assert "not judged" in learned.stopped or "no gradient" in learned.stopped
    assert 0 < learned.kept < learned.steps < 200
    again = learn(flow, inputs(0), inputs(1), config, folder=tmp_path / "run")
    assert (again.kept, again.stopped) == (learned.kept, learned.stopped)
    assert -1.0 < limit_of(flow) < 1.0


def test_what_fails_from_the_first_is_an_error(tmp_path):
    flow = Workflow(
        ["x"],
        [
            router("r", Table(0.0, 0.0), ["end", "other"]),
            end(lambda x: math.nan),
            end(lambda x: math.nan, name="other"),
        ],
    )
    with pytest.raises(WorkflowError, match=r"100% of the paths were not judged, such as by end:"):
        learn(flow, inputs(0), inputs(1), LearnConfig(), folder=tmp_path / "run")


def test_every_input_has_its_turn_in_each_epoch():
    seen = [row for step in range(10) for row in _rows(25, 10, step, seed=3)]
    for epoch in range(4):
        assert sorted(seen[epoch * 25 : (epoch + 1) * 25]) == list(range(25))
    assert seen[:25] != seen[25:50]
