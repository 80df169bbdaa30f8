"""`distill histories`: from a dataset or a run to figures, resumed and refused in one line."""

import csv
import shutil
from pathlib import Path

import pytest
from job_files import MERGE

from distill.runs import read_json

SMALL = ["max_tokens=256", "tools=names", "bootstrap=100"]


@pytest.fixture
def dataset(done, traces: Path) -> Path:
    out = traces.parent / "dataset"
    done("build", traces, "-o", out, MERGE)
    return out


def test_it_measures_prints_and_writes(done, dataset: Path, tiny_llama: Path, tmp_path: Path):
    out = tmp_path / "out"
    command = ["histories", dataset, "--model", tiny_llama, "--part", "train", "-o", out, *SMALL]
    printed = done(*command, "--arms", "own,handed,synthetic")
    assert "handed" in printed
    assert str(out / "histories.json") in printed
    report = read_json(out / "histories.json")
    assert [arm["name"] for arm in report["arms"]] == ["own", "handed", "synthetic"]
    assert report["n_replies"] > 4
    assert report["n_cut"] == 0
    assert report["dataset"]["source"] == "traces.jsonl"
    assert str(tmp_path) not in str(report["model"])
    measured = report["n_replies"] + sum(report["not_measured"].values())
    assert measured == report["n_traces"]
    with (out / "histories.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 + 2 * 3
    assert float(rows[0]["value"]) == report["arms"][0]["nats_per_token"]["value"]
    # The router's own calls had no words beside them, so the made-up ones are the recorded ones.
    pair = next(p for p in report["paired"] if (p["a"], p["b"]) == ("synthetic", "own"))
    assert pair["difference"] == pytest.approx(0, abs=1e-6)


def test_a_higher_limit_keeps_what_was_measured(
    done, dataset: Path, tiny_llama: Path, tmp_path: Path
):
    out = tmp_path / "out"
    command = ["histories", dataset, "--model", tiny_llama, "--part", "train", "-o", out, *SMALL]
    done(*command, "--limit", "2", "--arms", "own,handed")
    first = (out / "replies.jsonl").read_bytes()
    assert read_json(out / "histories.json")["n_replies"] == 2
    done(*command, "--limit", "4", "--arms", "own,handed")
    assert (out / "replies.jsonl").read_bytes().startswith(first)
    assert read_json(out / "histories.json")["n_replies"] == 4
    done(*command, "--limit", "2", "--arms", "own,handed")
    assert read_json(out / "histories.json")["n_replies"] == 2


def test_a_run_stands_for_its_dataset(done, finished: Path, tiny_llama: Path, tmp_path: Path):
    out = tmp_path / "out"
    source = finished / "majority-s0"
    done("histories", source, "--model", tiny_llama, "--part", "train", "-o", out, *SMALL)
    manifest = read_json(finished / "dataset-s0/manifest.json")
    assert read_json(out / "histories.json")["dataset"]["hash"] == manifest["hash"]


def test_what_it_is_given_and_cannot_use(fails, dataset: Path, tmp_path: Path):
    out = tmp_path / "out"

    def line(*arguments: object) -> str:
        return fails("histories", *arguments, "-o", out)

    assert "not a dataset folder" in line(tmp_path)
    assert "arms" in line(dataset, "--arms", "own,made-up")
    assert "arms: one of them comes twice" in line(dataset, "--arms", "own,own")
    assert "no such packaged model" in line(dataset, "--model", "packaged:nothing")
    assert "part" in line(dataset, "--part", "testing")
    assert not (out / "histories.json").exists()


def test_rows_of_other_settings_are_not_mixed(
    done, fails, dataset: Path, tiny_llama: Path, tmp_path: Path
):
    command = ["histories", dataset, "--model", tiny_llama, "--part", "train", "-o", tmp_path / "o"]
    done(*command, *SMALL, "--limit", "1")
    line = fails(*command, *SMALL, "--limit", "1", "--arms", "own")
    assert "was begun with other settings (arms)" in line
    assert line.endswith("; name another folder, or delete the file")


def test_traces_that_have_changed_are_refused(
    fails, dataset: Path, traces: Path, tiny_llama: Path, tmp_path: Path
):
    command = ["histories", dataset, "--model", tiny_llama, "-o", tmp_path / "o", *SMALL]
    with traces.open("ab") as file:
        file.write(b"\n{}\n")
    assert "has changed since" in fails(*command)
    traces.unlink()
    assert "cannot be read" in fails(*command)


def test_a_dataset_without_replies_after_calls(
    done, fails, tiny_llama: Path, traces: Path, tmp_path: Path
):
    kept = [line for line in traces.read_bytes().splitlines(True) if b'"role":"tool"' not in line]
    traces.write_bytes(b"".join(kept))
    done("build", traces, "-o", tmp_path / "d", MERGE)
    line = fails("histories", tmp_path / "d", "--model", tiny_llama, "-o", tmp_path / "o", *SMALL)
    assert "no trace ends with a reply after a call" in line
    shutil.rmtree(tmp_path / "d")
