"""What learning leaves in its folder: a log, a checkpoint to go on from, and what was learned.

    log.jsonl                        a line for each step and each evaluation
    checkpoint/                      all that an unbroken run would know at that step
    learned.json, learned.safetensors   once it is over

Only the main process writes; all read.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import torch
from accelerate.accelerator import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.errors import WorkflowError
from distill.runs import append_line, new_folder, read_json, write_json

State = dict[str, Tensor]
"""A module's tensors, by name."""


@dataclass(frozen=True)
class Evaluation:
    """Where learning stood after a step, on the held-out inputs; each decision the likeliest."""

    step: int
    objective: float
    """The mean over inputs; of labels, their mean negative log-likelihood."""
    standard_error: float
    failed: float
    """Share of the paths that were not judged."""
    shares: dict[str, dict[str, float]]
    """Of each decision, the share of each way."""
    thresholds: dict[str, float]


@dataclass(frozen=True)
class Learned:
    """What became of learning."""

    evaluations: tuple[Evaluation, ...]
    """The first before any step."""
    kept: int
    """The step whose deciders the workflow has now."""
    steps: int
    """Taken."""
    warnings: tuple[str, ...]
    stopped: str | None = None
    """Why learning ended before its last step."""


@dataclass
class Standing:
    """What learning knows of itself besides its weights."""

    step: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    kept: int = 0
    """The step of `best`."""
    best: State = field(default_factory=dict)
    """The deciders that did best on the held-out inputs."""
    warnings: dict[str, None] = field(default_factory=dict)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How much went which way, by decision and target."""
    spread: tuple[float, float] = (float("inf"), float("-inf"))
    """The least and the largest loss of a path."""

    def learned(self, stopped: str | None = None) -> Learned:
        """The part of it that is told."""
        evaluations, warnings = tuple(self.evaluations), tuple(self.warnings)
        return Learned(evaluations, self.kept, self.step, warnings, stopped)


class LearningFolder:
    """Of one task: `task` says what is learned from what, and another one's folder is refused.

    Raises:
        WorkflowError: from what reads, where the folder is of another task.
    """

    def __init__(self, path: Path, task: dict[str, Any], accelerator: Accelerator) -> None:
        self.path, self.task, self.accelerator = path, task, accelerator

    def line(self, value: dict[str, Any]) -> None:
        """Add to the log."""
        if self.accelerator.is_main_process:
            append_line(self.path / "log.jsonl", orjson.dumps(value))

    def finished(self) -> tuple[Learned, State] | None:
        """What was learned here before, and the deciders; None if learning is not over."""
        if not (self.path / "learned.json").is_file():
            return None
        found = self._read(self.path / "learned.json")
        return _learned(found["learned"]), load_file(self.path / "learned.safetensors")

    def finish(self, learned: Learned, best: State) -> None:
        """Write what was learned."""
        if self.accelerator.is_main_process:
            _save(best, self.path / "learned.safetensors")
            write_json(self.path / "learned.json", {"task": self.task, "learned": asdict(learned)})
        self._wait()

    def save(
        self,
        standing: Standing,
        deciders: nn.Module,
        reference: nn.Module,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        """Write a checkpoint in place of the last one."""
        if self.accelerator.is_main_process:
            with new_folder(self.path / "checkpoint") as fresh:
                _save(deciders.state_dict(), fresh / "deciders.safetensors")
                _save(reference.state_dict(), fresh / "beginning.safetensors")
                _save(standing.best, fresh / "best.safetensors")
                moments = {
                    f"{i}.{name}": value
                    for i, parameter in enumerate(parameters)
                    for name, value in optimizer.state[parameter].items()
                }
                _save(moments, fresh / "optimizer.safetensors")
                write_json(
                    fresh / "learned.json",
                    {
                        "task": self.task,
                        "learned": asdict(standing.learned()),
                        "passed": [[*way, share] for way, share in standing.passed.items()],
                        "spread": [str(x) for x in standing.spread],
                    },
                )
        self._wait()

    def resume(
        self,
        deciders: nn.Module,
        reference: nn.Module,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
    ) -> Standing | None:
        """Read the checkpoint into these; None, and nothing changed, without one."""
        folder = self.path / "checkpoint"
        if not folder.is_dir():
            return None
        found = self._read(folder / "learned.json")
        deciders.load_state_dict(load_file(folder / "deciders.safetensors"))
        reference.load_state_dict(load_file(folder / "beginning.safetensors"))
        for key, value in load_file(folder / "optimizer.safetensors").items():
            place, _, name = key.partition(".")
            parameter = parameters[int(place)]
            optimizer.state[parameter][name] = value.to(
                value.device if name == "step" else parameter.device
            )
        learned = _learned(found["learned"])
        low, high = found["spread"]
        return Standing(
            step=learned.steps,
            evaluations=list(learned.evaluations),
            kept=learned.kept,
            best=load_file(folder / "best.safetensors", device=str(self.accelerator.device)),
            warnings=dict.fromkeys(learned.warnings),
            passed=Counter({(node, target): share for node, target, share in found["passed"]}),
            spread=(float(low), float(high)),
        )

    def _read(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = read_json(path)
        if found["task"] != self.task:
            raise WorkflowError(
                self.path, "holds what was learned otherwise", "name another folder, or remove it"
            )
        return found

    def _wait(self) -> None:
        self.accelerator.wait_for_everyone()  # type: ignore[no-untyped-call]


def _save(state: State, path: Path) -> None:
    save_file({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, path)


def _learned(found: dict[str, Any]) -> Learned:
    # JSON has no number for the mean of nothing.
    nothing = {"objective": float("nan")}
    evaluations = tuple(
        Evaluation(**each | (nothing if each["objective"] is None else {}))
        for each in found["evaluations"]
    )
    return Learned(
        evaluations, found["kept"], found["steps"], tuple(found["warnings"]), found["stopped"]
    )
