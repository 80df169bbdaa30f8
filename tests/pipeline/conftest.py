"""A finished job, made once, and copies of it that a test may change."""

import shutil
from pathlib import Path

import pytest
from made_jobs import do, job_at
from small_shop import write_traces


@pytest.fixture(scope="session")
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
