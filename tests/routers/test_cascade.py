"""A cascade: the encoder's tools, with arguments from whichever stage has them."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_shop import PARTS, job_values, write_traces

from distill import config as configs
from distill import load_router
from distill.config import CascadeConfig, RunConfig
from distill.errors import ConfigError, RouterError
from distill.pipeline.layout import comparison_dir, run_dir
from distill.pipeline.plan import steps
from distill.pipeline.train import train_router
from distill.progress import silent
from distill.routers.cascade import CascadeRouter
from distill.routers.folder import RouterFile, read_router_file
from distill.runs import read_json
from distill.validation import check_arguments

CONTEXTS = [example.context for example in PARTS.validation]


@pytest.fixture(scope="module")
def folder(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    first, second = trained("encoder"), trained("decoder")
    known = read_router_file(first.folder)
    file = RouterFile(CascadeConfig(), known.catalogue, known.labels)
    path = tmp_path_factory.mktemp("cascade") / "router"
    path.mkdir()
    folders = {"encoder": first.folder, "decoder": second.folder}
    CascadeRouter.of(file, folders).save(path)
    return path


def test_tools_are_the_encoders_and_arguments_the_decoders(folder: Path, trained: Any) -> None:
    router = load_router(folder)
    assert router.kind == "cascade"
    chosen = trained("encoder").router.decide(CONTEXTS)
    decided = router.decide(CONTEXTS)
    assert [d.tools for d in decided] == [d.tools for d in chosen]
    assert Counter(d.stage for d in decided)["decoder"] >= 3
    for before, after, context in zip(chosen, decided, CONTEXTS, strict=True):
        if before.filled:
            assert (after, after.stage) == (before, "encoder")
        elif after.stage == "decoder":
            specs = {tool.name: tool for tool in context.tools}
            assert all(check_arguments(call, specs[call.name]) is None for call in after.calls)
            assert before.confidence is not None
            assert after.confidence is not None
            assert after.confidence <= before.confidence


def test_what_the_decoder_does_not_end_stays_unfilled(folder: Path) -> None:
    router: Any = load_router(folder)
    router.second.config = router.second.config.model_copy(update={"max_new_tokens": 8})
    decided = router.decide(CONTEXTS)
    assert not all(d.filled for d in decided)
    assert {d.stage for d in decided} == {"encoder"}


def test_a_batch_changes_no_decision(folder: Path) -> None:
    router = load_router(folder)
    alone = [router.decide([context])[0] for context in CONTEXTS]
    together = router.decide(CONTEXTS)
    assert [(d.calls, d.stage) for d in together] == [(d.calls, d.stage) for d in alone]
    confidence = [d.confidence for d in alone]
    assert [d.confidence for d in together] == pytest.approx(confidence, abs=1e-5)


@pytest.mark.parametrize("stage", ["encoder", "decoder"])
def test_a_missing_stage_is_named(folder: Path, tmp_path: Path, stage: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.rmtree(copy / stage)
    with pytest.raises(RouterError, match=rf"{stage}/router\.json: missing"):
        load_router(copy)


# --- as a job


@pytest.fixture(scope="module")
def done(config_of: Any, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("job")
    write_traces(folder / "traces.jsonl")
    routers = {
        "both": {"kind": "cascade", "encoder": "small", "decoder": "writer"},
        "small": config_of("encoder", epochs=1).model_dump(),
        "writer": config_of("decoder", epochs=1).model_dump() | {"max_examples": 8},
    }
    evaluation = {"bootstrap": 100, "latency_samples": 4, "max_examples": 12}
    values = job_values(folder, routers=routers, evaluation=evaluation, risk={"max_examples": 12})
    job = configs.parse(values, "test", RunConfig)
    for step in steps(job):
        step.do(silent)
    return job


def test_a_job_puts_it_together_after_its_stages(done: RunConfig) -> None:
    report = read_json(comparison_dir(done) / "report.json")
    entries = {entry["name"]: entry for entry in report["routers"]}
    both, small, writer = (entries[name] for name in ("both", "small", "writer"))
    assert both["tool_accuracy"]["value"] == small["tool_accuracy"]["value"]
    assert both["parameters"] == small["parameters"] + writer["parameters"]
    assert both["fills_arguments"]
    assert sum(stage["share"]["value"] for stage in both["stages"]) == pytest.approx(1)
    assert small["stages"] == []
    for name in ("md", "html"):
        text = (comparison_dir(done) / f"report.{name}").read_text()
        assert "Stages of a cascade" in text


def test_a_stage_trained_again_is_noticed(done: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(done.output, tmp_path / "runs")
    job = done.model_copy(update={"output": tmp_path / "runs"})
    train_router(job, "both", 0, silent)
    manifest = run_dir(job, "small", 0).manifest
    manifest.write_text(manifest.read_text().replace('"finished": "20', '"finished": "19'))
    with pytest.raises(ConfigError, match="trained again since; delete that folder"):
        train_router(job, "both", 0, silent)


@pytest.mark.parametrize(
    ("routers", "words"),
    [
        ({"c": {"kind": "cascade"}}, "c.encoder: 'encoder' is no encoder of this job; add a"),
        (
            {"c": {"kind": "cascade", "encoder": "d"}, "e": {"kind": "encoder"}},
            "c.encoder: 'd' is no encoder of this job; one of: e",
        ),
    ],
)
def test_stages_must_be_the_jobs(tmp_path: Path, routers: dict[str, Any], words: str) -> None:
    job = configs.parse(job_values(tmp_path, routers=routers), "test", RunConfig)
    with pytest.raises(ConfigError, match=words):
        steps(job)
