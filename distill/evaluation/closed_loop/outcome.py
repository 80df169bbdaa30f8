"""What became of one task, and its row in a `Ledger`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distill.environment import Score
from distill.types import Usage

End = Literal["done", "too many steps", "unresolved", "error"]
"""How a task ended: the user had said all and was answered; it took too many decisions (a
failure); the fallback had no answer; environment or fallback raised. Whether the latter two would
have succeeded is not known."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task."""

    id: str
    """The task's."""
    group: str
    kind: str | None
    end: End
    success: bool | None
    """None where it is not known."""
    score: Score | None
    """None after an error. Of a task left unresolved, its calls until then are judged by it, and
    `success` is not."""
    error: str | None
    words: tuple[str, ...]
    """What the user was told."""
    steps: tuple[Mapping[str, Any], ...]
    """Each decision: the policy's `reason`, `by` ("router" or "fallback"), and the `calls` that
    were made; none were where it was words."""
    usage: Usage
    """Sums over the fallback's answers; None where one of them is not known."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """The conversation as far as it went, as chat JSON; empty in rows of earlier versions."""

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Outcome":
        """The outcome of which this is the row."""
        score = row["score"]
        if score is not None:
            score = Score(**score | {"reasons": tuple(score["reasons"])})
        made = {"words": tuple(row["words"]), "steps": tuple(row["steps"])}
        made["messages"] = tuple(row.get("messages", ()))
        return cls(**{**row, **made, "score": score, "usage": Usage(**row["usage"])})
