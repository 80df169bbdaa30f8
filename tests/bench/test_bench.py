"""The benchmark scripts: they run, and what they count is what was done."""

import importlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from small_shop import ask, decoder, encoder, examples, job, job_values, rnn, write_traces

from distill.config import DataConfig, RunConfig, SplitConfig
from distill.dataset import load_dataset
from distill.pipeline import build_dataset, steps
from distill.progress import silent
from distill.runs import read_json
from distill.training import train

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script as it is imported by the others: from its own folder."""
    monkeypatch.syspath_prepend(str(BENCH))

    def get(name: str) -> ModuleType:
        return importlib.import_module(name)

    return get


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    # The small shop's requests are much alike, and all of them are wanted.
    split = SplitConfig(merge_jaccard=None)
    traces = str(write_traces(folder / "traces.jsonl", 90))
    config = DataConfig(traces=traces, drop_duplicates=None, split=split)
    build_dataset(config, 0, folder / "dataset", silent)
    return folder / "dataset"


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Start a script as its user does."""
    command = [sys.executable, str(BENCH / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["dataset", "training", "latency", "gpu", "peers"])
def test_help_says_what_is_measured_and_shows_a_command(
    name: str, script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        script(name).main()
    assert stop.value.code == 0
    assert f"python scripts/bench/{name}.py" in capsys.readouterr().out


def test_every_script_is_explained():
    text = (BENCH / "README.md").read_text(encoding="utf-8")
    scripts = [path.name for path in BENCH.glob("*.py") if "__main__" in path.read_text()]
    assert scripts
    assert [name for name in scripts if f"`{name}" not in text] == []


def test_the_peaks_are_rates(script: Any):
    assert script("machine").matmul_peak("float32", 64, repeats=2) > 0
    assert script("machine").int8_peak(64, repeats=2) > 0


# Counting


def counted(model: Any, batch: dict[str, Any]) -> int:
    """FLOPs of matrix products that one forward and backward really do."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    with FlopCounterMode(display=False) as counter:
        model(**batch)["loss"].backward()
    return counter.get_total_flops()


def test_the_formula_agrees_with_the_products_an_encoder_does(script: Any, tiny_bert: Path):
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    from distill.routers import pretrained  # noqa: PLC0415
    from distill.routers.encoder import EncoderClassifier  # noqa: PLC0415

    torch.manual_seed(0)
    base = pretrained.load_encoder(pretrained.resolve(str(tiny_bert)))
    base.set_attn_implementation("eager")  # the counter knows no fused attention of a CPU
    targets = ["query", "key", "value", "intermediate.dense", "output.dense"]
    settings = LoraConfig(r=4, target_modules=targets, modules_to_save=["head"])
    model = get_peft_model(EncoderClassifier(base, 5), settings)
    ids = torch.randint(3, 200, (4, 100))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([0, 1, 2, 3]),
    }
    expected = counted(model, batch)
    # What the formula counts too much: the gradient into the first of two layers' projections.
    assert expected <= script("flops").cost(model).of([100] * 4, 0) < 1.1 * expected


def test_the_formula_agrees_with_the_products_the_attention_router_does(script: Any):
    import torch  # noqa: PLC0415
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415

    from distill.config import AttentionConfig  # noqa: PLC0415
    from distill.routers.attention import ToolTransformer  # noqa: PLC0415

    classes, tools = 20, torch.randint(1, 300, (5, 3, 7))
    shares = torch.rand(classes, 5)
    model = ToolTransformer(AttentionConfig(width=64), 300, tools, shares)
    ids = torch.randint(1, 300, (4, 100))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([0, 1, 2, 3]),
    }
    with sdpa_kernel(SDPBackend.MATH):
        expected = counted(model, batch)
    # What the formula leaves out: the classes and their questions, made once a step.
    assert 0.95 * expected < script("flops").cost(model).of([100] * 4, 0) <= expected


def test_the_formula_of_a_decision_counts_its_products(script: Any, tiny_bert: Path):
    import torch  # noqa: PLC0415
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    from distill.routers import pretrained  # noqa: PLC0415
    from distill.routers.encoder import EncoderClassifier  # noqa: PLC0415

    base = pretrained.load_encoder(pretrained.resolve(str(tiny_bert)))
    base.set_attn_implementation("eager")
    model = EncoderClassifier(base, 5)
    ids = torch.randint(3, 200, (1, 50))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, torch.ones_like(ids))
    pooler = 2 * base.config.hidden_size**2  # computed and thrown away: no decision needs it
    assert script("flops").forward_cost(model).of([50], 0) == counter.get_total_flops() - pooler


def test_the_formula_agrees_with_the_products_a_decoder_does(script: Any, tiny_llama: Path):
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    from distill.routers import pretrained  # noqa: PLC0415

    base = pretrained.load_decoder(pretrained.resolve(str(tiny_llama)))
    base.set_attn_implementation("eager")
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, settings)
    ids = torch.randint(3, 200, (4, 50))
    expected = counted(model, {"input_ids": ids, "labels": ids})
    formula = script("flops").cost(model)
    # Eager attention multiplies the masked half, too.
    whole = formula.of([50] * 4, 200) + formula.square * 4 * 50**2
    assert expected <= whole < 1.1 * expected


def test_the_meter_counts_every_row_and_token_once(
    script: Any, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
):
    from distill.routers import pretrained  # noqa: PLC0415
    from distill.routers.decoder import PromptFormat  # noqa: PLC0415
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


# Tiny runs


@pytest.fixture
def tiny(tiny_bert: Path, tiny_llama: Path) -> list[str]:
    """The options that name tiny base models."""
    return ["--encoder", str(tiny_bert), "--decoder", str(tiny_llama)]


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


def test_peers_are_compared_with_the_encoder_of_a_job(
    script: Any, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
):
    write_traces(tmp_path / "traces.jsonl")
    routers = job_values(tmp_path)["routers"]
    routers["encoder"] = encoder(tiny_bert, epochs=1, evaluations=1).model_dump(mode="json")
    for step in steps(RunConfig.model_validate(job_values(tmp_path, routers=routers))):
        step.do(silent)

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    job, output = tmp_path / "runs/shop", tmp_path / "figures.json"
    asked = ["encoder", "tfidf", "knn", "semantic-router", "setfit"]
    options = ["--base", str(tiny_bert), "--samples", "2", "--output", str(output)]
    script("peers").main([str(job), *options, "--routers", *asked])
    report = json.loads(output.read_bytes())

    rows = report["rows"]
    assert list(rows) == ["encoder", "tfidf", "knn"]
    accuracy = {name: row["tool_accuracy"]["value"] for name, row in rows.items()}
    for name in ("encoder", "tfidf"):
        (evaluated,) = read_json(job / f"{name}-s0" / "report.json")["routers"]
        assert accuracy[name] == pytest.approx(evaluated["tool_accuracy"]["value"])
    for name, row in rows.items():
        behind = accuracy["encoder"] - accuracy[name]
        assert row["difference"]["value"] == pytest.approx(behind)
    assert accuracy["knn"] > 0.5  # requests of one kind share their words
    assert rows["knn"]["notes"][0].startswith("k = ")
    for name in ("semantic-router", "setfit"):
        assert "pip install 'tool-router-distill[bench]'" in report["skipped"][name]


def gpu_figures(out: str) -> Any:
    return json.loads(out.splitlines()[-1])


def test_without_a_gpu_one_line_says_so(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run("gpu", dataset)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no GPU" in done.stderr.strip()
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_dataset_one_line_says_so(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert script("gpu").main([str(tmp_path), "--dry-run-on-cpu"]) == 2
    assert "make one with distill build" in capsys.readouterr().err


VLLM = '''
"""Stands in for vLLM: answers every prompt with `reply`."""
from types import SimpleNamespace as Output


class SamplingParams:
    def __init__(self, *, temperature, max_tokens, stop_token_ids):
        assert temperature == 0 and max_tokens > 0 and stop_token_ids


class LLM:
    def __init__(self, *, model, max_model_len, **settings):
        assert settings["enable_lora"]
        self.longest = max_model_len

    def generate(self, prompts, settings, *, lora_request, use_tqdm):
        assert all(len(prompt["prompt_token_ids"]) < self.longest for prompt in prompts)
        return [Output(outputs=[Output(text="reply")]) for _ in prompts]
'''
LORA = '''
"""Stands in for vLLM's adapters."""
from pathlib import Path


class LoRARequest:
    def __init__(self, name, number, folder):
        assert (Path(folder) / "adapter_model.safetensors").is_file()
'''


def test_a_dry_run_goes_through_every_part(
    script: Any,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "vllm" / "lora").mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text(VLLM)
    (tmp_path / "vllm" / "lora" / "__init__.py").write_text("")
    (tmp_path / "vllm" / "lora" / "request.py").write_text(LORA)
    monkeypatch.syspath_prepend(str(tmp_path))
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
    assert figures["vllm"]["decisions"] == 4
    assert 0 <= figures["vllm"]["same_tools_as_generate"] <= 1


def test_a_missing_package_and_a_fault_cost_only_their_own_parts(
    script: Any,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    gpu = script("gpu")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("trl", "vllm") else find(name)
    )
    monkeypatch.setattr(gpu.Bench, "encoder", lambda bench: 1 // 0)
    status = gpu.main([str(dataset), "--dry-run-on-cpu"])
    figures = gpu_figures(capsys.readouterr().out)
    assert status == 1
    assert figures["peak"]["tflops_per_s"] > 0
    assert figures["encoder"]["failed"].startswith("ZeroDivisionError")
    assert figures["decoder"]["skipped"] == "not installed: trl (pip install trl)"
    assert "vllm" in figures["vllm"]["skipped"]


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
