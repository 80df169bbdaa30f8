"""What is misspelt or out of range is named with its path, and with what would be right."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import BASE, fault, with_router, write

from distill import config as configs
from distill.config import RunConfig
from distill.errors import ConfigError

KINDS = ["majority", "tfidf", "rnn", "attention", "encoder", "decoder"]


@pytest.mark.parametrize(
    ("text", "path", "valid"),
    [
        (BASE + "seed: 3\n", "seed", "seeds"),
        (BASE + "data: {trace: x}\n", "data.trace", "traces"),
        (BASE + "data: {split: {tests: 0.1}}\n", "data.split.tests", "calibration"),
        (BASE + "evaluation: {boot: 1}\n", "evaluation.boot", "bootstrap"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_valid_names(
    file, text: str, path: str, valid: str
):
    line = fault(file(text))
    assert f"unknown key {path!r}; valid names: " in line
    assert valid in line.split("valid names: ")[1].split(", ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("section", [None, "render", "train", "lora"])
def test_unknown_keys_inside_every_kind_of_router(file, kind: str, section: str | None):
    """The path has no trace of how the union is told apart, and the names fit the section."""
    fields = configs.parse(
        {"name": "j", "routers": {"mine": {"kind": kind}}}, "test", RunConfig
    ).routers["mine"]
    if section is None or not hasattr(fields, section):
        key = "bogus" if section is None else section
        line = fault(file(with_router({"kind": kind, key: 1})))
        valid = list(type(fields).model_fields)
        assert f"unknown key 'routers.mine.{key}'; valid names: {', '.join(valid)}" in line
    else:
        line = fault(file(with_router({"kind": kind, section: {"bogus": 1}})))
        valid = list(type(getattr(fields, section)).model_fields)
        path = f"routers.mine.{section}.bogus"
        assert f"unknown key {path!r}; valid names: {', '.join(valid)}" in line


@pytest.mark.parametrize("name", [*KINDS, "train", "routers", "lora"])
def test_a_router_may_have_any_name_without_confusing_the_path(file, name: str):
    text = yaml.safe_dump({"name": "j", "routers": {name: {"kind": "rnn", "train": {"x": 1}}}})
    assert f"'routers.{name}.train.x'; valid names: epochs, " in fault(file(text))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, f"'routers.mine.kind' is missing; one of: {', '.join(KINDS)}"),
        ({"kind": "gru"}, "routers.mine.kind: unknown kind 'gru'; one of: majority, tfidf"),
        ({"kind": "rnn", "hidden": 0}, "routers.mine.hidden: Input should be greater than"),
        (
            {"kind": "attention", "width": 36},
            "routers.mine: width: rotary positions need a multiple of 2 * heads",
        ),
        ({"kind": "rnn", "hidden": "wide"}, "routers.mine.hidden: Input should be a valid integer"),
        ({"kind": "rnn", "train": {"epochs": float("inf")}}, "routers.mine.train.epochs: "),
        ({"kind": "rnn", "train": {"epochs": float("nan")}}, "routers.mine.train.epochs: "),
        ({"kind": "encoder", "lora": {"targets": 5}}, "routers.mine.lora.targets: Input should"),
        ({"kind": "tfidf", "regularisation": []}, "routers.mine.regularisation: "),
        ({"kind": "tfidf", "regularisation": [1, -1]}, "routers.mine.regularisation.1: "),
        ({"kind": "endpoint", "model": "m"}, "'routers.mine.base_url' is missing; add it"),
        (
            {"kind": "endpoint", "model": "m", "base_url": "llm:8000/v1"},
            "routers.mine.base_url: not an http or https address",
        ),
        ({"kind": "decoder", "lora": {"rank": 0}}, "routers.mine.lora.rank: Input should be"),
        ({"kind": "decoder", "lora": None}, "routers.mine: lora: null leaves nothing to train"),
        ({"kind": "decoder", "tools": "all"}, "routers.mine.tools: Input should be 'none', 'nam"),
    ],
)
def test_a_bad_value_in_a_router_is_named_with_its_path(
    file, settings: dict[str, Any], expected: str
):
    assert expected in fault(file(with_router(settings)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: job\n", "'routers' is missing; add it"),
        ("routers: {m: {kind: majority}}\n", "'name' is missing; add it"),
        ("name: job\nrouters: {}\n", "routers: Dictionary should have at least 1 item"),
        ("name: ../elsewhere\nrouters: {m: {kind: majority}}\n", "name: String should match"),
        ("name: job\nrouters: {a/b: {kind: majority}}\n", "String should match pattern"),
        ("name: job\nrouters: {v2.1: {kind: majority}}\n", "String should match pattern"),
        ("name: job\nrouters: {dataset: {kind: majority}}\n", "the name of the dataset's folder"),
        (BASE + "seeds: [1, 2, 1]\n", "seeds: one of them comes twice"),
        (BASE + "seeds: [-1]\n", "seeds.0: Input should be greater than or equal to 0"),
        (BASE + "seeds: [4294967296]\n", "seeds.0: Input should be less than 4294967296"),
        (BASE + "seeds: []\n", "seeds: List should have at least 1 item"),
        (BASE + "trackers: [mlflow]\n", "trackers.0: Input should be 'tensorboard', 'trackio'"),
        (BASE + "data: {where: {a: true}}\n", "data.where.a: Input should be a valid string"),
        (
            BASE + "data: {split: {train: 0.9, validation: 0.1}}\n",
            "data.split: train + validation + calibration must leave a share for test",
        ),
        (BASE + "data:\n", "data: Input should be a valid dictionary"),
        (BASE + "1: 2\n", "1: Keys should be strings"),
    ],
)
def test_a_bad_value_is_named_with_its_path(file, text: str, expected: str):
    assert expected in fault(file(text))


@pytest.mark.parametrize("url", ["https://llm/v1?key=hush", "https://me:hush@llm/v1"])
def test_a_key_within_an_address_is_refused_and_not_repeated(file, url: str):
    line = fault(file(with_router({"kind": "endpoint", "model": "m", "base_url": url})))
    assert "routers.mine.base_url: holds more than an address; leave that out" in line
    assert "hush" not in line


def test_an_endpoints_file_says_what_is_wrong_in_it(tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown key 'url'; valid names"):
        configs.load_endpoint(
            write(tmp_path / "llm.yaml", "{model: m, base_url: http://localhost/v1, url: x}")
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: {m: {input: 1, date: 2025-01-01}}\n", "'models.m.output' is missing"),
        ("models: {m: {input: -1, output: 1, date: 2025-01-01}}\n", "models.m.input: Input should"),
        ("models: {m: {input: 1, output: 1, date: soon}}\n", "models.m.date: Input should"),
        ("models: {m: {input: 1, output: 1, date: 2025-01-01, per: 1}}\n", "unknown key"),
        ("- a\n", "not a mapping of keys to values; see configs/prices.yaml"),
    ],
)
def test_a_bad_table_of_prices_is_named_with_its_path(file, text: str, expected: str):
    with pytest.raises(ConfigError) as caught:
        configs.load_prices(file(text))
    assert expected in str(caught.value)
