"""Gradients, step by step: resumable, and never far from where it began.

One loop for outcomes (`learn`) and for labels (`imitate`), through accelerate. A step's inputs and
its chance depend on the seed and the step alone, so a run that was killed goes on from its last
checkpoint and ends where an unbroken one would. Kept is what did best on the held-out inputs, the
beginning included: outcomes that teach nothing change nothing.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, nn

from distill.config import LearnConfig
from distill.errors import WorkflowError
from distill.progress import Progress, silent
from distill.routers import devices
from distill.workflow.checkpoint import Evaluation, Learned, LearningFolder, Standing
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
Step = Callable[[Sequence[int], torch.Generator], tuple[Tensor, Rollouts]]
Evaluate = Callable[[], tuple[Tensor, Rollouts]]


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
        self.workflow, self.config = workflow, config
        graph = {name: list(node.targets) for name, node in workflow.nodes.items()}
        self.task = {**task, "config": config.model_dump(mode="json"), "graph": graph}
        self.accelerator = Accelerator(cpu=devices.device().type == "cpu")
        self.folder = LearningFolder(folder, self.task, self.accelerator)
        self.deciders = workflow.deciders.to(self.accelerator.device)
        self.reference = copy.deepcopy(self.deciders).requires_grad_(False).eval()
        """The deciders as learning began."""
        self.standing = Standing()

    def run(
        self,
        count: int,
        step: Step,
        evaluate: Evaluate,
        progress: Progress,
    ) -> Learned:
        if (found := self.folder.finished()) is not None:
            learned, state = found
            self.deciders.load_state_dict(state)
            return learned
        with self._learning() as parameters:
            optimizer = torch.optim.AdamW(
                parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay
            )
            batch = min(self.config.batch_size, count)
            steps = max(1, round(self.config.epochs * count / batch))
            interval = -(-steps // self.config.evaluations)
            places = self.deciders, self.reference, optimizer, parameters
            self.standing = self.folder.resume(*places) or self.standing
            if not self.standing.evaluations:
                self._evaluate(evaluate)
            bad, stopped = 0, None
            while (done := self.standing.step) < steps and stopped is None:
                rows = _rows(count, batch, done, self.config.seed)
                taken = self._step(rows, done, step, optimizer, parameters)
                bad = 0 if taken else bad + 1
                self.standing.step = done = done + 1
                if bad == _BAD_STEPS:
                    stopped = f"{_BAD_STEPS} steps in a row gave no gradient that is a number"
                elif done % interval == 0 or done == steps:
                    stopped = self._evaluate(evaluate)
                    self.folder.save(self.standing, *places)
                progress("learning", done, steps)
        self.deciders.load_state_dict(self.standing.best)
        self._look_for_silence()
        learned = self.standing.learned(stopped)
        for warning in (*learned.warnings, *([stopped] if stopped else [])):
            log.warning("%s", warning)
        self.folder.finish(learned, self.standing.best)
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
        self.folder.line(
            {"step": number + 1, "loss": float(loss.detach()), "grad_norm": float(norm)}
        )
        return usable

    def _reduce(self, grad: Tensor) -> Tensor:
        """The sum over all processes."""
        total: Tensor = self.accelerator.reduce(grad, "sum")  # type: ignore[no-untyped-call]
        return total

    def _watch(self, rollouts: Rollouts) -> None:
        """Remember which ways were taken, and whether outcomes differ."""
        judged = rollouts.losses.detach()[rollouts.judged]
        if len(judged):
            low, high = self.standing.spread
            self.standing.spread = min(low, float(judged.min())), max(high, float(judged.max()))
        for each in rollouts.decided:
            targets = self.workflow.nodes[each.node].targets
            for target, share in zip(targets, each.shares.sum(0).tolist(), strict=True):
                self.standing.passed[each.node, target] += share
        failed = [leaf.error for leaf in rollouts.leaves if leaf.error is not None]
        if failed:
            self.standing.warnings.setdefault(f"some paths were not judged, such as by {failed[0]}")

    def _look_for_silence(self) -> None:
        least, largest = self.standing.spread
        if self.task["from"] == "outcomes" and least == largest:
            self.standing.warnings.setdefault(
                f"every path ended with the same loss, {least:g}: nothing to learn from"
            )
        for name, node in self.workflow.decisions.items():
            ways = {target: self.standing.passed[name, target] for target in node.targets}
            total = sum(ways.values())
            for target, share in ways.items():
                if total and share <= _RARE * total:
                    self.standing.warnings.setdefault(f"{name}: hardly ever went to {target}")
            if not total:
                self.standing.warnings.setdefault(f"{name}: no path came by")

    def _evaluate(self, evaluate: Evaluate) -> str | None:
        """Add an evaluation, keep what is best; why learning must stop, if so."""
        standing, step = self.standing, self.standing.step
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
        standing.evaluations.append(found)
        self.folder.line(asdict(found))
        if self.task["from"] == "outcomes" and failed > self.config.failures:
            first = next(leaf.error for leaf in rollouts.leaves if leaf.error is not None)
            fault = f"{failed:.0%} of the paths were not judged, such as by {first}"
            if step == 0:
                raise WorkflowError(
                    "workflow", fault, "mend what fails, or lead on_error to an end"
                )
            return fault
        best = min(each.objective for each in standing.evaluations[:-1]) if step else float("inf")
        if step == 0 or found.objective < best:
            state = self.deciders.state_dict()
            standing.best = {name: tensor.detach().clone() for name, tensor in state.items()}
            standing.kept = step
        return None


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
