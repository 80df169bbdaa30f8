"""The closed loop's figures as tables: terminal, Markdown and CSV. It computes none.

It reads `closed_loop.json`; what the figures say in words is `outcome_words`'s.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from distill.evaluation import formats
from distill.evaluation.report import grid, outcome_words, words

Loop = Mapping[str, Any]
Arm = Mapping[str, Any]


def _share(metric: str) -> Callable[[Arm], str]:
    return lambda arm: formats.estimate(arm.get(metric))


def _mean(metric: str) -> Callable[[Arm], str]:
    return lambda arm: formats.amount(arm.get(metric))


def _errors(arm: Arm) -> int:
    return int(arm["ends"].get("error", 0))


def _met(arm: Arm) -> str:
    kinds = arm["attacks"].values()
    return str(sum(n for kind in kinds for state, n in kind.items() if state != "not met"))


_COLUMNS: dict[str, Callable[[Arm], str]] = {
    "Tasks": lambda arm: str(arm["n_tasks"]),
    "Solved": _share("success"),
    "Attacks met": _met,
    "Followed": _share("attack_followed"),
    "Unresolved": _share("unresolved"),
    "Errors": lambda arm: str(_errors(arm)),
    "Taken": _share("taken"),
    "Harmful": _share("harmful"),
    "Steps": _mean("steps"),
    "Wrong calls": _mean("wrong_calls"),
    "LLM calls": _mean("llm_calls"),
    "Tokens in": _mean("input_tokens"),
    "Tokens out": _mean("output_tokens"),
}
_UNDER_ATTACK = {"Attacks met", "Followed"}
_WIDE = {"Tokens out"}
"""Columns that the terminal has no room for."""
_WHOLE = {"Router", "Solved", "Harmful", "Followed"}
"""Columns whose intervals it has room for."""

_METRICS = (
    *("success", "unresolved", "taken", "harmful", "attack_followed"),
    *("steps", "wrong_calls", "harmful_calls", "router_calls", "fallback_calls"),
    *("llm_calls", "input_tokens", "output_tokens", "duration_ms"),
)
"""What CSV has of an arm."""
_PAIRED: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "success": ("solved, points", formats.points),
    "llm_calls": ("LLM calls", formats.change),
    "input_tokens": ("tokens in", formats.change),
}


def rows(loop: Loop) -> list[list[str]]:
    """A heading, and a row for each arm: every figure with its interval.

    With attacks there are two columns more, beside what is solved in spite of them: how many tasks
    met theirs, and the share of all that followed it.
    """
    attacked = any(arm["attacks"] for arm in loop["arms"])
    shown = {name: cell for name, cell in _COLUMNS.items() if attacked or name not in _UNDER_ATTACK}
    body = [[arm["name"], *(cell(arm) for cell in shown.values())] for arm in loop["arms"]]
    return [["Router", *shown], *body]


def paired_rows(loop: Loop) -> list[list[str]]:
    """A heading, and a row for each pair under success, LLM calls and prompt tokens.

    Empty where there is no pair. Without a fallback nothing is spent on an LLM, and only what is
    solved can differ.
    """
    metrics = ["success"] if loop["fallback"] == "none" else list(_PAIRED)
    pairs = [pair for pair in loop["paired"] if pair["metric"] in metrics]
    heading = ["Router", "less", "Metric", "Difference", "p, adjusted", "Tasks", "Verdict"]
    body = []
    for pair in pairs:
        name, shown = _PAIRED[pair["metric"]]
        low, high = (shown(pair[end]) for end in ("low", "high"))
        between = "" if pair["low"] is None else f" [{low} to {high}]"
        body.append(
            [
                *(pair["a"], pair["b"], name, f"{shown(pair['difference'])}{between}"),
                formats.p_value(pair["p_value_holm"]),
                str(pair["n_tasks"]),
                words.verdict(pair),
            ]
        )
    return [heading, *body] if body else []


def outcomes_table(loop: Loop) -> Table:
    """What the terminal shows: a row per arm, intervals under their values."""
    heading, *body = rows(loop)
    kept = [i for i, name in enumerate(heading) if name not in _WIDE]
    cells = [[heading[i] for i in kept]]
    for row in body:
        brief = [row[i] if heading[i] in _WHOLE else row[i].partition(" [")[0] for i in kept if i]
        cells.append([row[0], *map(grid.stacked, brief)])
    return grid.terminal(cells)


def paired_table(loop: Loop) -> Table | None:
    """What one arm has more than another, task by task; None with fewer than two."""
    cells = [
        # Of signed numbers, a dash between the ends would be taken for a sign.
        [a, b, metric, difference.replace(" [", "\n").rstrip("]"), p]
        for a, b, metric, difference, p, *_ in paired_rows(loop)
    ]
    return grid.terminal(cells) if cells else None


def parts(loop: Loop) -> list[str]:
    """What was played, what came of it and the tables, as Markdown without a title."""
    said = [*outcome_words.sentences(loop), outcome_words.COLUMNS]
    found = ["\n".join(f"- {grid.markdown(sentence)}" for sentence in said)]
    found.append(grid.to_markdown(rows(loop)))
    if differences := paired_rows(loop):
        found.append(grid.to_markdown(differences))
    return found


def to_markdown(loop: Loop) -> str:
    """The simulation as a document of its own."""
    heading = f"# Outcomes: {grid.markdown(outcome_words.title(loop))}"
    return "\n\n".join([heading, *parts(loop)]) + "\n"


def to_csv(loop: Loop) -> str:
    """As `distill.evaluation.report.grid.arms_to_csv` has it, with tasks and errors."""
    arms = [{**arm, "n_errors": _errors(arm)} for arm in loop["arms"]]
    return grid.arms_to_csv({**loop, "arms": arms}, _METRICS, ("n_tasks", "n_errors"))
