"""Near duplicates: what counts as similar, and that banding finds it."""

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distill.dataset.similar import PERMUTATIONS, Index, banding, jaccard, minhash, similar_owners

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def peak_bytes(do: Callable[[], object]) -> int:
    """The most that it has allocated at a time, numpy's included."""
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_message_takes_little_memory() -> None:
    text = "".join(random.Random(0).choices(LETTERS, k=300_000))
    assert peak_bytes(lambda: minhash(text)) < 16e6


def test_a_long_texts_signature_is_the_minimum_over_its_pieces() -> None:
    text = "".join(random.Random(0).choices(LETTERS, k=20_000))
    pieces = [text[i : i + 1004] for i in range(0, len(text), 1000)]
    least = np.min([minhash(piece).hashvalues for piece in pieces], axis=0)
    assert (minhash(text).hashvalues == least).all()


def test_case_and_white_space_do_not_count() -> None:
    assert jaccard("Find  me\na table", "find me a table") == 1
    assert jaccard("", " ") == 1
    assert jaccard("find me a table", "cancel every booking") < 0.2


def test_the_estimate_is_near_the_jaccard_of_the_shingles() -> None:
    a, b = "abcdefghij" * 3 + "klmnopqrstuvwxyz", "abcdefghij" * 3 + "klmnopqrst"

    def shingles(text: str) -> set[str]:
        return {text[i : i + 5] for i in range(len(text) - 4)}

    exact = len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))
    assert jaccard(a, b) == pytest.approx(exact, abs=0.1)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_banding_fits_the_signature_and_misses_little(threshold: float) -> None:
    bands, rows = banding(threshold)
    assert bands * rows <= PERMUTATIONS
    assert (1 - threshold**rows) ** bands <= 1e-3


def variants(n: int) -> list[str]:
    """Texts of 40 words, of which every second repeats the one before with one word changed."""
    draw = random.Random(0)
    texts = []
    for _ in range(n):
        words = [f"{draw.randrange(10**6)}" for _ in range(40)]
        texts.append(" ".join(words))
        words[draw.randrange(40)] = "other"
        texts.append(" ".join(words))
    return texts


def test_similar_pairs_are_found_and_only_those(tmp_path: Path) -> None:
    texts = variants(40)
    found = similar_owners(enumerate(texts), 0.8, tmp_path, lambda a, b: False)
    pairs = {(min(p), max(p)) for p in found}
    expected = {
        (i, j)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if jaccard(texts[i], texts[j]) >= 0.8
    }
    assert pairs == expected
    assert len(pairs) >= 35


def test_joined_owners_are_not_compared_again(tmp_path: Path) -> None:
    assert not list(similar_owners(enumerate(variants(5)), 0.8, tmp_path, lambda a, b: True))
    assert not list(similar_owners([], 0.8, tmp_path, lambda a, b: False))


def test_a_crowd_is_joined_through_its_neighbours(tmp_path: Path) -> None:
    texts = [" ".join(["the same long request"] * 20) + f" {i}" for i in range(600)]
    group = list(range(len(texts)))

    def joined(a: int, b: int) -> bool:
        return group[a] == group[b]

    for a, b in similar_owners(enumerate(sorted(texts)), 0.8, tmp_path, joined):
        old, new = group[b], group[a]
        group = [new if g == old else g for g in group]
    assert len(set(group)) == 1


def test_a_crowd_takes_no_more_memory_than_its_window(tmp_path: Path) -> None:
    """A log of templated requests is one crowd, and its size is the log's."""
    texts = [f"please tell me whether invoice {i:05} has been paid already" for i in range(2000)]
    pairs = similar_owners(enumerate(texts), 0.5, tmp_path, lambda a, b: False)
    found: list[tuple[int, int]] = []
    assert peak_bytes(lambda: found.append(next(pairs))) < 1e6
    assert found[0][1] < 300


def test_the_index_keeps_the_first_of_each_kind() -> None:
    texts = variants(3)
    index = Index(0.8)
    assert [index.match_or_add(text) for text in texts] == [None, 0, None, 1, None, 2]
