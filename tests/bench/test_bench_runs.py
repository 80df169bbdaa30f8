"""Benchmarks on tiny models: each prints what it promises, of what was done."""

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from small_shop import (
    ask,
    call,
    decoder,
    examples,
    filling,
    job,
    job_values,
    open_encoder,
    rnn,
    write_traces,
)

from distill.config import RunConfig
from distill.dataset import load_dataset
from distill.pipeline.plan import steps
from distill.progress import silent
from distill.runs import read_json
from distill.training import train
from distill.types import Decision, Example


def test_the_oracle_is_right_as_often_as_the_most_frequent_answer_of_each_part(script: Any):
    def answered(i: int, text: str, weight: float, *calls: Any) -> Example:
        label = Decision("call", calls) if calls else Decision("reply")
        return Example(f"{i}", f"{i}", text, ask(text), label, weight)

    one, other = call("get_order", order=1), call("get_order", order=2)
    first = [
        answered(0, "which?", 3, one),
        answered(1, "which?", 2, other),
        answered(2, "which?", 1),
        answered(3, "alone", 2, other),
    ]
    second = [answered(4, "which?", 2, other)]  # of another seed: a question of its own
    found = script("oracle").ceilings([first, second], 100)
    shares = {name: figure.value for name, figure in found.items()}
    assert shares == pytest.approx(
        {
            "call_accuracy": (3 + 2 + 2) / 10,
            "tool_accuracy": (5 + 2 + 2) / 10,
            "twice": (6 + 2 + 2) / 10,
        }
    )


def test_the_meter_counts_every_row_and_token_once(
    script: Any, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
):
    from distill.routers import pretrained  # noqa: PLC0415
    from distill.routers.decoding import PromptFormat  # noqa: PLC0415
    from distill.training.sft import row  # noqa: PLC0415

    config = decoder(tiny_llama, epochs=1)
    tokenizer = pretrained.load_tokenizer(pretrained.resolve(str(tiny_llama)))
    prompts = PromptFormat.new(tokenizer, config)
    made = [row(example, prompts, config.max_new_tokens) for example in examples(48)]
    training = script("training")
    monkeypatch.setattr(training, "WARM_UP", 0)
    meter = training.Meter()
    with meter.watching():
        train(config, job(tmp_path, progress=meter.progress))
    work = meter.work
    assert (work.steps, work.rows) == (6, 48)
    assert work.tokens == sum(len(one["input_ids"]) for one in made if one is not None)
    assert work.positions >= work.tokens
    assert all(seconds > 0 for seconds in work.phases.values())
    assert sum(work.phases.values()) < work.seconds


def test_evaluation_and_checkpoints_do_not_count(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A clock that only evaluation and checkpoints move shows a training without duration."""
    from transformers import Trainer  # noqa: PLC0415

    training = script("training")
    now = [0.0]
    evaluate, save = Trainer.evaluate, Trainer._save_checkpoint

    def slow(method: Any) -> Any:
        def slowed(*args: Any, **kwargs: Any) -> Any:
            now[0] += 1000.0
            return method(*args, **kwargs)

        return slowed

    monkeypatch.setattr(Trainer, "evaluate", slow(evaluate))
    monkeypatch.setattr(Trainer, "_save_checkpoint", slow(save))
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    meter = training.Meter()
    with meter.watching():
        train(rnn(epochs=1), job(tmp_path, progress=meter.progress))
    assert now[0] > 0
    assert meter.work.steps > 0
    assert meter.work.seconds == 0


def test_training_reports_each_router(
    script: Any,
    dataset: Path,
    tmp_path: Path,
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    training = script("training")
    monkeypatch.setattr(training, "matmul_peak", lambda dtype, size: 1e12)
    output = tmp_path / "figures.json"
    training.main(["--dataset", str(dataset), *tiny, "--steps", "4", "--output", str(output)])
    figures = json.loads(output.read_bytes())["routers"]
    assert list(figures) == ["rnn", "attention", "encoder", "decoder"]
    for row in figures.values():
        assert row["steps"] == 4 - training.WARM_UP
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert row["tokens_per_s"] > row["examples_per_s"] > 0
        assert row["share_of_peak"] == pytest.approx(row["flops_per_s"] / 1e12)


def test_latency_reports_each_kind_against_the_encoder(
    script: Any,
    dataset: Path,
    tmp_path: Path,
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    latency = script("latency")
    monkeypatch.setattr(latency, "matmul_peak", lambda dtype, size: 1e12)
    monkeypatch.setattr(latency, "int8_peak", lambda size: 2e12)
    output = tmp_path / "figures.json"
    sizes = ["--tokens", "16", "64", "--samples", "2", "--batch", "2"]
    latency.main(["--dataset", str(dataset), *tiny, *sizes, "--output", str(output)])
    rows = json.loads(output.read_bytes())["rows"]
    names = [row["router"].split(",")[0] for row in rows]
    assert names == [
        kind
        for kind in [
            "encoder",
            "majority",
            "tfidf",
            "rnn",
            "attention",
            "encoder-int8",
            "decoder",
            "decoder",
        ]
        for _ in range(2)
    ]
    assert rows[0]["ratio"] == 1
    for row in [row for row in rows if row["router"].startswith("encoder")]:
        assert row["context_tokens"] - 8 < row["reads"] <= row["context_tokens"]
        assert row["forward_ms"] > 0
        peak = 2e12 if row["router"] == "encoder-int8" else 1e12
        assert row["peak_ops_per_s"] == peak
        assert 0 < row["share_of_peak"] < 1


def test_a_measured_decoder_writes_as_much_as_asked(
    script: Any, dataset: Path, tmp_path: Path, tiny_bert: Path, taught_llama: Path
):
    """Also where its base model, as this one to thanks, would answer in a word."""
    latency, training = script("latency"), script("training")
    parts = training.training_parts(training.open_dataset(dataset, tmp_path))
    bench = latency.Bench(parts, tmp_path, str(tiny_bert), str(taught_llama))
    for name, router in bench.routers("decoder", 64).items():
        written = []
        hook = router.model.register_forward_hook(lambda *_, seen=written: seen.append(1))
        router.decide([ask("thank you")])
        hook.remove()
        assert len(written) == int(name.rpartition(" ")[2])


def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every peer's distribution a missing one."""

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)


