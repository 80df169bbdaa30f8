"""A job from traces to comparison: whole or absent, resumable, and never mixed with another."""

import logging
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from small_shop import LIST, job_values, write_traces

from distill import config as configs
from distill import load_router, pipeline
from distill.chat import trace_json
from distill.config import RunConfig
from distill.dataset import load_dataset
from distill.errors import (
    ConfigError,
    DatasetError,
    MissingExtraError,
    ModelError,
    RouterError,
)
from distill.evaluation import predictions
from distill.progress import silent
from distill.routers.folder import read_router_file
from distill.runs import RunDir, read_json
from distill.types import Message, ToolCall, Trace

CONTRACT = [
    "calibration.jsonl",
    "config.yaml",
    "manifest.json",
    "predictions.jsonl",
    "report.json",
]


def job_at(folder: Path, **changes: Any) -> RunConfig:
    """A job of seconds on the traces in `folder`; changes are top-level keys of the config."""
    return configs.parse(job_values(folder, **changes), "test", RunConfig)


def do(job: RunConfig) -> None:
    for step in pipeline.steps(job):
        step.do(silent)


def times(folder: Path) -> dict[str, int]:
    """Every file's modification time, but those of the comparison, which is always made anew."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "comparison" not in path.parts
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with traces and the finished job over them; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_traces(folder / "traces.jsonl")
    do(job_at(folder))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished job that a test may change, under a config of its own place."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    shutil.copy2(finished / "traces.jsonl", tmp_path / "traces.jsonl")
    manifest = tmp_path / "runs/shop/dataset-s0/manifest.json"
    replaced = [manifest, *tmp_path.glob("runs/shop/*/config.yaml")]
    for path in replaced:
        path.write_text(path.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    write_traces(tmp_path / "traces.jsonl")
    return tmp_path


def majority(folder: Path) -> RunDir:
    return RunDir(folder / "runs/shop/majority-s0")


ONE = {"majority": {"kind": "majority"}}


# --- what a finished job leaves


def test_a_finished_job_holds_every_file_of_the_contract(finished: Path):
    job = finished / "runs/shop"
    assert {path.name for path in job.iterdir()} == {
        "dataset-s0",
        "majority-s0",
        "tfidf-s0",
        "comparison",
    }
    for name in ("majority-s0", "tfidf-s0"):
        run = RunDir(job / name)
        assert run.whole
        assert {path.name for path in run.path.iterdir()} == {*CONTRACT, "router"}
        assert (run.router / "router.json").is_file()
    assert {path.name for path in (job / "comparison").iterdir()} == {
        f"report.{kind}" for kind in ("json", "md", "csv", "html")
    }


def test_the_manifest_says_what_the_run_was_made_from(finished: Path):
    manifest = read_json(RunDir(finished / "runs/shop/tfidf-s0").manifest)
    dataset = load_dataset(finished / "runs/shop/dataset-s0")
    assert manifest["dataset"]["hash"] == dataset.manifest["hash"]
    assert (manifest["run"], manifest["router"], manifest["kind"]) == ("shop", "tfidf", "tfidf")
    assert (manifest["seed"], manifest["base_model"]) == (0, None)
    assert manifest["parameters"] > 0
    assert manifest["environment"]["libraries"]["torch"]


def test_a_runs_config_is_that_router_and_seed_alone(finished: Path):
    job = job_at(finished)
    single = configs.load(RunDir(finished / "runs/shop/tfidf-s0").config)
    assert single == job.model_copy(update={"routers": {"tfidf": job.routers["tfidf"]}})


def test_the_trained_router_routes(finished: Path):
    router = load_router(finished / "runs/shop/tfidf-s0")
    examples = load_dataset(finished / "runs/shop/dataset-s0").examples("test")
    decisions = router.decide([example.context for example in examples])
    hits = [d.tools == e.label.tools for d, e in zip(decisions, examples, strict=True)]
    assert sum(hits) / len(hits) > 0.9, "every request names its tool"


def test_the_report_counts_the_datasets_examples_and_compares_both_routers(finished: Path):
    dataset = load_dataset(finished / "runs/shop/dataset-s0")
    report = read_json(finished / "runs/shop/comparison/report.json")
    assert report["dataset"]["n_test"] == len(dataset.examples("test"))
    assert [entry["name"] for entry in report["routers"]] == ["tfidf", "majority"]
    assert {(pair["a"], pair["b"]) for pair in report["paired"]} == {("tfidf", "majority")}


def test_the_sample_needs_no_file(tmp_path: Path):
    job = job_at(tmp_path, data={"traces": "sample:orderdesk"}, routers=ONE, seeds=[3])
    do(job)
    run = pipeline.run_dir(job, "majority", 3)
    assert {*CONTRACT, "router"} == {path.name for path in run.path.iterdir()}
    assert read_json(run.manifest)["dataset"]["source"]["name"] == "sample:orderdesk"
    assert read_json(run.report)["routers"][0]["tool_accuracy"]["value"] > 0


def test_an_unknown_sample_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no sample 'sample:shop'; use sample:orderdesk"):
        do(job_at(tmp_path, data={"traces": "sample:shop"}))


@pytest.mark.parametrize(
    ("name", "value"), [("where", {"toolset": "all"}), ("group_by", "template")]
)
def test_the_sample_refuses_settings_that_it_would_ignore(tmp_path: Path, name: str, value: Any):
    job = job_at(tmp_path, data={"traces": "sample:orderdesk", name: value}, routers=ONE)
    with pytest.raises(ConfigError, match=rf"data\.{name}: .*sample:orderdesk have none; leave"):
        do(job)
    assert not pipeline.dataset_dir(job, 0).exists()


def test_every_seed_has_its_own_split_and_run(fresh: Path):
    job = job_at(fresh, routers=ONE, seeds=[0, 7])
    do(job)
    hashes = {
        read_json(pipeline.run_dir(job, "majority", seed).manifest)["dataset"]["hash"]
        for seed in job.seeds
    }
    assert len(hashes) == 2
    assert read_json(fresh / "runs/shop/comparison/report.json")["evaluation"]["seeds"] == [0, 7]


# --- doing it again


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("this work was done already")


def test_doing_a_finished_job_again_does_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = times(folder)
    monkeypatch.setattr("distill.training.train", refuse)
    monkeypatch.setattr("distill.evaluation.evaluate.evaluate", refuse)
    monkeypatch.setattr(pipeline, "build", refuse)
    do(job_at(folder))
    assert times(folder) == before


def test_a_dataset_outlives_its_traces(folder: Path):
    (folder / "traces.jsonl").unlink()
    do(job_at(folder, evaluation={"bootstrap": 200, "latency_samples": 2}))
    assert (folder / "runs/shop/comparison/report.html").is_file()


def test_another_router_config_in_the_same_folder_is_refused(folder: Path):
    before = times(folder)
    routers = {"tfidf": {"kind": "tfidf", "regularisation": [1.0]}}
    with pytest.raises(ConfigError) as caught:
        do(job_at(folder, routers=routers))
    place = folder / "runs/shop/tfidf-s0"
    assert str(caught.value).startswith(f"{place}: holds a run of another config; give the job")
    assert times(folder) == before


def test_another_router_beside_the_old_ones_is_added(folder: Path):
    before = times(folder)
    routers = {"second": {"kind": "tfidf", "regularisation": [1.0]}}
    do(job_at(folder, routers=routers))
    assert before.items() <= times(folder).items()
    assert RunDir(folder / "runs/shop/second-s0").whole


@pytest.mark.parametrize("what", ["settings", "traces"])
def test_other_data_in_the_same_folder_is_refused_and_nothing_lost(folder: Path, what: str):
    data = job_at(folder).data.model_dump(mode="json")
    if what == "settings":
        data["drop_duplicates"] = None
    else:
        write_traces(folder / "traces.jsonl", 90)
    before = times(folder)
    with pytest.raises(DatasetError) as caught:
        do(job_at(folder, data=data))
    assert "majority-s0 is trained on it" in str(caught.value)
    assert times(folder) == before


def test_other_traces_are_noticed_when_the_dataset_was_deleted_too(folder: Path):
    write_traces(folder / "traces.jsonl", 90)
    shutil.rmtree(folder / "runs/shop/dataset-s0")
    with pytest.raises(DatasetError, match="was trained on another dataset"):
        do(job_at(folder))


def test_a_dataset_that_no_run_uses_is_built_again_from_other_data(fresh: Path):
    job = job_at(fresh)
    first = pipeline.ensure_dataset(job, 0, silent).manifest
    write_traces(fresh / "traces.jsonl", 90)
    second = pipeline.ensure_dataset(job, 0, silent).manifest
    assert (first["n_traces"], second["n_traces"]) == (80, 90)


def test_an_edited_catalogue_is_noticed_like_edited_traces(folder: Path):
    rows = [orjson.loads(line) for line in (folder / "traces.jsonl").read_bytes().splitlines()]
    catalogue = folder / "tools.json"
    catalogue.write_bytes(orjson.dumps(rows[0]["tools"]))
    named = folder / "named.jsonl"
    for row in rows:
        append(named, orjson.dumps(row | {"tools": [], "tools_ref": "tools.json"}))
    data = job_at(folder).data.model_dump(mode="json") | {"traces": str(named)}
    job = job_at(folder, name="named", data=data, routers=ONE)
    first = pipeline.ensure_dataset(job, 0, silent).manifest
    assert pipeline.ensure_dataset(job, 0, silent).manifest == first
    catalogue.write_bytes(catalogue.read_bytes().replace(b"Cancels.", b"Cancels an order."))
    second = pipeline.ensure_dataset(job, 0, silent).manifest
    assert second["hash"] != first["hash"]
    pipeline.train_router(job, "majority", 0, silent)
    catalogue.unlink()
    assert pipeline.ensure_dataset(job, 0, silent).manifest == second
    catalogue.write_bytes(b"[]")
    with pytest.raises(DatasetError, match="majority-s0 is trained on it"):
        pipeline.ensure_dataset(job, 0, silent)


def test_other_evaluation_settings_make_another_report_and_no_other_router(folder: Path):
    run = majority(folder)
    router = times(run.router)
    do(job_at(folder, evaluation={"bootstrap": 150, "latency_samples": 2}))
    assert read_json(run.report)["evaluation"]["bootstrap"] == 150
    assert times(run.router) == router


def test_other_promises_make_other_thresholds_of_the_same_decisions(folder: Path):
    run = RunDir(folder / "runs/shop/tfidf-s0")
    before, decided = read_router_file(run.router), run.calibration.stat().st_mtime_ns
    assert {t.alpha for t in before.thresholds} == {0.05, 0.1, 0.2}
    measured = run.predictions.stat().st_mtime_ns
    do(job_at(folder, risk={"alphas": [0.5], "delta": 0.3}))
    after = read_router_file(run.router)
    assert after.calibration == before.calibration
    assert {(t.alpha, t.delta) for t in after.thresholds} == {(0.5, 0.3)}
    assert [entry["alpha"] for entry in read_json(run.report)["routers"][0]["risk"]] == [0.5]
    assert run.calibration.stat().st_mtime_ns == decided
    assert run.predictions.stat().st_mtime_ns == measured, "nothing was decided again"


def test_fewer_calibration_examples_calibrate_and_measure_again(folder: Path):
    run = RunDir(folder / "runs/shop/tfidf-s0")
    before = read_router_file(run.router).calibration
    do(job_at(folder, risk={"max_examples": 8}))
    after = read_router_file(run.router).calibration
    assert before is not None
    assert after is not None
    assert after.n <= 8 < before.n
    confidences = {p.decision.confidence for p in predictions.load(run.predictions)}
    router = load_router(run.router)
    examples = load_dataset(folder / "runs/shop/dataset-s0").examples("test")
    decided = router.decide([example.context for example in examples])
    assert {d.confidence for d in decided} == confidences, "the report is of this router"


def test_calibration_is_fitted_to_raw_confidences_however_often(folder: Path):
    run = RunDir(folder / "runs/shop/tfidf-s0")
    before = read_router_file(run.router).calibration
    run.calibration.unlink()
    assert pipeline.calibrate_run(run, silent).calibration == before


def test_without_a_calibration_part_confidences_stay_raw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_traces(tmp_path / "traces.jsonl")
    split = {"merge_jaccard": None, "calibration": 0.0}
    data = {"traces": str(tmp_path / "traces.jsonl"), "split": split}
    do(job_at(tmp_path, data=data, routers=ONE))
    file = read_router_file(majority(tmp_path).router)
    assert (file.calibration, file.thresholds) == (None, ())
    assert "majority-s0: no calibration part, so no thresholds (data.split)" in caplog.text


def test_a_job_may_move_with_its_folder(folder: Path):
    """Other programs rely on the router; where it lies is no part of what it is."""
    moved = folder / "elsewhere"
    shutil.move(folder / "runs", moved)
    before = times(moved / "shop/tfidf-s0/router")
    do(job_at(folder, output=str(moved)))
    assert times(moved / "shop/tfidf-s0/router") == before


# --- what a router reads of the system prompt


def write_lamps(path: Path) -> None:
    """Of each request three traces: twice the lamp is off and stays so, once it is on."""
    luck = Random(0)
    for i in range(60):
        question = Message("user", " ".join(str(luck.randrange(10**6)) for _ in range(8)))
        for n, state in enumerate(("off", "off", "on")):
            calls = (ToolCall("list_orders", {}),) if state == "on" else ()
            answer = Message("assistant", None if calls else "It is off.", calls)
            messages = (Message("system", f"The lamp is {state}."), question, answer)
            made = Trace(f"t{i}-{n}", f"g{i}", "teacher", "made up", (LIST,), messages)
            append(path, orjson.dumps(trace_json(made)))


def test_labels_that_follow_the_system_prompt_are_learned_by_a_router_that_reads_it(tmp_path: Path):
    write_lamps(tmp_path / "traces.jsonl")
    routers = {"reads": {"kind": "tfidf", "render": {"system_chars": 100}}}
    do(job_at(tmp_path, routers=routers))
    report = read_json(tmp_path / "runs/shop/reads-s0/report.json")
    assert report["routers"][0]["tool_accuracy"]["value"] == 1


@pytest.mark.parametrize("kind", ["majority", "tfidf"])
def test_a_router_that_does_not_read_it_is_left_with_nothing_to_learn(tmp_path: Path, kind: str):
    """Every question is answered with a reply most often: one class, which no classifier takes."""
    write_lamps(tmp_path / "traces.jsonl")
    with pytest.raises(DatasetError, match=r"train knows a single decision \(reply\)") as caught:
        do(job_at(tmp_path, routers={"blind": {"kind": kind}}))
    assert "render.system_chars" in caught.value.cure


# --- interruptions


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, hit: Callable[..., bool]) -> None:
    """Make a function of the pipeline die like a killed process when `hit` says so."""
    real = getattr(pipeline, name)

    def dies(*args: Any, **kwargs: Any) -> Any:
        if hit(*args):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(pipeline, name, dies)


def test_the_manifest_is_written_last_and_a_run_without_it_is_resumed(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
):
    job = job_at(fresh, routers=ONE)
    with monkeypatch.context() as patch:
        interrupt(patch, "write_json", lambda path, value: path.name == "manifest.json")
        with pytest.raises(KeyboardInterrupt):
            do(job)
    run = majority(fresh)
    assert (run.router / "router.json").is_file()
    assert not run.whole
    with pytest.raises(RouterError, match="not a finished run"):
        pipeline.evaluate_run(run, silent)
    dataset = times(fresh / "runs/shop/dataset-s0")
    do(job)
    assert run.whole
    assert run.report.is_file()
    assert times(fresh / "runs/shop/dataset-s0") == dataset


def test_a_report_that_was_not_written_is_made_without_training_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    run = majority(folder)
    run.report.unlink()
    with monkeypatch.context() as patch:
        interrupt(patch, "write_json", lambda path, value: path.name == "report.json")
        with pytest.raises(KeyboardInterrupt):
            do(job_at(folder))
    assert not run.report.exists()
    monkeypatch.setattr("distill.training.train", refuse)
    do(job_at(folder))
    assert run.report.is_file()


def test_new_evaluation_settings_never_stand_beside_an_old_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not even when the process dies between the two."""
    job = job_at(folder, evaluation={"bootstrap": 150, "latency_samples": 2})
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "evaluate_run", refuse)
        interrupt(patch, "write", lambda path, text: path.name == "config.yaml")
        with pytest.raises(KeyboardInterrupt):
            do(job)
    do(job)
    assert read_json(majority(folder).report)["evaluation"]["bootstrap"] == 150


