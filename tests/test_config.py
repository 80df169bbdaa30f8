"""Configs: what is shipped loads, what is misspelt is named, and no heavy library is imported."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import config as configs
from distill.config import (
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    RenderConfig,
    RnnConfig,
    RunConfig,
    TfidfConfig,
    TrainConfig,
)
from distill.errors import ConfigError

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "configs/run").glob("*.yaml"))
KINDS = ["majority", "tfidf", "rnn", "attention", "encoder", "decoder"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path):
    """Writes a config file."""
    return lambda text: write(tmp_path / "job.yaml", text)


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        configs.load(path, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


BASE = "name: job\nrouters:\n  m: {kind: majority}\n"


def with_router(settings: dict[str, Any]) -> str:
    return yaml.safe_dump({"name": "job", "routers": {"mine": settings}})


def test_configs_are_shipped():
    assert ROOT / "configs/run/quickstart.yaml" in SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_survives_being_resolved(path: Path, tmp_path: Path):
    job = configs.load(path)
    again = configs.load(write(tmp_path / "resolved.yaml", configs.dump(job)))
    assert again == job


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_named_apart_and_state_no_default(path: Path):
    names = [configs.load(other).name for other in SHIPPED]
    assert len(set(names)) == len(names)
    job = configs.load(path)
    for name in yaml.safe_load(path.read_text()):
        default = RunConfig.model_fields[name]
        assert default.is_required() or getattr(job, name) != default.get_default(), name


@pytest.mark.parametrize("url", ["https://llm/v1?key=hush", "https://me:hush@llm/v1"])
def test_a_key_within_an_address_is_refused_and_not_repeated(file, url: str):
    line = fault(file(with_router({"kind": "endpoint", "model": "m", "base_url": url})))
    assert "routers.mine.base_url: holds more than an address; leave that out" in line
    assert "hush" not in line


@pytest.mark.parametrize("path", sorted((ROOT / "configs/endpoint").glob("*.yaml")))
def test_shipped_endpoints_load(path: Path):
    assert configs.load_endpoint(path).base_url.endswith("/v1")


def test_an_endpoints_file_says_what_is_wrong_in_it(tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown key 'url'; valid names"):
        configs.load_endpoint(
            write(tmp_path / "llm.yaml", "{model: m, base_url: http://localhost/v1, url: x}")
        )


def test_the_shipped_table_of_prices_is_of_examples():
    table = configs.load_prices(ROOT / "configs/prices.yaml")
    assert table.models
    assert all(name.startswith("example-") for name in table.models)


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


# Control characters and line separators come back from PyYAML as spaces.
words = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1)


@settings(max_examples=50)
@given(
    st.floats(1e-9, 1e3),
    st.integers(1, 10**6),
    st.dictionaries(words, words, max_size=3),
    words,
)
def test_a_resolved_config_is_the_same_config(rate: float, steps: int, where, traces: str):
    job = RunConfig(
        name="job",
        data=DataConfig(traces=traces, where=where),
        routers={"r": RnnConfig(train=TrainConfig(learning_rate=rate, batch_size=steps))},
    )
    again = configs.parse(yaml.safe_load(configs.dump(job)), "resolved", RunConfig)
    assert again == job


# --- what is misspelt


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


# --- files that are no YAML


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: job\nrouters: [1, 2\n", 3),
        ("name: job\nrouters: a: b\n", 2),
        ("name: job\n\tseeds: [1]\n", 2),
        ("name: job\n\nname: other\n", 3),
        ("name: job\nrouters: {m: {kind: rnn, kind: tfidf}}\n", 2),
        ("name: *nobody\n", 1),
        ("name: !!python/object:os.system x\n", 1),
    ],
)
def test_a_yaml_fault_names_file_and_line(file, text: str, line: int):
    path = file(text)
    assert fault(path).startswith(f"{path}:{line}: not YAML (")


def test_a_key_that_stands_twice_says_where_it_stood_first(file):
    assert "'name' stands in line 1 already" in fault(file("name: a\n\nname: b\n"))


def test_an_alias_may_be_merged_and_overruled(file):
    text = "routers:\n  a: &a {kind: rnn, hidden: 8}\n  b: {<<: *a, hidden: 9}\nname: j\n"
    routers = configs.load(file(text)).routers
    assert [routers["a"].hidden, routers["b"].hidden] == [8, 9]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "[" * 500, "a: 2020-13-45\n"])
def test_what_is_no_mapping_is_refused_in_one_line(file, text: str):
    assert fault(file(text)).startswith(f"{file(text)}: not ")


def test_a_control_character_is_refused_in_one_line(file):
    assert "special characters are not allowed" in fault(file("name: \x00\n"))


def test_unreadable_files(tmp_path: Path):
    missing = tmp_path / "nowhere.yaml"
    assert fault(missing) == (
        f"{missing}: cannot be read (No such file or directory); give a config file"
    )
    assert "Is a directory" in fault(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in fault(binary)


# --- overrides


def test_overrides_reach_any_depth_and_are_yaml(file):
    job = configs.load(
        file(with_router({"kind": "encoder"})),
        [
            "seeds=[0, 1]",
            "data.group_by=session",
            "data.drop_duplicates=null",
            "routers.mine.train.learning_rate=1e-3",
            "routers.mine.lora.targets=[query, value]",
            "routers.second={kind: tfidf}",
            "data.where.toolset=a=b",
        ],
    )
    mine = job.routers["mine"]
    assert isinstance(mine, EncoderConfig)
    assert (job.seeds, job.data.group_by, job.data.drop_duplicates) == ([0, 1], "session", None)
    assert mine.train.learning_rate == 1e-3
    assert mine.lora.targets == ["query", "value"]
    assert isinstance(job.routers["second"], TfidfConfig)
    assert job.data.where == {"toolset": "a=b"}


def test_an_override_reaches_one_router_though_yaml_shares_its_config(file):
    path = file(
        "name: job\nrouters:\n  a: &a {kind: rnn, train: {epochs: 3}}\n  b: *a\n  c: {<<: *a}\n"
    )
    job = configs.load(path, ["routers.b.hidden=7", "routers.c.train.epochs=1"])
    routers: Any = job.routers
    assert [routers[name].hidden for name in "abc"] == [128, 7, 128]
    assert [routers[name].train.epochs for name in "abc"] == [3, 3, 1]


def test_of_two_overrides_of_a_key_the_last_counts(file):
    assert configs.load(file(BASE), ["seeds=[1]", "seeds=[2]"]).seeds == [2]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seeds", "seeds: not an override; write key.sub=value"),
        ("=3", "=3: not an override; write key.sub=value"),
        ("name.first=x", "name.first: 'name' holds no keys"),
        ("seeds=[0, 1", "seeds: '[0, 1' is not a YAML value"),
        ("name=2020-13-45", "name: '2020-13-45' is not a YAML value"),
        ("data.splits.train=0.5", "unknown key 'data.splits'; valid names: traces"),
        ("routers.m.epochs=3", "unknown key 'routers.m.epochs'; valid names: kind"),
        ("routers.new.hidden=3", "'routers.new.kind' is missing"),
        ("data.split.train=most", "data.split.train: Input should be a valid number"),
    ],
)
def test_a_bad_override_is_refused(file, override: str, expected: str):
    assert expected in fault(file(BASE), override)


# --- what stands beside the fields


def test_every_field_is_documented():
    undocumented = [
        f"{kind.__name__}.{name}"
        for kind in configs.Config.__subclasses__()
        for name, field in kind.model_fields.items()
        if name != "kind" and not field.description
        if name not in ("render", "train", "lora", "split", "data", "risk", "evaluation")
    ]
    assert undocumented == []


def test_configs_cannot_be_changed_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        RenderConfig().turns = 3  # type: ignore[misc]


def test_every_tracker_is_an_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (trackers,) = get_args(RunConfig.model_fields["trackers"].annotation)
    assert set(get_args(trackers)) <= set(extras["optional-dependencies"])


@pytest.mark.parametrize(
    "code",
    [
        "import distill.config",
        "import distill.cli",
        "from distill.cli import main; main(['--help'])",
        "from distill.cli import main; main(['config', 'configs/run/quickstart.yaml'])",
    ],
)
def test_configs_and_help_cost_no_heavy_import(code: str):
    heavy = ["torch", "transformers", "datasets", "sklearn", "scipy", "pyarrow", "matplotlib"]
    report = f"import sys; print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "[]"


def test_a_partial_section_keeps_the_kinds_own_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: a\nrouters: {d: {kind: decoder, train: {epochs: 7}}, r: {kind: rnn}}\n")
    loaded = configs.load(path, ["routers.r.train.epochs=1", "data.split.train=0.5"])
    decoder, rnn = loaded.routers["d"], loaded.routers["r"]
    assert isinstance(decoder, DecoderConfig)
    assert isinstance(rnn, RnnConfig)
    assert decoder.train == DecoderConfig().train.model_copy(update={"epochs": 7.0})
    assert rnn.train == RnnConfig().train.model_copy(update={"epochs": 1.0})
    assert loaded.data.split.validation == DataConfig().split.validation
