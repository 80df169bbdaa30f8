"""Trackers: metrics go where they were asked to, and stay there."""

import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from small_shop import job, rnn, write_traces

from distill.config import RunConfig
from distill.errors import ConfigError, MissingExtraError
from distill.pipeline.train import train_router
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


class Wandb(ModuleType):
    """Stands in for wandb: a log goes to the run that is open, as `transformers` finds it."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.run, self.config, self.runs = None, {}, {}

    def init(self, *, name, **_):
        self.run = SimpleNamespace(name=name, summary={}, _label=lambda **_: None)

    def log(self, values):
        self.runs.setdefault(self.run.name, []).append(values)

    def finish(self):
        self.run = None


@pytest.fixture
def wandb(monkeypatch):
    fake = Wandb()
    errors = ModuleType("wandb.sdk.lib.config_util")
    errors.ConfigError = ValueError
    names = ["wandb", "wandb.sdk", "wandb.sdk.lib", errors.__name__]
    for name, module in zip(names, [fake, ModuleType("s"), ModuleType("l"), errors], strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    return fake


def test_each_training_has_a_wandb_run_of_its_own(wandb, tmp_path):
    for name in ("rnn-s0", "rnn-s1"):
        train(rnn(epochs=1), job(tmp_path / "job" / name, trackers=["wandb"]))
        assert wandb.run is None
    assert set(wandb.runs) == {"job/rnn-s0", "job/rnn-s1"}
    for lines in wandb.runs.values():
        assert any("train/loss" in line for line in lines)


def test_a_broken_training_ends_its_wandb_run_too(wandb, tmp_path):
    with pytest.raises(ConfigError, match="diverged"):
        train(rnn(learning_rate=1e30), job(tmp_path, trackers=["wandb"]))
    assert wandb.run is None


def test_the_callers_own_wandb_run_stays_open(wandb, tmp_path):
    wandb.init(name="mine")
    train(rnn(epochs=1), job(tmp_path, trackers=["wandb"]))
    assert wandb.run.name == "mine"
    assert set(wandb.runs) == {"mine"}
