"""Which traces make a group, and which part it goes to.

Traces with one group key (`data.group_by`) belong together. Group keys whose first requests are
near duplicates would leak from train to test, and count as independent in a bootstrap, so they are
merged first. The merged group is what a dataset calls a group: the unit of the split and of every
interval. It is named by its representative, the key with the smallest SHA-256 of its own.

A group's part is a pure function of the seed and its name: SHA-256 of the two is a point in [0, 1),
and the configured shares cut that interval. So the order of traces does not matter, and adding
traces never moves a group that is there. The limit of this: a newcomer that joins a group of k keys
becomes its representative with probability 1/(k+1), and one that joins two groups makes one of them
follow the other; only then may old keys move. With `merge_jaccard: null` none ever does.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from distill.config import SplitConfig
from distill.dataset.parts import PARTS, Part
from distill.dataset.similar import similar_owners
from distill.dataset.spool import Spool


def shares(config: SplitConfig) -> dict[Part, float]:
    """The expected share of groups in each part; they sum to 1."""
    given = config.train + config.validation + config.calibration
    values = (config.train, config.validation, config.calibration, 1 - given)
    return dict(zip(PARTS, values, strict=True))


def part_of(group: str, config: SplitConfig, seed: int) -> Part:
    """The part of a group of this name."""
    point = int.from_bytes(_sha256(f"{seed}\n{group}")[:8]) / 2**64
    edge = 0.0
    for part, share in shares(config).items():
        edge += share
        if point < edge:
            return part
    return "test"  # the shares' sum may be a rounding error below 1


def assign(spool: Spool, config: SplitConfig, seed: int, folder: Path) -> tuple[int, int]:
    """Fix group and part of every spooled group key; `folder` takes temporary files.

    Returns:
        The number of group keys, and of groups after merging.
    """
    n_keys = spool.number_groups()
    forest = _Forest()
    if config.merge_jaccard is not None:
        for a, b in similar_owners(
            _distinct(spool, forest), config.merge_jaccard, folder, forest.joined
        ):
            forest.union(a, b)
    for number, name in spool.groups():
        spool.join(forest.find(number), _sha256(name), number)
    n_groups = 0
    for members in spool.components():
        n_groups += 1
        group = members[0]
        part = part_of(group, config, seed)
        for key in members:
            spool.assign(key, group, part)
    return n_keys, n_groups


def _distinct(spool: Spool, forest: "_Forest") -> Iterator[tuple[int, str]]:
    """Each distinct opening with one of its keys; keys that share it are united on the way."""
    for text, groups in spool.openings():
        for other in groups[1:]:
            forest.union(groups[0], other)
        yield groups[0], text


class _Forest:
    """Union-find with path halving; only keys that were merged take memory."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def find(self, node: int) -> int:
        parents = self._parent
        while (parent := parents.get(node, node)) != node:
            above = parents.get(parent, parent)
            parents[node] = above
            node = above
        return node

    def union(self, a: int, b: int) -> None:
        low, high = sorted((self.find(a), self.find(b)))
        if low != high:
            self._parent[high] = low

    def joined(self, a: int, b: int) -> bool:
        return self.find(a) == self.find(b)


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
