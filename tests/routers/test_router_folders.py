"""Every kind of router: saved, copied elsewhere and loaded, it decides as before."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from small_shop import PARTS, ask

from distill.errors import RouterError
from distill.routers import load_router
from distill.types import Context, Message

KINDS = ["majority", "tfidf", "rnn", "attention", "encoder", "open", "filling", "decoder"]
CONTEXTS = [example.context for example in PARTS.validation]


@pytest.fixture(params=KINDS)
def saved(request, trained):
    return trained(request.param)


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """The router's folder on another machine, as far as it can tell."""
    return Path(shutil.copytree(saved.folder, tmp_path / "elsewhere"))


def assert_same(found, expected):
    assert [d.tools for d in found] == [d.tools for d in expected]
    assert [d.calls for d in found] == [d.calls for d in expected]
    confidence = [d.confidence for d in expected]
    assert [d.confidence for d in found] == pytest.approx(confidence, abs=1e-5)
    for a, b in zip(found, expected, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


def test_a_copied_folder_decides_as_the_trained_router(saved, copy):
    router = load_router(copy)
    assert router.kind == saved.router.kind
    assert_same(router.decide(CONTEXTS), saved.router.decide(CONTEXTS))


@pytest.mark.parametrize("kind", ["tfidf", "rnn", "attention", "encoder", "open", "decoder"])
def test_the_decisions_under_test_are_not_all_one(trained, kind):
    decisions = trained(kind).router.decide(CONTEXTS)
    assert len({d.tools for d in decisions}) >= 3
    assert len({round(d.confidence, 4) for d in decisions}) >= 3


def test_batches_do_not_change_decisions(saved):
    # Different lengths share a batch, so padding that leaked into a decision would show.
    long = Context((Message("user", "please, " * 40 + "cancel order 4"),), CONTEXTS[0].tools)
    contexts = [*CONTEXTS[:5], long, ask("x"), *CONTEXTS[5:]]
    alone = [saved.router.decide([context])[0] for context in contexts]
    assert_same(saved.router.decide(contexts), alone)


def test_nothing_asked_nothing_decided(saved):
    assert saved.router.decide([]) == []


def test_the_run_directory_loads_its_router(saved):
    assert_same(load_router(saved.run).decide(CONTEXTS[:2]), saved.router.decide(CONTEXTS[:2]))


def test_the_folder_holds_no_pickle(saved):
    files = [path for path in saved.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja"}
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "numpy") as weights:
                assert weights.keys()
        else:
            path.read_text(encoding="utf-8")


def test_the_folder_holds_no_path_of_this_machine(saved):
    for path in saved.folder.rglob("*"):
        if not path.is_file() or path.suffix == ".safetensors":
            continue
        text = path.read_text(encoding="utf-8")
        if path.name == "router.json" and saved.router.kind == "decoder":
            # A base that is a local folder can be found again by its path only; once.
            value = json.loads(text)
            assert Path(value["config"].pop("model")).is_dir()
            text = json.dumps(value)
        assert str(saved.run.parent) not in text, path.name
        assert not re.search(r'"/[A-Za-z]+/[^"]*"', text), path.name


def change(copy: Path, **values: object) -> None:
    file = copy / "router.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def assert_refused(folder: Path, words: str) -> None:
    with pytest.raises(RouterError, match=words) as caught:
        load_router(folder)
    assert "\n" not in str(caught.value)


def test_each_missing_file_is_named(saved, copy):
    needed = {
        "majority": ["model.safetensors"],
        "tfidf": ["model.safetensors", "terms.json"],
        "rnn": ["model.safetensors", "tokenizer.json"],
        "attention": ["model.safetensors", "tokenizer.json"],
        "encoder": ["model.safetensors", "2_Dense/model.safetensors"],
        "open": ["model.safetensors", "head.safetensors"],
        "decoder": ["adapter_model.safetensors", "adapter_config.json"],
    }["encoder" if saved.name == "filling" else saved.name]
    if saved.router.file.config.kind == "encoder" and saved.router.file.config.arguments != "none":
        needed += [f"arguments/{n}" for n in ("model.safetensors", "head.safetensors")]
        needed.append("arguments/constants.json")
    for name in ["router.json", *needed]:
        away = copy / f"{name}.away"
        (copy / name).rename(away)
        assert_refused(copy, f"{re.escape(name)}: missing")
        away.rename(copy / name)
    load_router(copy)


def test_a_folder_that_is_no_router_is_refused(tmp_path):
    assert_refused(tmp_path, r"router\.json: missing")


def test_an_edited_tool_is_refused(saved, copy):
    value = json.loads((copy / "router.json").read_text())
    value["catalogue"][1]["tool"]["function"]["description"] = "Does something else."
    change(copy, catalogue=value["catalogue"])
    assert_refused(copy, "tool 'cancel_order' differs from its hash")


def test_a_class_of_no_known_tool_is_refused(saved, copy):
    classes = json.loads((copy / "router.json").read_text())["classes"]
    change(copy, classes=[["fly_away"], *classes[1:]])
    assert_refused(copy, r"router\.json: a class names 'fly_away', which no tool is called")


def test_another_format_is_refused(saved, copy):
    change(copy, format=1)
    assert_refused(copy, "format 1, this version reads 2")


def test_unknown_settings_are_refused(saved, copy):
    value = json.loads((copy / "router.json").read_text())
    change(copy, config=value["config"] | {"surprise": 1})
    assert_refused(copy, "damaged")


def test_text_that_is_no_json_is_refused(saved, copy):
    file = copy / "router.json"
    file.write_text(file.read_text()[:100])
    assert_refused(copy, "not JSON")


def test_cut_off_weights_are_refused(saved, copy):
    name = "adapter_model" if saved.router.kind == "decoder" else "model"
    weights = copy / f"{name}.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert_refused(copy, "damaged")


@pytest.mark.parametrize("kind", ["rnn", "attention"])
def test_the_weights_of_another_router_are_refused(trained, tmp_path, kind):
    copy = Path(shutil.copytree(trained(kind).folder, tmp_path / "copy"))
    classes = json.loads((copy / "router.json").read_text())["classes"]
    change(copy, classes=classes[1:])
    assert_refused(copy, r"model\.safetensors: does not fit router\.json and tokenizer\.json")


@pytest.mark.parametrize("kind", ["rnn", "attention"])
def test_a_damaged_tokenizer_is_refused(trained, tmp_path, kind):
    copy = Path(shutil.copytree(trained(kind).folder, tmp_path / "copy"))
    file = copy / "tokenizer.json"
    file.write_text(file.read_text()[:200])
    assert_refused(copy, r"tokenizer\.json: damaged")


def test_terms_that_do_not_fit_the_weights_are_refused(trained, tmp_path):
    copy = Path(shutil.copytree(trained("tfidf").folder, tmp_path / "copy"))
    terms = json.loads((copy / "terms.json").read_text())
    terms["words"].pop()
    (copy / "terms.json").write_text(json.dumps(terms))
    assert_refused(copy, r"terms\.json: does not fit the weights")
