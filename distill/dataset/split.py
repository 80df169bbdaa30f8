"""Which part a group goes to: a pure function of the seed and the group's key.

SHA-256 of (seed, key) is a point in [0, 1), and the configured shares cut that interval. So the
order of traces does not matter, and adding traces never moves a group that is there.

Groups whose first requests are near duplicates would leak from train to test, so they are merged
first and go where the key of their representative goes: the member with the smallest SHA-256 of
its own key. The limit of this: a newcomer that joins a component of k groups becomes its
representative with probability 1/(k+1), and one that joins two components makes one of them
follow the other; only then may old groups move. With `merge_jaccard: null` none ever does.
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
    """The part of a group that was merged with no other."""
    point = int.from_bytes(_sha256(f"{seed}\n{group}")[:8]) / 2**64
    edge = 0.0
    for part, share in shares(config).items():
        edge += share
        if point < edge:
            return part
    return "test"  # the shares' sum may be a rounding error below 1


def assign(spool: Spool, config: SplitConfig, seed: int, folder: Path) -> tuple[int, int]:
    """Fix the part of every spooled group; `folder` takes temporary files.

    Returns:
        The number of groups, and of components after merging.
    """
    n_groups = spool.number_groups()
    forest = _Forest()
    if config.merge_jaccard is not None:
        for a, b in similar_owners(
            _distinct(spool, forest), config.merge_jaccard, folder, forest.joined
        ):
            forest.union(a, b)
    for number, name in spool.groups():
        spool.join(forest.find(number), _sha256(name), number)
    n_components = 0
    for members in spool.components():
        n_components += 1
        part = part_of(members[0], config, seed)
        for name in members:
            spool.assign(name, part)
    return n_groups, n_components


def _distinct(spool: Spool, forest: "_Forest") -> Iterator[tuple[int, str]]:
    """Each distinct opening with one of its groups; groups that share it are united on the way."""
    for text, groups in spool.openings():
        for other in groups[1:]:
            forest.union(groups[0], other)
        yield groups[0], text


class _Forest:
    """Union-find with path halving; only groups that were merged take memory."""

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
