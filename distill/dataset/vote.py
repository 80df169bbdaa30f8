"""What routers learn from: one answer per question, as often as it is worth.

Where the teacher answers one context in several ways, routers learn the label it gave most often.
Test parts keep every label, since there the teacher's wavering is part of what is measured.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import orjson

from distill.dataset.points import context_key, label_key
from distill.types import Context, Example


def vote(examples: Iterable[Example], *, reads_system: bool = False) -> list[Example]:
    """Keep one example per context: the first with the label of the greatest total weight.

    Its weight becomes that total; among equal totals the label that came first wins. Contexts stay
    in the order of their first example.

    Args:
        reads_system: whether the router is shown system messages, so that contexts which differ in
            them alone are different questions to it. They count whole, however few of their
            characters it is shown.
    """
    answers: dict[bytes, dict[bytes, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        answers[_question(example.context, reads_system)][label_key(example.label)].append(example)
    kept = []
    for labels in answers.values():
        totals = {key: sum(example.weight for example in same) for key, same in labels.items()}
        winner = max(totals, key=totals.__getitem__)
        kept.append(replace(labels[winner][0], weight=totals[winner]))
    return kept


def _question(context: Context, reads_system: bool) -> bytes:
    key = context_key(context)
    if reads_system:
        texts = [message.content for message in context.messages if message.role == "system"]
        key += hashlib.sha256(orjson.dumps(texts)).digest()
    return key


def repeated(examples: Iterable[Example]) -> list[Example]:
    """Each example round(sqrt(weight)) times, copies side by side.

    Merging duplicates leaves a question that is asked daily as rare as one asked once. Repeating
    it fully would let a few questions fill training, and cost its time; the square root lies
    between the two.
    """
    return [copy for example in examples for copy in [example] * round(math.sqrt(example.weight))]
