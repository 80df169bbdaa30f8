"""One clear line for a config, a run, a model or a repository that will not do."""

from importlib import metadata
from pathlib import Path

import pytest
from job_files import write_config

from distill.runs import RunDir


@pytest.mark.parametrize("command", ["train", "run", "config"])
def test_a_misspelt_key(fails, traces: Path, tmp_path: Path, command: str):
    config = write_config(tmp_path, sedes=[1])
    assert fails(command, config).startswith(f"{config}: unknown key 'sedes'; valid names: name, ")
    assert not (tmp_path / "runs").exists()


def test_a_bad_override(fails, traces: Path, tmp_path: Path):
    assert "'x' is missing" not in fails("run", write_config(tmp_path), "data.splits=1")
    assert "unknown key 'spilt'" in fails("build", traces, "-o", tmp_path / "d", "spilt=1")
    assert "not an override" in fails("build", traces, "-o", tmp_path / "d", "spilt")


def test_a_missing_tracker(fails, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def nothing_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "version", nothing_installed)
        line = fails("train", write_config(tmp_path), "trackers=[trackio]")
    assert line == (
        "trackers: trackio: needs the extra 'trackio'; "
        "install it with: pip install 'tool-router-distill[trackio]'"
    )
    assert not (tmp_path / "runs").exists()


def test_a_model_that_cannot_be_found_offline_loses_no_work(
    fails, done, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub.constants  # noqa: PLC0415

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    routers = {"majority": {"kind": "majority"}, "lm": {"kind": "encoder", "model": "a/nothing"}}
    line = fails("run", write_config(tmp_path, routers=routers))
    assert line.startswith("a/nothing: cannot be loaded (")
    assert line.endswith(
        "; check the name and the network, or use a local folder or a packaged: model"
    )
    run = RunDir(tmp_path / "runs/shop/majority-s0")
    assert run.report.is_file()
    mended = write_config(tmp_path, routers=routers | {"lm": {"kind": "majority"}})
    done("run", mended)


def test_runs_that_are_not_there_or_not_finished(fails, finished: Path, tmp_path: Path):
    nowhere = tmp_path / "nowhere"
    unfinished = "no manifest.json: not a finished run; finish it with distill train"
    assert fails("evaluate", nowhere) == f"{nowhere}: {unfinished}"
    assert fails("push", nowhere, "a/b", "--dry-run") == f"{nowhere}: {unfinished}"
    run = RunDir(finished / "majority-s0")
    run.report.unlink()
    line = fails("compare", finished / "tfidf-s0", run.path, "-o", tmp_path / "c")
    assert line == f"{run.path}: no report.json: not evaluated; run: distill evaluate {run.path}"
    assert not (tmp_path / "c").exists()


def test_a_bad_repository_name(fails, finished: Path):
    line = fails("push", finished / "tfidf-s0", "no owner", "--dry-run")
    assert line.startswith("'no owner': no repository name; write owner/name")


def test_pushing_without_a_token(fails, finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "set HF_TOKEN" in fails("push", finished / "tfidf-s0", "ann/router")
