"""What thresholds take of the test part, in figures and on the page."""

from pathlib import Path

import pytest
from made_up import FAST, call, predictions, simulate, write_run

from distill.evaluation.compare import compare, comparison
from distill.evaluation.predictions import Prediction
from distill.evaluation.report import plots
from distill.routers.confidence import Threshold


def promise(threshold: float | None, alpha: float = 0.2, tool: str | None = None) -> Threshold:
    return Threshold(alpha, 0.1, tool, threshold, 0.5, 0.1, 0.15, n=90, n_groups=30)


RIGHT_WRONG_RIGHT = predictions(
    [
        (call("refund"), call("refund", confidence=0.9)),
        (call("refund"), call("cancel_order", confidence=0.8)),
        (call(), call(confidence=0.3)),
        (call("get_order"), call("get_order")),
    ]
)


def test_what_is_taken_and_what_of_it_is_wrong(tmp_path: Path) -> None:
    thresholds = [promise(0.8), promise(0.95, alpha=0.01), promise(0.9, tool="refund")]
    run = write_run(tmp_path / "a", "a", RIGHT_WRONG_RIGHT, thresholds=thresholds)
    report, _ = comparison([run], FAST)
    strict, lax = report["routers"][0]["risk"]
    assert (strict["alpha"], strict["coverage"]["value"], strict["error"]) == (0.01, 0, None)
    assert (lax["threshold"], lax["supported"]) == (0.8, 1)
    assert lax["coverage"]["value"] == pytest.approx(2 / 4), "without confidence nothing is taken"
    assert lax["error"]["value"] == pytest.approx(1 / 2)
    (tool,) = lax["by_tool"]
    assert (tool["tool"], tool["coverage"]["value"], tool["error"]["value"]) == ("refund", 1, 0)


def test_a_seed_without_support_takes_nothing(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "s0", "a", RIGHT_WRONG_RIGHT, thresholds=[promise(0.3)]),
        write_run(
            tmp_path / "s1",
            "a",
            RIGHT_WRONG_RIGHT,
            seed=1,
            dataset="e" * 64,
            thresholds=[promise(None)],
        ),
    ]
    report, _ = comparison(runs, FAST)
    (entry,) = report["routers"][0]["risk"]
    assert (entry["threshold"], entry["supported"]) == (0.3, 1)
    assert entry["coverage"]["value"] == pytest.approx(3 / 8)
    assert [seed["coverage"] for seed in entry["by_seed"]] == [pytest.approx(3 / 4), 0]
    assert entry["by_seed"][1]["error"] is None


def test_the_reader_is_told_what_a_promise_takes(tmp_path: Path) -> None:
    made = simulate(0.9, 0)
    runs = [
        write_run(tmp_path / "a", "a", made, thresholds=[promise(0.5), promise(None, alpha=0.01)]),
        write_run(tmp_path / "b", "b", simulate(0.6, 0)),
    ]
    report = compare(runs, tmp_path / "out", FAST)
    entry = next(r for r in report["routers"] if r["name"] == "a")["risk"][1]
    sentence = f"a takes {entry['coverage']['value']:.1%} of the test decisions"
    assert sentence in (tmp_path / "out/report.html").read_text()
    markdown = (tmp_path / "out/report.md").read_text()
    assert "## What may be decided without the teacher" in markdown
    assert "1 of 1" in markdown
    assert "0 of 1" in markdown


def test_routers_without_promises_make_no_table(tmp_path: Path) -> None:
    compare([write_run(tmp_path / "a", "a", simulate(0.9, 0))], tmp_path / "out", FAST)
    assert "Sure by" not in (tmp_path / "out/report.html").read_text()


def test_a_promise_that_no_seed_supports_is_said_to_be_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "a", simulate(0.9, 0), thresholds=[promise(None)])
    compare([run], tmp_path / "out", FAST)
    assert "the calibration part does not support it" in (tmp_path / "out/report.html").read_text()


def test_nothing_is_drawn_without_confidence() -> None:
    silent: list[Prediction] = simulate(0.9, 0, confident=False)
    assert plots.selective_plot({"a": silent}) is None
    assert plots.selective_plot({"a": silent, "b": simulate(0.6, 0)}) is not None
