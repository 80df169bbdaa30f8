"""What of a conversation an argument's value may be copied from: passages, ranked by the request.

A value can stand anywhere (a device in the system prompt's list, an id in the last of fifty search
results), and an encoder reads a few hundred tokens. So the conversation is divided into passages,
those that share the rarest words with the request are kept, and the reader reads them alone
(retrieve, then read: Chen et al. 2017, arXiv:1704.00051). A passage is a slice of its message,
never a rewording, since a value is read back as it stands.

This module knows nothing of tokenizers, models or schemas: token counts come in as a function.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from distill.render import spaced
from distill.types import Context, Message

Count = Callable[[Sequence[str]], list[int]]
"""Texts -> the tokens of each, special ones not counted."""

_CHARS = 240
"""Characters of the longest passage."""
_PASSAGES = 400
"""Passages that are looked at, the latest ones, however long the conversation is."""
_MESSAGE_CHARS = 100_000
"""Characters of one message that are looked at."""
_STEM = 5
"""Letters by which words are the same: lights and light, curtains and curtain."""

# Items of a list begin a line without indentation; objects of a JSON array end in a brace.
_BREAK = re.compile(r"\s*\n(?=\S)|(?<=\}),\s*(?=\{)")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class _Passage:
    """A line of evidence and the position of its message."""

    message: int
    text: str


def evidence(context: Context, tool: str, count: Count, limit: int) -> str:
    """The passages that matter for calling `tool`, one a line, those of the latest message first.

    The latest user message has first claim to half of the limit, then the latest message to a
    quarter, then all passages by the words that they share with the request, each weighing
    log(1 + passages / passages with it); among equals the later.

    Args:
        tool: the tool's name, whose words belong to the request.
        limit: tokens, which the lines together keep to.
    """
    latest = len(context.messages) - 1
    users = (i for i in range(latest, -1, -1) if context.messages[i].role == "user")
    request = next(users, latest)
    passages = [p for i, m in enumerate(context.messages) for p in _passages(i, m)][-_PASSAGES:]
    stems = [_stems(passage.text) for passage in passages]
    asked = _stems(spaced(tool)).union(
        *(s for p, s in zip(passages, stems, strict=True) if p.message == request)
    )
    spread = Counter(stem for found in stems for stem in found)
    # Summed in a fixed order: a set's own varies between processes, and with it the last bits.
    score = [
        math.fsum(math.log1p(len(passages) / spread[s]) for s in found & asked) for found in stems
    ]
    ranked = sorted(range(len(passages)), key=lambda i: (-score[i], -i))
    tokens = [n + 1 for n in count([passage.text for passage in passages])]  # 1 for the line's end
    kept: set[int] = set()

    def take(candidates: Iterator[int], budget: int) -> None:
        for i in candidates:
            if i not in kept and tokens[i] <= budget:
                kept.add(i)
                budget -= tokens[i]

    take((i for i, p in enumerate(passages) if p.message == request), limit // 2)
    take((i for i in ranked if passages[i].message == latest), limit // 4)
    take(iter(ranked), limit - sum(tokens[i] for i in kept))
    lines = sorted(kept, key=lambda i: (-passages[i].message, i))
    return "\n".join(passages[i].text for i in lines)


def _passages(position: int, message: Message) -> Iterator[_Passage]:
    role = "result" if message.role == "tool" else message.role
    text = (message.content or "")[:_MESSAGE_CHARS]
    for part in _BREAK.split(text):
        for piece in _pieces(part.strip()):
            yield _Passage(position, f"{role}: {piece}")
    for call in message.calls:
        for piece in _pieces(orjson.dumps(call.arguments or {}).decode()):
            yield _Passage(position, f"call: {call.name} {piece}")


def _pieces(text: str) -> Iterator[str]:
    """Slices of at most `_CHARS`, divided at spaces where there are any."""
    while len(text) > _CHARS:
        end = text.rfind(" ", _CHARS // 2, _CHARS)
        end = _CHARS if end < 0 else end
        yield text[:end]
        text = text[end:].lstrip()
    if text:
        yield text


def _stems(text: str) -> frozenset[str]:
    return frozenset(word[:_STEM] for word in _WORD.findall(text.casefold()))
