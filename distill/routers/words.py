"""How tools, and the decision for none, are put into words for models. Knows no tokenizer."""

import re

from distill.render import cut
from distill.types import ToolSpec

REPLY_IN_WORDS = "answer in words, nothing to look up or to do"
"""What stands for a reply where tools stand with their descriptions."""

_SEAMS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_.-]+")


def in_words(name: str) -> str:
    """`get_order`, `getOrder` or `orders.get` with spaces between its words."""
    return _SEAMS.sub(" ", name).strip()


def tool_text(tool: ToolSpec, chars: int) -> str:
    """What an encoder reads of a tool: `name in words: description; parameters: a, b`.

    Args:
        chars: characters kept of the description, and of the parameters' names together.
    """
    text = cut(in_words(tool.name), chars)
    if tool.description:
        text += f": {cut(tool.description, chars)}"
    names = tool.parameters.get("properties") or {}
    if names:
        text += f"; parameters: {cut(', '.join(map(in_words, names)), chars)}"
    return text
