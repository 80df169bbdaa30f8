"""The history experiment against an LLM: each task once per arm, and how it ended.

`own`: the LLM selects and calls the tools itself. Every other arm lets a router select; the LLM
words each reply, and is shown the results as that arm has it (`distill.evaluation.arms`). All arms
have the same tasks, tools and LLM, so differences are paired by task.

A task whose environment or LLM failed has no outcome: it counts neither as a success nor as a
failure, and its row says what happened. Tokens that the LLM did not state are not known, and a
task's sum is not known then. What answers, and what plays the user and the tools, are seen here
through the few methods below. Rows go to a `Ledger`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from distill.config import ArmName
from distill.dataset.verify import check_arguments
from distill.errors import ConfigError, DatasetError
from distill.evaluation.arms import ARMS, Arm
from distill.evaluation.intervals import (
    estimate,
    mean,
    number_groups,
    paired_difference,
    ratio,
)
from distill.evaluation.ledger import Ledger
from distill.evaluation.paired import adjusted, entry
from distill.history import synthetic
from distill.progress import Progress, silent
from distill.runs import write_json
from distill.types import Context, Decision, Message, Router, ToolCall, ToolSpec, Usage

MOST_STEPS = 30
"""Calls that a task may take unless the caller says otherwise; one that needs more has failed."""

AMOUNTS = ("llm_calls", "input_tokens", "output_tokens", "latency_ms")
"""What a task costs, beside its success. Latency is the LLM's, summed over its answers."""

_MOST_ERROR = 300


class Task(Protocol):
    """One conversation to be had."""

    @property
    def id(self) -> str: ...

    @property
    def group(self) -> str:
        """What intervals resample."""

    @property
    def system(self) -> str | None: ...

    @property
    def user(self) -> Sequence[str]:
        """What the user says, turn by turn, whatever the assistant answers."""


class Score(Protocol):
    """How a task ended."""

    @property
    def success(self) -> bool: ...

    @property
    def reasons(self) -> Sequence[str]:
        """What is missing or too much, in words."""


T = TypeVar("T", bound=Task)


class Environment(Protocol[T]):
    """Tools to call and tasks to solve with them; whatever it raises is that task's error."""

    @property
    def tools(self) -> Sequence[ToolSpec]: ...

    def tasks(self) -> Iterable[T]:
        """The tasks, the same each time."""

    def reset(self, task: T) -> None: ...

    def execute(self, call: ToolCall) -> str:
        """What the tool returns; only called with arguments that fit the tool's schema."""

    def score(self, words: Sequence[str]) -> Score:
        """Judge the task by what was called and what the user was told, one text per turn."""


class Answer(Protocol):
    """What an LLM answered: a decision and the words beside it, or an error."""

    @property
    def decision(self) -> Decision | None: ...

    @property
    def words(self) -> str | None: ...

    @property
    def usage(self) -> Usage: ...

    @property
    def latency_ms(self) -> float | None: ...

    @property
    def error(self) -> str | None: ...


class Llm(Protocol):
    """The LLM: any endpoint's client, or a model of one's own."""

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        max_tokens: int,
        tool_choice: str,
    ) -> Answer:
        """Args: tool_choice: `auto`, or `none` where words are wanted."""


