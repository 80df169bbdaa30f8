"""The benchmark of a GPU, dry on a processor: a fault costs its own part, and nothing measured."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def gpu_figures(out: str) -> Any:
    return json.loads(out.splitlines()[-1])


def test_without_a_gpu_one_line_says_so(
    script: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, script("gpu").__file__, str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no GPU" in done.stderr.strip()
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_dataset_one_line_says_so(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert script("gpu").main([str(tmp_path), "--dry-run-on-cpu"]) == 2
    assert "make one with distill build" in capsys.readouterr().err


def test_a_dry_run_goes_through_every_part(
    script: Any,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    gpu = script("gpu")
    monkeypatch.setitem(gpu.DEFAULTS, "encoder", "random:tiny")
    few = ["--test-examples", "4", "--batch", "16", "--dry-run-on-cpu"]
    status = gpu.main([str(dataset), *few])
    figures = gpu_figures(capsys.readouterr().out)
    assert status == 0
    for part in ("encoder", "decoder"):
        assert figures[part]["decisions"] == 4
        assert 0 <= figures[part]["tool_accuracy"] <= 1
        assert figures[part]["precision"] == "bfloat16"
        share = figures[part]["tflops_per_s"] / figures["peak"]["tflops_per_s"]
        assert figures[part]["share_of_peak"] == pytest.approx(share)


def test_a_missing_package_and_a_fault_cost_only_their_own_parts(
    script: Any,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    gpu = script("gpu")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "trl" else find(name)
    )
    monkeypatch.setattr(gpu.Bench, "encoder", lambda bench: 1 // 0)
    status = gpu.main([str(dataset), "--dry-run-on-cpu"])
    figures = gpu_figures(capsys.readouterr().out)
    assert status == 1
    assert figures["peak"]["tflops_per_s"] > 0
    assert figures["encoder"]["failed"].startswith("ZeroDivisionError")
    assert figures["decoder"]["skipped"] == "not installed: trl (pip install trl)"


def test_random_weights_of_an_unknown_size_name_the_known_ones(
    script: Any,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    gpu = script("gpu")
    monkeypatch.setattr(gpu.Bench, "encoder", lambda bench: {})
    gpu.main([str(dataset), "--dry-run-on-cpu", "--decoder", "random:9b"])
    assert "random:600m" in gpu_figures(capsys.readouterr().out)["decoder"]["skipped"]


def bench(gpu: Any, dataset: Path, folder: Path, *arguments: str) -> Any:
    """A dry run of the script up to its opened dataset."""
    args = gpu.parser().parse_args([str(dataset), "--dry-run-on-cpu", *arguments])
    made = gpu.Bench(args, folder)
    made.do("dataset", made.dataset)
    return made


def test_no_time_left_still_decides_a_batch(script: Any, dataset: Path, tmp_path: Path):
    made = bench(script("gpu"), dataset, tmp_path)
    reply = SimpleNamespace(tools=("reply",))
    router = SimpleNamespace(kind="encoder", decide=lambda contexts: [reply] * len(contexts))
    assert made._decide(router, seconds=-1.0)["decisions"] == len(made.test)


def test_accuracy_weighs_decisions_as_the_report_does(script: Any, dataset: Path, tmp_path: Path):
    made = bench(script("gpu"), dataset, tmp_path)
    reply, calls = (
        next(e for e in made.test if (e.label.action == "reply") is replies)
        for replies in (True, False)
    )
    made.test = [replace(reply, weight=3.0), replace(calls, weight=1.0)]
    always = SimpleNamespace(kind="encoder", decide=lambda contexts: [reply.label] * len(contexts))
    assert made._decide(always, seconds=60.0)["tool_accuracy"] == pytest.approx(0.75)


def test_what_was_measured_survives_a_training_that_time_forbids(
    script: Any, dataset: Path, tmp_path: Path
):
    gpu = script("gpu")
    made = bench(gpu, dataset, tmp_path, "--minutes", "0")
    made.figures["peak"] = {"tflops_per_s": 1.0}
    made.do("encoder", made.encoder)
    figures = made.figures["encoder"]
    assert "raise --minutes" in figures["skipped"]
    assert figures["tokens_per_s"] > figures["examples_per_s"] > 0


def test_what_is_learned_from_is_capped(script: Any, dataset: Path, tmp_path: Path):
    figures = bench(script("gpu"), dataset, tmp_path, "--train-examples", "10").figures["dataset"]
    assert figures["train_examples"] == 10 < figures["train_examples_in_all"]
    assert figures["validation_examples"] == 1
