"""One label per question, the one that was given most often; frequent questions come oftener."""

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from made_traces import TOOLS, search, user

from distill.dataset.points import context_key
from distill.dataset.vote import repeated, vote
from distill.types import Context, Decision, Example, Message, ToolCall

SEARCH = Decision("call", (search("tea"),))
BOOK = Decision("call", (ToolCall("book", {"seats": 2}),))
REPLY = Decision("reply")


def example(name: str, label: Decision, weight: float = 1.0, question: str = "tea?") -> Example:
    return Example(name, name, name, Context((user(question),), TOOLS), label, weight)


def test_one_answer_is_kept_as_it_is():
    alone = example("a", SEARCH, 3.0)
    assert vote([alone]) == [alone]


def test_the_label_given_most_often_wins_over_all_groups():
    """One group gave an answer twice, three other groups gave another one once each."""
    given_twice = example("a", BOOK, 2.0)
    once_each = [example(name, SEARCH) for name in "bcd"]
    (kept,) = vote([given_twice, *once_each])
    assert kept.label == SEARCH
    assert (kept.id, kept.weight) == ("b", 3.0)


def test_of_equally_frequent_labels_the_first_wins():
    (kept,) = vote([example("a", REPLY), example("b", BOOK)])
    assert kept.label == REPLY


def test_parallel_calls_in_another_order_are_the_same_answer():
    calls = (search("tea"), search("coffee"))
    there, back = Decision("call", calls), Decision("call", calls[::-1])
    (kept,) = vote([example("a", BOOK), example("b", there), example("c", back)])
    assert kept.label == there


def test_what_the_system_prompt_says_makes_no_other_question():
    plain = example("a", REPLY)
    dated = Example(
        "b", "b", "b", Context((Message("system", "9 o'clock"), user("tea?")), TOOLS), SEARCH, 2.0
    )
    (kept,) = vote([plain, dated])
    assert kept.label == SEARCH


def under(system: str, name: str, label: Decision, weight: float = 1.0) -> Example:
    context = Context((Message("system", system), user("tea?")), TOOLS)
    return Example(name, name, name, context, label, weight)


def test_to_a_router_that_reads_the_system_prompt_it_makes_another_question():
    made = [
        under("the kettle is on", "a", REPLY, 3.0),
        under("the kettle is off", "b", SEARCH),
        under("the kettle is off", "c", REPLY),
        under("the kettle is off", "d", SEARCH),
    ]
    kept = vote(made, reads_system=True)
    assert [(e.id, e.label, e.weight) for e in kept] == [("a", REPLY, 3.0), ("b", SEARCH, 2.0)]
    assert [(e.label, e.weight) for e in vote(made)] == [(REPLY, 4.0)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["tea?", "seats?", "bye"]),
            st.sampled_from([SEARCH, BOOK, REPLY]),
            st.integers(1, 3),
        )
    )
)
def test_every_question_keeps_exactly_one_answer_of_the_greatest_total(rows):
    made = [example(str(i), label, w, question) for i, (question, label, w) in enumerate(rows)]
    kept = {context_key(e.context): e for e in vote(made)}
    assert len(kept) == len(vote(made)) == len({question for question, _, _ in rows})
    for question, label, _ in rows:
        winner = kept[context_key(Context((user(question),), TOOLS))]
        total = sum(w for q, other, w in rows if (q, other) == (question, label))
        assert winner.weight >= total
        assert winner.id in {e.id for e in made}


@given(st.randoms(use_true_random=False))
def test_which_label_wins_does_not_depend_on_the_order(luck: random.Random):
    made = [example("a", REPLY), example("b", BOOK, 2.0), example("c", SEARCH, 4.0)]
    made.append(example("d", BOOK, 3.0))
    (kept,) = vote(luck.sample(made, len(made)))
    assert kept.label == BOOK


@given(st.lists(st.integers(1, 400), max_size=20))
def test_repeats_grow_with_the_square_root_of_the_weight(weights: list[int]) -> None:
    kept = [replace(example("x", REPLY), id=str(i), weight=w) for i, w in enumerate(weights)]
    copies = Counter(e.id for e in repeated(kept))
    assert set(copies) == {e.id for e in kept}
    for e in kept:
        assert abs(copies[e.id] - e.weight**0.5) <= 0.5
