"""A planner that answers questions by a search and a calculator, in turns.

    python scripts/examples/planner.py --record planner.jsonl
    distill run configs/run/orderdesk.yaml name=planner data.traces=planner.jsonl \\
        seeds=[0] data.split.merge_jaccard=null 'routers={tfidf: {kind: tfidf}}'
    python scripts/examples/planner.py --router runs/planner/tfidf-s0 --threshold 0.5

First the LM chooses the tools and is recorded; then a router trained on that record chooses, and
the LM is left with what the router is not sure of or cannot fill in (TF-IDF names tools and fills
in nothing, so it spares the LM the last step alone; an encoder with `arguments: extract` does
more). The questions are those of the record: this shows the path, not what a router is worth on
others. The search reads the few texts below, the calculator knows arithmetic alone.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from arms import Plan, measure, options, scripted

PLACES = {
    "Norrby bridge": ("metres long", 840),
    "Salt canal": ("metres long", 5200),
    "Eastern tunnel": ("metres long", 3150),
    "Harbour wall": ("metres long", 1275),
    "Clock tower": ("metres high", 62),
    "Old lighthouse": ("metres high", 41),
    "Water tower": ("metres high", 38),
    "Grain silo": ("metres high", 54),
    "Mill pond": ("metres deep", 7),
    "Quarry lake": ("metres deep", 33),
    "Town well": ("metres deep", 19),
    "Lock chamber": ("metres deep", 6),
}
TEXTS = [f"The {name} is {number} {measured}." for name, (measured, number) in PLACES.items()]

_OPERATORS: dict[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}
_LONGEST = 200


def search(query: str) -> str:
    """Look a fact up; returns the text that shares most words with the query."""
    wanted = _words(query)
    return max(TEXTS, key=lambda text: len(wanted & _words(text)))


def calculate(expression: str) -> float:
    """Work out an arithmetic expression of numbers, + - * / and brackets."""
    if len(expression) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    return _value(ast.parse(expression, mode="eval").body)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(operand))
    raise ValueError("only numbers, + - * / and brackets")


@dataclass(frozen=True)
class Task:
    """A question, the calls that answer it, and the answer."""

    question: str
    plan: Plan
    answer: float


def tasks() -> Iterator[Task]:
    """Facts to look up, sums to work out, and both in turn."""
    for i, (name, (measured, number)) in enumerate(PLACES.items(), start=2):
        what = f"How many {measured} is the {name}?"
        yield Task(what, [("search", {"query": name})], number)
        total = f"{number} * {i}"
        yield Task(
            f"How many {measured.split()[0]} are {i} times the {name}?",
            [("search", {"query": name}), ("calculate", {"expression": total})],
            number * i,
        )
        yield Task(f"What is {number} * {i}?", [("calculate", {"expression": total})], number * i)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Answer every question; prints and returns what that took."""
    given = options(__doc__, arguments)
    program = given.program("question -> answer", [search, calculate])

    def answered(task: Task) -> Callable[[dspy.LM | None], bool]:
        def do(lm: dspy.LM | None) -> bool:
            with dspy.context(lm=lm or scripted(task.plan, {"answer": f"{task.answer:g}"})):
                found = program(question=task.question)
            return _agrees(found, task)

        return do

    return measure(given, [answered(task) for task in tasks()])


def _agrees(found: dspy.Prediction, task: Task) -> bool:
    """Whether the answer is right and rests on the calls that it needs."""
    made = [value for key, value in found.trajectory.items() if key.startswith("tool_name_")]
    numbers = re.findall(r"-?\d+(?:\.\d+)?", str(found.answer))
    right = [float(number) for number in numbers] == [float(task.answer)]
    return right and {name for name, _ in task.plan} <= set(made)


if __name__ == "__main__":
    main()
