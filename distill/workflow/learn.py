"""Gradients, step by step: resumable, and never far from where it began.

One loop for outcomes (`learn`) and for labels (`imitate`), through accelerate. A step's inputs and
its chance depend on the seed and the step alone, so a run that was killed goes on from its last
checkpoint and ends where an unbroken one would. Kept is what did best on the held-out inputs, the
beginning included: outcomes that teach nothing change nothing.
"""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from accelerate.accelerator import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.config import LearnConfig
from distill.errors import WorkflowError
from distill.progress import Progress, silent
from distill.routers import devices
from distill.runs import append_line, new_folder, read_json, write_json
from distill.workflow.deciders import Values
from distill.workflow.gradients import Prices, chosen, divergence, expected, surrogate
from distill.workflow.graph import BranchNode, Workflow, decider_key
from distill.workflow.walk import Labels, Rollouts, walk

log = logging.getLogger(__name__)

_BAD_STEPS = 10
"""Steps in a row without a usable gradient, after which learning stops."""
_RARE = 1e-4

Labelled = tuple[Values, Labels]
"""An input, and the ways that were taken from it."""
State = dict[str, Tensor]
Step = Callable[[Sequence[int], torch.Generator], tuple[Tensor, Rollouts]]
Evaluate = Callable[[], tuple[Tensor, Rollouts]]


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


def learn(
    workflow: Workflow,
    inputs: Sequence[Values],
    held_out: Sequence[Values],
    config: LearnConfig,
    *,
    folder: Path | str,
    progress: Progress = silent,
) -> Learned:
    """Learn from outcomes; the workflow's deciders are changed in place.

    Args:
        inputs: to walk from, again and again.
        held_out: inputs that decide what is kept, with each decision the likeliest.
        folder: of the log and of checkpoints; a finished one is read and not learned anew. That the
            inputs are the same ones is the caller's to see to: they can be anything, and only
            their number is compared.

    Raises:
        WorkflowError: nothing is left to learn, the folder is of other settings, or most paths fail
            before the first step.
    """
    ways, prices = chosen(workflow), Prices(config.cost, config.second)
    task = {"from": "outcomes", "ways": ways, "inputs": [len(inputs), len(held_out)]}
    fit = _Fit(workflow, config, Path(folder), task)
    by_chance = not set(ways.values()) <= {"exact", "mixture"}
    samples = config.samples if by_chance else 1

    def step(rows: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Rollouts]:
        taken = [inputs[i] for i in rows]
        rollouts = walk(workflow, taken, ways, samples=samples, generator=generator)
        if not bool(rollouts.judged.any()):
            return torch.tensor(float("nan")), rollouts
        loss = surrogate(rollouts, prices)
        if config.trust:
            loss = loss + config.trust * divergence(rollouts, workflow, fit.reference)
        return loss, rollouts

    def evaluate() -> tuple[Tensor, Rollouts]:
        rollouts = walk(workflow, held_out, "likeliest")
        return expected(rollouts, prices), rollouts

    return fit.run(len(inputs), step, evaluate, progress)


def imitate(
    workflow: Workflow,
    inputs: Sequence[Labelled],
    held_out: Sequence[Labelled],
    config: LearnConfig,
    *,
    folder: Path | str,
    progress: Progress = silent,
) -> Learned:
    """Learn decisions from a teacher's, as distillation does; else as `learn`.

    Args:
        inputs: each with the way that the teacher took at each decision it came by.
    """

    def followed(rows: Sequence[Labelled]) -> tuple[Tensor, Rollouts]:
        known, labels = [values for values, _ in rows], [wanted for _, wanted in rows]
        rollouts = walk(workflow, known, "follow", labels=labels)
        return -rollouts.log_probabilities, rollouts

    def step(rows: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Rollouts]:
        losses, rollouts = followed([inputs[i] for i in rows])
        return losses.mean(), rollouts

    def evaluate() -> tuple[Tensor, Rollouts]:
        losses, rollouts = followed(held_out)
        return losses.detach(), rollouts

    task = {"from": "labels", "inputs": [len(inputs), len(held_out)]}
    fit = _Fit(workflow, config, Path(folder), task)
    return fit.run(len(inputs), step, evaluate, progress)


