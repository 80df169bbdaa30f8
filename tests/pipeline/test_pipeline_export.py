"""An exported run's thresholds hold for the weights that it has, or there are none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_jobs import do, job_at
from small_shop import write_traces

from distill import load_router
from distill.dataset import load_dataset
from distill.pipeline.calibrate import recalibrate
from distill.pipeline.export import export_run
from distill.progress import silent
from distill.routers.folder import read_router_file
from distill.runs import RunDir


@pytest.fixture(scope="module")
def encoded(config_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished job of a tiny encoder; not to be changed."""
    folder = tmp_path_factory.mktemp("encoded")
    write_traces(folder / "traces.jsonl")
    routers = {"small": config_of("encoder", epochs=12).model_dump(mode="json")}
    do(job_at(folder, routers=routers, risk={"delta": 0.2}))
    return folder


@pytest.fixture
def run(encoded: Path, tmp_path: Path) -> RunDir:
    """A copy of the encoder's run, its dataset beside it."""
    shutil.copytree(encoded / "runs", tmp_path / "runs")
    return RunDir(tmp_path / "runs/shop/small-s0")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our own lines of the log."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("distill")]


def test_int8_weights_are_calibrated_by_their_own_confidences(
    run: RunDir, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    trained = recalibrate(run, [0.6], None, silent)  # what the run promises now
    out = tmp_path / "int8"
    file = export_run(run.path, out, "int8", silent)
    assert file == read_router_file(out)
    assert file.calibration is not None
    assert trained.calibration is not None
    assert (file.calibration.n, file.calibration.n_groups) == (
        trained.calibration.n,
        trained.calibration.n_groups,
    )
    assert file.calibration != trained.calibration
    assert {(t.alpha, t.delta) for t in file.thresholds} == {(0.6, 0.2)}
    (overall,) = (t for t in file.thresholds if t.tool is None)
    assert overall.threshold is not None
    examples = load_dataset(run.path.parent / "dataset-s0").examples("calibration")
    decided = load_router(out).decide([example.context for example in examples])
    taken = [d.confidence is not None and d.confidence >= overall.threshold for d in decided]
    weights = [example.weight for example in examples]
    share = sum(w for w, t in zip(weights, taken, strict=True) if t) / sum(weights)
    assert share == pytest.approx(overall.coverage), "the promise is about this router's decisions"
    assert read_router_file(run.router) == trained, "the run stays as it was"
    assert said(caplog) == []


def test_float_weights_keep_the_runs_thresholds(run: RunDir, tmp_path: Path):
    trained = read_router_file(run.router)
    file = export_run(run.path, tmp_path / "float", "none", silent)
    assert (file.calibration, file.thresholds) == (trained.calibration, trained.thresholds)


@pytest.mark.parametrize("missing", ["dataset", "run"])
def test_without_the_dataset_there_are_no_thresholds_and_one_line_says_so(
    run: RunDir, tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str
):
    out = tmp_path / "int8"
    dataset = run.path.parent / "dataset-s0"
    if missing == "dataset":
        shutil.rmtree(dataset)
    source = run.path if missing == "dataset" else run.router
    file = export_run(source, out, "int8", silent)
    assert (file.calibration, file.thresholds) == (None, ())
    place = dataset if missing == "dataset" else run.router
    (line,) = said(caplog)
    assert line.startswith(f"{out}: no thresholds ({place}: no ")
    assert load_router(out).kind == "encoder"


def test_a_fault_while_thresholds_are_fitted_leaves_no_folder(run: RunDir, tmp_path: Path):
    def interrupted(stage: str, done: int, total: int | None = None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_run(run.path, tmp_path / "out/int8", "int8", interrupted)
    assert list((tmp_path / "out").iterdir()) == []
