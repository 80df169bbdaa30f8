"""An ensemble: what several closed routers believe, averaged by the logarithm."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_shop import PARTS, job_values, write_traces

from distill import config as configs
from distill import load_router
from distill.config import EnsembleConfig, MajorityConfig, RunConfig
from distill.errors import ConfigError, RouterError
from distill.pipeline.layout import comparison_dir
from distill.pipeline.plan import steps
from distill.progress import silent
from distill.routers.baselines import MajorityRouter
from distill.routers.ensemble import EnsembleRouter, joined
from distill.routers.folder import RouterFile, read_router_file
from distill.routers.labels import LabelSpace
from distill.runs import read_json, write_json

CONTEXTS = [example.context for example in PARTS.validation]
MEMBERS = ["filling", "tfidf", "rnn"]
CLASSES = (("cancel_order",), ("get_order",), ("reply",))


@pytest.fixture(scope="module")
def folder(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = {name: trained(name).folder for name in MEMBERS}
    files = [read_router_file(place) for place in folders.values()]
    labels = joined([file.labels for file in files])
    file = RouterFile(EnsembleConfig(members=MEMBERS), files[0].catalogue, labels)
    path = tmp_path_factory.mktemp("ensemble") / "router"
    path.mkdir()
    EnsembleRouter.of(file, folders).save(path)
    return path


def believing(*rows: Sequence[float], classes: Sequence[tuple[str, ...]] = CLASSES) -> Any:
    """An ensemble of members that believe the same of every context."""
    file = RouterFile(MajorityConfig(), CONTEXTS[0].tools, LabelSpace(tuple(classes)))
    members = [MajorityRouter(file, np.array(row)) for row in rows]
    config = EnsembleConfig(members=["a", "b"])
    return EnsembleRouter(replace(file, config=config), members, None, {})


belief = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3).map(
    lambda row: [share / sum(row) for share in row]
)


@given(st.lists(belief, min_size=2, max_size=4))
def test_beliefs_are_the_normalised_geometric_mean(rows: list[list[float]]) -> None:
    mean = np.prod(rows, axis=0) ** (1 / len(rows))
    (found,) = believing(*rows).beliefs(CONTEXTS[:1])
    assert found == pytest.approx(mean / mean.sum())


@given(belief)
def test_members_that_agree_change_nothing(row: list[float]) -> None:
    (found,) = believing(row, row).beliefs(CONTEXTS[:1])
    assert found == pytest.approx(row)


def test_a_doubting_member_has_no_veto() -> None:
    sure, never = [0.998, 0.001, 0.001], [0.0, 0.5, 0.5]
    (found,) = believing(sure, sure, sure, never).beliefs(CONTEXTS[:1])
    assert found.argmax() == 0
    assert np.isfinite(found).all()


def test_it_decides_with_all_its_members_arguments_included(folder: Path) -> None:
    router: Any = load_router(folder)
    assert router.kind == "ensemble"
    pooled = np.log(np.stack([member.beliefs(CONTEXTS) for member in router.members])).mean(0)
    classes = router.file.labels.classes
    decided = router.decide(CONTEXTS)
    assert [d.tools for d in decided] == [classes[i] for i in pooled.argmax(1)]
    filled = [call for d in decided for call in d.calls if call.arguments]
    assert filled  # by the first member that fills


def test_it_moves_by_copying(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    again = tmp_path / "again"
    again.mkdir()
    load_router(copy).save(again)
    assert load_router(again).decide(CONTEXTS) == load_router(folder).decide(CONTEXTS)


def test_a_member_that_is_missing_or_open_is_named(
    folder: Path, trained: Any, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.rmtree(copy / "tfidf")
    with pytest.raises(RouterError, match=r"tfidf/router\.json: missing"):
        load_router(copy)
    shutil.copytree(trained("open").folder, copy / "tfidf")
    with pytest.raises(RouterError, match=r"tfidf: is no router of a closed catalogue"):
        load_router(copy)


def test_a_member_with_classes_of_its_own_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    place = copy / "router.json"
    text = read_json(place)
    text["classes"] = text["classes"][1:]
    write_json(place, text)
    with pytest.raises(RouterError, match="has classes that the ensemble lacks"):
        load_router(copy)


# --- as a job


def test_a_job_puts_it_together_after_its_members(config_of: Any, tmp_path: Path) -> None:
    write_traces(tmp_path / "traces.jsonl")
    routers = {
        "both": {"kind": "ensemble", "members": ["small", "words"]},
        "small": config_of("filling", epochs=1).model_dump(),
        "words": {"kind": "tfidf"},
    }
    evaluation = {"bootstrap": 100, "latency_samples": 4}
    values = job_values(tmp_path, routers=routers, evaluation=evaluation)
    job = configs.parse(values, "test", RunConfig)
    for step in steps(job):
        step.do(silent)
    report = read_json(comparison_dir(job) / "report.json")
    entries = {entry["name"]: entry for entry in report["routers"]}
    both, small, words = (entries[name] for name in ("both", "small", "words"))
    assert both["parameters"] == small["parameters"] + words["parameters"]
    assert both["fills_arguments"]
    assert not words["fills_arguments"]
    assert both["calibration"]["ece"] is not None


@pytest.mark.parametrize(
    ("routers", "words"),
    [
        ({"words": {"kind": "tfidf"}}, "all.members: 'rnn' is no closed classifier of this job"),
        (
            {"words": {"kind": "tfidf"}, "rnn": {"kind": "encoder", "catalogue": "open"}},
            "all.members: 'rnn' is no closed classifier of this job; one of: words",
        ),
    ],
)
def test_members_must_be_closed_routers_of_the_job(
    tmp_path: Path, routers: dict[str, Any], words: str
) -> None:
    routers = routers | {"all": {"kind": "ensemble", "members": ["words", "rnn"]}}
    job = configs.parse(job_values(tmp_path, routers=routers), "test", RunConfig)
    with pytest.raises(ConfigError, match=words):
        steps(job)


def test_a_member_counts_once(tmp_path: Path) -> None:
    routers = {"all": {"kind": "ensemble", "members": ["words", "words"]}}
    with pytest.raises(ConfigError, match="names a router twice"):
        configs.parse(job_values(tmp_path, routers=routers), "test", RunConfig)
