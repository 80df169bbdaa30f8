"""Full disks, Ctrl-C, and our own faults: nothing is lost, and only ours have a traceback."""

import errno
import os
from pathlib import Path

import pytest
from job_files import MERGE, failing_build, write_config
from safetensors import SafetensorError

from distill import cli, runs
from distill.dataset import load_dataset, spool
from distill.pipeline import evaluate
from distill.routers import scratch
from distill.runs import RunDir


def test_a_full_disk_leaves_what_was_there(
    fails, done, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "dataset"
    done("build", traces, "-o", out, MERGE)
    before = load_dataset(out).manifest

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs.os, "fsync", fsync)
    line = fails("build", traces, "-o", out, MERGE, "split.train=0.5")
    assert line == "disk: No space left on device; mend that and run the same command again"
    assert load_dataset(out).manifest == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "traces.jsonl"]


def test_a_disk_that_fills_while_traces_are_read(
    fails, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spool, "_SCHEMA", f"PRAGMA max_page_count = 16;{spool._SCHEMA}")
    assert "disk is full; mend that and run the same command again" in failing_build(fails, traces)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["traces.jsonl"]


def test_a_disk_that_fills_while_weights_are_written(
    fails, done, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = write_config(tmp_path, routers={"rnn": {"kind": "rnn", "train": {"epochs": 1}}})

    def full(*arguments: object, **keywords: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(scratch, "save_file", full)
        line = fails("train", config)
    assert line == "disk: No space left on device; mend that and run the same command again"
    assert not RunDir(tmp_path / "runs/shop/rnn-s0").whole
    done("train", config)


def test_a_place_where_no_folder_can_be(fails, traces: Path):
    line = fails("build", traces, "-o", traces / "dataset", MERGE)
    assert "Not a directory" in line or "File exists" in line


def test_an_interrupted_job_goes_on(
    distill, done, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = write_config(tmp_path)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate_run", interrupted)
        code, _, err = distill("run", config)
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert RunDir(tmp_path / "runs/shop/majority-s0").whole
    done("run", config)


def test_our_own_faults_keep_their_traceback(distill, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(cli.configs, "load_any", broken)
    with pytest.raises(AssertionError, match="ours"):
        distill("config", "job.yaml")


def test_an_unexpected_fault_of_the_system_is_ours(distill, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(cli.configs, "load_any", broken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        distill("config", "job.yaml")
