"""Outcomes on record judge deciders that did not make them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flows import Table, fork, rounds
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import WorkflowError
from distill.workflow import Workflow, end, episodes, off_policy, router, tool, walk
from distill.workflow.gradients import Prices, expected
from distill.workflow.offline import log_probabilities

LOGITS = st.floats(-3, 3)


def pick(*logits: float, fails: bool = False) -> Workflow:
    """One of three tools, the second of which loses least."""

    def third(x: float) -> float:
        if fails:
            raise OSError("out of order")
        return 0.5 + x / 10

    return Workflow(
        ["x"],
        [
            router("which", Table(*logits), ["first", "second", "third"]),
            tool(lambda x: 1 + x / 10, then="end", name="first", gives="loss"),
            tool(lambda x: x / 10, then="end", name="second", gives="loss"),
            tool(third, then="end", gives="loss"),
            end(lambda loss: loss),
        ],
    )


def recorded(flow: Workflow, count: int, seed: int = 0, cost: float = 0.0):
    chance = torch.Generator().manual_seed(seed)
    inputs = [{name: float(i % 7) for name in flow.inputs} for i in range(count)]
    return inputs, episodes(flow, inputs, generator=chance, cost=cost)


def test_what_it_estimates_is_what_the_others_would_have_lost():
    """Ten draws of a thousand episodes against the expectation over all paths."""
    flow, other = pick(0.0, 0.0, 0.0), pick(1.5, -1.0, 0.5)
    apart, inside = [], 0
    for seed in range(10):
        inputs, found = recorded(flow, 1000, seed)
        judged = off_policy(other, found)
        true = float(expected(walk(other, inputs, "exact"), Prices(0, 0)).mean())
        assert judged.loss.low is not None
        inside += judged.loss.low <= true <= judged.loss.high
        apart.append(judged.loss.value - true)
    assert abs(np.mean(apart)) < 3 * np.std(apart) / 10**0.5 + 0.01
    assert inside >= 8


@settings(max_examples=25)
@given(logits=st.lists(LOGITS, min_size=3, max_size=3))
def test_it_stays_within_what_was_seen_and_knows_its_own(logits):
    flow = pick(0.3, -0.2, 0.1)
    _, found = recorded(flow, 60)
    losses = [episode.loss for episode in found]
    judged = off_policy(pick(*logits), found)
    assert min(losses) - 1e-9 <= judged.loss.value <= max(losses) + 1e-9
    assert judged.recorded.value == pytest.approx(np.mean(losses))
    assert judged.difference.value == pytest.approx(judged.loss.value - judged.recorded.value)
    assert 1 <= judged.effective <= len(found) + 1e-6
    same = off_policy(flow, found)
    assert same.difference.value == pytest.approx(0, abs=1e-6)
    assert same.effective == pytest.approx(len(found))
    assert not same.better


def test_only_enough_evidence_calls_deciders_better():
    flow, better = pick(0.0, 0.0, 0.0), pick(-2.0, 2.0, -2.0)
    _, found = recorded(flow, 600)
    best = min({c.taken: e.loss for e in found for c in e.choices}.items(), key=lambda kv: kv[1])
    assert best[0] == "second", "the flow is as this test takes it to be"
    assert off_policy(better, found).better
    assert not off_policy(pick(2.0, -2.0, 2.0), found).better
    assert not off_policy(better, found[:20]).better


def test_a_decision_met_again_in_a_loop_is_a_choice_each_time():
    flow = rounds()
    _, found = recorded(flow, 50)
    assert max(len(episode.choices) for episode in found) > 1
    for episode, likely in zip(found, log_probabilities(flow, found), strict=True):
        assert sum(c.log_probability for c in episode.choices) == pytest.approx(likely, abs=1e-5)


def test_costs_count_at_their_price():
    _, free = recorded(fork(estimator="score"), 40)
    _, priced = recorded(fork(estimator="score"), 40, cost=2.0)
    apart = {round(b.loss - a.loss, 6) for a, b in zip(free, priced, strict=True)}
    assert apart == {0.0, 1.0}


def test_what_cannot_be_judged_is_named():
    flow = pick(0.0, 0.0, 0.0)
    _, found = recorded(flow, 10)
    with pytest.raises(WorkflowError, match="there are none"):
        off_policy(flow, [])
    choice = found[0].choices[0]
    for changed, said in (({"node": "nowhere"}, "nowhere"), ({"taken": "nowhere"}, "nowhere")):
        wrong = replace(found[0], choices=(replace(choice, **changed),))
        with pytest.raises(WorkflowError, match=said):
            off_policy(flow, [wrong])


def test_a_path_without_a_loss_is_left_out():
    flow = pick(0.0, 0.0, 0.0, fails=True)
    _, found = recorded(flow, 60)
    assert 0 < len(found) < 60
    assert {c.taken for e in found for c in e.choices} == {"first", "second"}
