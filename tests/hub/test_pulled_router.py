"""A router that went to the hub and back decides what it decided before."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from distill import Context, Decision, Message, ToolCall, ToolSpec, load_router
from distill.config import TfidfConfig
from distill.hub.push import pull, push
from distill.routers.baselines import TfidfRouter, tfidf_text, vectorizers
from distill.routers.folder import RouterFile
from distill.routers.labels import LabelSpace

from .factory import make_run
from .fake_hub import FakeHub

# huggingface_hub 2.4 uploads LFS files with httpx2's deprecated `data=`; users do not see it.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOOLS = (ToolSpec("get_order", "Look up /orders"), ToolSpec("cancel_order"))
REQUESTS = ["where is my order", "cancel my order please", "thanks, goodbye", "order 17 – where?"]
CONTEXTS = [Context((Message("user", text),), TOOLS) for text in REQUESTS]


def tiny_router() -> TfidfRouter:
    """Fitted features, made-up weights: what it decides is arbitrary, but it is a decision."""
    labels = LabelSpace.of(
        [Decision("reply"), *(Decision("call", (ToolCall(tool.name),)) for tool in TOOLS)]
    )
    config = TfidfConfig()
    features = vectorizers()
    texts = [tfidf_text(context, config) for context in CONTEXTS * 3]  # above every min_df
    width = sum(vectorizer.fit_transform(texts).shape[1] for vectorizer in features.values())
    weights = np.random.default_rng(0).normal(size=(len(labels), width))
    return TfidfRouter(RouterFile(config, TOOLS, labels), features, weights, np.zeros(len(labels)))


def test_a_pulled_router_decides_identically(hub: FakeHub, tmp_path: Path) -> None:
    router = tiny_router()
    run = make_run(tmp_path / "run", "tfidf")
    shutil.rmtree(run.router)
    run.router.mkdir()
    router.save(run.router)
    push(run, "acme/desk-router", endpoint=hub.endpoint)
    pulled = load_router(pull("acme/desk-router", tmp_path / "pulled", endpoint=hub.endpoint))
    decisions = router.decide(CONTEXTS)
    assert pulled.decide(CONTEXTS) == decisions
    assert len({decision.tools for decision in decisions}) > 1
