"""The made-up runs hold nothing that a real run does not, and a real run can be published."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from evaluation.schema import REPORT
from small_shop import job_values, write_traces

from distill import config as configs
from distill.config import RunConfig
from distill.hub.folder import prepare
from distill.pipeline.evaluate import evaluate_run
from distill.pipeline.train import train_router
from distill.progress import silent
from distill.runs import RunDir, read_json

from .factory import BASES, KINDS, base_model, manifest, report


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that the pipeline trained and evaluated."""
    folder = tmp_path_factory.mktemp("real")
    write_traces(folder / "traces.jsonl")
    routers = {"majority": {"kind": "majority"}}
    job = configs.parse(job_values(folder, routers=routers), "test", RunConfig)
    run = train_router(job, "majority", 0, silent)
    evaluate_run(run, silent)
    return run


def unknown(made_up: Any, real: Any, path: str = "") -> Iterator[str]:
    """Keys that only the made-up value has; below a null of the real one anything may stand."""
    if isinstance(made_up, list) and isinstance(real, list) and made_up and real:
        yield from unknown(made_up[0], real[0], f"{path}[]")
    if isinstance(made_up, dict) and isinstance(real, dict):
        for key, value in made_up.items():
            if key in real:
                yield from unknown(value, real[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_made_up_report_keeps_the_contract(kind: str) -> None:
    broken = jsonschema.Draft202012Validator(REPORT).iter_errors(report(kind))
    assert [error.json_path for error in broken] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_made_up_run_claims_no_key_that_a_real_one_lacks(real: RunDir, kind: str) -> None:
    assert list(unknown(manifest(kind), read_json(real.manifest))) == []
    assert list(unknown(report(kind), read_json(real.report))) == []
    if kind in BASES:
        assert base_model(kind) == BASES[kind].describe()


def test_a_real_run_can_be_published(real: RunDir, tmp_path: Path) -> None:
    names = {path.name for path in prepare(real, "acme/desk-router", tmp_path / "out")}
    assert {"README.md", "router.json", "model.safetensors", "report.json"} <= names
    measured = read_json(real.report)["routers"][0]
    card = (tmp_path / "out" / "README.md").read_text()
    expected = f"on {measured['n_examples']} examples in {measured['n_groups']} groups"
    assert expected in card
