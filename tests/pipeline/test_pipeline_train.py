"""A run is one config and one dataset, and whole only when all of it is there."""

import shutil
from pathlib import Path
from random import Random

import orjson
import pytest
from made_jobs import ONE, append, do, interrupt, job_at, majority, times
from small_shop import LIST, write_traces

from distill import config as configs
from distill import load_router
from distill.chat import trace_json
from distill.dataset import load_dataset
from distill.errors import ConfigError, DatasetError, RouterError
from distill.pipeline import train
from distill.pipeline.build import ensure_dataset
from distill.pipeline.evaluate import evaluate_run
from distill.pipeline.layout import run_dir
from distill.progress import silent
from distill.runs import RunDir, read_json
from distill.types import Message, ToolCall, Trace


def test_the_manifest_says_what_the_run_was_made_from(finished: Path):
    manifest = read_json(RunDir(finished / "runs/shop/tfidf-s0").manifest)
    dataset = load_dataset(finished / "runs/shop/dataset-s0")
    assert manifest["dataset"]["hash"] == dataset.manifest["hash"]
    assert (manifest["run"], manifest["router"], manifest["kind"]) == ("shop", "tfidf", "tfidf")
    assert (manifest["seed"], manifest["base_model"]) == (0, None)
    assert manifest["parameters"] > 0
    assert manifest["environment"]["libraries"]["torch"]


def test_a_runs_config_is_that_router_and_seed_alone(finished: Path):
    job = job_at(finished)
    single = configs.load(RunDir(finished / "runs/shop/tfidf-s0").config)
    assert single == job.model_copy(update={"routers": {"tfidf": job.routers["tfidf"]}})


def test_the_trained_router_routes(finished: Path):
    router = load_router(finished / "runs/shop/tfidf-s0")
    examples = load_dataset(finished / "runs/shop/dataset-s0").examples("test")
    decisions = router.decide([example.context for example in examples])
    hits = [d.tools == e.label.tools for d, e in zip(decisions, examples, strict=True)]
    assert sum(hits) / len(hits) > 0.9, "every request names its tool"


def test_another_router_config_in_the_same_folder_is_refused(folder: Path):
    before = times(folder)
    routers = {"tfidf": {"kind": "tfidf", "regularisation": [1.0]}}
    with pytest.raises(ConfigError) as caught:
        do(job_at(folder, routers=routers))
    place = folder / "runs/shop/tfidf-s0"
    assert str(caught.value).startswith(f"{place}: holds a run of another config; give the job")
    assert times(folder) == before


def test_other_traces_are_noticed_when_the_dataset_was_deleted_too(folder: Path):
    write_traces(folder / "traces.jsonl", 90)
    shutil.rmtree(folder / "runs/shop/dataset-s0")
    with pytest.raises(DatasetError, match="was trained on another dataset"):
        do(job_at(folder))


def test_trackers_are_no_part_of_what_a_router_is(folder: Path):
    router = times(folder / "runs/shop/tfidf-s0/router")
    do(job_at(folder, trackers=["tensorboard"]))
    assert times(folder / "runs/shop/tfidf-s0/router") == router


def test_the_manifest_is_written_last_and_a_run_without_it_is_resumed(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
):
    job = job_at(fresh, routers=ONE)
    with monkeypatch.context() as patch:
        interrupt(patch, train, "write_json", lambda path, value: path.name == "manifest.json")
        with pytest.raises(KeyboardInterrupt):
            do(job)
    run = majority(fresh)
    assert (run.router / "router.json").is_file()
    assert not run.whole
    with pytest.raises(RouterError, match="not a finished run"):
        evaluate_run(run, silent)
    dataset = times(fresh / "runs/shop/dataset-s0")
    do(job)
    assert run.whole
    assert run.report.is_file()
    assert times(fresh / "runs/shop/dataset-s0") == dataset


def test_checkpoints_of_another_config_are_not_continued(fresh: Path):
    job = job_at(fresh, routers={"m": {"kind": "tfidf"}})
    ensure_dataset(job, 0, silent)
    run = run_dir(job, "m", 0)
    (run.checkpoints / "checkpoint-5").mkdir(parents=True)
    run.config.write_text(configs.dump(job))
    with pytest.raises(ConfigError, match="holds a run of another config"):
        do(job_at(fresh, routers={"m": {"kind": "majority"}}))
    with pytest.raises(DatasetError, match="m-s0 is trained on it"):
        do(job_at(fresh, data=job.data.model_dump() | {"outcome": "any"}))


def test_an_unfinished_run_does_not_go_on_with_other_data(fresh: Path):
    """Weights of two datasets must never become one router whose manifest names the second."""
    job = job_at(fresh, routers=ONE)
    ensure_dataset(job, 0, silent)
    run = majority(fresh)
    (run.checkpoints / "checkpoint-5").mkdir(parents=True)
    (run.checkpoints / "dataset.json").write_text('{"hash": "of another dataset"}')
    run.config.write_text(configs.dump(job))
    with pytest.raises(DatasetError, match="was trained on another dataset"):
        do(job)


def write_lamps(path: Path) -> None:
    """Of each request three traces: twice the lamp is off and stays so, once it is on."""
    luck = Random(0)
    for i in range(60):
        question = Message("user", " ".join(str(luck.randrange(10**6)) for _ in range(8)))
        for n, state in enumerate(("off", "off", "on")):
            calls = (ToolCall("list_orders", {}),) if state == "on" else ()
            answer = Message("assistant", None if calls else "It is off.", calls)
            messages = (Message("system", f"The lamp is {state}."), question, answer)
            made = Trace(f"t{i}-{n}", f"g{i}", "teacher", "made up", (LIST,), messages)
            append(path, orjson.dumps(trace_json(made)))


def test_labels_that_follow_the_system_prompt_are_learned_by_a_router_that_reads_it(tmp_path: Path):
    write_lamps(tmp_path / "traces.jsonl")
    routers = {"reads": {"kind": "tfidf", "render": {"system_chars": 100}}}
    do(job_at(tmp_path, routers=routers))
    report = read_json(tmp_path / "runs/shop/reads-s0/report.json")
    assert report["routers"][0]["tool_accuracy"]["value"] == 1


@pytest.mark.parametrize("kind", ["majority", "tfidf"])
def test_a_router_that_does_not_read_it_is_left_with_nothing_to_learn(tmp_path: Path, kind: str):
    """Every question is answered with a reply most often: one class, which no classifier takes."""
    write_lamps(tmp_path / "traces.jsonl")
    with pytest.raises(DatasetError, match=r"train knows a single decision \(reply\)") as caught:
        do(job_at(tmp_path, routers={"blind": {"kind": kind}}))
    assert "render.system_chars" in caught.value.cure
