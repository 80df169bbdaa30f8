"""What a closed router makes of tools that it was not trained on: it says so, and leaves them.

A router over fixed classes can never choose a tool of another name. Where one is on offer, the
confidence in what it does choose says nothing of that tool, so it is taken away and the LLM is
asked. A tool of a known name whose description or schema has changed is routed as before, with a
warning: many catalogues differ only in wording. An open encoder reads whatever is offered.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from distill.types import Context, Decision, ToolSpec

log = logging.getLogger(__name__)

_MOST = 10_000
"""Tools of which is remembered that they were told: names come from requests."""


class ClosedCatalogue:
    """The tools a router was trained on.

    Args:
        catalogue: their specifications; of a tool that had several, one.
    """

    def __init__(self, catalogue: Sequence[ToolSpec]) -> None:
        self._known = {tool.name: tool for tool in catalogue}
        self._told: set[str] = set()

    def without_unknown(
        self, decisions: Sequence[Decision], contexts: Sequence[Context]
    ) -> list[Decision]:
        """The decisions, without confidence where a context offers a tool of an unknown name."""
        for context in contexts:
            self._tell([tool for tool in context.tools if self._known.get(tool.name) != tool])
        return [
            decision
            if all(tool.name in self._known for tool in context.tools)
            else replace(decision, confidence=None)
            for decision, context in zip(decisions, contexts, strict=True)
        ]

    def _tell(self, others: Sequence[ToolSpec]) -> None:
        """Warn of unknown and changed tools, once of each."""
        new = [tool for tool in others if tool.name not in self._told]
        if not new or len(self._told) > _MOST:
            return
        self._told.update(tool.name for tool in new)
        for what, names in (
            (
                "unknown, so the LLM is left to decide",
                [t for t in new if t.name not in self._known],
            ),
            ("described otherwise", [t for t in new if t.name in self._known]),
        ):
            if names:
                some = ", ".join(tool.name for tool in names[:3])
                more = ", …" if len(names) > 3 else ""
                log.warning(
                    "offered tools differ from those of training: %s: %s%s", what, some, more
                )
