"""What counts as a trial, and which decision is preferred to which."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from small_shop import TOOLS, ask, call

from distill.dataset.verify import Reason
from distill.training.trials import UNFILLED, Trial, Tried, preferences, tally, trials
from distill.types import Decision, Message, Outcome, ToolCall, Trace

REPLY = Decision("reply")


def trace(success: bool | None, *calls: ToolCall) -> Trace:
    """A question, calls, their results, and the words at the end."""
    asked = Message("user", "where is order 1")
    returned = Message("tool", "shipped", call_id="c1")
    said = Message("assistant", "It was shipped.")
    messages = (asked, Message("assistant", None, calls), returned, said)
    return Trace("t", "g", "teacher", "made up", TOOLS, messages, Outcome(success))


GET = ToolCall("get_order", {"order": 1}, "c1")


def test_every_decision_of_a_graded_trace_is_a_trial():
    left_out: Counter[str] = Counter()
    made = list(trials([trace(True, GET), trace(False, GET)], left_out))
    assert [(one.decision.tools, one.succeeded) for one in made] == [
        (("get_order",), True),
        (("reply",), True),
        (("get_order",), False),
        (("reply",), False),
    ]
    assert made[1].context.messages == trace(True, GET).messages[:3]
    assert not left_out


def test_what_is_no_trial_is_counted_by_its_reason():
    left_out: Counter[str] = Counter()
    broken = [
        trace(None, GET),
        trace(False, replace(GET, arguments={"order": "one"})),
        trace(False, replace(GET, name="fly")),
        trace(True, replace(GET, arguments=None)),
        replace(trace(True, GET), outcome=Outcome(None, reward=1.0)),  # a reward is no verdict
    ]
    made = list(trials(broken, left_out))
    assert all(one.decision == REPLY for one in made)
    assert left_out == {
        Reason.NOT_GRADED.value: 4,
        Reason.INVALID_ARGUMENTS.value: 1,
        Reason.NOT_OFFERED.value: 1,
        UNFILLED: 1,
    }


def words(trial: Trial) -> tuple[str, str]:
    return trial.context.messages[0].content or "", " ".join(trial.decision.tools)


DECISIONS = [REPLY, *(Decision("call", (call(name),)) for name in ("get_order", "list_orders"))]
TRIALS = st.lists(
    st.builds(
        Trial,
        st.sampled_from([ask("a"), ask("b")]),
        st.sampled_from(DECISIONS),
        st.booleans(),
    )
)


@given(TRIALS, st.randoms())
def test_trials_are_counted_whatever_their_order(made, luck):
    tried = tally(made, words)
    assert sum(one.successes for one in tried) == sum(trial.succeeded for trial in made)
    assert sum(one.successes + one.failures for one in tried) == len(made)
    shuffled = list(made)
    luck.shuffle(shuffled)
    assert tally(shuffled, words) == tried


@given(TRIALS)
def test_preferred_is_what_succeeded_more_often_in_the_same_context(made):
    tried = tally(made, words)
    pairs = preferences(tried)
    for better, worse in pairs:
        assert better.prompt == worse.prompt
        assert better.completion != worse.completion
        assert better.share > worse.share
    unequal = [
        (a, b)
        for i, a in enumerate(tried)
        for b in tried[i + 1 :]
        if a.prompt == b.prompt and a.share != b.share
    ]
    assert len(pairs) == len(unequal)


def test_a_share_weighs_success_against_failure():
    assert Tried("p", "c", 3, 1).share == 0.75
