"""Rollouts: what is called, how often, in what company, and what becomes of faults."""

import math
import threading

import pytest
import torch
from flows import Table, fork, rounds
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import WorkflowError
from distill.workflow import Threshold, Workflow, branch, end, router, surrogate, tool, walk
from distill.workflow.gradients import Prices, expected

numbers = st.lists(st.floats(-3, 3), min_size=1, max_size=8)


@given(numbers)
def test_paths_weigh_one_and_stay_with_their_input(xs):
    rollouts = walk(fork(), [{"x": x} for x in xs], "exact")
    for i, x in enumerate(xs):
        mine = [n for n, leaf in enumerate(rollouts.leaves) if leaf.example == i]
        assert sum(rollouts.log_weights[mine].exp().tolist()) == pytest.approx(1, abs=1e-5)
        assert {rollouts.leaves[n].values["x"] for n in mine} == {x}


@given(numbers, st.integers(0, 5))
def test_company_changes_nothing(xs, seed):
    """Decisions are the same alone and together, where chance has no say."""
    together = walk(fork(), [{"x": x} for x in xs], "likeliest")
    alone = [walk(fork(), [{"x": x}], "likeliest") for x in xs]
    assert [leaf.path for leaf in together.leaves] == [each.leaves[0].path for each in alone]
    assert together.losses.tolist() == [each.losses.item() for each in alone]


def test_the_likeliest_way_is_the_sharp_branch():
    rollouts = walk(fork(Threshold(1.0, 5.0)), [{"x": 0.49}, {"x": 0.51}], "likeliest")
    assert [leaf.path[2] for leaf in rollouts.leaves] == ["right", "left"]


def test_a_policy_is_asked_once_for_all_who_wait():
    asked = []

    class Counting(Table):
        def forward(self, values):
            asked.append(len(values))
            return super().forward(values)

    walk(rounds(4, Counting(50.0, 0.0)), [{"n": float(n)} for n in range(30)], "likeliest")
    assert asked == [30] * 4


def test_batched_tools_get_lists():
    called = []

    def double(x: list[float]) -> list[float]:
        called.append(x)
        return [2 * each for each in x]

    flow = Workflow(["x"], [tool(double, then="end", batched=True), end(lambda double: double)])
    assert walk(flow, [{"x": 1.0}, {"x": 2.0}], "exact").losses.tolist() == [2.0, 4.0]
    assert called == [[1.0, 2.0]]
    short = Workflow(
        ["x"], [tool(lambda x: [1], then="end", name="t", batched=True), end(lambda t: t)]
    )
    leaves = walk(short, [{"x": 1.0}, {"x": 2.0}], "exact").leaves
    assert [leaf.error for leaf in leaves] == ["t: gave 1 results for 2"] * 2


def test_labels_are_followed_time_after_time():
    flow = rounds(3)
    labels = [{"enough": ["more", "more", "end"]}, {"enough": "end"}]
    rollouts = walk(flow, [{"n": 1}, {"n": 1}], "follow", labels=labels)
    assert rollouts.losses.tolist() == [-3.0, -1.0]
    more, stop = torch.tensor([0.3, -0.2]).log_softmax(0).tolist()
    assert rollouts.log_probabilities.tolist() == pytest.approx([2 * more + stop, stop])
    with pytest.raises(WorkflowError, match="label of input 0 at 'enough': 'less' is no option"):
        walk(flow, [{"n": 1}], "follow", labels=[{"enough": "less"}])
    with pytest.raises(WorkflowError, match="is no option"):
        walk(flow, [{"n": 1}], "follow", labels=[{"enough": ["more"]}])


def failing(on_error: str | None = None, **kinds) -> Workflow:
    def risky(x: float) -> float:
        if x < 0:
            raise ValueError("negative")
        return x

    ends = [end(lambda risky: risky)]
    if on_error:
        ends.append(end(lambda x: 100.0, name=on_error))
    return Workflow(["x"], [tool(risky, then="end", on_error=on_error, **kinds), *ends])


def test_a_tool_that_raises_ends_its_rollout_alone():
    rollouts = walk(failing(), [{"x": 1.0}, {"x": -1.0}, {"x": 3.0}], "exact")
    assert [leaf.error for leaf in rollouts.leaves] == [None, "risky: ValueError: negative", None]
    assert rollouts.judged.tolist() == [True, False, True]
    assert math.isnan(rollouts.losses[1])
    found = expected(rollouts, Prices()).tolist()
    assert found[0] == 1.0
    assert math.isnan(found[1])
    rescued = walk(failing("lost"), [{"x": -1.0}], "exact")
    assert rescued.losses.tolist() == [100.0]


def test_a_tool_that_hangs_is_left_to_its_thread():
    ended = threading.Event()

    def hangs(x: float) -> float:
        ended.wait(30)
        return x

    flow = Workflow(["x"], [tool(hangs, then="end", timeout_s=0.05), end(lambda hangs: hangs)])
    try:
        (leaf,) = walk(flow, [{"x": 1.0}], "exact").leaves
    finally:
        ended.set()
    assert leaf.error == "hangs: no result in 0.05 s"


@pytest.mark.parametrize("bad", [math.nan, math.inf, "many"])
def test_a_loss_that_is_no_number_is_no_loss(bad):
    flow = Workflow(
        ["x"],
        [
            router("r", Table(0.0, 0.0), ["end", "other"]),
            end(lambda x: x),
            end(lambda x: bad, name="other"),
        ],
    )
    rollouts = walk(flow, [{"x": 3.0}], "exact")
    assert sorted(rollouts.judged.tolist()) == [False, True]
    # The path that was judged has the whole weight.
    assert expected(rollouts, Prices()).tolist() == [3.0]
    surrogate(rollouts).backward()
    assert all(p.grad.isfinite().all() for p in flow.deciders.parameters())


def test_nothing_judged_is_said():
    with pytest.raises(WorkflowError, match=r"no path was judged \(risky: ValueError: negative\)"):
        surrogate(walk(failing(), [{"x": -1.0}], "exact"))


def test_bad_input_is_named():
    with pytest.raises(WorkflowError, match="input 1: has no 'x'"):
        walk(fork(), [{"x": 1.0}, {"y": 1.0}], "exact")
    with pytest.raises(WorkflowError, match="more than 50 paths"):
        walk(rounds(40), [{"n": 1}, {"n": 1}], "exact", most=50)
    words = Workflow(
        ["x"],
        [
            branch("b", on="x", threshold=Threshold(0), above="end", below="other"),
            end(lambda x: 0.0),
            end(lambda x: 0.0, name="other"),
        ],
    )
    with pytest.raises(WorkflowError, match="b: 'x' is no number"):
        walk(words, [{"x": "big"}], "exact")
    with pytest.raises(WorkflowError, match="logits that are not finite"):
        walk(rounds(2, Table(math.nan, 0.0)), [{"n": 1}], "exact")
    with pytest.raises(WorkflowError, match=r"logits of shape \[1, 3\]"):
        walk(rounds(2, Table(0.0, 0.0, 0.0)), [{"n": 1}], "exact")


def test_shares_say_which_ways_were_gone():
    flow = fork(Threshold(1.0, 0.01))
    rollouts = walk(flow, [{"x": 0.1}, {"x": 0.2}, {"x": 5.0}, {"x": 0.3}], "exact")
    assert rollouts.shares(flow) == {"big": pytest.approx({"left": 0.25, "right": 0.75})}
