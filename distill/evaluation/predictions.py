"""What a router decided on each test example, and the file that keeps it.

A metric can be added or mended later without the router, because `predictions.jsonl` holds the
decisions themselves. While they are made they are in a `Draft` of it and not in memory. This module
knows nothing of metrics or routers.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from distill.chat import call_json, decision_json, message_json, parse_decision, tool_json
from distill.errors import RouterError
from distill.evaluation.difficulty import Difficulty
from distill.evaluation.ledger import Ledger
from distill.runs import new_file
from distill.types import Decision, Example

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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

    @property
    def unscored(self) -> "Prediction":
        """Without the decision's scores, which no figure reads and which are the most of it."""
        return replace(self, decision=replace(self.decision, scores={}))


def had(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Those whose decision could be had: what figures are of."""
    return [p for p in predictions if p.decision.error is None]


class Draft:
    """Predictions that are being made for a file, in a `Ledger` beside it (`<stem>.part.jsonl`).

    A killed job goes on after the last whole one, and tries those again whose decision could not be
    had. What was begun with something else is begun anew.

    Args:
        path: the file that `finish` makes.
        settings: all that the predictions depend on, as JSON has it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        place = path.with_suffix(f".part{path.suffix}")
        try:
            self._ledger = Ledger(place, settings)
        except RouterError as error:
            log.warning("%s: %s: begun anew", error.place, error.fault)
            place.unlink()
            self._ledger = Ledger(place, settings)

    @property
    def done(self) -> set[str]:
        """The ids of examples that need not be decided again."""
        return self._ledger.done

    def add(self, prediction: Prediction) -> None:
        """Append one that is not done; it stays if the program is killed now."""
        self._ledger.add({**_row(prediction), "error": prediction.decision.error})

    def __iter__(self) -> Iterator[Prediction]:
        """Unscored, in the order in which their examples were first decided."""
        for row in self._ledger.rows():
            yield _prediction(row).unscored

    def finish(self) -> None:
        """Write the file, one JSON object a line, atomically; the draft is gone then."""
        with new_file(self.path) as file:
            for row in self._ledger.rows():
                del row["error"]
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        self._ledger.path.unlink(missing_ok=True)


def load(path: Path) -> list[Prediction]:
    """The predictions of a finished file, unscored.

    Raises:
        RouterError: the file is missing, empty, or has a line that is no prediction.
    """
    cure = f"run: distill evaluate {path.parent}"
    try:
        with path.open("rb") as file:
            made = [_parse(line, f"{path}:{i}", cure) for i, line in enumerate(file, start=1)]
    except FileNotFoundError:
        raise RouterError(path, "missing: the run is not evaluated", cure) from None
    if not made:
        raise RouterError(path, "holds no predictions", cure)
    return made


def _row(prediction: Prediction) -> dict[str, Any]:
    return {
        "id": prediction.id,
        "group": prediction.group,
        "label": decision_json(prediction.label),
        "decision": decision_json(prediction.decision),
        "weight": prediction.weight,
        "buckets": asdict(prediction.buckets),
        "size": None if prediction.size is None else asdict(prediction.size),
    }


def _prediction(value: Mapping[str, Any]) -> Prediction:
    """Inverse of `_row`."""
    return Prediction(
        id=value["id"],
        group=value["group"],
        label=parse_decision(value["label"]),
        decision=parse_decision(value["decision"]),
        weight=value["weight"],
        buckets=Difficulty(**value["buckets"]),
        size=None if value.get("size") is None else Size(**value["size"]),
    )


def _parse(line: bytes, place: str, cure: str) -> Prediction:
    try:
        return _prediction(orjson.loads(line)).unscored
    except (ValueError, KeyError, TypeError) as error:
        raise RouterError(place, f"not a prediction ({error!r})", cure) from None
