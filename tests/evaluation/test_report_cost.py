"""What the report says of money, of other LLMs, and of decisions that could not be had."""

import csv
import io
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_up import FAST, TEACHER, call, simulate, write_run
from rich.console import Console
from schema import REPORT

from distill.cli import main
from distill.config import PriceConfig, PricesConfig
from distill.evaluation import formats
from distill.evaluation.compare import compare, comparison
from distill.evaluation.predictions import Prediction, Size
from distill.evaluation.report import table
from distill.routers.confidence import Threshold
from distill.runs import RunDir, read_json
from distill.types import Decision, Usage

PRICE = PriceConfig(input=2.0, output=8.0, date=date(2025, 1, 31))
BOTH = PricesConfig(models={"big-model": PRICE, "other-llm": PRICE}, training_per_hour=1.0)
TEACHER_ALONE = PricesConfig(models={"big-model": PRICE})
LLM = {"model": "other-llm", "base_url": "http://127.0.0.1:9"}


def promise(alpha: float, threshold: float | None) -> Threshold:
    return Threshold(alpha, 0.1, None, threshold, 0.5, 0.01, alpha, 100, 40)


def sized(made: list[Prediction]) -> list[Prediction]:
    return [replace(p, size=Size(300, 700, 40)) for p in made]


def local(folder: Path, made: list[Prediction] | None = None, **changes: Any) -> RunDir:
    settings: dict[str, Any] = {"thresholds": [promise(0.05, 0.9), promise(0.2, 0.5)]}
    made = sized(simulate(0.85, 0)) if made is None else made
    return write_run(folder / "near-s0", "near", made, **settings | changes)


def endpoint(folder: Path, every: int = 0) -> RunDir:
    """Another LLM's run; of its decisions every so many could not be had."""
    usage = Usage(1000, 50, 1, 700.0)
    made = [replace(p, decision=replace(p.decision, confidence=None, usage=usage))
            for p in sized(simulate(0.95, 0))]  # fmt: skip
    for i in range(0, len(made), every or len(made) + 1):
        if every:
            error = "timeout: ReadTimeout" if i % 2 else "unknown tool: 'x'"
            made[i] = replace(made[i], decision=Decision("reply", error=error, usage=usage))
    return write_run(
        folder / "llm-s0", "llm", made, kind="endpoint", settings=LLM, base_model="other-llm"
    )


def texts(folder: Path) -> dict[str, str]:
    return {kind: (folder / f"report.{kind}").read_text() for kind in ("html", "md")}


