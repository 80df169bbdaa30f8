"""A large LLM in a job: asked when it is measured and not before, never twice, failures told."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from fake_llm import FakeLlm, Says, calling, says
from made_jobs import ONE, do, job_at, killed_at, refuse
from small_shop import TOOLS, write_traces

from distill import load_router
from distill.chat import message_json, tool_json
from distill.config import EndpointConfig, RunConfig
from distill.dataset import load_dataset
from distill.errors import ConfigError, EndpointError, HubError, RouterError
from distill.hub.push import prepare
from distill.pipeline import build
from distill.pipeline.calibrate import calibrate_run
from distill.pipeline.evaluate import evaluate_run
from distill.pipeline.layout import dataset_dir, run_dir
from distill.pipeline.train import train_router
from distill.progress import silent
from distill.routers.endpoint import EndpointRouter
from distill.runs import RunDir, read_json
from distill.types import Context, Message, ToolCall


def clever(request: dict[str, Any]) -> Says:
    """Answers the small shop's requests as its traces do; forgets how to cancel."""
    asked = request["messages"][-1]
    numbers = re.findall(r"\d", asked["content"])
    if asked["role"] == "tool" or "thank" in asked["content"]:
        return says({"content": "Fine."})
    if "buy" in asked["content"]:
        return says(calling(("list_orders", "{}")))
    if "cancel" in asked["content"]:
        return says(calling(("cancel", "{}")))
    return says(calling(*(("get_order", f'{{"order": {n}}}') for n in numbers)))


@pytest.fixture
def llm() -> Iterator[FakeLlm]:
    with FakeLlm(clever) as running:
        yield running


def job_with(folder: Path, llm: FakeLlm, **settings: Any) -> RunConfig:
    big = {"kind": "endpoint", "model": "big", "base_url": llm.url, "retries": 0}
    big |= {"cache": str(folder / "cache"), **settings}
    return job_at(folder, routers=ONE | {"big": big})


def test_an_llm_is_a_contestant_in_the_same_report(fresh: Path, llm: FakeLlm) -> None:
    job = job_with(fresh, llm)
    prices = {"big": {"input": 2.0, "output": 8.0, "date": "2025-01-01"}}
    table = fresh / "prices.yaml"
    table.write_bytes(orjson.dumps({"models": prices}))
    do(job.model_copy(update={"prices": table}))
    report = read_json(fresh / "runs/shop/comparison/report.json")
    big, majority = report["routers"]
    assert (big["name"], big["kind"], big["base_model"]) == ("big", "endpoint", {"name": "big"})
    assert big["tool_accuracy"]["value"] == big["call_accuracy"]["value"] == 1
    assert big["tool_accuracy"]["value"] > majority["tool_accuracy"]["value"]
    assert (big["parameters"], big["train_seconds"], big["decisions_per_s"]) == (None,) * 3
    assert big["latency_ms"]["p50"] > 0
    test_part = load_dataset(dataset_dir(job, 0)).examples("test")
    cancels = sum("cancel_order" in example.label.tools for example in test_part)
    assert cancels > 0
    assert big["failed"]["reasons"] == {"unknown tool": cancels}
    assert big["n_examples"] == len(test_part) - cancels
    assert big["spent"]["n"] == len(test_part)
    assert big["spent"]["cost"] == pytest.approx((100 * 2 + 20 * 8) / 1000)
    assert report["cost"]["missing_prices"] == ["teacher"]
    page = (fresh / "runs/shop/comparison/report.html").read_text()
    assert "No price was stated for teacher" in page


def test_the_request_is_an_applications(fresh: Path, llm: FakeLlm) -> None:
    """The whole conversation with its system prompt, whatever local routers are shown of it."""
    messages = (
        Message("system", "You are a shop. " * 500),
        Message("user", "show orders 1 and 2"),
        Message("assistant", None, (ToolCall("get_order", {"order": 1}, "c1"),)),
        Message("tool", '{"status": "shipped"}', call_id="c1"),
        Message("user", "and order 2"),
    )
    settings = job_with(fresh, llm).routers["big"]
    assert isinstance(settings, EndpointConfig)
    (decision,) = EndpointRouter(settings).decide([Context(messages, TOOLS)])
    assert decision.calls == (ToolCall("get_order", {"order": 2}),)
    (request,) = llm.requests
    assert request["messages"] == [message_json(message) for message in messages]
    assert request["tools"] == [tool_json(tool) for tool in TOOLS]


