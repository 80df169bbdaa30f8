"""What a router decided on each test example, and the file that keeps it.

A metric can be added or mended later without the router, because `predictions.jsonl` holds the
decisions themselves. This module knows nothing of metrics or routers.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from distill.chat import call_json, decision_json, message_json, parse_decision, tool_json
from distill.errors import RouterError
from distill.evaluation.difficulty import Difficulty
from distill.runs import write
from distill.types import Decision, Example


@dataclass(frozen=True)
class Size:
    """How long an example's request to an LLM is: UTF-8 bytes of its JSON (`distill.chat`).

    `messages` of the conversation, `tools` of the offered tools' definitions, `answer` of the
    label's calls; the words of a reply are not in a dataset.
    """

    messages: int
    tools: int
    answer: int

    @classmethod
    def of(cls, example: Example) -> "Size":
        context = example.context
        return cls(
            messages=sum(len(orjson.dumps(message_json(m))) for m in context.messages),
            tools=sum(len(orjson.dumps(tool_json(tool))) for tool in context.tools),
            answer=sum(len(orjson.dumps(call_json(call))) for call in example.label.calls),
        )


@dataclass(frozen=True)
class Prediction:
    """A router's decision on one test example beside the teacher's (`label`).

    A decision that could not be had (`Decision.error`) is among the predictions and in no figure.
    """

    id: str
    group: str
    label: Decision
    decision: Decision
    weight: float
    buckets: Difficulty
    size: Size | None = None
    """None in files that are older than it."""

    @classmethod
    def of(cls, example: Example, decision: Decision) -> "Prediction":
        return cls(
            example.id,
            example.group,
            example.label,
            decision,
            example.weight,
            Difficulty.of(example),
            Size.of(example),
        )


def had(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Those whose decision could be had: what figures are of."""
    return [p for p in predictions if p.decision.error is None]


def save(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write one JSON object a line, atomically."""
    lines = [
        orjson.dumps(
            {
                "id": prediction.id,
                "group": prediction.group,
                "label": decision_json(prediction.label),
                "decision": decision_json(prediction.decision),
                "weight": prediction.weight,
                "buckets": asdict(prediction.buckets),
                "size": None if prediction.size is None else asdict(prediction.size),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for prediction in predictions
    ]
    write(path, b"".join(lines))


def load(path: Path) -> list[Prediction]:
    """Inverse of `save`.

    Raises:
        RouterError: the file is missing, empty, or has a line that is no prediction.
    """
    cure = f"run: distill evaluate {path.parent}"
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise RouterError(path, "missing: the run is not evaluated", cure) from None
    if not lines:
        raise RouterError(path, "holds no predictions", cure)
    return [_parse(line, f"{path}:{number}", cure) for number, line in enumerate(lines, start=1)]


def _parse(line: bytes, place: str, cure: str) -> Prediction:
    try:
        value = orjson.loads(line)
        return Prediction(
            id=value["id"],
            group=value["group"],
            label=parse_decision(value["label"]),
            decision=parse_decision(value["decision"]),
            weight=value["weight"],
            buckets=Difficulty(**value["buckets"]),
            size=None if value.get("size") is None else Size(**value["size"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RouterError(place, f"not a prediction ({error!r})", cure) from None
