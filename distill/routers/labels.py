"""The decision classes of a closed catalogue, and how class probabilities become decisions.

A class is a multiset of tool names seen in training (`("get_order", "get_order")`) or `("reply",)`:
parallel calls need no threshold and no second head, and what was never called together in training
is never answered. A class whose tools are not all on offer in a context cannot win there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.types import REPLY, Context, Decision, ToolCall

Probabilities = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LabelSpace:
    """The classes in a fixed order; a class is a sorted tuple of tool names."""

    classes: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, labels: Iterable[Decision]) -> "LabelSpace":
        """Every distinct multiset among the labels, sorted."""
        return cls(tuple(sorted({label.tools for label in labels})))

    def __len__(self) -> int:
        return len(self.classes)

    def index(self, label: Decision) -> int | None:
        """The label's class; None for a multiset that training never saw."""
        try:
            return self.classes.index(label.tools)
        except ValueError:
            return None

    def decide(self, probabilities: Probabilities, contexts: Sequence[Context]) -> list[Decision]:
        """The most probable offered class of each context.

        Args:
            probabilities: [contexts, classes], rows summing to 1.
            contexts: what the rows were computed from.

        Returns:
            Decisions whose raw confidence is the class's share among the offered classes. Arguments
            are filled (with nothing) only where the tool's schema has no properties. Where no
            class is on offer, or the probabilities are no numbers, a reply of confidence 0.
        """
        return [
            self._decide(row, context) for row, context in zip(probabilities, contexts, strict=True)
        ]

    def _decide(self, row: Probabilities, context: Context) -> Decision:
        specs = {tool.name: tool for tool in context.tools}
        offered = np.array([c == (REPLY,) or all(n in specs for n in c) for c in self.classes])
        total = float(row[offered].sum())
        if not 0 < total < np.inf:  # not a number, too: damaged weights must not seem certain
            return Decision("reply", confidence=0.0)
        shares = np.where(offered, row, 0.0) / total
        scores: dict[str, float] = {}
        for names, share in zip(self.classes, shares, strict=True):
            for name in set(names):
                scores[name] = scores.get(name, 0.0) + float(share)
        best = int(shares.argmax())
        confidence = min(1.0, float(shares[best]))
        if self.classes[best] == (REPLY,):
            return Decision("reply", confidence=confidence, scores=scores)
        calls = tuple(
            ToolCall(name, None if specs[name].parameters.get("properties") else {})
            for name in self.classes[best]
        )
        return Decision("call", calls, confidence, scores)
