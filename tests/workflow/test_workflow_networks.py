"""Trained routers within a workflow: they decide as before, learn, and are saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_shop import GET, LIST, ask

from distill import load_router
from distill.config import LearnConfig
from distill.errors import WorkflowError
from distill.workflow import RouterPolicy, Workflow, end, learn, router, tool, walk

OPTIONS = [("get_order",), ("list_orders",)]
ASKED = ["order 4", "list my orders", "show order 7", "all orders"]


def flow(trained_router: Any, wanted: str) -> tuple[Workflow, RouterPolicy]:
    """Whoever asks for whatever: one tool alone is rewarded."""
    policy = RouterPolicy(trained_router, lambda known: ask(known["text"], (GET, LIST)), OPTIONS)
    made = Workflow(
        ["text"],
        [
            router("choose", policy, ["get_order", "list_orders"]),
            tool(lambda text: "get_order", then="end", name="get_order", gives="called"),
            tool(lambda text: "list_orders", then="end", name="list_orders", gives="called"),
            end(lambda called: float(called != wanted)),
        ],
    )
    return made, policy


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder"])
def test_outcomes_tune_a_routers_own_weights(trained, tmp_path: Path, kind: str):
    folder = trained(kind).folder
    before: Any = load_router(folder)
    made, policy = flow(load_router(folder), "list_orders")
    inputs = [{"text": text} for text in ASKED]

    contexts = [ask(text, (GET, LIST)) for text in ASKED]
    columns = [before.file.labels.classes.index(option) for option in OPTIONS]
    beliefs = torch.from_numpy(before.beliefs(contexts))[:, columns]
    shares = (beliefs / beliefs.sum(1, keepdim=True)).float()
    logs = walk(made, inputs, "exact").decided[0].log_probabilities
    torch.testing.assert_close(logs.detach().exp(), shares, atol=1e-4, rtol=0)

    config = LearnConfig(epochs=30, learning_rate=0.01, batch_size=4)
    learned = learn(made, inputs, inputs, config, folder=tmp_path / "run")
    assert learned.evaluations[-1].objective == 0 < learned.evaluations[0].objective
    (tmp_path / "router").mkdir()
    policy.tuned().save(tmp_path / "router")
    after: Any = load_router(tmp_path / "router")
    found = torch.from_numpy(after.beliefs(contexts))[:, columns]
    assert bool((found[:, 1] > found[:, 0]).all())
    assert not bool((beliefs[:, 1] > beliefs[:, 0]).all())
    assert after.file.calibration is None


def test_only_networks_over_classes_and_their_decisions(trained):
    with pytest.raises(WorkflowError, match="tfidf: no network"):
        RouterPolicy(trained("tfidf").router, lambda known: ask("x"), OPTIONS)
    with pytest.raises(WorkflowError, match="not among the router's decisions"):
        RouterPolicy(trained("rnn").router, lambda known: ask("x"), [("fly",), ("reply",)])