class _Fit:
    def __init__(
        self,
        workflow: Workflow,
        config: LearnConfig,
        folder: Path,
        task: dict[str, Any],
    ) -> None:
        self.workflow, self.config, self.folder = workflow, config, folder
        graph = {name: list(node.targets) for name, node in workflow.nodes.items()}
        self.task = {**task, "config": config.model_dump(mode="json"), "graph": graph}
        self.accelerator = Accelerator(cpu=devices.device().type == "cpu")
        self.deciders = workflow.deciders.to(self.accelerator.device)
        self.reference = copy.deepcopy(self.deciders).requires_grad_(False).eval()
        """The deciders as learning began."""
        self.evaluations: list[Evaluation] = []
        self.warnings: dict[str, None] = {}
        self.best: State = {}
        self.kept = 0
        self.passed: Counter[tuple[str, str]] = Counter()
        self.spread = (float("inf"), float("-inf"))

    def run(
        self,
        count: int,
        step: Step,
        evaluate: Evaluate,
        progress: Progress,
    ) -> Learned:
        if (found := self._finished()) is not None:
            return found
        with self._learning() as parameters:
            optimizer = torch.optim.AdamW(
                parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay
            )
            batch = min(self.config.batch_size, count)
            steps = max(1, round(self.config.epochs * count / batch))
            interval = -(-steps // self.config.evaluations)
            done = self._resumed(optimizer, parameters)
            if not self.evaluations:
                self._evaluate(0, evaluate)
            bad, stopped = 0, None
            while done < steps and stopped is None:
                rows = _rows(count, batch, done, self.config.seed)
                taken = self._step(rows, done, step, optimizer, parameters)
                bad = 0 if taken else bad + 1
                done += 1
                if bad == _BAD_STEPS:
                    stopped = f"{_BAD_STEPS} steps in a row gave no gradient that is a number"
                elif done % interval == 0 or done == steps:
                    stopped = self._evaluate(done, evaluate)
                    self._checkpoint(done, optimizer, parameters)
                progress("learning", done, steps)
        self.deciders.load_state_dict(self.best)
        self._look_for_silence()
        learned = Learned(tuple(self.evaluations), self.kept, done, tuple(self.warnings), stopped)
        for warning in (*learned.warnings, *([stopped] if stopped else [])):
            log.warning("%s", warning)
        self._finish(learned)
        return learned

    @contextmanager
    def _learning(self) -> Iterator[list[nn.Parameter]]:
        """The parameters that learn; those of frozen decisions do not."""
        if unknown := set(self.config.frozen) - set(self.workflow.decisions):
            raise WorkflowError("frozen", f"{min(unknown)!r} is no decision", "name one")
        before = {p: p.requires_grad for p in self.deciders.parameters()}
        for name in self.config.frozen:
            self.deciders[decider_key(name)].requires_grad_(False)
        parameters = [p for p in self.deciders.parameters() if p.requires_grad]
        if not parameters:
            raise WorkflowError("workflow", "nothing in it learns", "leave a decision unfrozen")
        try:
            yield parameters
        finally:
            for parameter, required in before.items():
                parameter.requires_grad_(required)
            self.deciders.eval()

    def _step(
        self,
        rows: list[int],
        number: int,
        step: Step,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
    ) -> bool:
        """Whether there was a usable gradient; without one nothing changes."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = rows[process::processes]
        self.deciders.train()
        optimizer.zero_grad()
        seed = (self.config.seed * 1_000_003 + number) * processes + process
        loss = torch.zeros((), device=self.accelerator.device)
        if mine:
            loss, rollouts = step(mine, torch.Generator().manual_seed(seed))
            self._watch(rollouts)
            if bool(loss.isfinite()) and loss.requires_grad:
                (loss * (len(mine) / len(rows))).backward()  # type: ignore[no-untyped-call]
        for parameter in parameters:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # A process without a number makes the step one without a number for all.
            grad = grad if bool(loss.isfinite()) else torch.full_like(parameter, float("nan"))
            parameter.grad = self._reduce(grad)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        usable = bool(norm.isfinite())
        if usable:
            optimizer.step()
        self._line({"step": number + 1, "loss": float(loss.detach()), "grad_norm": float(norm)})
        return usable

    def _reduce(self, grad: Tensor) -> Tensor:
        """The sum over all processes."""
        total: Tensor = self.accelerator.reduce(grad, "sum")  # type: ignore[no-untyped-call]
        return total

    def _wait(self) -> None:
        self.accelerator.wait_for_everyone()  # type: ignore[no-untyped-call]

    def _watch(self, rollouts: Rollouts) -> None:
        """Remember which ways were taken, and whether outcomes differ."""
        judged = rollouts.losses.detach()[rollouts.judged]
        if len(judged):
            low, high = self.spread
            self.spread = min(low, float(judged.min())), max(high, float(judged.max()))
        for each in rollouts.decided:
            targets = self.workflow.nodes[each.node].targets
            for target, share in zip(targets, each.shares.sum(0).tolist(), strict=True):
                self.passed[each.node, target] += share
        failed = [leaf.error for leaf in rollouts.leaves if leaf.error is not None]
        if failed:
            self.warnings.setdefault(f"some paths were not judged, such as by {failed[0]}")

    def _look_for_silence(self) -> None:
        if self.task["from"] == "outcomes" and self.spread[0] == self.spread[1]:
            self.warnings.setdefault(
                f"every path ended with the same loss, {self.spread[0]:g}: nothing to learn from"
            )
        for name, node in self.workflow.decisions.items():
            ways = {target: self.passed[name, target] for target in node.targets}
            total = sum(ways.values())
            for target, share in ways.items():
                if total and share <= _RARE * total:
                    self.warnings.setdefault(f"{name}: hardly ever went to {target}")
            if not total:
                self.warnings.setdefault(f"{name}: no path came by")

    def _evaluate(self, step: int, evaluate: Evaluate) -> str | None:
        """Add an evaluation, keep what is best; why learning must stop, if so."""
        self.deciders.eval()
        with torch.no_grad():
            objectives, rollouts = evaluate()
        failed = 1 - float(rollouts.judged.float().mean())
        values = objectives[~objectives.isnan()].double()
        error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else 0.0
        found = Evaluation(
            step,
            float(values.mean()),
            error,
            failed,
            rollouts.shares(self.workflow),
            {
                name: float(node.threshold.value.detach())
                for name, node in self.workflow.decisions.items()
                if isinstance(node, BranchNode)
            },
        )
        self.evaluations.append(found)
        self._line(asdict(found))
        if self.task["from"] == "outcomes" and failed > self.config.failures:
            first = next(leaf.error for leaf in rollouts.leaves if leaf.error is not None)
            fault = f"{failed:.0%} of the paths were not judged, such as by {first}"
            if step == 0:
                raise WorkflowError(
                    "workflow", fault, "mend what fails, or lead on_error to an end"
                )
            return fault
        best = min(each.objective for each in self.evaluations[:-1]) if step else float("inf")
        if step == 0 or found.objective < best:
            self.best = {n: t.detach().clone() for n, t in self.deciders.state_dict().items()}
            self.kept = step
        return None

    def _line(self, value: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            append_line(self.folder / "log.jsonl", orjson.dumps(value))

    def _finished(self) -> Learned | None:
        if not (self.folder / "learned.json").is_file():
            return None
        found = read_json(self.folder / "learned.json")
        self._require_same(found["task"])
        self.deciders.load_state_dict(load_file(self.folder / "learned.safetensors"))
        return _learned(found["learned"])

    def _finish(self, learned: Learned) -> None:
        if self.accelerator.is_main_process:
            _save(self.best, self.folder / "learned.safetensors")
            write_json(
                self.folder / "learned.json", {"task": self.task, "learned": asdict(learned)}
            )
        self._wait()

    def _checkpoint(
        self, step: int, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]
    ) -> None:
        if self.accelerator.is_main_process:
            with new_folder(self.folder / "checkpoint") as fresh:
                _save(self.deciders.state_dict(), fresh / "deciders.safetensors")
                _save(self.reference.state_dict(), fresh / "beginning.safetensors")
                _save(self.best, fresh / "best.safetensors")
                moments = {
                    f"{i}.{name}": value
                    for i, parameter in enumerate(parameters)
                    for name, value in optimizer.state[parameter].items()
                }
                _save(moments, fresh / "optimizer.safetensors")
                learned = Learned(tuple(self.evaluations), self.kept, step, tuple(self.warnings))
                passed = [[*way, share] for way, share in self.passed.items()]
                write_json(
                    fresh / "learned.json",
                    {
                        "task": self.task,
                        "learned": asdict(learned),
                        "passed": passed,
                        "spread": [str(x) for x in self.spread],
                    },
                )
        self._wait()

    def _resumed(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> int:
        """The steps that a checkpoint has behind it; 0 without one."""
        folder = self.folder / "checkpoint"
        if not folder.is_dir():
            return 0
        found = read_json(folder / "learned.json")
        self._require_same(found["task"])
        self.deciders.load_state_dict(load_file(folder / "deciders.safetensors"))
        self.reference.load_state_dict(load_file(folder / "beginning.safetensors"))
        self.best = load_file(folder / "best.safetensors", device=str(self.accelerator.device))
        for key, value in load_file(folder / "optimizer.safetensors").items():
            place, _, name = key.partition(".")
            parameter = parameters[int(place)]
            optimizer.state[parameter][name] = value.to(
                value.device if name == "step" else parameter.device
            )
        learned = _learned(found["learned"])
        self.evaluations, self.kept = list(learned.evaluations), learned.kept
        self.warnings = dict.fromkeys(learned.warnings)
        self.passed = Counter({(node, target): share for node, target, share in found["passed"]})
        low, high = found["spread"]
        self.spread = float(low), float(high)
        return learned.steps

    def _require_same(self, task: dict[str, Any]) -> None:
        if task != self.task:
            raise WorkflowError(
                self.folder, "holds what was learned otherwise", "name another folder, or remove it"
            )


def _rows(count: int, batch: int, step: int, seed: int) -> list[int]:
    """The inputs of a step: each epoch an order of its own, what is left over goes on into the
    next."""
    rows: list[int] = []
    place = step * batch
    while len(rows) < batch:
        epoch, first = divmod(place + len(rows), count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        rows += order[first : first + batch - len(rows)].tolist()
    return rows


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
