"""Tasks as a workflow: played as `distill simulate` plays them, and learned from their scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_shop import TOOLS

from distill import load_router
from distill.config import LearnConfig, PolicyConfig
from distill.environment import Score, Task
from distill.errors import WorkflowError
from distill.evaluation.closed_loop import NoFallback, play
from distill.policy import Policy
from distill.types import ToolCall, ToolSpec
from distill.workflow import closed_loop, episodes, learn, walk

REQUESTS = [("where is order 4",), ("what did I buy", "where is order 7"), ("thank you",)]
TASKS = [Task(f"t{i}", f"g{i}", user) for i, user in enumerate(REQUESTS)]


class Wants:
    """Each task wants one call of a tool, whatever is asked; cancelling does harm."""

    tools: Sequence[ToolSpec] = TOOLS

    def __init__(self, wanted: str = "list_orders", broken: bool = False) -> None:
        self.wanted, self.broken = wanted, broken

    def tasks(self) -> list[Task]:
        return TASKS

    def reset(self, task: Task) -> None:
        self.called: list[str] = []

    def execute(self, call: ToolCall) -> str:
        if self.broken:
            raise KeyError("the shop is closed")
        self.called.append(call.name)
        return f"{call.name} is done"

    def score(self, words: Sequence[str]) -> Score:
        cancelled = self.called.count("cancel_order")
        return Score(self.wanted in self.called, (), cancelled, cancelled)


INPUTS = [{"task": task} for task in TASKS]


@pytest.mark.parametrize(("kind", "wanted"), [("filling", "get_order"), ("rnn", "list_orders")])
def test_likeliest_walk_is_the_game_that_simulate_plays(trained, kind: str, wanted: str):
    made: Any = load_router(trained(kind).folder)
    flow, _ = closed_loop(made, lambda: Wants(wanted))
    leaves = walk(flow, INPUTS, "likeliest").leaves
    policy = Policy(PolicyConfig(threshold=0))
    for task, leaf in zip(TASKS, leaves, strict=True):
        played = play(made, policy, Wants(wanted), task, NoFallback(), most_steps=12)
        talk = leaf.values["conversation"]
        assert tuple(talk.words) == played.words
        assert talk.score() == played.score


def test_scores_teach_a_router_what_no_label_said(trained, tmp_path: Path):
    before = load_router(trained("filling").folder)
    flow, policy = closed_loop(before, lambda: Wants("list_orders"), decision_cost=0.01)
    config = LearnConfig(epochs=20, learning_rate=0.01, samples=4, batch_size=3, trust=0.001)
    learned = learn(flow, INPUTS, INPUTS, config, folder=tmp_path / "learned")
    assert learned.evaluations[0].objective > 0.5
    assert min(e.objective for e in learned.evaluations) < 0.2
    (tmp_path / "router").mkdir()
    policy.tuned().save(tmp_path / "router")
    after: Any = load_router(tmp_path / "router")
    assert after.file.calibration is None
    for task in TASKS:
        played = play(after, Policy(PolicyConfig(threshold=0)), Wants(), task, NoFallback())
        assert played.success


def test_walks_of_a_task_do_not_share_a_conversation(trained):
    flow, _ = closed_loop(load_router(trained("rnn").folder), Wants)
    leaves = walk(flow, INPUTS[:1], "score", samples=5).leaves
    talks = {id(leaf.values["conversation"]) for leaf in leaves}
    assert len(talks) == 5
    # What was known at a decision stays what it was, however the conversation went on.
    for episode in episodes(flow, INPUTS):
        lengths = [len(c.known["context"].messages) for c in episode.choices if c.node == "choose"]
        assert lengths == sorted(set(lengths))


def test_what_the_environment_raises_ends_the_rollout_by_name(trained):
    flow, _ = closed_loop(load_router(trained("filling").folder), lambda: Wants(broken=True))
    leaves = walk(flow, INPUTS, "likeliest").leaves
    assert "the shop is closed" in str(leaves[0].error)


def test_a_task_without_an_end_is_a_failure(trained):
    made: Any = load_router(trained("rnn").folder)
    flow, _ = closed_loop(made, lambda: Wants("list_orders"), most_steps=1)
    two_turns = walk(flow, INPUTS[1:2], "likeliest")
    assert two_turns.losses.tolist() == [1.0]


def test_a_router_of_other_tools_is_refused(trained):
    class Elsewhere(Wants):
        tools = (ToolSpec("fly", ""),)

    with pytest.raises(WorkflowError, match="knows 1 decisions"):
        closed_loop(load_router(trained("rnn").folder), Elsewhere)
    with pytest.raises(WorkflowError, match="no network"):
        closed_loop(load_router(trained("majority").folder), Wants)
