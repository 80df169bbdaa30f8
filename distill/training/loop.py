"""The one training loop: transformers' `Trainer`, set up so that every run resumes exactly.

All trained kinds (the decoder through TRL's subclass) take the arguments, the batches and the
checkpoints made here. A run that is killed goes on from its last whole checkpoint
and ends at the weights of an unbroken one; with several processes each step sees the same examples
as with one. This module knows nothing of routers or datasets, only of rows with `input_ids`.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from distill.config import TrainConfig
from distill.errors import ConfigError, DatasetError, RouterError
from distill.routers import devices
from distill.runs import RunDir, read_json, write_json
from distill.training.job import Job
from distill.training.logs import RunLog, run_of_its_own, tensorboard

log = logging.getLogger(__name__)

Row = dict[str, Any]
Arguments = TypeVar("Arguments", bound=TrainingArguments)

RowFigures = Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor]
"""Model and batch -> [rows, n]: what each row adds to the sums that metrics are made of."""

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


def training_arguments(
    kind: type[Arguments],
    config: TrainConfig,
    job: Job,
    *,
    rows: int,
    metric: str | None,
    **extra: Any,
) -> Arguments:
    """transformers' arguments for a router's training.

    Args:
        rows: training rows, which together with the batch size give the steps.
        metric: what decides the best checkpoint; larger is better unless it is a loss. None:
            nothing is evaluated, and the last one is kept.

    Raises:
        ConfigError: the batch cannot be shared evenly among the processes.
    """
    use_cpu = devices.device().type == "cpu"
    probe = TrainingArguments(output_dir=str(job.run.checkpoints), use_cpu=use_cpu, report_to=[])
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
    if metric is not None:
        extra |= {
            "eval_strategy": "steps",
            "eval_steps": interval,
            "load_best_model_at_end": True,
            "metric_for_best_model": metric,
            "greater_is_better": not metric.endswith("loss"),
        }
    args = kind(
        output_dir=str(job.run.checkpoints),
        use_cpu=use_cpu,
        bf16=devices.dtype(config.precision) == torch.bfloat16,
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
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,
        seed=job.seed,
        data_seed=job.seed,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[tracker for tracker in job.trackers if tracker != "tensorboard"],
        run_name=f"{job.run.path.parent.name}/{job.run.title}",
        disable_tqdm=True,
        **extra,
    )
    _settle(args)
    return args


def _settle(args: TrainingArguments) -> None:
    """Mend what transformers takes from elsewhere than from its arguments."""
    # A launcher's `--mixed_precision` would win over a config that says float32.
    args.mixed_precision = "bf16" if args.bf16 else "no"
    if args.n_gpu > 1:
        # Without a launcher, transformers shares each batch among the GPUs of one process, which
        # multiplies the batch, and TRL refuses. It has no public switch, and sets this one, too.
        log.warning(
            "one of %d GPUs is used; accelerate launch --multi_gpu scripts/train.py uses them all",
            args.n_gpu,
        )
        args._n_gpu = 1


def callbacks(log: RunLog, job: Job, config: TrainConfig) -> list[TrainerCallback]:
    """All callbacks of a trainer."""
    stopping = EarlyStoppingCallback(early_stopping_patience=config.patience)
    return [log, stopping, *tensorboard(job)]


def require_validation(rows: Sequence[object]) -> None:
    """Raise DatasetError where there is nothing to choose the best checkpoint by."""
    if not rows:
        raise DatasetError(
            "data.split.validation",
            "no validation examples, by which the best checkpoint is chosen",
            "raise it, or take another seed",
        )


def optimizer(model: nn.Module, config: TrainConfig, **rates: float | None) -> Any:
    """AdamW (arXiv:1711.05101) over the trainable parameters.

    Biases and other vectors are not decayed.

    Args:
        rates: the peak learning rates of modules that have their own (None: they have not), by the
            modules' names.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = [rate for module, rate in rates.items() if rate and f".{module}." in f".{name}"]
            rate = own[0] if own else config.learning_rate
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (rate, decays), parameters in groups.items()
        ]
    )


def last_whole_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed.

    Its record of where the best one lies is an absolute path, mended here if the run was moved.
    """
    while run.checkpoints.is_dir():
        newest = get_last_checkpoint(str(run.checkpoints))
        if newest is None:
            break
        try:
            state = read_json(Path(newest) / _STATE)  # transformers writes it last
        except RouterError:
            shutil.rmtree(newest)
            continue
        if best := state.get("best_model_checkpoint"):
            here = str(run.checkpoints / Path(best).name)
            if here != best:
                write_json(Path(newest) / _STATE, state | {"best_model_checkpoint": here})
        return Path(newest)
    return None


def fit(trainer: Trainer, run: RunDir) -> nn.Module:
    """Train, from the last checkpoint if there is one, and return the best model, unwrapped.

    Raises:
        ConfigError: the loss or a metric is no longer a finite number.
    """
    trainer.remove_callback(PrinterCallback)  # it prints every log line as a Python dictionary
    with trainer.accelerator.main_process_first():
        checkpoint = last_whole_checkpoint(run)
    if checkpoint is not None and _is_last(checkpoint):
        # No epoch is left, so that `train` only loads the best checkpoint.
        trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
    with run_of_its_own(trainer.args.report_to or ()):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    best: nn.Module = trainer.accelerator.unwrap_model(trainer.model)
    return best


def _is_last(checkpoint: Path) -> bool:
    """Whether training stopped at this checkpoint: at its last step, or early."""
    callbacks = read_json(checkpoint / _STATE)["stateful_callbacks"]
    return bool(callbacks["TrainerControl"]["args"]["should_training_stop"])


def trainer_class(base: type[Trainer], add: RowFigures) -> type[Trainer]:
    """`base` with our batches, exact validation, and our choice of the checkpoint that is kept.

    Batches come from `LengthBucketSampler`. `compute_metrics` is given `predictions`, [rows, n] as
    `add` makes them, in the order of `eval_dataset`. transformers' own `eval_loss`, a mean over
    batches, is not computed: it would change with their size and with the number of processes.

    Kept is the latest checkpoint whose metric is within one standard error of the best (after the
    one-standard-error rule of Breiman et al. 1984, "Classification and Regression Trees", ch. 3):
    validation parts are small, and the plain best is often a lucky early one. The error is the
    best evaluation's `eval_standard_error`.
    """

    class OurTrainer(base):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
            rows: Sequence[Row] = self.train_dataset if train_dataset is None else train_dataset
            batch = self.args.train_batch_size * self.args.world_size
            batch *= self.args.gradient_accumulation_steps
            lengths = [len(row["input_ids"]) for row in rows]
            return LengthBucketSampler(lengths, batch, self.args.seed)

        def prediction_step(
            self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any
        ) -> tuple[None, torch.Tensor, torch.Tensor]:
            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                figures = add(model, inputs)
            # Metrics are computed only where there are labels; these stand in for them.
            return None, figures, figures[:, 0]

        def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
            if super()._determine_best_metric(metrics, trial):
                return True
            name, best = self.args.metric_for_best_model, self.state.best_metric
            # The history is part of every checkpoint, so a resumed run finds it there, too.
            then = next(line for line in self.state.log_history if line.get(name) == best)
            close: bool = abs(metrics[name] - best) <= then["eval_standard_error"]
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
