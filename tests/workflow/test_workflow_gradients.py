"""Each estimator against the exact gradient, and that against finite differences."""

from itertools import pairwise

import pytest
import torch
from flows import Table, fork, mixed, rounds
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import WorkflowError
from distill.workflow import Threshold, Workflow, end, router, surrogate, tool, walk
from distill.workflow.gradients import Prices, divergence, expected

INPUTS = [{"x": 0.2}, {"x": 0.6}, {"x": 1.1}]


FREE = Prices()


def gradient(flow: Workflow, rollouts, prices=FREE) -> torch.Tensor:
    flow.deciders.zero_grad()
    surrogate(rollouts, prices).backward()
    return torch.cat([p.grad.reshape(-1) for p in flow.deciders.parameters()])


def differences(flow: Workflow, inputs, way: str, prices=FREE) -> torch.Tensor:
    """The mean objective's central differences."""
    found = []
    for parameter in flow.deciders.parameters():
        row = parameter.data.view(-1)
        for i in range(len(row)):
            sides = []
            for shift in (1e-2, -1e-2):
                row[i] += shift
                sides.append(expected(walk(flow, inputs, way), prices).mean())
                row[i] -= shift
            found.append((sides[0] - sides[1]) / 2e-2)
    return torch.stack(found)


@given(value=st.floats(-1, 3), temperature=st.floats(0.3, 2), cost=st.floats(0, 2))
@settings(max_examples=30)
def test_the_exact_gradient_is_the_differences_limit(value, temperature, cost):
    flow, prices = fork(Threshold(value, temperature)), Prices(cost)
    exact = gradient(flow, walk(flow, INPUTS, "exact"), prices)
    assert exact.tolist() == pytest.approx(
        differences(flow, INPUTS, "exact", prices).tolist(), rel=0.02, abs=2e-3
    )


def test_loops_are_enumerated_to_their_bound():
    flow, known = rounds(3), [{"n": 2}]
    rollouts = walk(flow, known, "exact")
    more = torch.tensor([0.3, -0.2]).softmax(0)[0].item()
    weights = rollouts.log_weights.exp().tolist()
    assert dict(zip(rollouts.losses.tolist(), weights, strict=True)) == pytest.approx(
        {-2.0: 1 - more, -3.0: more * (1 - more), -4.0: more**2 * (1 - more), -5.0: more**3}
    )
    assert gradient(flow, rollouts).tolist() == pytest.approx(
        differences(flow, known, "exact").tolist(), rel=0.02, abs=2e-3
    )


@pytest.mark.parametrize(("make", "known"), [(fork, INPUTS), (rounds, [{"n": 1.0}, {"n": 4.0}])])
@pytest.mark.parametrize("samples", [1, 4])
def test_the_score_function_is_unbiased_and_its_baseline_saves_variance(make, known, samples):
    flow = make()
    exact = gradient(flow, walk(flow, known, "exact"))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [
            gradient(flow, walk(flow, known, "score", samples=samples, generator=generator))
            for _ in range(300)
        ]
    )
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - exact).abs() < 4 * error + 1e-4).all())


def test_leaving_one_out_has_less_variance_than_no_baseline():
    flow, known = rounds(), [{"n": 20.0}]
    generator = torch.Generator().manual_seed(0)
    ours, plain = [], []
    for _ in range(300):
        rollouts = walk(flow, known, "score", samples=4, generator=generator)
        ours.append(gradient(flow, rollouts))
        flow.deciders.zero_grad()
        rollouts = walk(flow, known, "score", samples=4, generator=generator)
        (rollouts.losses * rollouts.log_probabilities).mean().backward()
        plain.append(torch.cat([p.grad.reshape(-1) for p in flow.deciders.parameters()]))
    assert torch.stack(ours).var(0).max() < 0.1 * torch.stack(plain).var(0).max()


def test_splitting_and_sampling_go_together():
    """A path that is split, then sampled: the mean over chance is the exact gradient."""
    flow = Workflow(
        ["x"],
        [
            router("first", Table(0.5, -0.5), ["a", "b"]),
            tool(lambda x: x + 1, then="second", name="a", gives="y"),
            tool(lambda x: x - 1, then="second", name="b", gives="y"),
            router("second", Table(0.1, 0.7), ["c", "end"]),
            tool(lambda y: 3 * y, then="end", name="c", gives="y"),
            end(lambda y: y**2),
        ],
    )
    exact = gradient(flow, walk(flow, INPUTS, "exact"))
    generator = torch.Generator().manual_seed(0)
    ways = {"first": "exact", "second": "score"}
    draws = torch.stack(
        [
            gradient(flow, walk(flow, INPUTS, ways, samples=2, generator=generator))
            for _ in range(300)
        ]
    )
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - exact).abs() < 4 * error + 1e-4).all())


def test_a_mixture_is_exact_where_the_rest_is_linear():
    flow, known = mixed(), [{"x": torch.tensor(1.5)}, {"x": torch.tensor(-0.5)}]
    soft = walk(flow, known, "mixture")
    sharp = walk(flow, known, "exact")
    assert expected(soft, Prices()).tolist() == pytest.approx(expected(sharp, Prices()).tolist())
    assert gradient(flow, soft).tolist() == pytest.approx(gradient(flow, sharp).tolist())


def test_straight_through_takes_one_result_and_the_mixtures_gradient():
    flow, known = mixed(), [{"x": torch.tensor(1.5)}]
    exact = gradient(flow, walk(flow, known, "exact"))
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(400):
        rollouts = walk(flow, known, "straight_through", generator=generator)
        assert rollouts.losses.item() in (pytest.approx(9.0), pytest.approx(-4.5))
        draws.append(gradient(flow, rollouts))
    found = torch.stack(draws).mean(0)
    # Biased: of the exact gradient's sign and order, no more is promised.
    assert bool((found * exact > 0).all())
    assert bool((found.abs() / exact.abs()).allclose(torch.ones(2), atol=0.5))


def test_gradients_reach_what_comes_before_a_differentiable_tool():
    shift = torch.tensor(0.5, requires_grad=True)
    flow = Workflow(
        ["x"],
        [
            tool(lambda x: x + shift, then="which", name="first", gives="x"),
            *list(mixed().nodes.values()),
        ],
    )
    for way in ("exact", "mixture", "straight_through"):
        shift.grad = None
        generator = torch.Generator().manual_seed(3)
        rollouts = walk(flow, [{"x": torch.tensor(1.0)}], way, generator=generator)
        surrogate(rollouts).backward()
        taken = torch.tensor([0.4, -0.3]).softmax(0)
        if way == "straight_through":
            taken = torch.tensor([1.0, 0.0] if rollouts.losses.item() > 0 else [0.0, 1.0])
        assert shift.grad.item() == pytest.approx(3 * (2 * taken[0] - taken[1]).item(), rel=1e-4)


def test_only_differentiable_tools_that_go_one_way_are_mixed():
    with pytest.raises(WorkflowError, match="not all differentiable tools"):
        walk(fork(), INPUTS, "mixture")


def test_the_divergence_is_none_from_oneself_and_grows():
    flow, reference = fork(), fork().deciders
    rollouts = walk(flow, INPUTS, "exact")
    assert divergence(rollouts, flow, reference).item() == pytest.approx(0, abs=1e-6)
    found = []
    for value in (1.5, 2.5, 4.0):
        flow.decisions["big"].threshold.value.data.fill_(value)
        found.append(divergence(walk(flow, INPUTS, "exact"), flow, reference).item())
    assert all(0 < a < b for a, b in pairwise(found))