def test_a_config_that_failed_before_it_trained_may_be_mended_in_place(fresh: Path):
    bad = {"m": {"kind": "encoder", "model": "./no-such-folder"}}
    with pytest.raises(ValueError, match="no such folder"):
        do(job_at(fresh, routers=bad))
    do(job_at(fresh, routers={"m": {"kind": "majority"}}))
    assert RunDir(fresh / "runs/shop/m-s0").whole


def test_checkpoints_of_another_config_are_not_continued(fresh: Path):
    job = job_at(fresh, routers={"m": {"kind": "tfidf"}})
    pipeline.ensure_dataset(job, 0, silent)
    run = pipeline.run_dir(job, "m", 0)
    (run.checkpoints / "checkpoint-5").mkdir(parents=True)
    run.config.write_text(configs.dump(job))
    with pytest.raises(ConfigError, match="holds a run of another config"):
        do(job_at(fresh, routers={"m": {"kind": "majority"}}))
    with pytest.raises(DatasetError, match="m-s0 is trained on it"):
        do(job_at(fresh, data=job.data.model_dump() | {"outcome": "any"}))


def test_an_unfinished_run_does_not_go_on_with_other_data(fresh: Path):
    """Weights of two datasets must never become one router whose manifest names the second."""
    job = job_at(fresh, routers=ONE)
    pipeline.ensure_dataset(job, 0, silent)
    run = majority(fresh)
    (run.checkpoints / "checkpoint-5").mkdir(parents=True)
    (run.checkpoints / "dataset.json").write_text('{"hash": "of another dataset"}')
    run.config.write_text(configs.dump(job))
    with pytest.raises(DatasetError, match="was trained on another dataset"):
        do(job)


