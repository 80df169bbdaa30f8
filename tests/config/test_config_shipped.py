"""Configs that are shipped load, and say no more than they must."""

from pathlib import Path

import pytest
import yaml
from config_files import ROOT, write

from distill import config as configs
from distill.config import RunConfig

SHIPPED = sorted((ROOT / "configs/run").glob("*.yaml"))


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


@pytest.mark.parametrize("path", sorted((ROOT / "configs/endpoint").glob("*.yaml")))
def test_shipped_endpoints_load(path: Path):
    assert configs.load_endpoint(path).base_url.endswith("/v1")


@pytest.mark.parametrize("path", sorted((ROOT / "configs/serve").glob("*.yaml")))
def test_shipped_gateways_begin_in_shadow(path: Path):
    assert configs.load_serve(path).rollout.mode == "shadow"


def test_the_shipped_table_of_prices_is_of_examples():
    table = configs.load_prices(ROOT / "configs/prices.yaml")
    assert table.models
    assert all(name.startswith("example-") for name in table.models)
