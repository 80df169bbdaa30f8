"""Near-duplicate texts: MinHash signatures, and banding that finds similar pairs in linear time.

Texts are compared as sets of character 5-grams (Broder 1997, "On the resemblance and containment
of documents"); the share of equal MinHash values estimates their Jaccard similarity with a
standard error of sqrt(J(1-J)/256), 0.025 at 0.8. Banding (Leskovec, Rajaraman, Ullman, "Mining of
Massive Datasets", ch. 3) proposes the pairs, the estimate decides.

This module knows nothing of traces, groups or datasets.
"""

import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, cast

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

PERMUTATIONS = 256
"""Length of a signature."""
SHINGLE = 5
"""Characters per shingle."""

_MISSED = 1e-3
"""The share of pairs exactly at the threshold that banding may fail to propose."""
_CROWD = 256
"""Within a larger bucket a text is compared with this many before it, so time stays linear."""
_SHINGLES = 2048
"""Shingles hashed at once: `update_batch` takes 8 * PERMUTATIONS bytes for each, here 4 MiB."""

Signature = NDArray[np.uint32]

# The scheme is named so that another default in a later release changes no dataset.
_EMPTY = MinHash(PERMUTATIONS, seed=1, hashfunc=zlib.crc32, scheme="affine32")


def minhash(text: str) -> MinHash:
    """The text's MinHash; case and runs of white space do not count."""
    flat = " ".join(text.lower().split())
    last = max(1, len(flat) - SHINGLE + 1)
    sketch = _EMPTY.copy()
    # In pieces: a minimum over all shingles is the minimum of the pieces' minima.
    for start in range(0, last, _SHINGLES):
        piece = range(start, min(start + _SHINGLES, last))
        sketch.update_batch({flat[i : i + SHINGLE].encode() for i in piece})
    return sketch


def jaccard(a: str, b: str) -> float:
    """The estimated Jaccard similarity of two texts, 0 to 1."""
    return float(minhash(a).jaccard(minhash(b)))


def banding(threshold: float) -> tuple[int, int]:
    """Bands and rows per band: the most selective that misses at most 0.1% at the threshold.

    A pair of similarity J shares a band with probability 1 - (1 - J^rows)^bands.
    """
    rows = PERMUTATIONS // 2
    while rows > 1 and (1 - threshold**rows) ** (PERMUTATIONS // rows) > _MISSED:
        rows -= 1
    return PERMUTATIONS // rows, rows


class Index:
    """Texts kept so far; answers which of them a new text is similar to.

    All in memory: some 6 kB for a kept text, whatever its length, until the index goes.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._kept: list[MinHash] = []
        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=banding(threshold))

    def match_or_add(self, text: str) -> int | None:
        """The number of the first kept text that is similar enough; None keeps this one too."""
        sketch = minhash(text)
        for number in sorted(cast(list[int], self._lsh.query(sketch))):
            if self._kept[number].jaccard(sketch) >= self._threshold:
                return number
        self._lsh.insert(len(self._kept), sketch, check_duplication=False)
        self._kept.append(sketch)
        return None


def similar_owners(
    texts: Iterable[tuple[int, str]],
    threshold: float,
    folder: Path,
    joined: Callable[[int, int], bool],
) -> Iterator[tuple[int, int]]:
    """Pairs of owners that have similar texts; pairs for which `joined` holds are not looked at.

    Signatures lie in an unnamed file in `folder`; memory is some 60 bytes a text. In a crowd (more
    than 256 texts sharing a band) distant texts are compared only through those between them.
    """
    bands, rows = banding(threshold)
    multipliers = np.random.default_rng(0).integers(1, 2**63, rows, dtype=np.uint64) * 2 + 1
    owners = array("q")
    with TemporaryFile(dir=folder) as signatures, TemporaryFile(dir=folder) as hashes:
        for owner, text in texts:
            values = minhash(text).hashvalues
            banded = values[: bands * rows].reshape(bands, rows).astype(np.uint64)
            signatures.write(values.tobytes())
            hashes.write((banded * multipliers).sum(axis=1).tobytes())
            owners.append(owner)
        signatures.flush()
        for band in range(bands):
            column = _column(hashes, band, bands, len(owners))
            for bucket in _buckets(column):
                yield from _pairs(bucket, owners, signatures, threshold, joined)


def _column(file: IO[bytes], band: int, bands: int, n: int) -> NDArray[np.uint64]:
    column = np.empty(n, dtype=np.uint64)
    at, chunk = 0, 2**18 // (bands * 8)
    file.seek(0)
    while at < n:
        rows = np.frombuffer(file.read(chunk * bands * 8), dtype=np.uint64).reshape(-1, bands)
        column[at : at + len(rows)] = rows[:, band]
        at += len(rows)
    return column


def _buckets(column: NDArray[np.uint64]) -> Iterator[NDArray[Any]]:
    """The positions of equal values, where there are at least two."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    edges = np.flatnonzero(np.diff(ordered)) + 1
    starts = np.concatenate(([0], edges))
    ends = np.concatenate((edges, [len(ordered)]))
    crowded = ends - starts > 1
    for start, end in zip(starts[crowded], ends[crowded], strict=True):
        yield order[start:end]


def _pairs(
    bucket: NDArray[Any],
    owners: Sequence[int],
    signatures: IO[bytes],
    threshold: float,
    joined: Callable[[int, int], bool],
) -> Iterator[tuple[int, int]]:
    first = owners[int(bucket[0])]
    if all(joined(first, owners[int(number)]) for number in bucket[1:]):
        return
    # The latest texts of the bucket; the oldest gives its place to the next.
    window = np.empty((min(len(bucket), _CROWD), PERMUTATIONS), dtype=np.uint32)
    held = np.empty(len(window), dtype=np.int64)
    for n, number in enumerate(bucket):
        owner, values = owners[int(number)], _signature(signatures, int(number))
        equal = (window[:n] == values).mean(axis=1)
        for place in np.flatnonzero(equal >= threshold):
            other = int(held[place])
            if not joined(other, owner):
                yield other, owner
        window[n % _CROWD], held[n % _CROWD] = values, owner


def _signature(file: IO[bytes], number: int) -> Signature:
    size = PERMUTATIONS * 4
    return np.frombuffer(os.pread(file.fileno(), size, number * size), dtype=np.uint32)