def test_training_asks_nothing_and_leaves_a_config_alone(fresh: Path, llm: FakeLlm) -> None:
    job = job_with(fresh, llm)
    run = train_router(job, "big", 0, silent)
    assert llm.requests == []
    assert [path.name for path in run.router.iterdir()] == ["router.json"]
    assert load_router(run.path).kind == "endpoint"
    assert read_json(run.manifest)["fills_arguments"]


def test_a_killed_evaluation_asks_only_for_the_rest(fresh: Path, llm: FakeLlm) -> None:
    job = job_with(fresh, llm)
    few = job.evaluation.model_copy(update={"batch_size": 4})
    job = job.model_copy(update={"evaluation": few})
    run = train_router(job, "big", 0, silent)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, killed_at(12))
    asked = {orjson.dumps(request["messages"]) for request in llm.requests}
    first = len(llm.requests)
    do(job)
    rest = {orjson.dumps(request["messages"]) for request in llm.requests[first:]}
    assert asked
    assert rest
    assert not asked & rest
    every = len(llm.requests)
    do(job)
    evaluate_run(run, silent)
    assert len(llm.requests) == every


def test_what_failed_is_asked_again_by_evaluating_again(fresh: Path) -> None:
    broken = True

    def answer(request: dict[str, Any]) -> Says:
        faulty = broken and "buy" in request["messages"][-1]["content"]
        return Says(b"busy", 503) if faulty else clever(request)

    with FakeLlm(answer) as llm:
        job = job_with(fresh, llm)
        do(job)
        run = run_dir(job, "big", 0)
        assert read_json(run.report)["routers"][0]["failed"]["reasons"]["HTTP 503"] > 0
        broken = False
        report = evaluate_run(run, silent)
    assert report["routers"][0]["failed"]["reasons"].keys() == {"unknown tool"}


def test_an_endpoint_that_never_answers_ends_the_job_in_words(fresh: Path) -> None:
    with FakeLlm(lambda request: Says(b"{}", 401)) as llm:
        job = job_with(fresh, llm)
        with pytest.raises(EndpointError, match=r"could be had \(HTTP 401\); mend that and run"):
            do(job)
    assert RunDir(fresh / "runs/shop/majority-s0").report.is_file()
    assert not run_dir(job, "big", 0).report.exists()


def test_a_missing_key_or_table_stops_the_job_before_any_work(
    fresh: Path, llm: FakeLlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "build_dataset", refuse)
    monkeypatch.delenv("BIG_KEY", raising=False)
    with pytest.raises(ConfigError, match="BIG_KEY is not set"):
        do(job_with(fresh, llm, key_env="BIG_KEY"))
    job = job_with(fresh, llm).model_copy(update={"prices": fresh / "prices.yaml"})
    with pytest.raises(ConfigError, match=r"prices\.yaml: cannot be read"):
        do(job)


def test_no_key_is_in_any_file_of_the_job(
    tmp_path: Path, llm: FakeLlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_traces(tmp_path / "traces.jsonl")
    monkeypatch.setenv("BIG_KEY", "sk-0123456789-secret")
    do(job_with(tmp_path, llm, key_env="BIG_KEY"))
    assert set(llm.keys) == {"Bearer sk-0123456789-secret"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("cache" in path.parts for path in files)
    assert not [path for path in files if b"sk-0123456789-secret" in path.read_bytes()]


def test_what_an_endpoint_is_not_for_is_refused(fresh: Path, llm: FakeLlm) -> None:
    job = job_with(fresh, llm)
    do(job)
    run = run_dir(job, "big", 0)
    with pytest.raises(RouterError, match="states no confidence"):
        calibrate_run(run, silent)
    with pytest.raises(HubError, match="nothing to publish"):
        prepare(run, "me/big", fresh / "push")
