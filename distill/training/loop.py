"""The one training loop: transformers' `Trainer`, set up so that every run resumes exactly.

The RNN, the encoder and (through TRL's subclass) the decoder train with the arguments, the batches,
the log and the checkpoints made here. A run that is killed goes on from its last whole checkpoint
and ends at the weights of an unbroken one; with several processes each step sees the same examples
as with one. This module knows nothing of routers or datasets, only of rows with `input_ids`.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_utils import get_last_checkpoint

from distill.config import TrainConfig
from distill.errors import ConfigError, DatasetError, RouterError
from distill.runs import RunDir, read_json, write
from distill.training.job import Job

Row = dict[str, Any]
Arguments = TypeVar("Arguments", bound=TrainingArguments)

_BATCHES_SORTED_TOGETHER = 20
_STATE = "trainer_state.json"


class LengthBucketSampler(Sampler[int]):
    """Random batches of rows of similar length, the same for any number of processes.

    transformers' own length-grouped sampler groups by the batch of one process, so its order
    changes with their number; this one is made of whole optimiser steps.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        """Rows in whole batches; the rest has its turn in another epoch's order."""
        return len(self.lengths) // self.batch_size * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()[: len(self)]
        pool = self.batch_size * _BATCHES_SORTED_TOGETHER
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            rows = sorted(order[start : start + pool], key=lambda i: self.lengths[i])
            batches += [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]


class _RunLog(TrainerCallback):
    """Appends each logged step to `log.jsonl`, and reports progress.

    `seconds` counts training time over all sessions of a run that was interrupted.
    """

    def __init__(self, job: Job) -> None:
        self.run, self.progress = job.run, job.progress
        self.before, self.started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started = time.monotonic()
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
        if not state.is_world_process_zero:
            return
        line = {"step": state.global_step, "seconds": round(self.seconds, 3), **(logs or {})}
        with self.run.log.open("ab") as file:
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.progress(f"training {self.run.path.name}", state.global_step, state.max_steps)