def test_peers_are_compared_with_the_encoder_of_a_job(
    script: Any, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
):
    write_traces(tmp_path / "traces.jsonl")
    routers = job_values(tmp_path)["routers"]
    routers["encoder"] = filling(tiny_bert, epochs=1, evaluations=1).model_dump(mode="json")
    routers["ensemble"] = {"kind": "ensemble", "members": ["encoder", "tfidf"]}
    for step in steps(RunConfig.model_validate(job_values(tmp_path, routers=routers))):
        step.do(silent)

    not_installed(monkeypatch)
    job, output = tmp_path / "runs/shop", tmp_path / "figures.json"
    asked = ["encoder", "ensemble", "tfidf", "knn", "semantic-router", "setfit"]
    options = ["--base", str(tiny_bert), "--samples", "2", "--output", str(output)]
    script("peers").main([str(job), *options, "--routers", *asked])
    report = json.loads(output.read_bytes())

    rows = report["rows"]
    assert list(rows) == ["encoder", "ensemble", "tfidf", "knn"]
    accuracy = {name: row["tool_accuracy"]["value"] for name, row in rows.items()}
    for name in ("encoder", "ensemble", "tfidf"):
        (evaluated,) = read_json(job / f"{name}-s0" / "report.json")["routers"]
        assert accuracy[name] == pytest.approx(evaluated["tool_accuracy"]["value"])
    for name, row in rows.items():
        behind = accuracy["encoder"] - accuracy[name]
        assert row["difference"]["value"] == pytest.approx(behind)
    assert accuracy["knn"] > 0.5  # requests of one kind share their words
    assert rows["knn"]["notes"][0].startswith("k = ")
    for name in ("semantic-router", "setfit"):
        assert "pip install 'tool-router-distill[bench]'" in report["skipped"][name]


def test_open_peers_are_compared_with_an_open_encoder(script: Any, tmp_path: Path, tiny_bert: Path):
    write_traces(tmp_path / "traces.jsonl")
    config = open_encoder(tiny_bert, epochs=1, evaluations=1).model_dump(mode="json")
    values = job_values(tmp_path, routers={"open": config})
    for step in steps(RunConfig.model_validate(values)):
        step.do(silent)
    job, output = tmp_path / "runs/shop", tmp_path / "figures.json"
    options = ["--base", str(tiny_bert), "--samples", "2", "--output", str(output)]
    script("open_peers").main([str(job), *options])
    report = json.loads(output.read_bytes())
    rows = report["rows"]
    assert list(rows) == ["encoder", "bm25", "cosine", "knn"]
    (evaluated,) = read_json(job / "open-s0" / "report.json")["routers"]
    expected = evaluated["tool_accuracy"]["value"]
    assert rows["encoder"]["tool_accuracy"]["value"] == pytest.approx(expected)
    for name in ("bm25", "cosine", "knn"):
        behind = expected - rows[name]["tool_accuracy"]["value"]
        assert rows[name]["difference"]["value"] == pytest.approx(behind)
        assert "calls" in rows[name]["notes"][0] or "threshold" in rows[name]["notes"][0]


def test_workflows_are_timed_by_policy_batch_and_gradient(
    script: Any, trained: Any, tmp_path: Path
):
    """A router that fills arguments in, too, for a workflow's tools have their own."""
    output = tmp_path / "figures.json"
    runs = [str(trained(kind).folder.parent) for kind in ("rnn", "filling")]
    sizes = ["--steps", "2", "--batches", "1", "4", "--encoder-batch", "3"]
    script("workflow").main(
        [*runs, *sizes, "--rounds", "2", "--seconds", "0", "--output", str(output)]
    )
    rows = json.loads(output.read_bytes())["rows"]
    assert [(row["batch"], row["gradient"]) for row in rows] == [
        (batch, gradient) for most in (4, 4, 3) for gradient in (False, True) for batch in (1, most)
    ]
    for row in rows:
        for rate, decided in zip(row["rollouts_per_s"], row["decisions_per_s"], strict=True):
            assert decided == 2 * rate > 0
        for deciding, behind in zip(row["deciding"], row["backward"], strict=True):
            assert deciding > 0
            assert (behind > 0) == row["gradient"]
            assert deciding + behind < 1
        assert len(row["times"]) == 2
        if row["batch"] == 1:
            assert row["times"] == [1, 1]


def test_benchmarks_learn_what_routers_are_trained_on(
    script: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch
):
    """A question's answers are voted on, and it comes again by the square root of its weight."""
    training = script("training")
    opened = load_dataset(dataset)
    first, second, *_ = opened.examples("train")
    heavy = [replace(first, weight=9.0), second]
    monkeypatch.setattr(type(opened), "examples", lambda dataset, part: heavy)
    parts = training.training_parts(opened)
    assert sorted(e.id for e in parts.train) == sorted([first.id] * 3 + [second.id])
