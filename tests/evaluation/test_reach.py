"""Where a router stops being enough: by what its interval reaches, and in careful words."""

from pathlib import Path
from typing import Any

import pytest
from made_up import FAST, call, predictions, simulate, write_run

from distill.errors import ConfigError
from distill.evaluation.buckets import TITLES
from distill.evaluation.compare import compare, comparison
from distill.evaluation.reach import reach
from distill.evaluation.report import reach as said

Figure = tuple[float, float | None, float | None]


def router(name: str, ms: float, overall: Figure, **levels: Figure) -> dict[str, Any]:
    """An entry with figures by complexity: `_0=(value, low, high)`."""

    def figure(value: float, low: float | None, high: float | None) -> dict[str, float | None]:
        return {"value": value, "low": low, "high": high}

    by_bucket: dict[str, list[Any]] = {dimension: [] for dimension in TITLES}
    by_bucket["complexity"] = [
        {"bucket": level[1:], "n": 50, "n_groups": 9, "tool_accuracy": figure(*given)}
        for level, given in levels.items()
    ]
    return {
        "name": name,
        "latency_ms": {"p50": ms},
        "tool_accuracy": figure(*overall),
        "by_bucket": by_bucket,
    }


BIG = router(
    "big", 90, (0.9, 0.86, 0.94), _0=(0.96, 0.9, 1.0), _1=(0.9, 0.8, 0.97), _2=(0.8, 0.7, 0.9)
)
SMALL = router(
    "small", 2, (0.8, 0.7, 0.88), _0=(0.95, 0.9, 1.0), _1=(0.7, 0.6, 0.78), _2=(0.75, 0.6, 0.9)
)
THIN = router("thin", 1, (0.9, None, None), _0=(0.9, None, None), _1=(0.9, None, None))


def report(*routers: dict[str, Any], target: float | None = None) -> dict[str, Any]:
    return {"routers": list(routers), "reach": reach(routers, target)}


def test_a_router_holds_while_its_interval_reaches_the_best_figure():
    by = reach([BIG, SMALL], None)["by"]
    assert list(by) == ["complexity"]
    big, small = by["complexity"]
    assert big == {"name": "big", "holds": "2", "falls": None, "open": []}
    assert small["holds"] == "0"
    assert small["falls"]["bucket"] == "1"
    assert small["falls"]["mark"] == 0.9
    assert said.sentences(report(BIG, SMALL)) == [
        "big is not shown to fall short of the best at any complexity, up to 2.",
        "small is not shown to fall short of the best up to complexity 0, and does at 1 "
        "(70.0% [60.0 to 78.0] against 90.0%).",
    ]


def test_a_stated_accuracy_is_the_mark_of_all():
    big, small = reach([BIG, SMALL], 0.92)["by"]["complexity"]
    assert (big["holds"], big["falls"]["bucket"]) == ("1", "2")
    assert (small["holds"], small["falls"]["bucket"]) == ("0", "1")
    assert (
        "big is not shown to fall short of 92.0% up to complexity 1, and does at 2"
        in (said.sentences(report(BIG, SMALL, target=0.92))[0])
    )
    (low, _) = said.sentences(report(SMALL, BIG, target=0.999))
    assert low.startswith("small is not shown to fall short of 99.9% up to complexity 0")


def test_buckets_of_too_few_groups_say_nothing():
    sentences = said.sentences(report(BIG, THIN))
    assert sentences[1:] == [
        "thin: too few groups at every complexity to say how far it goes.",
        "Nothing is said of complexity 0, 1 where fewer than 5 groups show it.",
    ]
    assert said.rows(report(BIG, THIN)) == [
        ["Router", "Complexity"],
        ["big", "2, the last"],
        ["thin", "too few groups"],
    ]


def test_the_cheapest_router_that_holds_the_target_is_recommended():
    assert reach([BIG, SMALL], None)["recommended"] is None
    assert reach([BIG, SMALL], 0.85)["recommended"] == {"name": "big", "sure": True}
    assert reach([BIG, SMALL], 0.7)["recommended"] == {"name": "small", "sure": True}
    assert reach([BIG, SMALL], 0.88)["recommended"] == {"name": "big", "sure": False}
    assert reach([BIG, THIN], 0.88)["recommended"] == {"name": "thin", "sure": False}
    assert reach([BIG, SMALL], 0.95)["recommended"] is None


def test_a_recommendation_says_how_sure_it_is():
    assert said.recommendation(report(BIG, SMALL)) == ""
    assert said.recommendation(report(BIG, SMALL, target=0.7)) == (
        "Recommended for a tool accuracy of 70.0%: small, the cheapest router whose whole interval "
        "is at least that (80.0% [70.0 to 88.0]; 2.00 ms a decision)."
    )
    assert "does not rule out that it falls short" in (
        said.recommendation(report(BIG, SMALL, target=0.88))
    )
    assert said.recommendation(report(BIG, target=0.99)) == (
        "No router's tool accuracy reaches the stated 99.0%."
    )


def test_a_router_alone_is_not_measured_by_itself():
    assert reach([SMALL], None)["by"] == {}
    assert said.sentences(report(SMALL)) == said.rows(report(SMALL)) == []
    assert len(said.sentences(report(SMALL, target=0.9))) == 1


def test_the_report_shows_one_plot_with_all_routers_and_the_words(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"r{i}", f"r{i}", simulate(0.95 - i / 12, 0, groups=30))
        for i in range(8)
    ]
    config = FAST.model_copy(update={"target_accuracy": 0.9})
    compare(runs, tmp_path / "out", config)
    page = (tmp_path / "out/report.html").read_text()
    plot = page[page.index('aria-label="Tool accuracy of each router by complexity"') :]
    plot = plot[: plot.index("</svg>")]
    assert all(f">r{i}<" in plot for i in range(8))
    assert page.count("Tool accuracy by: Complexity") == 0
    for text in (page, (tmp_path / "out/report.md").read_text()):
        assert "How far each router goes" in text
        assert "is not shown to fall short of 90.0%" in text.replace("\\", "")
        assert "tool accuracy of 90.0%" in text.replace("\\", "")


def test_one_level_of_complexity_makes_no_plot(tmp_path: Path) -> None:
    made = predictions([(call("get_order"), call("get_order"))] * 6)
    runs = [write_run(tmp_path / name, name, made) for name in ("a", "b")]
    compare(runs, tmp_path / "out", FAST)
    page = (tmp_path / "out/report.html").read_text()
    assert "Accuracy by complexity" not in page
    assert "How far each router goes" not in page
    assert comparison(runs, FAST)[0]["reach"]["by"] == {}


def test_a_target_that_is_no_share_is_refused(tmp_path: Path) -> None:
    from distill.config import EvaluationConfig, parse  # noqa: PLC0415

    with pytest.raises(ConfigError, match="target_accuracy"):
        parse({"target_accuracy": 90}, "command line", EvaluationConfig)
