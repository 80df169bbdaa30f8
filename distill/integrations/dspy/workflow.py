"""A workflow as a DSPy program, what it learns from outcomes as a DSPy optimiser.

Tools may be DSPy programs themselves: they are black boxes to the workflow, whose branches and
router nodes learn around them.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dspy
import torch
from dspy.teleprompt.teleprompt import Teleprompter

from distill.config import LearnConfig
from distill.errors import WorkflowError
from distill.progress import Progress, silent
from distill.workflow import Learned, Workflow, learn, walk
from distill.workflow.graph import EndNode, ToolNode

Metric = Callable[..., Any]
"""DSPy's: (example, prediction) -> bool or a number from 0 to 1."""


def metric_loss(
    metric: Metric, inputs: Sequence[str], outputs: Sequence[str]
) -> Callable[..., float]:
    """A metric as the loss of a workflow's `end`: 1 less what the metric gives.

    Args:
        inputs: the workflow's values that the metric's example has.
        outputs: those that its prediction has.
    """

    def lost(**known: Any) -> float:
        example = dspy.Example(**{name: known[name] for name in inputs})
        found = metric(example, dspy.Prediction(**{name: known[name] for name in outputs}))
        return 1.0 - float(found)

    # A workflow gives functions the values that their parameters name.
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
        for name in dict.fromkeys([*inputs, *outputs])
    ]
    vars(lost)["__signature__"] = inspect.Signature(parameters)
    return lost


class WorkflowProgram(dspy.Module):
    """One request through a workflow, each decision the likeliest.

    It is called with the workflow's inputs as keywords; one that only the loss compares with may be
    left out. The prediction has what the path's tools gave, its nodes as `path`, and its `loss`,
    None where an input was left out or the loss could not be told.

    `save` and `load` keep what decides in the workflow, not its functions.

    Raises:
        WorkflowError: when called: a tool fails and nothing in the workflow handles it, or an input
            is unknown or missing.
    """

    def __init__(self, workflow: Workflow) -> None:
        super().__init__()
        self.workflow = workflow
        self.learned: Learned | None = None
        """What `LearnOutcomes` made of it."""

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Walk it."""
        wanted = set(self.workflow.inputs)
        if unknown := set(inputs) - wanted:
            raise WorkflowError("workflow", f"has no input {min(unknown)!r}", "leave it out")
        left_out = wanted - set(inputs)
        nodes = self.workflow.nodes
        for node in nodes.values():
            if isinstance(node, ToolNode) and (needed := left_out & set(node.takes)):
                raise WorkflowError(node.name, f"needs {min(needed)!r}", "give it")
        with torch.no_grad():
            found = walk(self.workflow, [dict.fromkeys(left_out) | inputs], "likeliest")
        (leaf,) = found.leaves
        if leaf.error is not None and not isinstance(nodes[leaf.path[-1]], EndNode):
            raise WorkflowError("workflow", leaf.error, "lead on_error to a node that handles it")
        made = {name: value for name, value in leaf.values.items() if name not in wanted}
        judged = leaf.error is None and not left_out
        loss = float(found.losses[0]) if judged else None
        return dspy.Prediction(**made, path=list(leaf.path), loss=loss)

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """DSPy's: the deciders' weights, by name, as lists."""
        state = self.workflow.deciders.state_dict()
        return {"deciders": {name: tensor.tolist() for name, tensor in state.items()}}

    def load_state(self, state: dict[str, Any], **options: Any) -> None:
        """DSPy's: raises RuntimeError where the weights are another workflow's."""
        own = self.workflow.deciders.state_dict()
        found = {
            name: torch.tensor(value, dtype=own[name].dtype if name in own else None)
            for name, value in state["deciders"].items()
        }
        self.workflow.deciders.load_state_dict(found)


class LearnOutcomes(Teleprompter):
    """An optimiser that learns a `WorkflowProgram`'s decisions from the loss at its ends.

    Args:
        config: as `distill.workflow.learn` takes it.
        folder: of the log and of checkpoints: a killed compilation goes on where it stopped.
    """

    def __init__(
        self, config: LearnConfig, folder: Path | str, progress: Progress = silent
    ) -> None:
        super().__init__()
        self.config, self.folder, self.progress = config, Path(folder), progress

    def compile(
        self,
        student: WorkflowProgram,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        **options: Any,
    ) -> WorkflowProgram:
        """A copy of the program that has learned; the student stays as it is.

        Args:
            trainset: examples with all inputs of the workflow, those of its loss included.
            teacher: none is needed.
            valset: decides what is kept; left out, every fifth example of `trainset`, which is then
                not learned from.

        Raises:
            WorkflowError: an example lacks an input, or as `distill.workflow.learn`.
        """
        if valset is None:
            valset = trainset[::5]
            trainset = [example for i, example in enumerate(trainset) if i % 5]
        compiled: WorkflowProgram = student.deepcopy()
        compiled.learned = learn(
            compiled.workflow,
            _values(compiled.workflow, trainset),
            _values(compiled.workflow, valset),
            self.config,
            folder=self.folder,
            progress=self.progress,
        )
        compiled._compiled = True
        return compiled


def _values(workflow: Workflow, examples: Sequence[dspy.Example]) -> list[dict[str, Any]]:
    found = []
    for i, example in enumerate(examples):
        if missing := set(workflow.inputs) - set(example.keys()):
            raise WorkflowError(
                f"example {i}", f"has no {min(missing)!r}", "give each all inputs of the workflow"
            )
        found.append({name: example[name] for name in workflow.inputs})
    return found
