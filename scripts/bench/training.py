"""How fast routers train, what share of the machine that is, and where the time goes.

The real training code runs for a few steps on the training part of a dataset; counted are the
steps after the first ones, without evaluation and checkpoints. The share is of the matrix
multiplication in the training's number format that this machine reaches just before
(`machine.py`), the FLOPs by the formulas in `flops.py`.

forward is the model with its loss; backward the gradients; optimizer AdamW's update; the rest is
batching, clipping, logging and the trainer's own work.

Example:
    python scripts/bench/training.py --routers rnn attention encoder decoder --steps 8
"""

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.accelerator import Accelerator
from flops import Cost, cost
from machine import describe, matmul_peak, synchronize
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from transformers import Trainer

from distill.config import AttentionConfig, DataConfig, DecoderConfig, EncoderConfig, RnnConfig
from distill.dataset import Dataset, load_dataset
from distill.dataset.vote import repeated, vote
from distill.errors import InputError
from distill.progress import silent
from distill.runs import RunDir, hardware, write_json
from distill.training import Job, Parts, Trained, train

WARM_UP = 2
"""First steps left out: allocators, caches and compilers are still filling."""

TrainedConfig = RnnConfig | AttentionConfig | EncoderConfig | DecoderConfig


@dataclass
class Work:
    """What the steps so far were made of. Times in seconds, `phases` without the rest."""

    steps: int = 0
    seconds: float = 0.0
    rows: int = 0
    tokens: int = 0
    positions: int = 0
    flops: int = 0
    phases: dict[str, float] = field(
        default_factory=lambda: {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
    )

    def figures(self) -> dict[str, Any]:
        """Rates over these steps; `positions` are tokens with padding."""
        shares = {name: seconds / self.seconds for name, seconds in self.phases.items()}
        return {
            "steps": self.steps,
            "examples_per_s": self.rows / self.seconds,
            "tokens_per_s": self.tokens / self.seconds,
            "padding_share": 1 - self.tokens / self.positions,
            "flops_per_s": self.flops / self.seconds,
            "shares": {**shares, "rest": 1 - sum(shares.values())},
        }


class Meter:
    """Watches a `distill.training.train` from outside; pass `progress` into its job.

    `Trainer` tells callbacks where a step ends, but not where its halves do, so the methods that
    mark them are wrapped while the meter is entered. With `phases` the GPU is waited for at each
    of them, which slows it a little; without, only at the ends of steps.
    """

    def __init__(self, phases: bool = True) -> None:
        self.work = Work()
        self._phases = phases
        self._step = Work()
        self._seen = 0
        self._cost: Cost | None = None
        self._paused = self._last = self._at = 0.0

    def progress(self, stage: str, done: int, total: int | None = None) -> None:
        """A `Progress`: the trainer calls it after each optimiser step."""
        if not stage.startswith("training"):
            return
        synchronize()
        now = time.perf_counter()
        step, self._step = self._step, Work()
        self._seen += 1
        if self._seen > WARM_UP:
            total_work = self.work
            total_work.steps += 1
            total_work.seconds += now - self._last - self._paused
            total_work.rows += step.rows
            total_work.tokens += step.tokens
            total_work.positions += step.positions
            total_work.flops += step.flops
            for name, seconds in step.phases.items():
                total_work.phases[name] += seconds
        self._last, self._paused = now, 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator["Meter"]:
        """Measure the training that runs in this block."""
        hooks = [
            register_optimizer_step_pre_hook(lambda *_: self._mark()),
            register_optimizer_step_post_hook(lambda *_: self._add("optimizer")),
        ]
        forward_and_backward, backward = Trainer.training_step, Accelerator.backward

        def training_step(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self._count(model, inputs)
            self._mark()
            return forward_and_backward(trainer, model, inputs, *args, **kwargs)

        def backward_only(accelerator: Any, *args: Any, **kwargs: Any) -> None:
            self._add("forward")
            backward(accelerator, *args, **kwargs)
            self._add("backward")

        try:
            with (
                patch.object(Trainer, "training_step", training_step),
                patch.object(Accelerator, "backward", backward_only),
                patch.object(Trainer, "evaluate", self._left_out(Trainer.evaluate)),
                patch.object(Trainer, "_save_checkpoint", self._left_out(Trainer._save_checkpoint)),
            ):
                yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _mark(self) -> None:
        if self._phases:
            synchronize()
        self._at = time.perf_counter()

    def _add(self, phase: str) -> None:
        before = self._at
        self._mark()
        self._step.phases[phase] += self._at - before

    def _left_out(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._paused += time.perf_counter() - start

        return timed

    def _count(self, model: Any, inputs: dict[str, Any]) -> None:
        self._cost = self._cost or cost(model)
        mask, labels = inputs["attention_mask"], inputs["labels"]
        lengths = mask.sum(1).tolist()
        answers = int((labels != -100).sum()) if labels.ndim == 2 else 0
        self._step.rows += len(lengths)
        self._step.tokens += sum(lengths)
        self._step.positions += mask.numel()
        self._step.flops += self._cost.of(lengths, answers)


def measure(
    config: TrainedConfig, parts: Parts, run: RunDir, steps: int, phases: bool = True
) -> dict[str, Any]:
    """Train for `steps` steps in `run` and return the figures of all but the first ones."""
    batch = min(config.train.batch_size, len(parts.train))
    # As many as are sorted by length together: with fewer, more padding would be left, and with
    # more, turning texts into tokens would take longer than the steps.
    train_part = parts.train[: max(steps, 20) * batch]
    short = {"epochs": steps / (len(train_part) // batch), "evaluations": 1}
    config = config.model_copy(update={"train": config.train.model_copy(update=short)})
    parts = Parts(train_part, parts.validation[:batch], parts.catalogue)
    return train_watched(config, parts, run, Meter(phases))[1]


def train_watched(
    config: TrainedConfig, parts: Parts, run: RunDir, meter: Meter
) -> tuple[Trained, dict[str, Any]]:
    """Train, and return the figures that the meter saw, too."""
    with meter.watching():
        trained = train(config, Job(parts, run, 0, [], meter.progress))
    return trained, meter.work.figures()


def open_dataset(folder: Path | None, temporary: Path) -> Dataset:
    """The dataset in `folder`, or the embedded sample's, built under `temporary`."""
    if folder is not None:
        return load_dataset(folder)
    from distill.pipeline.build import build_dataset  # noqa: PLC0415  (readers of a folder need less)

    build_dataset(DataConfig(), 0, temporary / "dataset", silent)
    return load_dataset(temporary / "dataset")


def training_parts(dataset: Dataset) -> Parts:
    """What routers train on in `distill train`, in random order, so that a part may be cut off."""
    train_part, validation = (
        repeated(vote(dataset.examples(part))) for part in ("train", "validation")
    )
    for part in (train_part, validation):
        random.Random(0).shuffle(part)
    return Parts(train_part, validation, dataset.catalogue())


def configs(args: argparse.Namespace) -> dict[str, TrainedConfig]:
    """The default config of each kind."""
    return {
        "rnn": RnnConfig(),
        "attention": AttentionConfig(),
        "encoder": EncoderConfig(model=args.encoder),
        "decoder": DecoderConfig(model=args.decoder),
    }


def row_of_table(name: str, figures: dict[str, Any]) -> str:
    """One line under `HEADER`."""
    shares = " ".join(f"{share:>9.0%}" for share in figures["shares"].values())
    return (
        f"{name:<8} {figures['examples_per_s']:>10.1f} {figures['tokens_per_s']:>9.0f}"
        f" {figures['padding_share']:>8.1%} {figures['flops_per_s'] / 1e9:>8.1f}"
        f" {figures['share_of_peak']:>8.1%} {shares}"
    )


HEADER = (
    "router   examples/s  tokens/s  padding  GFLOP/s  of peak"
    "   forward  backward optimizer      rest"
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ["rnn", "attention", "encoder", "decoder"]
    parser.add_argument("--routers", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--steps", type=int, help=f"steps each, over {WARM_UP} (default: by kind)")
    parser.add_argument("--dataset", type=Path, help="a dataset folder (default: the sample)")
    parser.add_argument("--encoder", default="packaged:minilm", help="its base model")
    parser.add_argument("--decoder", default="packaged:smollm2", help="its base model")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    args = parser.parse_args(arguments)
    if args.steps is not None and args.steps <= WARM_UP:
        parser.error(f"--steps: {args.steps} leaves nothing after {WARM_UP} warm-up steps")
    steps = {"rnn": 12, "attention": 12, "encoder": 10, "decoder": 6}
    machine, rows = hardware(), {}
    print(describe(machine), flush=True)
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        parts = training_parts(open_dataset(args.dataset, Path(folder)))
        for name in args.routers:
            peak = matmul_peak("float32", 8192 if torch.cuda.is_available() else 2048)
            config = configs(args)[name]
            # The peak's number format is the training's, on a GPU too.
            exact = config.train.model_copy(update={"precision": "float32"})
            figures = measure(
                config.model_copy(update={"train": exact}),
                parts,
                RunDir(Path(folder) / name),
                args.steps or steps[name],
            )
            figures["peak_flops_per_s"] = peak
            figures["share_of_peak"] = figures["flops_per_s"] / peak
            rows[name] = figures
            print(row_of_table(name, figures), flush=True)
    peaks = sorted(round(row["peak_flops_per_s"] / 1e9) for row in rows.values())
    print(f"measured peak in float32: {peaks[0]} to {peaks[-1]} GFLOP/s")
    if args.output is not None:
        write_json(args.output, {"hardware": machine, "routers": rows})


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"training.py: {error}")
