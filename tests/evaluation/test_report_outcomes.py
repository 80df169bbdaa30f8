"""What readers meet of the closed loop: in words, in tables, in a plot, and in a comparison."""

import csv
import io
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_tasks import failed, loop, outcome, played
from made_up import FAST, simulate, write_run
from rich.console import Console
from schema import CLOSED_LOOP, REPORT

from distill.errors import RouterError
from distill.evaluation.compare import compare
from distill.evaluation.report import outcomes_table, paired_table, plots, write_outcomes
from distill.evaluation.report.outcome_words import sentences
from distill.evaluation.report.outcomes import to_csv, to_markdown
from distill.runs import RunDir, read_json, write_json
from distill.types import Usage

GOOD, BAD = played(0.9, 1), played(0.3, 4)
EVIL = '<script>alert("1")</script> | `a`'


def said(found: dict[str, Any]) -> str:
    return "\n".join(sentences(found))


def printed(table: Any, width: int = 160) -> str:
    console = Console(width=width)
    with console.capture() as caught:
        console.print(table)
    return caught.get()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return write_run(tmp_path / "encoder", "encoder", simulate(0.8, seed=1, groups=8))


def test_a_comparison_tells_the_outcomes_of_each_simulation(run: RunDir, tmp_path: Path):
    attacked = {"encoder-s0": played(0.7, 2, follows=0.3), EVIL: played(0.6, 3, follows=0.0)}
    write_outcomes(loop({"encoder-s0": GOOD, "tfidf-s0": BAD}), tmp_path / "plain")
    write_outcomes(loop(attacked, attacks=True), tmp_path / "attacked")
    folders = [tmp_path / "plain", tmp_path / "attacked"]
    compare([run], tmp_path / "out", FAST, closed_loop=folders)
    report = read_json(tmp_path / "out/report.json")
    jsonschema.validate(report, REPORT)
    jsonschema.validate(report["closed_loop"], CLOSED_LOOP)
    assert [found["path"] for found in report["closed_loop"]] == [str(each) for each in folders]
    html = (tmp_path / "out/report.html").read_text()
    markdown = (tmp_path / "out/report.md").read_text()
    assert "## Outcomes: orderdesk\n" in markdown
    assert "## Outcomes: orderdesk, under attack\n" in markdown
    section = html[html.index("<h2>Outcomes</h2>") :]
    for found in report["closed_loop"]:
        for sentence in sentences(found):
            assert str(escape(sentence)).replace("&quot;", "&#34;") in section
    assert html.count("hidden instructions followed, % of attacked tasks") == 2, "label and axis"
    assert EVIL not in html
    assert f"--closed-loop {folders[0]} --closed-loop {folders[1]}" in html


def test_without_a_simulation_there_is_no_such_section(run: RunDir, tmp_path: Path):
    assert compare([run], tmp_path / "out", FAST)["closed_loop"] == []
    assert "<h2>Outcomes" not in (tmp_path / "out/report.html").read_text()
    assert "## Outcomes" not in (tmp_path / "out/report.md").read_text()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "closed_loop.json: missing; the step that writes it has not finished"),
        ([], "not the figures of a simulation; name a folder that distill simulate wrote"),
        ({"arms": []}, "not the figures of a simulation"),
    ],
)
def test_a_folder_that_holds_no_simulation(run: RunDir, tmp_path: Path, content: Any, why: str):
    if content is not None:
        write_json(tmp_path / "loop/closed_loop.json", content)
    with pytest.raises(RouterError) as caught:
        compare([run], tmp_path / "out", FAST, closed_loop=[tmp_path / "loop"])
    assert why in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_words_say_who_solves_most_and_what_fewer_calls_cost():
    for arms in ({"a": GOOD, "b": BAD}, {"b": BAD, "a": GOOD}):
        found = loop(arms)
        words = said(found)
        success, calls = (
            {arm["name"]: arm[metric]["value"] for arm in found["arms"]}
            for metric in ("success", "llm_calls")
        )
        assert f"a solves the most tasks: {success['a']:.1%} [" in words
        assert f"a makes the fewest LLM calls, {calls['a']:.2f} a task" in words
        by = 100 * (success["a"] - success["b"])
        assert f"what it solves is +{by:.1f} percentage points, 95% interval +" in words
        assert f"a {by:.1f} percentage points more than b" in words
        assert "answered by the recorded teacher" in words


def test_words_name_the_llm_that_answers_the_rest():
    assert "is answered by big-llm." in said(
        loop({"a": GOOD}, fallback="llm", endpoint={"model": "big-llm"})
    )


