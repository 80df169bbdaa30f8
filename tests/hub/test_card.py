"""The model card: its figures are the report's, and no name can break it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import HubError, RouterError
from distill.hub.card import card, render_card, template
from distill.hub.record import Record, read_record
from distill.routers import pretrained
from distill.runs import read_json, write_json

from .factory import KINDS, base_model, estimate, make_run, manifest, report, tool

REPO = "acme/desk-router"


def metrics(text: str) -> dict[str, Any]:
    """What the card's head says was measured, by the metric's name."""
    return {str(e.metric_name): e.metric_value for e in ModelCard(text).data.eval_results or []}


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_results_are_the_reports_to_the_last_digit(tmp_path: Path, kind: str) -> None:
    text = card(make_run(tmp_path, kind), REPO)
    measured = report(kind)["routers"][0]
    assert metrics(text) == {
        "Tool accuracy": measured["tool_accuracy"]["value"],
        "Call accuracy": measured["call_accuracy"]["value"],
        "Macro F1": measured["macro_f1"]["value"],
        "No-call precision": measured["no_call"]["precision"]["value"],
        "Expected calibration error": measured["calibration"]["ece"]["value"],
    }
    results = ModelCard(text).data.eval_results
    assert results is not None
    first = results[0]
    assert first.metric_args == {
        "interval_95": [measured["tool_accuracy"]["low"], measured["tool_accuracy"]["high"]]
    }
    assert first.dataset_revision == "d" * 64
    assert first.dataset_name == "sample:orderdesk"


def test_every_figure_of_the_report_and_the_data_is_in_the_body(tmp_path: Path) -> None:
    body = ModelCard(card(make_run(tmp_path), REPO)).text
    for row in [
        "| Tool accuracy | 0.8765 | 0.8465 to 0.9065 |",
        "Measured on 180 examples in 38 groups of the test part, which stand for\n240 decisions",
        "within one process, 100 of them, on\nOther CPU (2 cores).\n",
        "| Teacher's self-agreement | 0.9313 | – |",
        "| Latency, median (ms) | 3.25 | – |",
        "| train | 600 | 120 |",
        "| test | 201 | 41 |",
        "22,713,216, of which trained: 299,520",
        "61.25 s on Some CPU @ 2 GHz (2 cores)",
    ]:
        assert row in body
    missing = "No-call recall, Brier score, Teacher's success rate, LLM calls saved"
    assert f"Not measured: {missing}" in body


def test_thresholds_stand_in_the_card_once_a_report_has_them(tmp_path: Path) -> None:
    row = {
        "alpha": 0.05,
        "delta": 0.1,
        "threshold": 0.8,
        "coverage": {"value": 0.6, "low": 0.5, "high": 0.7},
        "error": {"value": 0.03, "low": None, "high": None},
    }
    none = {"alpha": 0.01, "delta": 0.1, "threshold": None, "coverage": None, "error": None}
    entry = report("encoder")["routers"][0] | {"risk": [none, row]}
    assert "Thresholds" not in card(make_run(tmp_path / "none"), REPO)
    text = card(make_run(tmp_path / "some", report={"routers": [entry]}), REPO)
    assert "| 0.05 | 0.1 | 0.8 | 0.6 | 0.03 |" in text
    assert "| 0.01 | 0.1 | – | – | – |" in text


def test_percentiles_that_were_not_measured_are_said_to_be_so(tmp_path: Path) -> None:
    latency = {"p50": 3.25, "p95": None, "p99": None}
    entry = report("encoder")["routers"][0] | {"latency_ms": latency}
    text = card(make_run(tmp_path, report={"routers": [entry]}), REPO)
    assert "| Latency, median (ms) | 3.25 | – |" in text
    assert "| Latency, 95th" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("Not measured:"))
    assert "Latency, 95th percentile (ms), Latency, 99th percentile (ms)" in line


def test_a_report_without_its_counts_is_refused(tmp_path: Path) -> None:
    entry = {k: v for k, v in report("encoder")["routers"][0].items() if k != "n_groups"}
    with pytest.raises(RouterError, match=r"report\.json: lacks n_groups"):
        card(make_run(tmp_path, report={"routers": [entry]}), REPO)


def test_an_encoder_that_fills_arguments_says_where_from(tmp_path: Path) -> None:
    filling = {"config": {"kind": "encoder", "arguments": "extract"}}
    text = card(make_run(tmp_path / "filling", router=filling), REPO)
    assert "**Copied arguments.**" in text
    assert "router.tools.text(context)" in text
    plain = card(make_run(tmp_path / "plain"), REPO)
    assert "Copied arguments" not in plain
    assert "router.text(context)" in plain


def test_a_section_appears_only_where_it_applies(tmp_path: Path) -> None:
    cards = {kind: card(make_run(tmp_path / kind, kind), REPO) for kind in KINDS}
    marks = {
        "SentenceTransformer(": {"encoder"},
        "--runner pooling": {"encoder"},
        "PeftModel": {"decoder"},
        "--enable-lora --max-lora-rank 16": {"decoder"},
        "--enable-auto-tool-choice --tool-call-parser hermes --generation-config vllm": {"decoder"},
        "Generated arguments": {"decoder", "cascade"},
        "| Stage |": {"cascade"},
        "`terms.json` lists words": {"tfidf", "ensemble"},
        "`tokenizer.json` lists": {"rnn", "attention"},
        "load_router(pull(": set(KINDS),
        "Prompt injection": set(KINDS),
    }
    for mark, kinds in marks.items():
        assert {kind for kind, text in cards.items() if mark in text} == kinds, mark
    libraries = {kind: ModelCard(text).data.library_name for kind, text in cards.items()}
    assert libraries["encoder"] == "sentence-transformers"
    assert libraries["decoder"] == "peft"
    assert libraries["rnn"] == "tool-router-distill"
    pipelines = {kind: ModelCard(text).data.pipeline_tag for kind, text in cards.items()}
    assert pipelines["encoder"] == "feature-extraction"
    assert pipelines["decoder"] == "text-generation"
    assert pipelines["rnn"] == "text-classification"


def test_a_cascades_card_speaks_of_both_stages(tmp_path: Path) -> None:
    run = make_run(tmp_path, "cascade")
    text = card(run, REPO)
    minilm = "sentence-transformers/all-MiniLM-L6-v2"
    for row in [
        f"| Base model of `encoder/` | [{minilm}](",
        "| Base model of `decoder/` | [acme/tiny-lm](",
        "| Licence | encoder: apache-2.0; decoder: unknown, see the base model |",
        "| encoder | 0.625 (0.595 to 0.655) | 0.75 (0.72 to 0.78) | 0.5 (0.47 to 0.53) | 31.25 |",
        "| decoder | 0.625 (0.595 to 0.655) | 0.75 (0.72 to 0.78) | 0.5 (0.47 to 0.53) | – |",
        "```yaml\n# encoder/\nkind: encoder\n",
        "```yaml\n# decoder/\nkind: decoder\n",
    ]:
        assert row in text
    head = ModelCard(text).data
    assert (head.base_model, head.license) == ([minilm, "acme/tiny-lm"], "other")
    assert head.tags is not None
    assert "cascade" in head.tags
    known = render_card(
        read_record(run).with_licenses({"acme/tiny-lm": "apache-2.0"}), REPO, run.router
    )
    assert "| Licence | apache-2.0 |" in known
    assert ModelCard(known).data.license == "apache-2.0"


def test_a_cascades_limits_are_its_encoders(tmp_path: Path) -> None:
    run = make_run(tmp_path, "cascade")
    place = run.router / "encoder" / "router.json"
    config = {"kind": "encoder", "catalogue": "open", "arguments": "extract"}
    write_json(place, read_json(place) | {"config": config})
    text = card(run, REPO)
    assert "**An open catalogue.**" in text
    assert (
        "`encoder/arguments/constants.json` lists. A call with any other value is left to" in text
    )


def test_an_ensembles_card_speaks_of_its_members(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ensemble")
    place = run.router / "encoder" / "router.json"
    config = {"kind": "encoder", "arguments": "extract"}
    write_json(place, read_json(place) | {"config": config})
    text = card(run, REPO)
    minilm = "sentence-transformers/all-MiniLM-L6-v2"
    for part in [
        "An **ensemble router**",
        f"| Base model of `encoder/` | [{minilm}](",
        "A second encoder, in `encoder/arguments/`, fills",
        "any other value is left unfilled.",
        "```yaml\n# tfidf/\nkind: tfidf\n",
        "`encoder/` and `tfidf/` are router folders, too",
    ]:
        assert part in text
    assert ModelCard(text).data.license == "apache-2.0"


def test_an_open_catalogue_is_not_called_fixed(tmp_path: Path) -> None:
    settings = {"kind": "encoder", "model": "packaged:minilm", "catalogue": "open"}
    text = card(make_run(tmp_path, router={"config": settings}), REPO)
    assert "**An open catalogue.**" in text
    assert "| Tools | 2 in training; others may be offered |" in text
    assert "matches conversations with the texts of the tools" in text
    # Its scores need the head beside the vectors: no other library computes them.
    assert "fixed catalogue" not in text
    assert "SentenceTransformer" not in text
    assert ModelCard(text).data.library_name == "tool-router-distill"


def test_a_soft_prompt_is_loaded_by_this_package_alone(tmp_path: Path) -> None:
    settings = {"kind": "decoder", "lora": None, "soft_prompt": 20}
    run = make_run(tmp_path, "decoder", router={"config": settings})
    write_json(run.router / "adapter_config.json", {"peft_type": "TRAINABLE_TOKENS"})
    text = card(run, REPO)
    assert "Only this package loads it" in text
    assert "vllm serve" not in text
    assert "PeftModel" not in text
    assert "Generated arguments" in text
    data = ModelCard(text).data
    assert data.library_name == "tool-router-distill"
    assert "prompt-tuning" in data.tags
    assert "lora" not in data.tags


def test_what_taught_a_router_after_its_teacher_is_told(tmp_path: Path) -> None:
    began = {"begun_from": {"run": "decoder-s0", "router": "f" * 64}, "environment": None}
    names = [{"name": "traces.jsonl"}, {"name": "my_tries.jsonl"}]
    counted = {"traces": names, "trials": {"learned": 1200, "left_out": {}}}
    learned = {"config": {"method": "dpo", "beta": 0.1}} | began | counted
    text = card(make_run(tmp_path / "dpo", "decoder", manifest={"learned_from": learned}), REPO)
    assert "as `decoder-s0`, it then learned from outcomes, by `dpo` with a `beta` of 0.1" in text
    assert "from 1,200 decisions" in text
    assert r"traces.jsonl, my\_tries.jsonl" in text

    tried = {"environment": "shop:Shop", "tries": {"tasks": 40, "contexts": 130}}
    learned = {"config": {"method": "grpo", "beta": 0.04}, "traces": []} | began | tried
    text = card(make_run(tmp_path / "grpo", "decoder", manifest={"learned_from": learned}), REPO)
    assert "at 130 decisions of 40 tasks in `shop:Shop`" in text
    assert "learned from outcomes" not in card(make_run(tmp_path / "none", "decoder"), REPO)


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (4, 8), (24, 32), (300, 320), (513, None)])
def test_vllm_is_told_a_rank_that_it_takes(tmp_path: Path, rank: int, served: int | None) -> None:
    run = make_run(tmp_path, "decoder")
    write_json(run.router / "adapter_config.json", {"r": rank})
    found = re.search(r"--max-lora-rank (\d+) ", card(run, REPO))
    assert (int(found[1]) if found else None) == served


@pytest.mark.parametrize("name", ["gpt2", "acme/tiny-lm"])
def test_a_hub_name_is_the_base_of_every_command(tmp_path: Path, name: str) -> None:
    changes = {"name": name, "origin": name, "revision": "it's v1"}
    run = make_run(tmp_path, "decoder", manifest={"base_model": base_model("decoder", **changes)})
    text = card(run, REPO)
    assert ModelCard(text).data.base_model == name
    assert f"vllm serve {name} --revision 'it'\"'\"'s v1' --enable-lora" in text
    assert f'AutoModelForCausalLM.from_pretrained("{name}", revision="it\\u0027s v1")' in text


def test_confidences_are_called_calibrated_only_when_they_are(tmp_path: Path) -> None:
    plain = card(make_run(tmp_path / "plain"), REPO)
    fitted = make_run(tmp_path / "fitted", router={"calibration": {"temperature": 1.5}})
    assert "Confidences are not calibrated" in plain
    assert "Confidences are not calibrated" not in card(fitted, REPO)


def test_the_base_model_and_its_licence_are_named(tmp_path: Path) -> None:
    packaged = ModelCard(card(make_run(tmp_path / "packaged", "encoder"), REPO))
    minilm = "sentence-transformers/all-MiniLM-L6-v2"
    assert (packaged.data.base_model, packaged.data.license) == (minilm, "apache-2.0")
    assert f"[{minilm}](https://huggingface.co/{minilm}), as `packaged:minilm`" in packaged.text
    assert "| Licence | apache-2.0 |" in packaged.text
    scratch = ModelCard(card(make_run(tmp_path / "scratch", "rnn"), REPO))
    assert (scratch.data.base_model, scratch.data.license) == (None, "apache-2.0")
    assert "none, trained from scratch" in scratch.text


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_an_unknown_licence_is_called_unknown(tmp_path: Path, kind: str) -> None:
    changes = {"name": "acme/mini", "origin": "acme/mini", "license": None}
    base = base_model(kind, **changes)
    text = card(make_run(tmp_path, kind, manifest={"base_model": base}), REPO)
    assert ModelCard(text).data.license == "other"
    assert "| Licence | unknown, see the base model |" in text
    assert "apache" not in text


def test_a_licence_that_the_hub_has_no_name_for_is_the_base_models(tmp_path: Path) -> None:
    base = base_model("decoder", license="other")
    text = card(make_run(tmp_path, "decoder", manifest={"base_model": base}), REPO)
    assert ModelCard(text).data.license == "other"
    assert "| Licence | other, see the base model |" in text


def test_a_local_base_model_is_no_base_model_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    base = pretrained.resolve(str(tmp_path / "gpt2")).describe()
    run = make_run(tmp_path / "run", "encoder", manifest={"base_model": base})
    text = card(run, REPO)
    assert ModelCard(text).data.base_model is None
    assert "| Base model | gpt2 |" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["/home/ann/models/mini", "~/mini", "./mini", "C:\\models\\mini"])
def test_a_path_in_place_of_a_base_models_name_is_not_shown(tmp_path: Path, name: str) -> None:
    base = {"name": name, "revision": None, "sha256": "b" * 64, "license": None}
    text = card(make_run(tmp_path, "encoder", manifest={"base_model": base}), REPO)
    assert ModelCard(text).data.base_model is None
    assert f"mini, SHA-256 `{'b' * 64}`" in text
    assert name not in text


def test_the_card_needs_an_evaluated_run_and_a_repository_name(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(HubError, match="owner/name"):
        card(run, "nowhere")
    run.report.unlink()
    with pytest.raises(RouterError, match=r"report\.json: missing"):
        card(run, REPO)


def test_a_metric_that_is_no_number_is_refused(tmp_path: Path) -> None:
    entry = report("encoder")["routers"][0] | {"macro_f1": {"value": "high"}}
    run = make_run(tmp_path, report={"routers": [entry]})
    with pytest.raises(RouterError, match="macro_f1 is no number"):
        card(run, REPO)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"manifest": {"kind": "oracle"}}, "kind 'oracle' has no card"),
        ({"router": {"catalogue": [{}]}}, "no catalogue of tools"),
        ({"manifest": {"base_model": {}}}, "lacks base_model.name"),
    ],
)
def test_files_a_card_cannot_speak_of_are_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    kind = changes.get("manifest", {}).get("kind", "encoder")
    entry = report("encoder")["routers"][0] | {"kind": kind}
    changes = {"report": {"routers": [entry]}, "router": {"kind": kind}} | changes
    with pytest.raises(RouterError, match=told):
        card(make_run(tmp_path, "encoder", **changes), REPO)


def test_a_data_part_without_counts_is_refused(tmp_path: Path) -> None:
    dataset = manifest("rnn")["dataset"] | {"parts": {"train": {"examples": 1}}}
    with pytest.raises(RouterError, match=r"lacks dataset\.parts\.train\.groups"):
        card(make_run(tmp_path, "rnn", manifest={"dataset": dataset}), REPO)


def test_the_template_is_a_card_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    assert template().startswith("---\n")
    for kind in KINDS:
        text = card(make_run(tmp_path / kind, kind), REPO)
        assert not re.search(r"\{\{|\{%|None\b|\n\n\n\n", text)


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9)
measured = st.none() | numbers | st.builds(estimate, st.floats(0, 1))
names = st.text(min_size=1, max_size=30) | st.sampled_from(
    [
        "---\n",
        "a: b",
        "| x |",
        "`",
        "<script>",
        "{{ x }}",
        "{% if %}",
        "\u2028---",
        "*",
        "\x00",
        "- ",
    ]
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Record, Path]]:
    runs = {kind: make_run(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}
    return {kind: (read_record(run), run.router) for kind, run in runs.items()}


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    name=names,
    base=st.fixed_dictionaries({"local": st.booleans(), "license": st.none() | names}),
    values=st.fixed_dictionaries(
        {
            "tool_accuracy": measured,
            "macro_f1": measured,
            "llm_calls_saved": measured,
            "self_agreement": measured,
        }
    ),
)
def test_no_name_and_no_missing_metric_breaks_a_card(
    records: dict[str, tuple[Record, Path]],
    kind: str,
    name: str,
    base: dict[str, Any],
    values: dict[str, Any],
) -> None:
    base = base | {"name": name, "revision": name, "sha256": None}
    dataset = manifest(kind)["dataset"] | {"source": {"name": name, "sha256": None}}
    hardware = {"cpu": name, "cores": None, "gpus": [name]}
    environment = manifest(kind)["environment"] | {"hardware": hardware, "git_commit": name}
    teacher = {"name": name, "self_agreement": values["self_agreement"]}
    changed = {"run": name, "router": name, "teacher": teacher, "dataset": dataset}
    changed |= {"environment": environment, "base_model": base}
    nothing = {"no_call": None, "calibration": None, "latency_ms": None, "risk": None}
    nothing |= {"n_examples": 1, "n_groups": 1}
    record, router = records[kind]
    record = replace(
        record,
        manifest=record.manifest | changed,
        report=record.report
        | {"teacher": teacher, "routers": [{"name": name, "kind": kind} | nothing | values]},
        router=record.router | {"catalogue": [{"tool": tool(name), "hash": "h"}]},
    )
    result = ModelCard(render_card(record, REPO, router))
    expected = {}
    for key, label in [("tool_accuracy", "Tool accuracy"), ("macro_f1", "Macro F1")]:
        value = values[key]["value"] if isinstance(values[key], dict) else values[key]
        if value is not None:
            expected[label] = value
    found = {str(e.metric_name): e.metric_value for e in result.data.eval_results or []}
    assert found == expected
    assert result.text.count("\n## ") == template().count("\n## ")
    assert "<script>" not in result.text
