"""Which part of a router vLLM serves, and the command line that serves it."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from distill.config import EngineConfig
from distill.errors import ConfigError, RouterError
from distill.serving.engine.installed import REQUIREMENTS, Installed
from distill.serving.engine.plan import Adapter, command, model_folder, served

GPU = Installed("0.33.0", cpu=False)
CPU = Installed("0.32.0", cpu=True)


def line(folder: Path, installed: Installed = GPU, model: Path | None = None, **config: object):
    """The command line as a mapping; an option without a value has True."""
    part = served(folder)
    adapters = [Adapter("own", part.folder)] if part.base else []
    made = command(part, model, adapters, installed, EngineConfig(**config))
    found, words = {}, made[made.index("-m") + 2 :]
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            assert word not in found
            found[word[2:]] = True if after.startswith("--") else after
    return found


def test_a_decoder_is_its_base_with_the_adapter(trained, taught_llama):
    folder = trained("decoder").folder
    found = line(folder, port=8123)
    assert found["host"] == "127.0.0.1"
    assert found["port"] == "8123"
    assert found["model"] == str(taught_llama)
    assert "revision" not in found
    assert json.loads(found["lora-modules"]) == {"name": "own", "path": str(folder)}
    assert found["max-lora-rank"] == "8"
    assert found["chat-template"] == str(folder / "chat_template.jinja")
    assert found["tool-call-parser"] == "hermes"
    for switch in ("enable-lora", "enable-auto-tool-choice", "enable-prefix-caching"):
        assert found[switch] is True
    assert "runner" not in found


def test_an_encoder_is_pooled(trained):
    folder = trained("encoder").folder
    part = served(folder)
    found = line(folder, model=model_folder(part, Path("unused")))
    assert found["model"] == str(folder)
    assert found["runner"] == "pooling"
    assert json.loads(found["pooler-config"])["task"] == "embed"
    assert found["dtype"] == "float32"
    assert "enable-lora" not in found


def test_an_open_encoder_is_served_without_its_head(trained, tmp_path):
    folder = trained("open").folder
    model = model_folder(served(folder), tmp_path)
    assert {path.name for path in model.glob("*.safetensors")} == {"model.safetensors"}
    assert (model / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert json.loads(line(folder, model=model)["pooler-config"])["task"] == "token_embed"


def test_a_cascade_is_its_decoder(cascade):
    assert served(cascade).folder == cascade / "decoder"
    assert served(cascade).task == "complete"


@pytest.mark.parametrize("kind", ["tfidf", "rnn", "attention", "majority"])
def test_others_need_no_engine(trained, kind):
    with pytest.raises(RouterError, match=rf"kind '{kind}', which needs no engine; leave out"):
        served(trained(kind).folder)


def test_a_soft_prompt_is_refused(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained("decoder").folder, copy)
    place = copy / "router.json"
    value = json.loads(place.read_text())
    value["config"]["soft_prompt"] = 4
    place.write_text(json.dumps(value))
    with pytest.raises(RouterError, match="a soft prompt, which vLLM cannot serve; leave out"):
        served(copy)


def test_a_folder_without_its_adapter_is_named(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained("decoder").folder, copy)
    (copy / "adapter_model.safetensors").unlink()
    with pytest.raises(RouterError, match=r"adapter_model\.safetensors: missing"):
        served(copy)


@pytest.mark.parametrize(
    ("precision", "gpu", "cpu"),
    [
        ("auto", "auto", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float32", "float32", "float32"),
    ],
)
def test_numbers_are_those_it_was_measured_in(trained, tmp_path, precision, gpu, cpu):
    copy = tmp_path / "copy"
    shutil.copytree(trained("decoder").folder, copy)
    place = copy / "router.json"
    value = json.loads(place.read_text())
    value["config"]["train"]["precision"] = precision
    place.write_text(json.dumps(value))
    assert line(copy, GPU)["dtype"] == gpu
    assert line(copy, CPU)["dtype"] == cpu
    assert "enforce-eager" not in line(copy, GPU)


def test_options_are_passed_on_and_win(trained):
    options = {
        "tensor-parallel-size": 2,
        "max_model_len": 2048,
        "enforce-eager": False,
        "disable-log-stats": True,
        "headless": None,
    }
    found = line(trained("decoder").folder, CPU, options=options)
    assert found["tensor-parallel-size"] == "2"
    assert found["max-model-len"] == "2048"
    assert "enforce-eager" not in found
    assert found["disable-log-stats"] is True
    assert found["headless"] is True


@pytest.mark.parametrize(
    "name", ["host", "--host", "api_key", "trust-remote-code", "no-enable-lora", "config"]
)
def test_options_that_decide_who_reaches_what_are_refused(trained, name):
    with pytest.raises(ConfigError, match="is the engine's to set; leave it out"):
        line(trained("decoder").folder, options={name: "0.0.0.0"})


def test_the_projects_groups_are_what_the_cure_says():
    root = Path(__file__).parents[3]
    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    assert {name: [text] for name, text in REQUIREMENTS.items()} == groups