def _step(line: bytes) -> int:
    try:
        return int(orjson.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**62  # a line cut off by a crash


def training_arguments(
    kind: type[Arguments],
    config: TrainConfig,
    job: Job,
    *,
    rows: int,
    metric: str,
    **extra: Any,
) -> Arguments:
    """transformers' arguments for a router's training.

    Args:
        rows: training rows, which together with the batch size give the steps.
        metric: what decides the best checkpoint; larger is better unless it is a loss.

    Raises:
        ConfigError: the batch cannot be shared evenly among the processes.
    """
    use_gpu = torch.cuda.is_available()
    probe = TrainingArguments(
        output_dir=str(job.run.checkpoints), use_cpu=not use_gpu, report_to=[]
    )
    processes = probe.world_size
    batch = min(config.batch_size, rows)
    if batch % processes:
        raise ConfigError(
            "train.batch_size",
            f"{batch} examples cannot be shared by {processes} processes",
            "use a multiple of the number of processes",
        )
    share = batch // processes
    # The largest divisor within the limit, so that every micro-batch has the same weight.
    micro = max(n for n in range(1, min(share, config.micro_batch) + 1) if share % n == 0)
    steps = max(1, round(config.epochs * (rows // batch)))
    interval = max(1, -(-steps // config.evaluations))
    return kind(
        output_dir=str(job.run.checkpoints),
        use_cpu=not use_gpu,
        bf16=in_bfloat16(config),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        per_device_eval_batch_size=micro,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * steps),
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=not metric.endswith("loss"),
        restore_callback_states_from_checkpoint=True,
        seed=job.seed,
        data_seed=job.seed,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[tracker for tracker in job.trackers if tracker != "tensorboard"],
        run_name=f"{job.run.path.parent.name}/{job.run.path.name}",
        disable_tqdm=True,
        **extra,
    )


def in_bfloat16(config: TrainConfig) -> bool:
    """Whether training computes in bfloat16; trained weights stay in float32."""
    if config.precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def callbacks(job: Job, config: TrainConfig) -> tuple[_RunLog, list[TrainerCallback]]:
    """The run's log, and all callbacks of a trainer (the log among them)."""
    log = _RunLog(job)
    made = [log, EarlyStoppingCallback(early_stopping_patience=config.patience)]
    if "tensorboard" in job.trackers:
        board: Any = TensorBoardCallback()
        # Its default lies among the checkpoints, which are removed when the run is whole.
        board.logging_dir = str(job.run.path / "tensorboard")
        made.append(board)
    return log, made


def require_validation(rows: Sequence[object]) -> None:
    """Raise DatasetError where there is nothing to choose the best checkpoint by."""
    if not rows:
        raise DatasetError(
            "data.split.validation",
            "no validation examples, by which the best checkpoint is chosen",
            "raise it, or take another seed",
        )


def optimizer(model: nn.Module, config: TrainConfig, head: float | None = None) -> Any:
    """AdamW (arXiv:1711.05101) over the trainable parameters; `head` is the head's own rate.

    Biases and other vectors are not decayed.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_head = head is not None and ".head." in f".{name}"
            groups.setdefault((in_head, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": head if in_head else config.learning_rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (in_head, decays), parameters in groups.items()
        ]
    )


def last_whole_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    while run.checkpoints.is_dir():
        newest = get_last_checkpoint(str(run.checkpoints))
        if newest is None:
            break
        try:
            read_json(Path(newest) / _STATE)  # transformers writes it last
        except RouterError:
            shutil.rmtree(newest)
        else:
            return Path(newest)
    return None


def fit(trainer: Trainer, run: RunDir) -> nn.Module:
    """Train, from the last checkpoint if there is one, and return the best model, unwrapped."""
    trainer.remove_callback(PrinterCallback)  # it prints every log line as a Python dictionary
    with trainer.accelerator.main_process_first():
        checkpoint = last_whole_checkpoint(run)
    if checkpoint is not None and _is_last(checkpoint):
        # No epoch is left, so that `train` only loads the best checkpoint.
        trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    best: nn.Module = trainer.accelerator.unwrap_model(trainer.model)
    return best


def _is_last(checkpoint: Path) -> bool:
    """Whether training stopped at this checkpoint: at its last step, or early."""
    callbacks = read_json(checkpoint / _STATE)["stateful_callbacks"]
    return bool(callbacks["TrainerControl"]["args"]["should_training_stop"])


def trainer_class(base: type[Trainer]) -> type[Trainer]:
    """`base` with our batches, and with our choice of the checkpoint that is kept.

    Batches come from `LengthBucketSampler`. Kept is the latest checkpoint whose metric is within
    one standard error of the best (after the one-standard-error rule of Breiman et al. 1984,
    "Classification and Regression Trees", ch. 3): validation parts are small, and the plain best
    is often a lucky early one. `eval_standard_error` gives the error; without it, the best wins.
    """

    class OurTrainer(base):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
            rows: Sequence[Row] = self.train_dataset if train_dataset is None else train_dataset
            batch = self.args.train_batch_size * self.args.world_size
            batch *= self.args.gradient_accumulation_steps
            lengths = [len(row["input_ids"]) for row in rows]
            return LengthBucketSampler(lengths, batch, self.args.seed)

        def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
            best = bool(super()._determine_best_metric(metrics, trial))
            error = metrics.get("eval_standard_error")
            if best or error is None:
                return best
            # Only metrics of which more is better come with an error.
            close = bool(metrics[self.args.metric_for_best_model] >= self.state.best_metric - error)
            if close:
                self.state.best_global_step = self.state.global_step
            return close

    return OurTrainer


def padded(pad: int) -> Callable[[list[Row]], dict[str, torch.Tensor]]:
    """A collator for rows of `input_ids` and one integer `labels` each, padded on the right."""

    def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), width), pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            mask[i, : len(row["input_ids"])] = 1
        labels = torch.tensor([row["labels"] for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return collate
