"""The dataset of a seed: built once, never over anything else, and nothing dropped in silence."""

import logging
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from made_jobs import ONE, append, do, job_at, times
from small_shop import write_traces

from distill.dataset import load_dataset
from distill.errors import ConfigError, DatasetError
from distill.pipeline.build import build_dataset, ensure_dataset
from distill.pipeline.layout import dataset_dir
from distill.pipeline.train import train_router
from distill.progress import silent


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
    assert not dataset_dir(job, 0).exists()


def test_a_dataset_that_no_run_uses_is_built_again_from_other_data(fresh: Path):
    job = job_at(fresh)
    first = ensure_dataset(job, 0, silent).manifest
    write_traces(fresh / "traces.jsonl", 90)
    second = ensure_dataset(job, 0, silent).manifest
    assert (first["n_traces"], second["n_traces"]) == (80, 90)


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


def test_an_edited_catalogue_is_noticed_like_edited_traces(folder: Path):
    rows = [orjson.loads(line) for line in (folder / "traces.jsonl").read_bytes().splitlines()]
    catalogue = folder / "tools.json"
    catalogue.write_bytes(orjson.dumps(rows[0]["tools"]))
    named = folder / "named.jsonl"
    for row in rows:
        append(named, orjson.dumps(row | {"tools": [], "tools_ref": "tools.json"}))
    data = job_at(folder).data.model_dump(mode="json") | {"traces": str(named)}
    job = job_at(folder, name="named", data=data, routers=ONE)
    first = ensure_dataset(job, 0, silent).manifest
    assert ensure_dataset(job, 0, silent).manifest == first
    catalogue.write_bytes(catalogue.read_bytes().replace(b"Cancels.", b"Cancels an order."))
    second = ensure_dataset(job, 0, silent).manifest
    assert second["hash"] != first["hash"]
    train_router(job, "majority", 0, silent)
    catalogue.unlink()
    assert ensure_dataset(job, 0, silent).manifest == second
    catalogue.write_bytes(b"[]")
    with pytest.raises(DatasetError, match="majority-s0 is trained on it"):
        ensure_dataset(job, 0, silent)


def test_rejected_lines_are_counted_aloud_and_listed(fresh: Path, caplog: pytest.LogCaptureFixture):
    append(fresh / "traces.jsonl", b"{oops", b"[1]", b'{"messages": []}')
    with caplog.at_level(logging.WARNING, "distill"):
        job = job_at(fresh)
        ensure_dataset(job, 0, silent)
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
        build_dataset(job_at(fresh).data, 0, fresh / "dataset", silent)
    assert "read otherwise than it stands: 2 times: an id that came before" in caplog.text
    assert "rejected" not in caplog.text


def test_a_list_of_rejected_lines_goes_when_there_are_none(fresh: Path):
    out = fresh / "dataset"
    beside = fresh / "dataset.rejected.jsonl"
    append(fresh / "traces.jsonl", b"{oops")
    build_dataset(job_at(fresh).data, 0, out, silent)
    assert beside.is_file()
    write_traces(fresh / "traces.jsonl")
    build_dataset(job_at(fresh).data, 0, out, silent)
    assert not beside.exists()


def test_lines_that_are_all_rejected_are_listed_though_no_dataset_comes_of_them(fresh: Path):
    (fresh / "traces.jsonl").write_bytes(b"{oops\n" * 3)
    out = fresh / "dataset"
    with pytest.raises(DatasetError) as caught:
        build_dataset(job_at(fresh).data, 0, out, silent)
    assert "3 lines were rejected (3 times: not JSON)" in str(caught.value)
    assert f"see {out}.rejected.jsonl" in str(caught.value)
    assert (fresh / "dataset.rejected.jsonl").read_bytes().count(b"\n") == 3
    assert not out.exists()


def test_a_failed_build_leaves_the_old_dataset(folder: Path):
    path = folder / "runs/shop/dataset-s0"
    before = times(path)
    (folder / "traces.jsonl").write_bytes(b"{oops\n")
    with pytest.raises(DatasetError):
        build_dataset(job_at(folder).data, 0, path, silent)
    assert times(path) == before
    load_dataset(path)


@pytest.mark.parametrize("what", ["the traces", "a folder of other things"])
def test_a_dataset_never_replaces_anything_else(fresh: Path, what: str):
    other = fresh / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    out = fresh / "traces.jsonl" if what == "the traces" else other
    with pytest.raises(DatasetError, match="is there and is no dataset folder"):
        build_dataset(job_at(fresh).data, 0, out, silent)
    assert (fresh / "traces.jsonl").stat().st_size > 0
    assert (other / "chapter.txt").read_text() == "years of work"


def test_an_empty_folder_may_become_a_dataset(fresh: Path):
    out = fresh / "dataset"
    os.mkdir(out)  # noqa: PTH102  (what a user's `mkdir` does)
    build_dataset(job_at(fresh).data, 0, out, silent)
    assert load_dataset(out).manifest["n_traces"] == 80