def test_equals_are_not_told_apart():
    words = said(loop({"a": GOOD, "b": GOOD}))
    assert "no two contestants are told apart" in words
    assert "fewest" not in words


def test_words_say_who_follows_hidden_instructions():
    arms = {"r, unguarded": played(0.8, 1, follows=0.5), "r": played(0.8, 2, follows=0.0)}
    found = loop(arms, attacks=True)
    loose = next(arm for arm in found["arms"] if arm["name"] == "r, unguarded")
    followed = f"{loose['attack_followed']['value']:.1%}"
    assert f"followed most by “r, unguarded”, in {followed}" in said(found)
    assert "least by r, in 0.0%" in said(found)
    alone = loop({"r": played(0.8, 1, follows=0.0)}, attacks=True)
    assert "followed in 0.0% [0.0 to" in said(alone)


def test_what_is_not_known_is_said_so():
    some = said(loop({"a": [*GOOD, failed(77)], "b": BAD}))
    assert "ended in an error are in no figure: 1 of a." in some
    none = said(loop({"a": [failed(i) for i in range(3)]}))
    assert "nothing is known of its outcome" in none
    untold = [replace(each, usage=Usage()) for each in GOOD]
    assert "LLM calls" not in said(loop({"a": untold, "b": untold}))
    few = said(loop({"a": GOOD[:3], "b": BAD[:3]}))
    assert "told apart" in few
    assert "interval" not in few


def test_differences_are_shown_where_there_are_two():
    found = loop({"a": GOOD, "b": BAD})
    pair = next(pair for pair in found["paired"] if pair["metric"] == "success")
    table = printed(paired_table(found))
    row = next(line.split() for line in table.splitlines() if "solved, points" in line)
    assert row == ["b", "a", "solved,", "points", f"−{-100 * pair['difference']:.1f}", "<", "0.001"]
    assert "tokens in" in table
    assert paired_table(loop({"a": GOOD})) is None
    alone = printed(paired_table(loop({"a": GOOD, "b": BAD}, fallback="none")))
    assert "LLM calls" not in alone, "nobody is asked"


def test_a_name_is_no_markup_and_keeps_what_looks_like_an_interval():
    found = loop({"r [1 to 2]": GOOD, EVIL: BAD})
    assert "r [1 to 2]" in printed(outcomes_table(found))
    assert "r [1 to 2]" in printed(paired_table(found))
    assert EVIL not in to_markdown(found)


def test_csv_has_every_figure_in_full():
    found = loop({"a": [*GOOD, failed(77)], "b": [outcome(0, usage=Usage()), *BAD[1:]]})
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    for arm in found["arms"]:
        of_arm = {
            row["metric"]: row for row in lines if (row["arm"], row["less"]) == (arm["name"], "")
        }
        for metric in ("success", "steps", "wrong_calls", "harmful_calls"):
            assert float(of_arm[metric]["value"]) == arm[metric]["value"]
            assert float(of_arm[metric]["high"]) == arm[metric]["high"]
        assert ("input_tokens" in of_arm) == (arm["name"] == "a"), "not known of one of b's tasks"
        assert of_arm["success"]["n_errors"] == str(arm["ends"].get("error", 0))
    pairs = {row["metric"]: row for row in lines if row["less"]}
    assert list(pairs) == [pair["metric"] for pair in found["paired"]]
    for pair in found["paired"]:
        assert float(pairs[pair["metric"]]["value"]) == pair["difference"]
        assert pairs[pair["metric"]]["n_tasks"] == str(pair["n_tasks"])


@pytest.mark.parametrize(
    ("arms", "job", "axis"),
    [
        ({"a": GOOD, "b": BAD}, {}, "LLM calls per task"),
        ({"a": GOOD}, {}, None),
        ({"a": GOOD, "b": GOOD}, {}, None),
        ({"a": GOOD, "b": [failed(1)]}, {}, None),
        (
            {"a": played(0.9, 0), "b": played(0.4, 0)},
            {"fallback": "none"},
            "wrong calls per task",
        ),
        (
            {"a": played(0.9, 1, follows=0.1), "b": played(0.4, 2, follows=0.9)},
            {"attacks": True},
            "hidden instructions followed, % of attacked tasks",
        ),
    ],
)
def test_the_plot_is_against_what_differs(arms: Any, job: Any, axis: str | None):
    plot = plots.outcomes_plot(loop(arms, **job) | {"path": "loop"})
    assert (plot is None) if axis is None else (plot is not None and f">{axis}<" in plot)


def test_many_contestants_look_different():
    assert len({plots.marker(i) for i in range(plots.SERIES**2)}) == plots.SERIES**2
