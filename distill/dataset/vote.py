"""One answer per question, for training only.

Where the teacher answers one context in several ways, routers learn the label it gave most often.
Test parts keep every label, since there the teacher's wavering is part of what is measured.
"""

from collections.abc import Iterable

from distill.dataset.points import context_key
from distill.types import Example


def vote(examples: Iterable[Example]) -> list[Example]:
    """Keep, of the examples that share a context, the heaviest; ties go to the first."""
    best: dict[bytes, Example] = {}
    for example in examples:
        key = context_key(example.context)
        if key not in best or example.weight > best[key].weight:
            best[key] = example
    return list(best.values())
