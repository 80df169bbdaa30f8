"""What the examples share: one program with its tools chosen by the LM or by a router, counted.

Without `--lm`, DSPy's dummy LM answers from each task's script, so that everything runs offline; it
counts no tokens, which are null then.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
from dspy.utils import DummyLM
from dspy.utils.callback import BaseCallback

from distill.integrations.dspy import RoutedReAct, TraceRecorder

Tools = Sequence[Callable[..., Any]]
Plan = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    lm: dspy.LM | None
    router: str | None
    threshold: float
    record: Path | None

    def program(self, signature: str, tools: Tools) -> dspy.Module:
        """ReAct, or with `--router` the same with the router choosing."""
        if self.router is None:
            return dspy.ReAct(signature, tools)
        return RoutedReAct(signature, tools, router=self.router, policy=self.threshold)


def options(doc: str, arguments: Sequence[str] | None) -> Options:
    """Read the command line; `doc` is the example's."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lm", help="a model as DSPy names it; default: DSPy's dummy LM, offline")
    parser.add_argument("--router", help="a router folder or run; default: the LM chooses tools")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.9,
        help="confidence from which the router's word counts",
    )
    parser.add_argument("--record", type=Path, help="append what happens to this trace file")
    given = parser.parse_args(arguments)
    lm = dspy.LM(given.lm, cache=False) if given.lm else None
    return Options(lm, given.router, given.threshold, given.record)


def scripted(plan: Plan, outputs: Mapping[str, Any]) -> DummyLM:
    """A dummy LM that calls what the plan says next, then finishes and gives the outputs.

    It tells by the last observation in a prompt how far the plan has come.
    """
    answers = {}
    for i in reversed(range(len(plan) + 1)):
        name, arguments = plan[i] if i < len(plan) else ("finish", {})
        answers[f"[[ ## observation_{i - 1} ## ]]" if i else ""] = {
            "next_thought": "As the script says.",
            "next_tool_name": name,
            "next_tool_args": dict(arguments),
            "reasoning": "As the script says.",
            **outputs,
        }
    return DummyLM(answers)


class _Calls(BaseCallback):
    """Counts the requests to the LM."""

    def __init__(self) -> None:
        self.count = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.count += 1


def measure(given: Options, tasks: Sequence[Callable[[dspy.LM | None], bool]]) -> dict[str, Any]:
    """Do the tasks and print what they took as one line of JSON.

    Args:
        tasks: each does its work with the LM given, or with a scripted one of its own, and says
            whether it succeeded.
    """
    calls = _Calls()
    callbacks: list[BaseCallback] = [calls]
    if given.record is not None:
        callbacks.append(TraceRecorder(given.record))
    with ExitStack() as stack:
        stack.enter_context(dspy.context(callbacks=callbacks))
        usage = stack.enter_context(dspy.track_usage())
        succeeded = sum(task(given.lm) for task in tasks)
    tokens = [use.get("prompt_tokens") or 0 for use in usage.get_total_tokens().values()]
    line = {
        "tools_chosen_by": "lm" if given.router is None else "router",
        "tasks": len(tasks),
        "succeeded": succeeded,
        "lm_calls": calls.count,
        "prompt_tokens": sum(tokens) or None,
    }
    print(json.dumps(line))
    return line
