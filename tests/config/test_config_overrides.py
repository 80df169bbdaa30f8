"""`key.sub=value` on the command line, and sections that say only a part of themselves."""

from pathlib import Path
from typing import Any

import pytest
from config_files import BASE, fault, with_router

from distill import config as configs
from distill.config import DataConfig, DecoderConfig, EncoderConfig, RnnConfig, TfidfConfig


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
