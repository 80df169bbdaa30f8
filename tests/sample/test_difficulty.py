"""orderdesk is a set to compare routers on: no templates, not solved by counting words."""

from pathlib import Path

import pytest

from distill.config import DataConfig, TfidfConfig
from distill.dataset import build, load_dataset
from distill.dataset.similar import Index
from distill.dataset.vote import vote
from distill.progress import silent
from distill.runs import RunDir
from distill.sample.replay import traces
from distill.training import Job, Parts, train


def test_under_two_percent_of_first_messages_have_a_near_duplicate() -> None:
    index = Index(0.6)
    openings = [str(trace.messages[1].content) for trace in traces()]
    similar = [text for text in openings if index.match_or_add(text) is not None]
    assert len(similar) < 0.02 * len(openings), similar


@pytest.mark.parametrize("seed", [0, 1])
def test_tfidf_stays_below_085_on_held_out_conversations(tmp_path: Path, seed: int) -> None:
    build(traces(), DataConfig(), seed, tmp_path / "dataset", source="sample:orderdesk")
    dataset = load_dataset(tmp_path / "dataset")
    parts = Parts(
        vote(dataset.examples("train")), dataset.examples("validation"), dataset.catalogue()
    )
    config = TfidfConfig(regularisation=[30.0])
    router = train(config, Job(parts, RunDir(tmp_path), seed, [], silent)).router
    test = dataset.examples("test")
    decisions = router.decide([example.context for example in test])
    hits = sum(d.tools == e.label.tools for d, e in zip(decisions, test, strict=True))
    assert 0.35 < hits / len(test) < 0.85