def test_what_a_router_is_not_measured_by_measures_nothing_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "evaluate_run", refuse)
    do(job_at(folder, trackers=["tensorboard"]))
    assert majority(folder).report.is_file()


# --- evaluating


def test_lost_predictions_are_made_again(folder: Path):
    """The cure that a comparison names for them works, by hand and in a whole job."""
    run = majority(folder)
    run.predictions.unlink()
    pipeline.evaluate_run(run, silent)
    assert run.predictions.is_file()
    run.predictions.unlink()
    do(job_at(folder))
    assert run.predictions.is_file()


def test_a_run_can_be_evaluated_from_within_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    run = majority(folder)
    run.report.unlink()
    monkeypatch.chdir(run.path)
    assert pipeline.evaluate_run(RunDir(Path()), silent)["routers"][0]["name"] == "majority"


def test_a_run_is_not_measured_on_another_dataset_than_its_own(folder: Path):
    run = majority(folder)
    run.report.unlink()
    job = job_at(folder)
    write_traces(folder / "traces.jsonl", 90)
    pipeline.build_dataset(job.data, 0, pipeline.dataset_dir(job, 0), silent)
    with pytest.raises(DatasetError, match="is not what the run was trained on"):
        pipeline.evaluate_run(run, silent)


def test_a_run_whose_dataset_is_gone_says_so(folder: Path):
    run = majority(folder)
    run.report.unlink()
    shutil.rmtree(folder / "runs/shop/dataset-s0")
    with pytest.raises(DatasetError, match=r"no manifest\.json: not a dataset folder"):
        pipeline.evaluate_run(run, silent)


