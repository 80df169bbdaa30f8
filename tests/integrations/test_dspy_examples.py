"""The examples and the README's program: recorded with the LM, trained, then routed."""

import importlib
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from shop_program import ANSWER, FINISH, lm, step

from distill.config import DataConfig, SplitConfig, TfidfConfig
from distill.dataset import load_dataset
from distill.pipeline.build import build_dataset
from distill.progress import silent
from distill.runs import RunDir
from distill.traces import read
from distill.training import Job, Parts, train

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "scripts" / "examples"


def trained_on(traces: Path, folder: Path) -> Path:
    """A TF-IDF router of what was recorded."""
    split = SplitConfig(merge_jaccard=None)  # the questions are much alike, and all are wanted
    config = DataConfig(traces=str(traces), split=split)
    build_dataset(config, 0, folder / "dataset", silent)
    dataset = load_dataset(folder / "dataset")
    parts = Parts(dataset.examples("train"), dataset.examples("validation"), dataset.catalogue())
    router = train(TfidfConfig(), Job(parts, RunDir(folder / "run"), 0, (), silent)).router
    (folder / "router").mkdir()
    router.save(folder / "router")
    return folder / "router"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports an example as it is run: from its own folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.mark.parametrize("name", ["planner", "orderdesk_dspy"])
def test_what_the_lm_did_trains_a_router_that_spares_it_calls(
    name: str, example: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(example("orderdesk_dspy"), "CONVERSATIONS", 14)
    main = example(name).main
    by_lm = main(["--record", str(tmp_path / "traces.jsonl")])
    assert by_lm["succeeded"] == by_lm["tasks"], "the script is right"
    assert by_lm["prompt_tokens"] is None, "the dummy LM counts none"
    recorded = list(read(tmp_path / "traces.jsonl"))
    assert sum(trace.usage.llm_calls or 0 for trace in recorded) == by_lm["lm_calls"]

    router = trained_on(tmp_path / "traces.jsonl", tmp_path)
    routed = main(["--router", str(router), "--threshold", "0.6"])
    assert routed["tools_chosen_by"] == "router"
    assert routed["lm_calls"] < by_lm["lm_calls"]
    assert routed["succeeded"] > by_lm["succeeded"] / 2, "a router of few traces errs at times"
    never = main(["--router", str(router), "--threshold", "1.1"])
    assert (never["lm_calls"], never["succeeded"]) == (by_lm["lm_calls"], by_lm["succeeded"])


@pytest.mark.parametrize(
    ("expression", "value"), [("2 * (3 + 4)", 14), ("-5 / 2", -2.5), ("1.5 - 1", 0.5)]
)
def test_the_calculator_works_sums_out(
    example: Callable[[str], Any], expression: str, value: float
):
    assert example("planner").calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').getcwd()",
        "9 ** 9 ** 9",
        "'a' * 9",
        "True",
        "1 if 1 else 2",
        "1" * 999,
        "1 /",
    ],
)
def test_the_calculator_does_nothing_else(example: Callable[[str], Any], expression: str):
    with pytest.raises((ValueError, SyntaxError)):
        example("planner").calculate(expression)


@pytest.mark.parametrize("name", ["planner", "orderdesk_dspy"])
def test_help_shows_commands_that_are_there(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 0
    assert f"python scripts/examples/{name}.py --record" in capsys.readouterr().out


@pytest.fixture
def configured() -> Iterator[None]:
    """Takes back what a snippet configures."""
    yield
    dspy.configure(lm=None, callbacks=[])


@pytest.mark.usefixtures("configured")
def test_the_readmes_program_runs(
    trained: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (snippet,) = (b for b in text.split("```python\n")[1:] if b.startswith("import dspy"))
    snippet = snippet.partition("```")[0]
    assert len(snippet.splitlines()) < 20
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/encoder-s0").symlink_to(trained("tfidf").run)
    monkeypatch.chdir(tmp_path)
    script = [step("get_order", order_id=1042), FINISH, ANSWER]
    monkeypatch.setattr(dspy, "LM", lambda name: lm(*script, *script))
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["found"].answer == "Shipped."
    assert (tmp_path / "program.json").is_file()
    assert len(list(read(tmp_path / "traces.jsonl"))) == 2
