"""Trackers: metrics go where they were asked to, and stay there."""

from importlib import metadata

import pytest
from small_shop import job, rnn, write_traces

from distill.config import RunConfig
from distill.errors import MissingExtraError
from distill.pipeline import train_router
from distill.progress import silent
from distill.training import train


def test_tensorboard_events_outlive_the_checkpoints(tmp_path):
    config = RunConfig.model_validate(
        {
            "name": "job",
            "output": str(tmp_path / "runs"),
            "data": {
                "traces": str(write_traces(tmp_path / "traces.jsonl")),
                "drop_duplicates": None,
                "split": {"merge_jaccard": None},
            },
            "routers": {"rnn": rnn(epochs=1).model_dump()},
            "trackers": ["tensorboard"],
        }
    )
    run = train_router(config, "rnn", 0, silent)
    assert run.whole
    (events,) = (run.path / "tensorboard").glob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()
    assert b"eval/score" in events.read_bytes()


def test_no_tracker_writes_nothing_of_the_kind(unbroken):
    _, run = unbroken("rnn")
    assert not list(run.path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_names_its_extra(tmp_path, monkeypatch, tracker):
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(MissingExtraError, match=rf"pip install 'tool-router-distill\[{tracker}\]'"):
        train(rnn(), job(tmp_path, trackers=[tracker]))