# --- what is missing is found before any work


def test_a_base_model_that_is_not_there_stops_the_job_before_any_work(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "build_dataset", refuse)
    later = ONE | {"lm": {"kind": "decoder", "model": "./no-such-folder"}}
    with pytest.raises(ModelError, match="no such folder"):
        do(job_at(fresh, routers=later))


def test_a_tracker_that_is_not_installed_stops_the_job_before_any_work(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
):
    missing = next((name for name in ("trackio", "wandb") if find_spec(name) is None), None)
    if missing is None:
        pytest.skip("every tracker is installed here")
    monkeypatch.chdir(fresh)
    monkeypatch.syspath_prepend(str(fresh))
    (fresh / missing).mkdir()  # where earlier runs logged to is no package
    with pytest.raises(MissingExtraError, match=rf"pip install 'tool-router-distill\[{missing}\]'"):
        do(job_at(fresh, trackers=[missing]))
    assert not (fresh / "runs").exists()


def test_trackers_are_no_part_of_what_a_router_is(folder: Path):
    router = times(folder / "runs/shop/tfidf-s0/router")
    do(job_at(folder, trackers=["tensorboard"]))
    assert times(folder / "runs/shop/tfidf-s0/router") == router


# --- building


def append(path: Path, *lines: bytes) -> None:
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in lines)


