"""What a training tells while it runs: `log.jsonl`, its progress, and the trackers."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import orjson
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from distill.config import TrainConfig
from distill.errors import ConfigError
from distill.runs import write
from distill.training.job import Job


class RunLog(TrainerCallback):
    """Appends each logged step to `log.jsonl`, reports progress, and stops what has diverged.

    Made where the work on the training part begins, once the base model is loaded: `seconds`, like
    a baseline's, count turning texts into numbers, too. They add up over all sessions of a
    run that was interrupted.
    """

    def __init__(self, job: Job, config: TrainConfig) -> None:
        self.run, self.progress, self.config = job.run, job.progress, config
        self.before, self.started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        # Lines past the checkpoint belong to steps that are about to be taken again.
        lines = self.run.log.read_bytes().splitlines() if self.run.log.exists() else []
        kept = [line for line in lines if _step(line) <= state.global_step > 0]
        self.before = orjson.loads(kept[-1])["seconds"] if kept else 0.0
        write(self.run.log, b"".join(line + b"\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if state.is_world_process_zero:
            line = {
                "step": state.global_step,
                "seconds": round(self.seconds, 3),
                "processes": args.world_size,
                **logs,
            }
            with self.run.log.open("ab") as file:
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._require_finite(state.global_step, logs)

    def _require_finite(self, step: int, logs: dict[str, Any]) -> None:
        """Losses and metrics are those of all processes, so that all of them stop here or none."""
        for name, value in logs.items():
            watched = name == "loss" or name.startswith("eval_")
            if watched and isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(
                    "train.learning_rate",
                    f"at {self.config.learning_rate:g} training diverged by step {step} "
                    f"({name} is {value})",
                    "lower it",
                )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.progress(f"training {self.run.title}", state.global_step, state.max_steps)


def _step(line: bytes) -> int:
    try:
        return int(orjson.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**62  # a line cut off by a crash


def tensorboard(job: Job) -> list[TrainerCallback]:
    """Its callback, where the job asks for it; transformers makes those of the other trackers."""
    if "tensorboard" not in job.trackers:
        return []
    board: Any = TensorBoardCallback()
    # Its default lies among the checkpoints, which are removed when the run is whole.
    board.logging_dir = str(job.run.path / "tensorboard" / job.run.training)
    return [board]


@contextmanager
def run_of_its_own(trackers: Sequence[str]) -> Iterator[None]:
    """Give the training in this block its own run of Weights & Biases.

    transformers starts a run where none is open and never ends it, so that the next training would
    write into it. A run that the caller has open is left open.
    """
    if "wandb" not in trackers:
        yield
        return
    wandb = import_module("wandb")  # an extra
    open_before = wandb.run is not None
    try:
        yield
    finally:
        if not open_before:
            wandb.finish()
