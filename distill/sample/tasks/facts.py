"""What a reply must say: the facts that the author's reply takes from the tools' results.

A fact is a number, an identifier or a date. It is required where the author's reply has it, an
earlier result of the same conversation has it, and no user has named it before: what users said
themselves need not be told them. Which turn tells it does not matter. How a fact may be written,
`distill.mentions` says; of a date the year may be left out.
"""

import re
from collections.abc import Iterable, Sequence

from distill.mentions import Mentions
from distill.types import Message

_IDENTIFIER = re.compile(r"\b[A-Z]{1,4}-?[0-9]{2,}\b")
_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_DATE = re.compile(r"\b([0-9]{4})-[0-9]{2}-[0-9]{2}\b")


def required(messages: Sequence[Message]) -> list[str]:
    """The facts that a conversation's replies take from its results, each once, in order."""
    found: dict[str, None] = {}
    said, returned = "", ""
    for message in messages:
        content = message.content or ""
        if message.role == "user":
            said += f"{content}\n"
        elif message.role == "tool":
            returned += f"{content}\n"
        elif message.role == "assistant" and content and returned:
            # Replies write dates in many ways, results in one.
            dates = [match[0] for match in _DATE.finditer(returned)]
            facts = dates + _IDENTIFIER.findall(content)
            facts += _NUMBER.findall(_IDENTIFIER.sub(" ", content))
            known = Mentions(returned)
            told = [fact for fact in told_of(facts, content) if known.supports(fact)]
            heard = told_of(told, said)
            found |= dict.fromkeys(fact for fact in told if fact not in heard)
    return list(found)


def told_of(facts: Iterable[str], text: str) -> list[str]:
    """Those facts that a text has."""
    facts = list(facts)
    years = {match[1] for fact in facts if (match := _DATE.fullmatch(fact))}
    mentions = Mentions("\n".join([text, *sorted(years)]))
    return [fact for fact in facts if mentions.supports(fact)]
