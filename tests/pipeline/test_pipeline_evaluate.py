"""A report is of this run, this dataset and these settings, and is made when it is not there."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_jobs import do, interrupt, job_at, killed_at, majority, refuse, times
from small_shop import write_traces

from distill import config as configs
from distill.dataset import load_dataset
from distill.errors import DatasetError
from distill.pipeline import evaluate, train
from distill.pipeline.build import build_dataset
from distill.pipeline.evaluate import evaluate_run
from distill.pipeline.layout import dataset_dir
from distill.progress import silent
from distill.routers.folder import read_router_file
from distill.runs import RunDir, read_json, write, write_json


def test_other_evaluation_settings_make_another_report_and_no_other_router(folder: Path):
    run = majority(folder)
    router = times(run.router)
    do(job_at(folder, evaluation={"bootstrap": 150, "latency_samples": 2}))
    assert read_json(run.report)["evaluation"]["bootstrap"] == 150
    assert times(run.router) == router


def test_new_evaluation_settings_never_stand_beside_an_old_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not even when the process dies between the two."""
    job = job_at(folder, evaluation={"bootstrap": 150, "latency_samples": 2})
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate_run", refuse)
        interrupt(patch, train, "write", lambda path, text: path.name == "config.yaml")
        with pytest.raises(KeyboardInterrupt):
            do(job)
    do(job)
    assert read_json(majority(folder).report)["evaluation"]["bootstrap"] == 150


def test_a_report_that_was_not_written_is_made_without_training_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    run = majority(folder)
    run.report.unlink()
    with monkeypatch.context() as patch:
        interrupt(patch, evaluate, "write_json", lambda path, value: path.name == "report.json")
        with pytest.raises(KeyboardInterrupt):
            do(job_at(folder))
    assert not run.report.exists()
    monkeypatch.setattr("distill.training.train", refuse)
    do(job_at(folder))
    assert run.report.is_file()


def test_what_a_router_is_not_measured_by_measures_nothing_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluate, "evaluate_run", refuse)
    do(job_at(folder, trackers=["tensorboard"]))
    assert majority(folder).report.is_file()


def decided(run: RunDir) -> list[int]:
    """Evaluate, and tell how far it was after each batch."""
    told: list[int] = []
    evaluate_run(run, lambda stage, done, total=None: told.append(done))
    return told


@pytest.fixture
def killed(folder: Path) -> RunDir:
    """A run whose second evaluation was killed after 8 decisions."""
    job = job_at(folder, evaluation={"batch_size": 4, "latency_samples": 2, "bootstrap": 100})
    do(job)
    run = majority(folder)
    run.report.unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, killed_at(8))
    return run


def test_a_killed_evaluation_goes_on_and_leaves_the_same_predictions(killed: RunDir):
    before = killed.predictions.read_bytes()
    assert (killed.path / "predictions.part.jsonl").is_file()
    killed.predictions.unlink()
    assert decided(killed)[0] == 12
    assert killed.predictions.read_bytes() == before
    assert not (killed.path / "predictions.part.jsonl").exists()
    assert decided(killed)[0] == 4, "a finished one is done again"


@pytest.mark.parametrize("changed", ["router", "max_examples", "dataset"])
def test_decisions_of_something_else_are_not_gone_on_with(
    killed: RunDir, changed: str, caplog: pytest.LogCaptureFixture
):
    job = job_at(killed.path.parents[2], evaluation={"batch_size": 4, "latency_samples": 2})
    if changed == "router":
        replace(read_router_file(killed.router), calibration=None).save(killed.router)
    if changed == "max_examples":
        config = configs.load(killed.config, ["evaluation.max_examples=24"])
        write(killed.config, configs.dump(config))
    if changed == "dataset":
        write_traces(killed.path.parents[2] / "traces.jsonl", 90)
        build_dataset(job.data, 0, dataset_dir(job, 0), silent)
        manifest = read_json(killed.manifest)
        manifest["dataset"]["hash"] = load_dataset(dataset_dir(job, 0)).manifest["hash"]
        write_json(killed.manifest, manifest)
    assert decided(killed)[0] == 4
    assert f"begun with other settings ({changed}): begun anew" in caplog.text


def test_lost_predictions_are_made_again(folder: Path):
    """The cure that a comparison names for them works, by hand and in a whole job."""
    run = majority(folder)
    run.predictions.unlink()
    evaluate_run(run, silent)
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
    assert evaluate_run(RunDir(Path()), silent)["routers"][0]["name"] == "majority"


def test_a_run_is_not_measured_on_another_dataset_than_its_own(folder: Path):
    run = majority(folder)
    run.report.unlink()
    job = job_at(folder)
    write_traces(folder / "traces.jsonl", 90)
    build_dataset(job.data, 0, dataset_dir(job, 0), silent)
    with pytest.raises(DatasetError, match="is not what the run was trained on"):
        evaluate_run(run, silent)


def test_a_run_whose_dataset_is_gone_says_so(folder: Path):
    run = majority(folder)
    run.report.unlink()
    shutil.rmtree(folder / "runs/shop/dataset-s0")
    with pytest.raises(DatasetError, match=r"no manifest\.json: not a dataset folder"):
        evaluate_run(run, silent)
