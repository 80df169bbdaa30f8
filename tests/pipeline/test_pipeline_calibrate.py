"""Calibration and thresholds of a run follow its config, and its report follows them."""

from pathlib import Path

import pytest
from made_jobs import ONE, do, job_at, killed_at, majority
from small_shop import write_traces

from distill import load_router
from distill.dataset import load_dataset
from distill.evaluation import predictions
from distill.pipeline.calibrate import calibrate_run
from distill.progress import silent
from distill.routers.folder import read_router_file
from distill.runs import RunDir, read_json


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
    assert calibrate_run(run, silent).calibration == before


def test_a_killed_calibration_goes_on(folder: Path):
    run = RunDir(folder / "runs/shop/tfidf-s0")
    do(job_at(folder, evaluation={"batch_size": 4, "latency_samples": 2, "bootstrap": 100}))
    before, decided = read_router_file(run.router).calibration, run.calibration.read_bytes()
    run.calibration.unlink()
    with pytest.raises(KeyboardInterrupt):
        calibrate_run(run, killed_at(8))
    assert not run.calibration.exists()
    told: list[int] = []
    after = calibrate_run(run, lambda stage, done, total=None: told.append(done))
    assert told[0] == 12
    assert after.calibration == before
    assert run.calibration.read_bytes() == decided
    assert not list(run.path.glob("*.part.jsonl"))


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
