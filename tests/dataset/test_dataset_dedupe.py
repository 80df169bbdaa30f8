"""Merging: what is one example, which is kept, and that weights add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.dataset.dedupe import merge
from distill.dataset.spool import Key

LONG = "please book a table for the whole team at the usual place near the station tonight"


def key(number: int, context: str, label: str = "l", tools: str = "t") -> Key:
    return Key(number, context.encode(), tools.encode(), label.encode(), "[]")


def never(number: int) -> str:
    raise AssertionError("no text is needed")


def test_exact_copies_become_weight() -> None:
    keys = [key(1, "a"), key(2, "a"), key(3, "a", "other"), key(4, "a")]
    merged = merge(keys, 1, never)
    assert merged.weights == {1: 3, 3: 1}
    assert (merged.exact, merged.near) == (2, 0)


def test_null_keeps_all() -> None:
    merged = merge([key(1, "a"), key(2, "a")], None, never)
    assert merged.weights == {1: 1, 2: 1}
    assert (merged.exact, merged.near) == (0, 0)


def test_near_duplicates_join_the_first_of_the_same_label_and_tools() -> None:
    texts = {1: LONG, 2: LONG + "!", 3: LONG + "?", 4: LONG + ".", 5: "cancel it all"}
    keys = [
        key(1, "a"),
        key(2, "b"),
        key(3, "c", label="other"),
        key(4, "d", tools="others"),
        key(5, "e"),
    ]
    merged = merge(keys, 0.9, texts.__getitem__)
    assert merged.weights == {1: 2, 3: 1, 4: 1, 5: 1}
    assert (merged.exact, merged.near) == (0, 1)


def test_copies_of_a_near_duplicate_move_with_it() -> None:
    keys = [key(1, "a"), key(2, "b"), key(3, "b"), key(4, "a")]
    merged = merge(keys, 0.9, {1: LONG, 2: LONG + "!"}.__getitem__)
    assert merged.weights == {1: 4}
    assert (merged.exact, merged.near) == (1, 2)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy")), max_size=30),
    st.sampled_from([None, 0.5, 0.9, 1.0]),
)
def test_every_example_is_kept_or_merged(
    drawn: list[tuple[str, str]], threshold: float | None
) -> None:
    texts = {"a": LONG, "b": LONG + "!", "c": "cancel", "d": "cancel it"}
    keys = [key(i, context, label) for i, (context, label) in enumerate(drawn)]
    merged = merge(keys, threshold, lambda i: texts[drawn[i][0]])
    assert merged.weights.total() == len(keys)
    assert len(merged.weights) + merged.exact + merged.near == len(keys)
    assert merged.near == 0 or (threshold is not None and threshold < 1)


@pytest.mark.parametrize("threshold", [0.9, 1.0])
def test_the_empty_group_is_empty(threshold: float) -> None:
    assert not merge([], threshold, never).weights