def test_rejected_lines_are_counted_aloud_and_listed(fresh: Path, caplog: pytest.LogCaptureFixture):
    append(fresh / "traces.jsonl", b"{oops", b"[1]", b'{"messages": []}')
    with caplog.at_level(logging.WARNING, "distill"):
        job = job_at(fresh)
        pipeline.ensure_dataset(job, 0, silent)
    beside = fresh / "runs/shop/dataset-s0.rejected.jsonl"
    assert [orjson.loads(line) for line in beside.read_bytes().splitlines()] == [
        {"line": 81, "reason": "not JSON"},
        {"line": 82, "reason": "not a JSON object"},
        {"line": 83, "reason": "messages: missing or empty"},
    ]
    assert "3 lines rejected (1 times: not JSON; " in caplog.text
    assert str(beside) in caplog.text


def test_what_was_read_otherwise_than_it_stands_is_counted_aloud(
    fresh: Path, caplog: pytest.LogCaptureFixture
):
    lines = (fresh / "traces.jsonl").read_bytes().splitlines()
    for line in lines[:2]:
        again = orjson.loads(line) | {"model": "another"}
        append(fresh / "traces.jsonl", orjson.dumps(again))
    with caplog.at_level(logging.WARNING, "distill"):
        pipeline.build_dataset(job_at(fresh).data, 0, fresh / "dataset", silent)
    assert "read otherwise than it stands: 2 times: an id that came before" in caplog.text
    assert "rejected" not in caplog.text


