"""A job from traces to comparison: whole, resumable, and what is missing found before any work."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from made_jobs import CONTRACT, ONE, do, job_at, refuse, times

from distill.dataset import load_dataset
from distill.errors import MissingExtraError, ModelError
from distill.pipeline import build
from distill.pipeline.layout import run_dir
from distill.runs import RunDir, read_json


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


def test_the_report_counts_the_datasets_examples_and_compares_both_routers(finished: Path):
    dataset = load_dataset(finished / "runs/shop/dataset-s0")
    report = read_json(finished / "runs/shop/comparison/report.json")
    assert report["dataset"]["n_test"] == len(dataset.examples("test"))
    assert [entry["name"] for entry in report["routers"]] == ["tfidf", "majority"]
    assert {(pair["a"], pair["b"]) for pair in report["paired"]} == {("tfidf", "majority")}


def test_the_sample_needs_no_file(tmp_path: Path):
    job = job_at(tmp_path, data={"traces": "sample:orderdesk"}, routers=ONE, seeds=[3])
    do(job)
    run = run_dir(job, "majority", 3)
    assert {*CONTRACT, "router"} == {path.name for path in run.path.iterdir()}
    assert read_json(run.manifest)["dataset"]["source"]["name"] == "sample:orderdesk"
    assert read_json(run.report)["routers"][0]["tool_accuracy"]["value"] > 0


def test_every_seed_has_its_own_split_and_run(fresh: Path):
    job = job_at(fresh, routers=ONE, seeds=[0, 7])
    do(job)
    hashes = {
        read_json(run_dir(job, "majority", seed).manifest)["dataset"]["hash"] for seed in job.seeds
    }
    assert len(hashes) == 2
    assert read_json(fresh / "runs/shop/comparison/report.json")["evaluation"]["seeds"] == [0, 7]


def test_doing_a_finished_job_again_does_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = times(folder)
    monkeypatch.setattr("distill.training.train", refuse)
    monkeypatch.setattr("distill.evaluation.evaluate.evaluate", refuse)
    monkeypatch.setattr(build, "build", refuse)
    do(job_at(folder))
    assert times(folder) == before


def test_a_dataset_outlives_its_traces(folder: Path):
    (folder / "traces.jsonl").unlink()
    do(job_at(folder, evaluation={"bootstrap": 200, "latency_samples": 2}))
    assert (folder / "runs/shop/comparison/report.html").is_file()


def test_another_router_beside_the_old_ones_is_added(folder: Path):
    before = times(folder)
    routers = {"second": {"kind": "tfidf", "regularisation": [1.0]}}
    do(job_at(folder, routers=routers))
    assert before.items() <= times(folder).items()
    assert RunDir(folder / "runs/shop/second-s0").whole


def test_a_job_may_move_with_its_folder(folder: Path):
    """Other programs rely on the router; where it lies is no part of what it is."""
    moved = folder / "elsewhere"
    shutil.move(folder / "runs", moved)
    before = times(moved / "shop/tfidf-s0/router")
    do(job_at(folder, output=str(moved)))
    assert times(moved / "shop/tfidf-s0/router") == before


def test_a_config_that_failed_before_it_trained_may_be_mended_in_place(fresh: Path):
    bad = {"m": {"kind": "encoder", "model": "./no-such-folder"}}
    with pytest.raises(ValueError, match="no such folder"):
        do(job_at(fresh, routers=bad))
    do(job_at(fresh, routers={"m": {"kind": "majority"}}))
    assert RunDir(fresh / "runs/shop/m-s0").whole


def test_a_base_model_that_is_not_there_stops_the_job_before_any_work(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "build_dataset", refuse)
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
