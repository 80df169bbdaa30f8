"""One example where traces of one group key ask the same question and get the same answer.

Exact copies share context and label (`points.context_key`, `points.label_key`). Near duplicates
share tools and label, and their contexts, as the default `RenderConfig` words them, are similar.
The first in order is kept, and its weight counts all that were merged into it. Equal contexts with
different labels are both kept: that is how often the teacher disagrees with itself. Copies under
different group keys are kept too, though `split` may put those into one group: a group can be most
of a dataset, and memory must not grow with it.

In memory are the keys of one group key's examples, and the index (`similar.Index`) over those that
share tools and label: some 6 kB for each distinct context there. This module knows nothing of
files.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distill.dataset.similar import Index
from distill.dataset.spool import Key


@dataclass
class Merged:
    """Examples after merging: weights of the kept examples by id, and what was merged away."""

    weights: Counter[int] = field(default_factory=Counter)
    exact: int = 0
    near: int = 0


def merge(keys: Sequence[Key], threshold: float | None, text: Callable[[int], str]) -> Merged:
    """Merge the duplicates among the examples of one group key.

    Args:
        keys: the examples, in the order that decides which one is kept.
        threshold: Jaccard similarity from which contexts are near duplicates; 1 merges exact
            copies only, None merges nothing.
        text: the rendered context of an example id; asked only where a label occurs with
            several contexts.
    """
    merged = Merged()
    if threshold is None:
        merged.weights.update(key.id for key in keys)
        return merged
    copies: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    rivals: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for key in keys:
        same = copies[key.context, key.label]
        same.append(key.id)
        if len(same) == 1:
            rivals[key.tools, key.label].append(key.id)
    for same in copies.values():
        merged.weights[same[0]] = len(same)
        merged.exact += len(same) - 1
    if threshold < 1:
        for ids in rivals.values():
            _merge_near(ids, threshold, text, merged)
    return merged


def _merge_near(
    ids: list[int], threshold: float, text: Callable[[int], str], merged: Merged
) -> None:
    if len(ids) == 1:
        return
    index, kept = Index(threshold), list[int]()
    for example in ids:
        match = index.match_or_add(text(example))
        if match is None:
            kept.append(example)
        else:
            weight = merged.weights.pop(example)
            merged.weights[kept[match]] += weight
            merged.exact -= weight - 1
            merged.near += weight