def test_a_list_of_rejected_lines_goes_when_there_are_none(fresh: Path):
    out = fresh / "dataset"
    beside = fresh / "dataset.rejected.jsonl"
    append(fresh / "traces.jsonl", b"{oops")
    pipeline.build_dataset(job_at(fresh).data, 0, out, silent)
    assert beside.is_file()
    write_traces(fresh / "traces.jsonl")
    pipeline.build_dataset(job_at(fresh).data, 0, out, silent)
    assert not beside.exists()


def test_lines_that_are_all_rejected_are_listed_though_no_dataset_comes_of_them(fresh: Path):
    (fresh / "traces.jsonl").write_bytes(b"{oops\n" * 3)
    out = fresh / "dataset"
    with pytest.raises(DatasetError) as caught:
        pipeline.build_dataset(job_at(fresh).data, 0, out, silent)
    assert "3 lines were rejected (3 times: not JSON)" in str(caught.value)
    assert f"see {out}.rejected.jsonl" in str(caught.value)
    assert (fresh / "dataset.rejected.jsonl").read_bytes().count(b"\n") == 3
    assert not out.exists()


def test_a_failed_build_leaves_the_old_dataset(folder: Path):
    path = folder / "runs/shop/dataset-s0"
    before = times(path)
    (folder / "traces.jsonl").write_bytes(b"{oops\n")
    with pytest.raises(DatasetError):
        pipeline.build_dataset(job_at(folder).data, 0, path, silent)
    assert times(path) == before
    load_dataset(path)


@pytest.mark.parametrize("what", ["the traces", "a folder of other things"])
def test_a_dataset_never_replaces_anything_else(fresh: Path, what: str):
    other = fresh / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    out = fresh / "traces.jsonl" if what == "the traces" else other
    with pytest.raises(DatasetError, match="is there and is no dataset folder"):
        pipeline.build_dataset(job_at(fresh).data, 0, out, silent)
    assert (fresh / "traces.jsonl").stat().st_size > 0
    assert (other / "chapter.txt").read_text() == "years of work"


def test_an_empty_folder_may_become_a_dataset(fresh: Path):
    out = fresh / "dataset"
    os.mkdir(out)  # noqa: PTH102  (what a user's `mkdir` does)
    pipeline.build_dataset(job_at(fresh).data, 0, out, silent)
    assert load_dataset(out).manifest["n_traces"] == 80
