"""Progress: plain lines in a log, a live one on a terminal, and an estimate that holds."""

import io
import re
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console

from distill import display
from distill.display import Display


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def log() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def seconds_left(line: str) -> float | None:
    found = re.search(r"about (?:(\d+):)?(\d+):(\d\d) left", line)
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def test_a_log_gets_a_line_per_step(log: Console, clock: Clock):
    with Display(log, [1, 1]) as progress:
        progress.step("dataset")
        clock.now += 75
        progress.step("train [x]")
    assert printed(log) == ["[1/2] dataset · 0:00 elapsed", "[2/2] train [x] · 1:15 elapsed"]


def test_a_log_is_not_flooded(log: Console, clock: Clock):
    with Display(log) as progress:
        for done in range(1, 101):
            clock.now += 1
            progress("training", done, 100)
    lines = printed(log)
    assert 4 <= len(lines) <= 7
    assert lines[0] == "training 16/100 · 0:16 elapsed · about 1:24 left"


def test_work_without_a_known_end_counts_and_promises_nothing(log: Console, clock: Clock):
    with Display(log) as progress:
        clock.now += 16
        progress("reading", 500)
    assert printed(log) == ["reading 500 · 0:16 elapsed"]


def test_quick_work_leaves_nothing_in_a_log(log: Console, clock: Clock):
    with Display(log) as progress:
        progress("importing", 1, 2)
    assert printed(log) == []


def test_the_steps_share_the_estimate_by_their_costs(log: Console, clock: Clock):
    with Display(log, [10, 30]) as progress:
        progress.step("one")
        clock.now += 20
        progress("one", 5, 10)
    assert seconds_left(printed(log)[-1]) == 140  # 5 of 40 took 20 seconds


def test_steps_done_in_an_earlier_session_do_not_promise_speed(log: Console, clock: Clock):
    with Display(log, [100, 10, 10]) as progress:
        progress.step("done before")
        clock.now += 0.1
        progress.step("one")
        clock.now += 20
        progress("one", 5, 10)
    assert seconds_left(printed(log)[-1]) == pytest.approx(60, abs=1)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=6), st.floats(400, 4000), st.floats(0.05, 1)
)
def test_steady_work_is_estimated_right_at_any_moment(
    clock: Clock, costs: list[int], speed: float, share: float
):
    log = Console(file=io.StringIO(), force_terminal=False, width=80)
    with Display(log, costs) as progress:
        for i, cost in enumerate(costs):
            progress.step("work")
            clock.now += cost * speed * share
            progress("work", int(share * 10**6), 10**6)
            left = seconds_left(printed(log)[-1])
            true = speed * (sum(costs[i + 1 :]) + cost * (1 - share))
            assert left is None or left == pytest.approx(true, rel=0.01, abs=2)
            clock.now += cost * speed * (1 - share)
    assert left is not None


def test_a_terminal_gets_a_live_line_and_no_log(clock: Clock):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={})
    with Display(terminal, [1, 1]) as progress:
        progress.step("training")
        clock.now += 20
        progress("training", 3, 10)
        progress.bar.refresh()
        progress.note("a line that stays")
    text = "\n".join(printed(terminal))
    assert "[1/2]" in text
    assert "3/10" in text
    assert "a line that stays" in text
    assert "elapsed" not in text


def test_a_terminal_without_cursor_control_gets_plain_lines(clock: Clock):
    dumb = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "dumb"})
    with Display(dumb, [1, 1]) as progress:
        progress.step("training")
    assert printed(dumb) == ["[1/2] training · 0:00 elapsed"]


def test_an_interrupt_passes_through(log: Console):
    def work() -> None:
        with Display(log) as progress:
            progress.step("training")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
