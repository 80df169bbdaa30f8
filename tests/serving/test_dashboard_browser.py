"""The dashboard in a real browser, without JavaScript: it is whole, and its buttons work."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from boards import Board, board, calibrated_run, lately
from browser import PROGRAM, Tab, tab
from record_values import answer, ask, says, switches, user

from distill.types import Decision, ToolCall, Usage

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium: apt-get install chromium")

HOSTILE = (
    "</pre></title><script>document.title = 'taken over'</script>\"'><img src=x onerror=alert(1)>"
)
REASONS = ["taken", "taken", "taken", "reply", "confidence below the threshold"]


def traffic(random: Random):
    """A week: in shadow at first, then half of what the policy takes is local."""
    for i in range(600):
        minutes = random.randrange(7 * 24 * 60 - 60 * 6)
        reason = random.choice(REASONS)
        local = reason == "taken" and minutes < 3 * 24 * 60 and random.random() < 0.6
        broken = not local and random.random() < 0.03
        tool = random.choice(["switch", "switch", "dim", "warm_up", "reply"])
        decision = Decision(
            "reply" if tool == "reply" else "call",
            () if tool == "reply" else (ToolCall(tool, {"on": True, "lamp": "kitchen"}),),
            random.betavariate(6, 2),
        )
        yield lately(
            minutes,
            id=f"{i:032x}",
            mode="canary" if minutes < 3 * 24 * 60 else "shadow",
            session=f"s{i // 3}",
            decided_by="local" if local else "upstream",
            reason=reason,
            decision=decision,
            request=ask(user("x" * random.randrange(20, 400))),
            router_ms=random.uniform(4, 9),
            upstream_ms=None if local else random.uniform(400, 2500),
            usage=Usage() if local else Usage(900, 40),
            agreed=random.random() < 0.9 if reason == "taken" and not local else None,
            error="upstream cut off" if broken else None,
            response=answer(switches("c", on=False)),
        )


PRICES = """
currency: EUR
models: {large-1: {input: 2.0, output: 10.0, date: 2030-01-01}}
"""


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Board]:
    random = Random(1)
    decided = [
        (random.choice(["switch", "dim", "reply"]), random.betavariate(6, 2), random.randrange(300))
        for _ in range(400)
    ]
    run = calibrated_run(tmp_path / "run", decided)
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    with board(tmp_path, router=str(run.path), prices=str(prices)) as made:
        yield made


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Tab]:
    with tab(tmp_path / "profile") as made:
        yield made


@pytest.mark.parametrize("width", [500, 1200])
def test_nothing_is_missing_or_cut_off(shown: Board, page: Tab, tmp_path: Path, width: int):
    shown.keep(*traffic(Random(2)))
    page.without_scripts()
    page.resize(width, 900)
    page.open(shown.with_key)
    assert page.complaints == []
    assert page.value("document.documentElement.scrollWidth") <= width
    heights = "[...document.querySelectorAll('figure > svg')].map(e => e.clientHeight)"
    found = page.value(heights)
    assert len(found) == 5
    assert min(found) > 40
    assert page.value("getComputedStyle(document.querySelector('.tile')).display") == "block"
    picture = tmp_path / f"dashboard-{width}.png"
    page.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000, "an empty page takes a tenth of it"


def test_the_buttons_judge_a_disagreement(shown: Board, page: Tab):
    made = lately(1, agreed=False)
    shown.keep(made)
    page.without_scripts()
    page.open(f"{shown.with_key}?days=1")
    for button, accepted in [("accept", True), ("undo", None), ("reject", False)]:
        page.click(f"button[value={button}]")
        assert shown.store.get(made.id).accepted is accepted
        assert page.value("location.pathname + location.search") == "/dashboard?days=1"
    assert page.complaints == []


def test_another_span_is_one_click_away(shown: Board, page: Tab):
    shown.keep(lately(2 * 24 * 60))
    page.open(f"{shown.with_key}?days=1")
    first = "document.querySelector('.value').textContent"
    assert page.value(first) == "0"
    page.click("nav a:last-child")
    assert page.value(first) == "1"


def test_hostile_text_does_nothing(shown: Board, page: Tab):
    """In every place that a client, a router or an LLM can fill."""
    decision = Decision("call", (ToolCall(HOSTILE, {HOSTILE: HOSTILE}),), 0.9)
    request = ask({"role": HOSTILE, "content": HOSTILE}, user(HOSTILE), says(HOSTILE))
    for i in range(2):
        response = [answer(says(HOSTILE), model=HOSTILE), answer(switches("c", on=HOSTILE))][i]
        shown.keep(
            lately(
                i,
                agreed=False,
                decision=decision,
                request=request,
                response=response,
                client=HOSTILE,
                reason=HOSTILE,
                mode=HOSTILE,
            )
        )
    page.open(shown.with_key)
    assert page.value("document.title") == "distill gateway"
    assert page.value("document.querySelectorAll('script, img, iframe').length") == 0
    assert page.value("document.body.innerText").count("taken over") >= 8
    assert page.complaints == []
