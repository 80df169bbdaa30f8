import csv
import io
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from made_up import FAST, TEACHER, TIMING, call, predictions, simulate, write_run
from rich.console import Console
from schema import COMPARED, REPORT, RUN_EVALUATION

from distill.errors import InputError, RouterError
from distill.evaluation.compare import compare, comparison, run_report
from distill.evaluation.latency import Timing
from distill.evaluation.report import table
from distill.runs import RunDir, read_json, write_json


def two_routers(folder: Path, seeds: tuple[int, ...] = (0, 1)) -> list[RunDir]:
    return [
        write_run(
            folder / f"{name}-s{seed}",
            name,
            simulate(skill, seed, confident=name != "weak"),
            seed=seed,
            dataset=f"{seed}" * 64,
        )
        for name, skill in (("weak", 0.5), ("strong", 0.9))
        for seed in seeds
    ]


def test_a_comparison_is_written_whole_and_follows_the_contract(tmp_path: Path) -> None:
    report = compare(two_routers(tmp_path), tmp_path / "out", FAST)
    written = orjson.loads((tmp_path / "out/report.json").read_bytes())
    assert written == report
    jsonschema.validate(written, REPORT)
    jsonschema.validate(written["evaluation"], COMPARED)
    names = {"report.json", "report.md", "report.csv", "report.html"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_a_runs_own_report_follows_the_contract_and_can_be_compared(tmp_path: Path) -> None:
    made = simulate(0.8, 0)
    run = write_run(tmp_path / "a-s0", "a", made)
    report = run_report(run, made, TIMING, FAST)
    jsonschema.validate(report, REPORT)
    jsonschema.validate(report["evaluation"], RUN_EVALUATION)
    assert len(report["routers"]) == 1
    assert report["paired"] == []
    assert report["evaluation"]["latency_ms"] == TIMING["latency_ms"]
    run.report.write_bytes(orjson.dumps(report))
    assert comparison([run], FAST)[0]["routers"] == report["routers"]


def test_the_best_router_comes_first_and_its_lead_is_paired(tmp_path: Path) -> None:
    report = comparison(two_routers(tmp_path), FAST)[0]
    assert [router["name"] for router in report["routers"]] == ["strong", "weak"]
    pairs = {pair["metric"]: pair for pair in report["paired"]}
    assert set(pairs) == {"tool_accuracy", "call_accuracy"}
    for metric, pair in pairs.items():
        a, b = (router[metric]["value"] for router in report["routers"])
        assert (pair["a"], pair["b"]) == ("strong", "weak")
        assert pair["difference"] == pytest.approx(a - b)
        assert 0 < pair["low"] < pair["difference"] < pair["high"]
        assert pair["p_value_holm"] >= pair["p_value"]


def test_seeds_are_pooled_over_their_own_test_parts(tmp_path: Path) -> None:
    runs = two_routers(tmp_path)
    report = comparison(runs, FAST)[0]
    (strong, _) = report["routers"]
    made = [simulate(0.9, seed) for seed in (0, 1)]
    right = [p.decision.tools == p.label.tools for part in made for p in part]
    assert strong["n_examples"] == len(right)
    assert strong["tool_accuracy"]["value"] == pytest.approx(sum(right) / len(right))
    assert [entry["seed"] for entry in strong["by_seed"]] == [0, 1]
    assert strong["n_groups"] == 40  # both seeds tested g0 … g39
    assert strong["n_distinct"] == max(len(part) for part in made)  # e0, e1, … in both
    (pair, _) = report["paired"]
    weak = [simulate(0.5, seed, confident=False) for seed in (0, 1)]
    for entry, left, right in zip(pair["by_seed"], made, weak, strict=True):
        gain = sum(p.decision.tools == p.label.tools for p in left)
        gain -= sum(p.decision.tools == p.label.tools for p in right)
        assert entry["n_examples"] == len(left)
        assert entry["difference"] == pytest.approx(gain / len(left))


def test_counts_of_several_seeds_stay_within_the_dataset(tmp_path: Path) -> None:
    report = comparison(two_routers(tmp_path), FAST)[0]
    sizes = [len(simulate(0.9, seed)) for seed in (0, 1)]
    assert [entry["n_test"] for entry in report["dataset"]["seeds"]] == sizes
    assert [entry["n_measured"] for entry in report["dataset"]["seeds"]] == sizes
    assert report["dataset"]["n_test"] == round(sum(sizes) / 2)


def test_a_group_tested_under_two_seeds_counts_once(tmp_path: Path) -> None:
    made = simulate(0.7, 0)
    once = [write_run(tmp_path / "a-s0", "a", made)]
    twice = [*once, write_run(tmp_path / "a-s1", "a", made, seed=1)]
    (one,), (two,) = (comparison(runs, FAST)[0]["routers"] for runs in (once, twice))
    assert two["n_examples"] == 2 * one["n_examples"]
    assert two["n_distinct"] == one["n_distinct"] == one["n_examples"]
    assert two["tool_accuracy"] == pytest.approx(one["tool_accuracy"])


def test_pairs_use_common_decisions_of_the_same_seed_only(tmp_path: Path) -> None:
    right, wrong = (call("a"), call("a")), (call("a"), call("b"))
    runs = [
        write_run(tmp_path / "a-s0", "a", predictions([right] * 4)),
        write_run(tmp_path / "b-s0", "b", predictions([right, wrong] * 2)),
        write_run(tmp_path / "b-s1", "b", predictions([wrong] * 4), seed=1),
        write_run(tmp_path / "c-s1", "c", predictions([wrong] * 4), seed=1),
    ]
    report = comparison(runs, FAST)[0]
    found = {
        (pair["a"], pair["b"]): pair["difference"]
        for pair in report["paired"]
        if pair["metric"] == "tool_accuracy"
    }
    assert found == {("a", "b"): 0.5, ("b", "c"): 0.0}  # a and c share no seed


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = two_routers(tmp_path)
    compare(runs, tmp_path / "out", FAST)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    compare(runs, tmp_path / "out", FAST)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


def test_runs_of_different_datasets_cannot_be_compared(tmp_path: Path) -> None:
    made = simulate(0.8, 0)
    runs = [
        write_run(tmp_path / "a-s0", "a", made, dataset="1" * 64),
        write_run(tmp_path / "b-s0", "b", made, dataset="2" * 64),
    ]
    with pytest.raises(InputError) as caught:
        compare(runs, tmp_path / "out", FAST)
    assert "a-s0" in str(caught.value)
    assert "b-s0" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"source": "6" * 64}, "not made from the traces of"),
        ({"data": {"outcome": "any"}}, r"data\.outcome is not that of"),
        ({"settings": {"hidden": 64}}, r"routers\.a\.hidden is not that of"),
    ],
)
def test_seeds_of_different_jobs_are_not_pooled(
    tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    made = simulate(0.8, 0)
    runs = [
        write_run(tmp_path / "a-s0", "a", made),
        write_run(tmp_path / "a-s1", "a", made, seed=1, **change),
    ]
    with pytest.raises(InputError, match=fault) as caught:
        comparison(runs, FAST)
    assert "a-s0" in str(caught.value)
    assert "a-s1" in str(caught.value)


def test_other_routers_may_have_other_settings_and_traces_may_have_moved(tmp_path: Path) -> None:
    made = simulate(0.8, 0)
    runs = [
        write_run(tmp_path / "a", "a", made, data={"traces": "here.jsonl"}),
        write_run(tmp_path / "b", "b", made, data={"traces": "x.jsonl"}, settings={"hidden": 64}),
    ]
    assert len(comparison(runs, FAST)[0]["routers"]) == 2


def test_routers_measured_on_different_examples_are_not_compared(tmp_path: Path) -> None:
    made = simulate(0.8, 0)
    runs = [
        write_run(tmp_path / "a-s0", "a", made),
        write_run(tmp_path / "b-s0", "b", made[:50]),
    ]
    with pytest.raises(InputError, match=r"evaluation\.max_examples"):
        comparison(runs, FAST)


def test_the_same_run_twice_and_two_kinds_under_one_name_are_refused(tmp_path: Path) -> None:
    made = simulate(0.8, 0)
    run = write_run(tmp_path / "a-s0", "a", made)
    other = write_run(tmp_path / "a-s1", "a", made, seed=1, kind="encoder")
    with pytest.raises(InputError, match="seed 0 is also in"):
        comparison([run, run], FAST)
    with pytest.raises(InputError, match="kind"):
        comparison([run, other], FAST)
    with pytest.raises(InputError, match="no runs"):
        comparison([], FAST)


@pytest.mark.parametrize(
    ("missing", "cure"),
    [
        ("manifest", "distill train"),
        ("report", "distill evaluate"),
        ("predictions", "distill evaluate"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_with_its_cure(
    tmp_path: Path, missing: str, cure: str
) -> None:
    run = write_run(tmp_path / "a-s0", "a", simulate(0.8, 0))
    getattr(run, missing).unlink()
    with pytest.raises(RouterError, match=cure):
        comparison([run], FAST)


def test_the_share_of_the_agreement_is_null_where_the_traces_do_not_tell(tmp_path: Path) -> None:
    made = simulate(0.8, 0)
    silent = {
        "name": None,
        "self_agreement": None,
        "self_agreement_contexts": 0,
        "label_agreement": None,
        "label_agreement_contexts": 0,
        "success_rate": None,
        "latency_ms": None,
        "tokens_per_decision": None,
    }
    run = write_run(tmp_path / "a-s0", "a", made, teacher=silent)
    report = comparison([run], FAST)[0]
    jsonschema.validate(report, REPORT)
    assert report["routers"][0]["share_of_agreement"] is None
    known = write_run(tmp_path / "b-s0", "b", made)
    (entry,) = comparison([known], FAST)[0]["routers"]
    assert entry["share_of_agreement"] == pytest.approx(entry["tool_accuracy"]["value"] / 0.96)


def _csv(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_several_teachers_are_measured_against_labels_whoever_gave_them(tmp_path: Path) -> None:
    teachers = TEACHER | {"name": "big, bigger", "label_agreement": 0.9}
    run = write_run(tmp_path / "a-s0", "a", simulate(0.8, 0), teacher=teachers)
    report = comparison([run], FAST)[0]
    (entry,) = report["routers"]
    assert (report["teacher"]["self_agreement"], report["teacher"]["label_agreement"]) == (
        0.96,
        0.9,
    )
    assert entry["share_of_agreement"] == pytest.approx(entry["tool_accuracy"]["value"] / 0.9)


@pytest.mark.parametrize(
    ("kind", "stated", "fills"),
    [
        ("encoder", {"fills_arguments": False}, False),
        ("encoder", {"fills_arguments": True}, True),
        ("encoder", {}, False),  # manifests of runs older than the key
        ("decoder", {}, True),
    ],
)
def test_a_router_fills_arguments_if_its_run_says_so_whatever_the_tools_take(
    tmp_path: Path, kind: str, stated: dict[str, bool], fills: bool
) -> None:
    made = predictions([(call("ping"), call("ping"))] * 6)  # a call of `{}` needs no filling
    run = write_run(tmp_path / "a-s0", "a", made, kind=kind)
    write_json(run.manifest, read_json(run.manifest) | stated)
    assert comparison([run], FAST)[0]["routers"][0]["fills_arguments"] is fills


@pytest.mark.parametrize(
    ("samples", "known"), [(19, {"p50"}), (20, {"p50", "p95"}), (100, {"p50", "p95", "p99"})]
)
def test_percentiles_that_the_samples_cannot_tell_are_null_and_print(
    tmp_path: Path, samples: int, known: set[str]
) -> None:
    timing: Timing = {**TIMING, "latency_samples": samples}
    run = write_run(tmp_path / "a-s0", "a", simulate(0.8, 0), timing=timing)
    (entry,) = compare([run], tmp_path / "out", FAST)["routers"]
    assert entry["latency_samples"] == samples
    assert {p for p, ms in entry["latency_ms"].items() if ms is not None} == known
    assert "None" not in (tmp_path / "out/report.md").read_text()


def test_terminal_markdown_and_csv_carry_the_same_figures(tmp_path: Path) -> None:
    report = compare(two_routers(tmp_path), tmp_path / "out", FAST)
    console = Console(width=200, file=io.StringIO())
    console.print(table(report))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    text = (tmp_path / "out/report.md").read_text()
    html = (tmp_path / "out/report.html").read_text()
    rows = _csv(tmp_path / "out/report.csv")
    assert [row["name"] for row in rows] == ["strong", "weak", "teacher"]
    for router, row in zip(report["routers"], rows, strict=False):
        for metric in ("tool_accuracy", "call_accuracy", "macro_f1"):
            assert float(row[metric]) == router[metric]["value"]
            assert float(row[f"{metric}_low"]) == router[metric]["low"]
            percent = f"{100 * router[metric]['value']:.1f}%"
            assert percent in shown
            assert percent in text
            assert percent in html
    assert rows[1]["ece"] == ""  # the weak router states no confidence
    assert "teacher" in shown


def test_equal_routers_come_by_name(tmp_path: Path) -> None:
    made = simulate(0.8, 0)
    runs = [write_run(tmp_path / name, name, made) for name in ("b", "a")]
    report = comparison(runs, FAST)[0]
    assert [router["name"] for router in report["routers"]] == ["a", "b"]
    assert [pair["p_value"] for pair in report["paired"]] == [1.0, 1.0]


def test_few_groups_leave_out_intervals_and_p_values_and_follow_the_contract(
    tmp_path: Path,
) -> None:
    runs = [
        write_run(tmp_path / name, name, simulate(skill, 0, groups=4))
        for name, skill in (("a", 0.9), ("b", 0.4))
    ]
    report = comparison(runs, FAST)[0]
    jsonschema.validate(report, REPORT)
    for router in report["routers"]:
        assert (router["tool_accuracy"]["low"], router["tool_accuracy"]["high"]) == (None, None)
    for pair in report["paired"]:
        assert (pair["low"], pair["p_value"], pair["p_value_holm"]) == (None, None, None)