def experiment(
    environment: Environment[T],
    llm: Llm,
    router: Router,
    out: Path,
    *,
    settings: Mapping[str, Any],
    arms: Sequence[ArmName] = ("own", "handed", "synthetic"),
    most_steps: int = MOST_STEPS,
    max_tokens: int = 1024,
    bootstrap: int = 2000,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Play every task under every arm, and write `tasks.jsonl` and `histories.json` into `out`.

    A killed experiment goes on after the last task that is in `tasks.jsonl`.

    Args:
        settings: all that the outcomes depend on (the LLM, the router, the tasks), to tell whether
            what is in `out` belongs to this experiment.
        max_tokens: of each answer of the LLM.

    Returns:
        what `summary` returns, and `settings`.

    Raises:
        ConfigError: `own-no-tools`, which only a record can have; no arms, or one of them twice.
        RouterError: `out` holds tasks of another experiment.
        DatasetError: there are no tasks, or none ended.
    """
    if "own-no-tools" in arms:
        raise ConfigError("arms", "an LLM cannot call tools it is not offered", "leave it out")
    if not arms or len(set(arms)) < len(arms):
        raise ConfigError("arms", "none, or one of them twice", "name each arm once")
    limits = {"most_steps": most_steps, "max_tokens": max_tokens}
    tasks = list(environment.tasks())
    total = len(tasks) * len(arms)
    with Ledger(out / "tasks.jsonl", {**settings, **limits}) as ledger:
        for done, (task, name) in enumerate(((t, a) for t in tasks for a in arms), start=1):
            if f"{name} {task.id}" not in ledger.done:
                game = _Game(ARMS[name], environment, llm, router, max_tokens)
                ledger.add(game.row(task, most_steps))
            progress("tasks", done, total)
        wanted = {f"{name} {task.id}" for task in tasks for name in arms}
        report = summary((row for row in ledger.rows() if row["id"] in wanted), arms, bootstrap)
    report = {"settings": {**settings, **limits}, **report}
    write_json(out / "histories.json", report)
    return report


@dataclass
class _Game:
    """One task under one arm, as far as it has come."""

    arm: Arm
    environment: Environment[Any]
    llm: Llm
    router: Router
    max_tokens: int
    messages: tuple[Message, ...] = ()
    words: list[str] = field(default_factory=list)
    beside: str | None = None
    """What an LLM said beside its latest calls: its own history keeps it, the user is not told."""
    steps: int = 0
    refused: int = 0
    answers: list[Answer] = field(default_factory=list)

    def row(self, task: Task, most_steps: int) -> dict[str, Any]:
        """Play the task; what was foreign and failed is part of the row."""
        success: bool | None = None
        reasons: tuple[str, ...] = ()
        error: str | None = None
        try:
            end = self._play(task, most_steps)
            with _foreign("environment"):
                score = self.environment.score(self.words)
                success = bool(score.success) and end == "done"
                reasons = tuple(map(str, score.reasons))
        except _ForeignError as fault:
            end, error = "error", str(fault)
        return {
            "id": f"{self.arm.name} {task.id}",
            "task": task.id,
            "group": task.group,
            "arm": self.arm.name,
            "end": end,
            "success": success,
            "reasons": reasons,
            "error": error,
            "words": self.words,
            "steps": self.steps,
            "refused": self.refused,
            "llm_calls": len(self.answers),
            "input_tokens": _sum(answer.usage.input_tokens for answer in self.answers),
            "output_tokens": _sum(answer.usage.output_tokens for answer in self.answers),
            "latency_ms": _sum(answer.latency_ms for answer in self.answers),
        }

    def _play(self, task: Task, most_steps: int) -> str:
        with _foreign("environment"):
            self.environment.reset(task)
            tools = tuple(self.environment.tools)
        if task.system is not None:
            self.messages = (Message("system", task.system),)
        for said in task.user:
            self.messages = (*self.messages, Message("user", said))
            while calls := self._decide(Context(self.messages, tools)):
                if self.steps >= most_steps:
                    return "too many steps"
                self._execute(calls, tools)
        return "done"

    def _decide(self, context: Context) -> tuple[ToolCall, ...]:
        """The next calls; none where the words of a reply were said instead."""
        if self.arm.history == "own":
            decision, words = self._ask(context, "auto")
        else:
            (decision,) = self.router.decide([context])
            if any(_refusal(call, context.tools) for call in decision.calls):
                # The LLM is asked for words, as it would be where a policy takes no such call.
                self.refused += len(decision.calls)
                decision = Decision("reply")
            words = None if decision.calls else self._words(self.arm.shown(context))
        if not decision.calls:
            self.words.append(words or "")
            self.messages = (*self.messages, Message("assistant", words or ""))
        self.beside = words if decision.calls else None
        return decision.calls

    def _words(self, context: Context) -> str:
        """A reply to what the LLM is shown; an LLM that calls all the same is not offered tools."""
        decision, words = self._ask(context, "none")
        if decision.calls and context.tools:
            decision, words = self._ask(Context(context.messages, ()), "none")
        if decision.calls:
            raise _ForeignError("LLM: calls where it is offered no tools")
        return words or ""

    def _ask(self, context: Context, tool_choice: str) -> tuple[Decision, str | None]:
        with _foreign("LLM"):
            answer = self.llm.complete(
                context.messages,
                context.tools,
                max_tokens=self.max_tokens,
                tool_choice=tool_choice,
            )
        self.answers.append(answer)
        if answer.decision is None:
            raise _ForeignError(f"LLM: {answer.error}"[:_MOST_ERROR])
        return answer.decision, answer.words

    def _execute(self, calls: Sequence[ToolCall], tools: Sequence[ToolSpec]) -> None:
        results = []
        for call in calls:
            self.steps += 1
            refusal = _refusal(call, tools)
            if refusal is None:
                with _foreign("environment"):
                    results.append(self.environment.execute(call))
            else:
                self.refused += 1
                results.append(f"Error: {refusal}")
        position = len(self.messages)
        made = list(synthetic(self.messages, calls, results))
        made[position] = replace(made[position], content=self.beside)
        self.messages = tuple(made)


def _refusal(call: ToolCall, tools: Sequence[ToolSpec]) -> str | None:
    """Why a call is not executed; None if it is."""
    spec = next((tool for tool in tools if tool.name == call.name), None)
    if spec is None:
        return f"no tool {call.name}"
    if call.arguments is None:
        return "no arguments"
    return check_arguments(call, spec)


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


class _ForeignError(Exception):
    """What environment or LLM raised, in words."""


@contextmanager
def _foreign(who: str) -> Iterator[None]:
    """Tell the faults of foreign code, whatever they are, from ours."""
    try:
        yield
    except Exception as error:
        raise _ForeignError(f"{who}: {type(error).__name__}: {error}"[:_MOST_ERROR]) from error


def summary(
    rows: Iterable[Mapping[str, Any]], arms: Sequence[ArmName], resamples: int
) -> dict[str, Any]:
    """Figures of every arm and paired differences between them, with intervals over groups.

    Returns:
        `arms`, each with `n_tasks`, `ends` and, of the tasks that ended, `success` and the mean of
        each of `AMOUNTS`: null where a task's is not known. `paired`: of every pair the later arm
        `a` less the earlier `b`, over the `n_tasks` that ended under both and whose figures are
        known, for success and amounts; pairs without such a task are left out.

    Raises:
        DatasetError: no task ended.
    """
    by_arm: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in arms}
    for row in rows:
        by_arm[row["arm"]][row["task"]] = row
    if not any(row["success"] is not None for found in by_arm.values() for row in found.values()):
        raise DatasetError("tasks", "none ended", "see tasks.jsonl for the errors")
    paired: list[dict[str, Any]] = []
    for metric in ("success", *AMOUNTS):
        entries = []
        for b, a in combinations(by_arm, 2):
            both = [
                (row, by_arm[b][task])
                for task, row in by_arm[a].items()
                if task in by_arm[b] and _known(row, metric) and _known(by_arm[b][task], metric)
            ]
            if both:
                left, right = (np.array([float(pair[i][metric]) for pair in both]) for i in (0, 1))
                groups = number_groups([row["group"] for row, _ in both])
                found = paired_difference(
                    left, right, groups, resamples, shares=metric == "success"
                )
                entries.append({**entry(a, b, metric, found), "n_tasks": len(both)})
        paired += adjusted(entries)
    return {
        "arms": [_arm(name, list(found.values()), resamples) for name, found in by_arm.items()],
        "paired": paired,
    }


def _known(row: Mapping[str, Any], metric: str) -> bool:
    return row["success"] is not None and row[metric] is not None


def _arm(name: str, rows: Sequence[Mapping[str, Any]], resamples: int) -> dict[str, Any]:
    ended = [row for row in rows if row["success"] is not None]
    groups = number_groups([row["group"] for row in ended])
    figures: dict[str, Any] = dict.fromkeys(("success", *AMOUNTS))
    if ended:
        success = np.array([float(row["success"]) for row in ended])
        found = estimate({"success": ratio(success, np.ones_like(success))}, groups, resamples)
        assert found["success"] is not None
        figures["success"] = found["success"]._asdict()
    for metric in AMOUNTS:
        if ended and all(row[metric] is not None for row in ended):
            values = np.array([float(row[metric]) for row in ended])
            figures[metric] = mean(values, groups, resamples)._asdict()
    ends = dict(Counter(row["end"] for row in rows))
    return {"name": name, "n_tasks": len(rows), "ends": ends, **figures}
