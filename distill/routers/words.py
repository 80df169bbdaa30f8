"""How tools, and the decision for none, are put into words for models. Knows no tokenizer."""

import re

REPLY_IN_WORDS = "answer in words, nothing to look up or to do"
"""What stands for a reply where tools stand with their descriptions."""

_SEAMS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_.-]+")


def in_words(name: str) -> str:
    """`get_order`, `getOrder` or `orders.get` with spaces between its words."""
    return _SEAMS.sub(" ", name).strip()