def entry(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(router for router in report["routers"] if router["name"] == name)


def test_what_could_not_be_had_is_counted_and_is_in_no_figure(tmp_path: Path) -> None:
    run = endpoint(tmp_path / "some", every=7)
    report = compare([run, local(tmp_path)], tmp_path / "out", FAST)
    jsonschema.validate(report, REPORT)
    some = entry(report, "llm")
    every = entry(comparison([endpoint(tmp_path / "all")], FAST)[0], "llm")
    n = some["failed"]["n"]
    assert n == sum(some["failed"]["reasons"].values()) > 10
    assert some["failed"]["reasons"].keys() == {"timeout", "unknown tool"}
    assert some["n_examples"] == every["n_examples"] - n
    assert every["failed"] == {"n": 0, "share": 0, "reasons": {}}
    kept = [p for i, p in enumerate(simulate(0.95, 0)) if i % 7]
    right = [p.decision.tools == p.label.tools for p in kept]
    assert some["tool_accuracy"]["value"] == pytest.approx(sum(right) / len(right))
    assert {pair["by_seed"][0]["n_examples"] for pair in report["paired"]} == {len(kept)}
    as_wrong = sum(right) / every["n_examples"]
    for text in texts(tmp_path / "out").values():
        assert f"{n} decisions of llm could not be had: timeout (" in text.replace("\\", "")
        assert f"its tool accuracy would be {100 * as_wrong:.1f}%" in text
        assert "Failed" in text
    console = Console(width=200, file=io.StringIO())
    console.print(table(report))
    assert "Failed" in console.file.getvalue()  # type: ignore[attr-defined]
    rows = csv.DictReader(io.StringIO((tmp_path / "out/report.csv").read_text()))
    assert {row["name"]: row["failed"] for row in rows} == {
        "llm": str(n),
        "near": "0",
        "teacher": "",
    }


def test_where_nothing_failed_there_is_no_column_for_it(tmp_path: Path) -> None:
    compare([local(tmp_path)], tmp_path / "out", FAST)
    assert "Failed" not in "".join(texts(tmp_path / "out").values())


def test_savings_of_each_promise_are_net_of_what_still_asks_the_llm(tmp_path: Path) -> None:
    report = compare([local(tmp_path)], tmp_path / "out", FAST, BOTH)
    jsonschema.validate(report, REPORT)
    near = entry(report, "near")
    strict, loose = near["risk"]
    for promised in (strict, loose):
        saved = promised["savings"]
        assert 0 < saved["llm_calls"]["value"] < 1000 * promised["coverage"]["value"]  # replies
        assert saved["llm_calls"]["low"] < saved["llm_calls"]["value"] < saved["llm_calls"]["high"]
        assert saved["prompt_tokens"] == pytest.approx(1200 * saved["llm_calls"]["value"])
        assert saved["tool_tokens"] == pytest.approx(0.7 * saved["prompt_tokens"])
        assert saved["seconds"] == pytest.approx(0.9 * saved["llm_calls"]["value"] - 4)
        wrong = promised["coverage"]["value"] * promised["error"]["value"]
        assert saved["wrong"]["value"] == pytest.approx(wrong)
        paid_after = 312 / 3600 / (saved["cost"] / 1000)
        assert saved["break_even"] == pytest.approx(paid_after, abs=1)
    assert strict["savings"]["cost"] < loose["savings"]["cost"] < report["cost"]["cost"]
    assert near["llm_calls_saved"] == strict["savings"]["llm_calls"]["value"]
    assert near["tokens_saved"] == pytest.approx(1234 * near["llm_calls_saved"])
    assert near["cost_saved_usd"] == strict["savings"]["cost"]
    assert report["cost"]["tokens"] == "recorded"
    for text in texts(tmp_path / "out").values():
        assert "as stated on 2025-01-31" in text.replace("\\", "")
        assert formats.money(strict["savings"]["cost"]) in text


def test_a_promise_without_a_threshold_states_no_saving(tmp_path: Path) -> None:
    run = local(tmp_path, thresholds=[promise(0.05, None), promise(0.2, 0.5)])
    near = entry(compare([run], tmp_path / "out", FAST, BOTH), "near")
    assert near["risk"][0]["savings"]["llm_calls"]["value"] == 0
    assert near["llm_calls_saved"] == near["risk"][1]["savings"]["llm_calls"]["value"] > 0
    none = local(tmp_path / "none", thresholds=[promise(0.05, None)])
    near = entry(comparison([none], FAST, BOTH)[0], "near")
    assert (near["llm_calls_saved"], near["tokens_saved"], near["cost_saved_usd"]) == (None,) * 3


def test_a_missing_price_leaves_cost_null_and_is_named(tmp_path: Path) -> None:
    runs = [local(tmp_path), endpoint(tmp_path)]
    report = compare(runs, tmp_path / "out", FAST, TEACHER_ALONE)
    jsonschema.validate(report, REPORT)
    assert report["cost"]["missing_prices"] == ["other-llm"]
    assert entry(report, "llm")["spent"]["cost"] is None
    assert entry(report, "near")["cost_saved_usd"] > 0
    for text in texts(tmp_path / "out").values():
        assert "No price was stated for other-llm: its cost is not known" in text.replace("\\", "")
    several = TEACHER | {"name": "big-model, other-llm", "label_agreement": 0.9}
    report = comparison([local(tmp_path / "several", teacher=several)], FAST, BOTH)[0]
    assert report["cost"]["missing_prices"] == ["big-model, other-llm"]
    assert entry(report, "near")["cost_saved_usd"] is None


def test_dollars_are_only_stated_of_dollars(tmp_path: Path) -> None:
    euros = BOTH.model_copy(update={"currency": "EUR"})
    report = compare([local(tmp_path)], tmp_path / "out", FAST, euros)
    near = entry(report, "near")
    assert near["cost_saved_usd"] is None
    assert near["risk"][0]["savings"]["cost"] > 0
    assert "EUR" in texts(tmp_path / "out")["html"]


def test_without_prices_or_usage_calls_are_still_counted(tmp_path: Path) -> None:
    silent = TEACHER | {"input_tokens_per_decision": None, "output_tokens_per_decision": None}
    report = compare([local(tmp_path, teacher=silent)], tmp_path / "out", FAST)
    jsonschema.validate(report, REPORT)
    near = entry(report, "near")
    assert near["llm_calls_saved"] > 0
    assert near["cost_saved_usd"] is None
    saved = near["risk"][0]["savings"]["prompt_tokens"]
    assert saved == pytest.approx(1000 / 4 * near["llm_calls_saved"])
    assert report["cost"]["tokens"] == "estimated"
    for text in texts(tmp_path / "out").values():
        assert "No prices were stated" in text
        assert "estimated at four bytes" in text


def test_predictions_older_than_sizes_and_manifests_older_than_sums_are_read(
    tmp_path: Path,
) -> None:
    older = {key: value for key, value in TEACHER.items() if "put_tokens" not in key}
    run = local(tmp_path, simulate(0.85, 0), teacher=older)
    report = compare([run], tmp_path / "out", FAST, BOTH)
    jsonschema.validate(report, REPORT)
    assert entry(report, "near")["llm_calls_saved"] > 0
    assert entry(report, "near")["tokens_saved"] is None
    assert report["cost"]["tokens"] is None
    assert "evaluate them again" in texts(tmp_path / "out")["html"]


def test_an_llm_stands_in_the_plot_beside_the_teacher(tmp_path: Path) -> None:
    compare([local(tmp_path), endpoint(tmp_path)], tmp_path / "out", FAST, BOTH)
    html = texts(tmp_path / "out")["html"]
    start = html.index('aria-label="Share wrong against what the LLM is paid"')
    plot = html[start : html.index("</svg>", start)]
    assert "USD for the LLM, per 1,000 decisions" in plot
    assert all(name in plot for name in ("teacher", "llm", "near"))
    compare([local(tmp_path), endpoint(tmp_path)], tmp_path / "out", FAST)
    assert "LLM calls, per 1,000 decisions" in texts(tmp_path / "out")["html"]


def test_with_nothing_beside_the_teacher_there_is_no_plot(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "a", [replace(p, decision=call()) for p in simulate(0.5, 0)])
    compare([run], tmp_path / "out", FAST)
    assert "what the LLM is paid" not in texts(tmp_path / "out")["html"]


def test_prices_are_stated_on_the_command_line(tmp_path: Path) -> None:
    run, out, table_of = local(tmp_path), tmp_path / "out", tmp_path / "prices.yaml"
    arguments = ["compare", str(run.path), "-o", str(out), "--prices", str(table_of)]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert not out.exists()
    table_of.write_text("models: {big-model: {input: 2, output: 8, date: 2025-01-31}}\n")
    main(arguments)
    cost = read_json(out / "report.json")["cost"]
    assert cost["prices"]["big-model"]["date"] == "2025-01-31"
    assert cost["cost"] == pytest.approx(1200 * 2 / 1000 + 34 * 8 / 1000)
