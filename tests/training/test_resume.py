"""A training that is killed and started again ends where an unbroken one does."""

import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from small_shop import job, losses, write_traces

from distill.config import RunConfig, dump
from distill.runs import RunDir, read_json
from distill.training import train
from distill.training.loop import last_whole_checkpoint

KINDS = ["rnn", "attention", "encoder", "open", "decoder"]


class Killed(BaseException):
    """Raised in the middle of a training, where nothing catches it."""


def kill_at(step: int):
    def progress(stage: str, done: int, total: int | None = None) -> None:
        if stage.startswith("training") and done == step:
            raise Killed

    return progress


def assert_same_weights(found, expected) -> None:
    a, b = found.model.state_dict(), expected.model.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def differ(a, b) -> bool:
    a, b = a.model.state_dict(), b.model.state_dict()
    return any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", KINDS)
# The run has 12 steps of two epochs, with checkpoints after steps 4, 8 and 12.
@pytest.mark.parametrize("step", [2, 6, 11])
def test_a_killed_training_goes_on_exactly(config_of, unbroken, tmp_path, kind, step):
    config = config_of(kind)
    with pytest.raises(Killed):
        train(config, job(tmp_path, progress=kill_at(step)))
    half = tmp_path / "checkpoints" / "checkpoint-99"  # as a crash while writing leaves it
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text('{"global_step"')

    resumed = job(tmp_path)
    router = train(config, resumed).router

    expected, run = unbroken(kind)
    assert_same_weights(router, expected)
    assert losses(resumed.run) == losses(run)
    lines = [orjson.loads(line) for line in resumed.run.log.read_bytes().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_a_killed_training_may_be_moved(config_of, tmp_path):
    """transformers records the best checkpoint's absolute path, and forgets it where that fails."""
    with pytest.raises(Killed):
        train(config_of("rnn"), job(tmp_path / "before", progress=kill_at(10)))
    (tmp_path / "before").rename(tmp_path / "after")
    newest = last_whole_checkpoint(RunDir(tmp_path / "after"))
    assert newest is not None
    best = Path(read_json(newest / "trainer_state.json")["best_model_checkpoint"])
    assert best.parent == newest.parent
    assert (best / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "train_config",
    [
        {"epochs": 1.5},  # ends in the middle of an epoch
        {"epochs": 4, "evaluations": 8, "patience": 1, "learning_rate": 1e-12},  # stops early
    ],
    ids=["mid-epoch", "early stop"],
)
def test_a_training_that_had_ended_takes_no_further_step(config_of, tmp_path, kind, train_config):
    """Killed between its last checkpoint and the saving of the router."""
    config = config_of(kind, **train_config)
    first = job(tmp_path)
    expected = train(config, first).router
    curve = losses(first.run)
    again = job(tmp_path)
    trained = train(config, again)
    assert_same_weights(trained.router, expected)
    assert losses(again.run) == curve
    assert trained.seconds > 0


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_settle_the_weights(config_of, unbroken, tmp_path, kind):
    expected, _ = unbroken(kind)
    same = train(config_of(kind), job(tmp_path / "same")).router
    assert_same_weights(same, expected)
    other = train(config_of(kind), job(tmp_path / "other", seed=1)).router
    assert differ(other, expected)


_KILLED_HARD = """
import os, signal, sys
from pathlib import Path
from distill.config import load
from distill.pipeline.train import train_router

def progress(stage, done, total=None):
    if stage.startswith("training") and done == 6:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    train_router(load(Path(sys.argv[1])), "encoder", 0, progress)
"""


def test_sigkill_then_the_command_line_goes_on(config_of, tmp_path):
    """The whole way: the process dies without a word, the user repeats the command."""
    traces = write_traces(tmp_path / "traces.jsonl")

    def config(output: str) -> Path:
        made = RunConfig.model_validate(
            {
                "name": "job",
                "output": str(tmp_path / output),
                "data": {
                    "traces": str(traces),
                    "drop_duplicates": None,
                    "split": {"merge_jaccard": None},
                },
                "routers": {"encoder": config_of("encoder").model_dump()},
            }
        )
        file = tmp_path / f"{output}.yaml"
        file.write_text(dump(made))
        return file

    def run(*command: str) -> int:
        return subprocess.run(
            [sys.executable, *command], timeout=240, capture_output=True, check=False
        ).returncode

    broken, whole = config("broken"), config("whole")
    assert run("-c", _KILLED_HARD, str(broken)) == -signal.SIGKILL
    left = tmp_path / "broken" / "job" / "encoder-s0"
    assert any(left.glob("checkpoints/*/trainer_state.json"))
    assert not (left / "manifest.json").exists()
    script = str(Path(__file__).parents[2] / "scripts" / "train.py")
    assert run(script, str(broken)) == 0
    assert run(script, str(whole)) == 0
    routers = [
        tmp_path / output / "job" / "encoder-s0" / "router" for output in ("broken", "whole")
    ]
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        a, b = (load_file(router / name) for router in routers)
        assert all(torch.equal(a[key], b[key]) for key in b)
    assert not (left / "checkpoints").exists()
