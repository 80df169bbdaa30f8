"""What a reader of the report meets, also where there is little to report."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest
from made_up import FAST, TEACHER, call, predictions, simulate, write_run

from distill.evaluation import formats
from distill.evaluation.compare import compare, comparison
from distill.evaluation.latency import Timing
from distill.evaluation.predictions import Prediction
from distill.evaluation.report import plots, words
from distill.evaluation.report.confusion import OTHER, confusion, mistakes

QUICK: Timing = {
    "latency_ms": {"p50": 0.5, "p95": 1.0, "p99": 2.0},
    "latency_samples": 100,
    "decisions_per_s": 9.0,
}
EVIL = '<script>alert("1")</script> & $x_1$ | `a` #010101'


class Page(HTMLParser):
    """The page's tags, attributes and visible text; fails on tags that do not nest."""

    VOID = ("meta", "br", "wbr", "path", "use")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
            self.words.append(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def read(tmp_path: Path, **routers: list[Prediction]) -> tuple[Page, str]:
    runs = [write_run(tmp_path / name, name, made) for name, made in routers.items()]
    compare(runs, tmp_path / "out", FAST)
    html = (tmp_path / "out/report.html").read_text()
    return Page(html), (tmp_path / "out/report.md").read_text()


ALWAYS = {
    "no calls at all": [(call(), call())] * 4,
    "one tool": [(call("a"), call("a", confidence=1.0))] * 4,
    "one example": [(call("a"), call())],
    "never right": [(call("a"), call("b", confidence=0.0))] * 3,
    "some without confidence": [
        (call("a"), call("a", confidence=0.5)),
        (call(), call()),
        (call("a", "a"), call()),
    ],
}


@pytest.mark.parametrize("pairs", ALWAYS.values(), ids=ALWAYS.keys())
def test_a_page_comes_of_the_least_of_data(
    tmp_path: Path, pairs: list[tuple[object, object]]
) -> None:
    made = predictions(pairs)  # type: ignore[arg-type]
    page, _ = read(tmp_path, alone=made)
    assert "alone makes the teacher's choice of tools in" in page.text
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text.replace("None: on the test part", "")


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    page, _ = read(tmp_path, a=simulate(0.9, 0), b=simulate(0.6, 0))
    assert not page.tags & {"script", "link", "img", "image", "iframe", "object", "foreignobject"}
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value is not None
            assert value.startswith("#")
    ids = [value for name, value in page.attributes if name == "id"]
    used = re.findall(r"url\(#([^)]*)\)", (tmp_path / "out/report.html").read_text())
    assert set(used) <= set(ids)
    assert "@import" not in (tmp_path / "out/report.html").read_text()


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    made = predictions([(call(EVIL), call("other", confidence=0.3)), (call("other"), call(EVIL))])
    page, markdown = read(tmp_path, **{EVIL.replace("/", ""): made})
    assert "script" not in page.tags
    assert EVIL in page.text
    assert "<script>" not in markdown.replace("\\<", "")


def test_names_in_any_script_raise_no_warning(tmp_path: Path) -> None:
    made = predictions([(call("注文を探す"), call("🧾")), (call("🧾"), call("注文を探す"))])
    page, _ = read(tmp_path, a=made)
    assert "注文を探す" in page.text


def test_the_findings_say_whether_the_lead_is_clear(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good", "good", simulate(0.95, 0))
    bad = write_run(tmp_path / "bad", "bad", simulate(0.3, 0))
    near = write_run(tmp_path / "near", "near", simulate(0.949, 0))
    clear = " ".join(words.findings(comparison([bad, good], FAST)[0]))
    assert "good leads bad, the next, by" in clear
    assert "this is statistically clear for these trained routers (p " in clear
    close = " ".join(words.findings(comparison([near, good], FAST)[0]))
    assert "the data does not tell the two apart" in close


def test_a_faster_router_that_is_at_most_the_margin_worse_is_pointed_out(tmp_path: Path) -> None:
    made = simulate(0.9, 0, groups=100)
    right = next(i for i, p in enumerate(made) if p.decision.tools == p.label.tools)
    nearly = [*made]
    nearly[right] = dataclasses.replace(made[right], decision=call("unheard_of"))
    runs = [
        write_run(tmp_path / "slow", "slow", made),
        write_run(tmp_path / "quick", "quick", nearly, timing=QUICK),
        write_run(tmp_path / "poor", "poor", simulate(0.2, 0, groups=100), timing=QUICK),
    ]
    report = comparison(runs, FAST)[0]
    sentences = " ".join(words.findings(report))
    pair = report["paired"][0]
    assert (pair["a"], pair["b"]) == ("slow", "quick")
    assert f"consider quick: at most {100 * pair['high']:.1f} points worse" in sentences
    assert "0.50 ms per decision against 4.00 ms" in sentences


def test_a_router_that_too_few_data_cannot_tell_apart_is_not_recommended(tmp_path: Path) -> None:
    """No significant difference is no evidence that there is none."""
    runs = [
        write_run(tmp_path / "slow", "slow", simulate(0.9, 0)),
        write_run(tmp_path / "quick", "quick", simulate(0.88, 0), timing=QUICK),
    ]
    report = comparison(runs, FAST)[0]
    assert not words.clear(report["paired"][0])
    assert "consider" not in " ".join(words.findings(report))


def test_a_difference_that_a_seed_reverses_is_not_clear(tmp_path: Path) -> None:
    skills = {"good": {0: 0.95, 1: 0.95, 2: 0.5}, "bad": {0: 0.3, 1: 0.3, 2: 0.55}}
    runs = [
        write_run(
            tmp_path / f"{name}{seed}",
            name,
            simulate(skill, seed),
            seed=seed,
            dataset=f"{seed}" * 64,
        )
        for name, seeds in skills.items()
        for seed, skill in seeds.items()
    ]
    report = compare(runs, tmp_path / "out", FAST)
    pair = report["paired"][0]
    assert pair["p_value_holm"] < 0.05
    assert [entry["difference"] > 0 for entry in pair["by_seed"]] == [True, True, False]
    assert not words.clear(pair)
    assert "but not under every seed" in " ".join(words.findings(report))
    text = Page((tmp_path / "out/report.html").read_text()).text
    assert words.by_seed(pair) in text
    assert "differs by seed" in text


def test_the_page_says_on_how_many_decisions_was_measured(tmp_path: Path) -> None:
    made = [dataclasses.replace(p, weight=2.0) for p in simulate(0.9, 0)]
    run = write_run(tmp_path / "a", "a", made)
    manifest = orjson.loads(run.manifest.read_bytes())
    manifest["dataset"]["parts"]["test"]["examples"] = 1000  # max_examples measured fewer
    run.manifest.write_bytes(orjson.dumps(manifest))
    compare([run], tmp_path / "out", FAST)
    text = Page((tmp_path / "out/report.html").read_text()).text
    assert f"measured on {len(made)} distinct decisions in 40 groups" in text
    assert f"1000 to test; measured on {len(made)} of them in 40 groups" in text


def test_agreement_of_the_teacher_is_never_called_a_bound(tmp_path: Path) -> None:
    several = TEACHER | {"name": "big, bigger", "label_agreement": 0.9}
    runs = [write_run(tmp_path / "a", "a", simulate(0.9, 0), teacher=several)]
    compare(runs, tmp_path / "out", FAST)
    text = Page((tmp_path / "out/report.html").read_text()).text
    assert "ceiling" not in text
    assert "teachers with each other" in text
    assert "not a bound" in text


def test_a_baseline_without_confidence_leaves_calibration_to_the_next(tmp_path: Path) -> None:
    page, _ = read(tmp_path, best=simulate(0.95, 0, confident=False), second=simulate(0.5, 0))
    assert "Is the confidence of second to be trusted?" in page.text


def test_more_routers_than_colours_are_still_all_in_the_tables(tmp_path: Path) -> None:
    names = [f"router{i}" for i in range(8)]
    made = {name: simulate(0.3 + 0.08 * i, 0) for i, name in enumerate(names)}
    page, markdown = read(tmp_path, **made)
    assert all(name in markdown for name in names)
    assert "The 6 most accurate routers; report.md has all." in page.text


def test_few_groups_and_one_seed_are_named_as_limits(tmp_path: Path) -> None:
    page, _ = read(tmp_path, a=simulate(0.9, 0, groups=5))
    assert "Only 5 groups were tested" in page.text
    assert "trained under one seed" in page.text


def test_below_five_groups_no_interval_is_printed(tmp_path: Path) -> None:
    good, bad = (simulate(skill, 0, groups=4) for skill in (0.9, 0.4))
    page, markdown = read(tmp_path, good=good, bad=bad)
    assert "too few groups for an interval" in page.text
    assert "Only 4 groups were tested: too few" in page.text
    assert "[" not in markdown.replace(r"\[", "[").replace("[4/4]", "")


def test_mistakes_are_named_by_whole_decisions_most_frequent_first() -> None:
    made = predictions(
        [
            (call("a", "a"), call("a")),
            (call("a"), call()),
            (call("a"), call()),
            (call("a", "b"), call("b", "a")),
        ]
    )
    assert mistakes(made, 5) == [("a", "reply", 2), ("2 × a", "a", 1)]


def test_a_confusion_row_counts_all_its_labels() -> None:
    pairs = [(call("a"), call(name)) for name in "bcdefab"] + [(call("b"), call("a"))] * 2
    found = confusion(predictions(pairs), 2)
    assert found is not None
    assert (found.rows, found.columns) == (["a", "b"], ["a", "b", OTHER])
    assert found.counts == [[1, 2, 4], [2, 0, 0]]


def test_a_weight_counts_in_confusion_and_reliability_like_that_many_copies() -> None:
    pairs = [
        (call(a), call(b, confidence=c))
        for c in (0.2, 0.6, 0.9)
        for a, b in ("ab", "aa", "ba", "cc", "bb")
    ]
    made = predictions(pairs)
    weights = [1 + i % 5 for i in range(len(made))]
    heavy = [dataclasses.replace(p, weight=w) for p, w in zip(made, weights, strict=True)]
    copies = [p for p, w in zip(made, weights, strict=True) for _ in range(w)]
    assert mistakes(heavy, 9) == mistakes(copies, 9)
    assert confusion(heavy, 9) == confusion(copies, 9)
    assert plots.reliability_plot(heavy) == plots.reliability_plot(copies)
    assert plots.reliability_plot(heavy) != plots.reliability_plot(made)


def test_without_a_mistake_there_is_no_confusion() -> None:
    assert confusion(predictions([(call("a"), call("a"))]), 4) is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (1.39, "1.39"),
        (999, "999"),
        (1234, "1234"),
        (22.7e6, "22.7M"),
        (None, "–"),
    ],
)
def test_counts_are_short(number: float | None, text: str) -> None:
    assert formats.count(number) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(0.016, "0.02 ms"), (22, "22.0 ms"), (900, "900 ms"), (1800, "1.8 s")]
)
def test_times_are_short(ms: float, text: str) -> None:
    assert formats.milliseconds(ms) == text
