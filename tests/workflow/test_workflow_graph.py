"""A workflow is checked when it is built, drawn, and saved without its code."""

import pytest
import torch
from flows import Table, fork, gain, left, look, loss, mixed, right, rounds

from distill.errors import RouterError, WorkflowError
from distill.workflow import (
    Mlp,
    Threshold,
    Workflow,
    branch,
    chosen,
    end,
    load_workflow,
    loop,
    mermaid,
    router,
    save_workflow,
    tool,
    walk,
)


def step(x: float) -> float:
    return x


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([], "workflow: no nodes"),
        ([tool(step, then="end")], "step: goes to 'end', which is no node"),
        ([tool(step, then="step")], "step: leads to no end"),
        ([end(loss=lambda x: x), tool(step, then="end")], "step: cannot be reached"),
        ([tool(step, then="end"), end(lambda x: x), end(lambda x: x)], "end: the name of two"),
        ([tool(lambda x: x, then="end"), end(lambda x: x)], "<lambda>: not a name of a node"),
        ([router("r", Table(0.0), ["end"]), end(lambda x: x)], "r: not two or more different"),
        (
            [
                branch("b", on="x", threshold=Threshold(0), above="end", below="end"),
                end(lambda x: x),
            ],
            "b: both ways are one",
        ),
        (
            [
                branch("b", on="y", threshold=Threshold(0), above="end", below="other"),
                end(lambda x: x),
                end(lambda x: x, name="other"),
            ],
            "b: takes 'y', which nothing gives",
        ),
        ([tool(lambda y: y, then="end", name="t"), end(lambda x: x)], "t: takes 'y', which noth"),
        ([loop("l", body="step", then="end", most=0), tool(step, "l"), end(lambda x: x)], "l: 0 r"),
        (
            [
                router("r", Table(0.0, 0.0), ["step", "end"]),
                tool(step, then="end"),
                end(lambda step: step),
            ],
            "end: takes 'step', which not every path gives",
        ),
        (
            [tool(step, then="r"), router("r", Table(0.0, 0.0), ["step", "end"]), end(lambda x: x)],
            "goes round without a bound (",
        ),
        (
            # A loop node on the way round bounds nothing when the way leads past its body.
            [
                loop("l", body="step", then="r", most=2),
                tool(step, then="l"),
                router("r", Table(0.0, 0.0), ["l", "end"]),
                end(lambda x: x),
            ],
            "goes round without a bound (",
        ),
        (
            # What a tool failed to give is not there after its error's way.
            [
                tool(step, then="end", on_error="other"),
                end(lambda step: step),
                end(lambda step: step, name="other"),
            ],
            "other: takes 'step', which not every path gives",
        ),
    ],
)
def test_a_graph_that_is_not_whole_is_named(nodes, expected):
    with pytest.raises(WorkflowError) as caught:
        Workflow(["x"], nodes)
    assert str(caught.value).startswith(expected) or expected in str(caught.value)


def test_functions_take_values_by_name_alone():
    def greedy(*values: float) -> float:
        return sum(values)

    with pytest.raises(WorkflowError, match="takes parameters without a name"):
        tool(greedy, then="end")
    with pytest.raises(WorkflowError, match="not one of loss and reward"):
        end(loss=step, reward=step)


def test_a_value_may_be_missing_where_it_has_a_default():
    def judge(x: float, step: float = 10.0) -> float:
        return x + step

    flow = Workflow(
        ["x"],
        [router("r", Table(0.0, 0.0), ["step", "end"]), tool(step, then="end"), end(judge)],
    )
    assert sorted(walk(flow, [{"x": 1.0}], "exact").losses.tolist()) == [2.0, 11.0]


@pytest.mark.parametrize(
    ("flow", "paths"), [(fork(), 2), (rounds(1), 2), (rounds(3), 4), (rounds(500), 501)]
)
def test_paths_are_counted_with_loops_unrolled(flow, paths):
    assert flow.paths(10_000) == paths
    assert flow.paths(2) == 2


def test_estimators_are_chosen_by_what_is_feasible():
    assert chosen(fork()) == {"big": "exact"}
    assert chosen(fork(), few=1) == {"big": "score"}
    assert chosen(mixed(), few=1) == {"which": "straight_through"}
    assert chosen(fork(estimator="score")) == {"big": "score"}


def test_the_drawing_names_every_node_and_way():
    assert mermaid(fork(), {"big": {"left": 0.25, "right": 0.75}}) == (
        "flowchart TD\n"
        '    look["look"]\n'
        "    look --> big\n"
        '    big{"look ≥ 1?"}\n'
        '    big -- "yes 25%" --> left\n'
        '    big -- "no 75%" --> right\n'
        '    left["left"]\n'
        "    left --> end\n"
        '    right["right"]\n'
        "    right --> end\n"
        '    end(("end"))\n'
    )
    text = mermaid(rounds())
    for name, node in rounds().nodes.items():
        assert f"    {name}" in text
        assert all(target in text for target in node.targets)


def test_what_is_saved_decides_the_same(tmp_path):
    flow = fork(Threshold(0.7, 0.3))
    save_workflow(flow, tmp_path / "flow")
    functions = {"look": look, "left": left, "right": right, "end": loss}
    loaded = load_workflow(tmp_path / "flow", functions, {})
    assert mermaid(loaded) == mermaid(flow)
    inputs = [{"x": x / 10} for x in range(10)]
    for way in ("exact", "likeliest"):
        one, other = walk(flow, inputs, way), walk(loaded, inputs, way)
        assert [leaf.path for leaf in one.leaves] == [leaf.path for leaf in other.leaves]
        assert one.log_weights.tolist() == other.log_weights.tolist()
        assert one.costs.tolist() == other.costs.tolist()


def test_a_policys_weights_are_read_and_nothing_is_imported(tmp_path):
    def features(known):
        return [known["n"]]

    functions = {"begin": lambda n: n, "more": lambda total: total + 1, "end": gain}
    torch.manual_seed(0)
    policy = Mlp(features, 1, 2, hidden=3)
    save_workflow(rounds(2, policy), tmp_path / "flow")
    fresh = Mlp(features, 1, 2, hidden=3)
    loaded = load_workflow(tmp_path / "flow", functions, {"enough": fresh})
    known = [{"n": 1.0}, {"n": -2.0}]
    assert torch.equal(loaded.decisions["enough"].policy(known), policy(known))
    assert [leaf.path for leaf in walk(loaded, known, "likeliest").leaves]

    with pytest.raises(WorkflowError, match="begin: no function given"):
        load_workflow(tmp_path / "flow", {}, {"enough": fresh})
    with pytest.raises(WorkflowError, match="enough: no policy given"):
        load_workflow(tmp_path / "flow", functions, {})
    with pytest.raises(WorkflowError, match="does not fit"):
        load_workflow(tmp_path / "flow", functions, {"enough": Mlp(features, 1, 2, hidden=4)})
    (tmp_path / "flow/workflow.json").write_text('{"inputs": ["n"], "nodes": [{"kind": "magic"}]}')
    with pytest.raises(WorkflowError):
        load_workflow(tmp_path / "flow", functions, {"enough": fresh})
    with pytest.raises(RouterError, match="missing"):
        load_workflow(tmp_path / "none", functions, {})
