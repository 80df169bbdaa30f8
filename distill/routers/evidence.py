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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from distill.routers.words import in_words
from distill.types import Context, Message

Count = Callable[[Sequence[str]], list[int]]
"""Texts -> the tokens of each, special ones not counted."""

_CHARS = 240
"""Characters of the longest passage."""
_PASSAGES = 1000
"""Passages that are ranked: of the system prompt the first, of the rest the latest."""
_TRIED = 64
"""Passages of the best that are tried, since counting tokens costs more than ranking."""
_MESSAGE_CHARS = 100_000
"""Characters of one message that are looked at."""
_STEM = 4
"""Letters by which words are the same: tasks and task, curtains and curtain."""
_K1, _B = 1.2, 0.75
"""BM25's usual saturation and share of length normalisation."""

# Items of a list begin a line without indentation; objects of a JSON array end in a brace.
_BREAK = re.compile(r"\s*\n(?=\S)|(?<=\}),\s*(?=\{)")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class _Passage:
    """A slice of a message, and the position of the message."""

    message: int
    text: str


def evidence(context: Context, tool: str, count: Count, limit: int) -> str:
    """The passages that matter for calling `tool`, those of the latest message first.

    The latest user message has first claim to half of the limit, then the latest message to half of
    it, then all messages to what is left. A message gives the passages that come first by BM25
    (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", eq. 3.15) on the words of
    the latest user message and the tool; among equals the later.

    Args:
        tool: the tool's name.
        limit: tokens, which the text keeps to.

    Returns:
        The passages as they stand, a line's end after each, the messages under `user: ` and the
        like.
    """
    latest = len(context.messages) - 1
    users = (i for i in range(latest, -1, -1) if context.messages[i].role == "user")
    request = next(users, latest)
    system: list[_Passage] = []
    said: list[_Passage] = []
    for i, message in enumerate(context.messages):
        (system if message.role == "system" else said).extend(_passages(i, message))
    passages = system[:_PASSAGES] + said[-_PASSAGES:]
    words = [_stems(passage.text) for passage in passages]
    asked = frozenset(_stems(in_words(tool))).union(
        *(found for p, found in zip(passages, words, strict=True) if p.message == request)
    )
    scores = _bm25(words, asked)
    ranked = sorted(range(len(passages)), key=lambda i: (-scores[i], -i))
    asking = [i for i, passage in enumerate(passages) if passage.message == request]
    answering = [i for i in ranked if passages[i].message == latest]
    turns = [asking[:_TRIED], answering[:_TRIED], ranked[:_TRIED]]
    headings = [f"{_heading(message)}: " for message in context.messages]

    def measured(tried: Sequence[int]) -> dict[int, int]:
        # One more for the line's end; a message's heading is counted with each of its passages.
        lines = [headings[passages[i].message] + passages[i].text for i in tried]
        return {i: tokens + 1 for i, tokens in zip(tried, count(lines), strict=True)}

    kept = _kept(turns, measured(sorted(set().union(*turns))), limit)
    text, before = "", -1
    for i in sorted(kept, key=lambda i: (-passages[i].message, i)):
        at = passages[i].message
        text += f"{'' if at == before else headings[at]}{passages[i].text}\n"
        before = at
    return text


def _kept(turns: Sequence[Sequence[int]], tokens: Mapping[int, int], limit: int) -> set[int]:
    """What fits: of all but the last turn's passages at most half of the limit each."""
    kept: set[int] = set()
    for number, candidates in enumerate(turns, 1):
        left = limit - sum(tokens[i] for i in kept)
        left = left if number == len(turns) else min(left, limit // 2)
        for i in candidates:
            if i not in kept and tokens[i] <= left:
                kept.add(i)
                left -= tokens[i]
    return kept


def _bm25(passages: Sequence[Sequence[str]], asked: frozenset[str]) -> list[float]:
    """Each passage's score; how often a word comes in a passage does not count."""
    spread = Counter(stem for words in passages for stem in set(words))
    mean = sum(map(len, passages)) / max(1, len(passages))
    return [
        # Summed exactly: a set's order varies between processes, and with it the last bits.
        math.fsum(
            math.log1p((len(passages) - spread[stem] + 0.5) / (spread[stem] + 0.5))
            / (1 + _K1 * (1 - _B + _B * len(words) / mean))
            for stem in asked.intersection(words)
        )
        for words in passages
    ]


def _heading(message: Message) -> str:
    return "result" if message.role == "tool" else message.role


def _passages(position: int, message: Message) -> Iterator[_Passage]:
    for part in _BREAK.split((message.content or "")[:_MESSAGE_CHARS]):
        for piece in _pieces(part.strip()):
            yield _Passage(position, piece)
    for call in message.calls:
        for piece in _pieces(orjson.dumps(call.arguments or {}).decode()):
            yield _Passage(position, f"{call.name} {piece}")


def _pieces(text: str) -> Iterator[str]:
    """Slices of at most `_CHARS`, divided at spaces where there are any."""
    while len(text) > _CHARS:
        end = text.rfind(" ", _CHARS // 2, _CHARS)
        end = _CHARS if end < 0 else end
        yield text[:end]
        text = text[end:].lstrip()
    if text:
        yield text


def _stems(text: str) -> list[str]:
    return [word[:_STEM] for word in _WORD.findall(text.casefold())]
