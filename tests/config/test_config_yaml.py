"""Config files as YAML: what is read, what is written, and what is no YAML."""

from pathlib import Path

import pytest
import yaml
from config_files import fault
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import config as configs
from distill.config import DataConfig, RnnConfig, RunConfig, TrainConfig

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
