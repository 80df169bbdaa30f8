"""The budget over time, and the shares that chance decides."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from distill.config import RollbackConfig, RolloutConfig
from distill.serving.rollout import Rollout


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 5))
def test_no_minute_holds_more_than_the_budget(gaps, most):
    now = 0.0
    rollout = Rollout(RolloutConfig(per_minute=most), clock=lambda: now)
    spent: list[float] = []
    for gap in gaps:
        now += gap
        before = sum(time > now - 60 for time in spent)
        if rollout.spend():
            spent.append(now)
            assert before < most
        else:
            assert before == most


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_canary_answers_its_share_less_what_is_compared(share, compare, seed):
    config = RolloutConfig(mode="canary", share=share, compare=compare)
    rollout = Rollout(config, chance=Random(seed))
    chance = Random(seed + 1)
    answered = sum(rollout.plan(f"{chance.getrandbits(128):032x}").answer for _ in range(2000))
    # Of chances as small as those that are tried here, a normal approximation is far too narrow.
    least, most = binom.interval(1 - 1e-9, 2000, share * (1 - compare))
    assert least <= answered <= most


@given(st.lists(st.booleans(), max_size=40))
def test_a_rollback_needs_enough_and_looks_at_the_latest(agreements):
    told: list[str] = []
    rollback = RollbackConfig(window=10, least=10, agreement=0.5)
    rollout = Rollout(RolloutConfig(mode="on", rollback=rollback), told.append)
    for agreed in agreements:
        rollout.compared(agreed)
    low = [i for i in range(10, len(agreements) + 1) if sum(agreements[i - 10 : i]) < 5]
    assert (rollout.mode == "shadow") == bool(low)
    assert len(told) == bool(low)


def test_nothing_is_rolled_back_where_nobody_asked_for_it():
    rollout = Rollout(RolloutConfig(mode="on", rollback=None))
    for _ in range(1000):
        rollout.compared(False)
        rollout.asked(failed=True)
    assert rollout.mode == "on"


def test_a_switch_forgets_what_was_counted():
    rollback = RollbackConfig(window=10, least=5, agreement=0.5)
    rollout = Rollout(RolloutConfig(mode="on", rollback=rollback))
    for _ in range(4):
        rollout.compared(False)
    rollout.switch("on")
    rollout.compared(False)
    assert rollout.mode == "on"
