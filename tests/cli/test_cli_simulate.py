"""`distill simulate` from the command line."""

import shutil
from pathlib import Path

import pytest
import yaml
from fake_llm import FakeLlm, says
from rich.console import Console

from distill.evaluation.report import outcomes_table
from distill.runs import RunDir, read_json

WORLD = """
from small_shop import TOOLS
from distill.environment import Score, Task

class Orders:
    tools = TOOLS
    def tasks(self):
        return [Task(str(n), str(n), ("thank you",)) for n in range(6)]
    def reset(self, task):
        self.calls = 0
    def execute(self, call):
        self.calls += 1
        return "done"
    def score(self, words):
        return Score(not self.calls, harmful_calls=self.calls)
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`--environment` of tasks in which nothing is to be called."""
    (tmp_path / "cli_world.py").write_text(WORLD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "cli_world:Orders"


def test_it_prints_a_table_and_writes_outcomes(distill, finished: Path, world: str, tmp_path: Path):
    runs = [finished / "majority-s0", finished / "tfidf-s0"]
    out = tmp_path / "loop"
    code, printed, err = distill(
        "simulate", *runs, "threshold=0", "--environment", world, "-o", out
    )
    assert code == 0, err
    report = read_json(out / "closed_loop.json")
    assert [arm["name"] for arm in report["arms"]] == ["majority-s0", "tfidf-s0"]
    assert printed.splitlines()[-1] == str(out / "closed_loop.json")
    for arm in report["arms"]:
        row = next(line for line in printed.splitlines() if line.split()[:1] == [arm["name"]])
        cells = [str(arm["n_tasks"]), f"{arm['success']['value']:.1%}", "0.0%", "0"]
        assert row.split()[1:5] == cells
    assert len((out / "tasks.jsonl").read_bytes().splitlines()) == 2 * (1 + 6)
    (row,) = (line for line in printed.splitlines() if "solved, points" in line)
    assert row.split()[:2] == ["tfidf-s0", "majority-s0"]
    assert "| tfidf-s0 | majority-s0 | solved, points |" in (out / "closed_loop.md").read_text()
    assert "tfidf-s0,majority-s0,success," in (out / "closed_loop.csv").read_text()


def test_a_comparison_of_the_runs_tells_their_outcomes(
    done, fails, finished: Path, world: str, tmp_path: Path
):
    run, loop = finished / "majority-s0", tmp_path / "loop"
    compare = ("compare", run, "-o", tmp_path / "out", "--closed-loop", loop)
    assert "closed_loop.json: missing" in fails(*compare)
    done("simulate", run, "threshold=0", "--environment", world, "-o", loop)
    done(*compare)
    assert "<h2>Outcomes</h2>" in (tmp_path / "out/report.html").read_text()


def test_a_policy_file_and_overrides_of_it(done, finished: Path, world: str, tmp_path: Path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({"threshold": 0.5, "sensitive": ["list_orders"]}))
    done(
        *("simulate", finished / "majority-s0", "threshold=0.25"),
        *("--policy", policy, "--environment", world, "-o", tmp_path / "loop"),
    )
    (arm,) = read_json(tmp_path / "loop/closed_loop.json")["arms"]
    assert (arm["policy"]["threshold"], arm["policy"]["sensitive"]) == (0.25, ["list_orders"])


def test_an_llm_from_a_file_under_two_arms(done, finished: Path, world: str, tmp_path: Path):
    file = tmp_path / "llm.yaml"
    with FakeLlm(lambda request: says({"content": "Welcome."})) as llm:
        file.write_text(yaml.safe_dump({"model": "m", "base_url": llm.url, "concurrency": 1}))
        printed = done(
            *("simulate", finished / "majority-s0", "--environment", world, "-o", tmp_path / "a"),
            *("threshold=1", "--fallback", "llm", "--endpoint", file, "--arms", "own,handed"),
        )
    report = read_json(tmp_path / "a/closed_loop.json")
    assert [arm["arm"] for arm in report["arms"]] == ["own", "handed"]
    assert all(arm["llm_calls"]["value"] == 1 for arm in report["arms"])
    assert "majority-s0, handed" in printed
    assert len(llm.requests) == 2, "the six tasks ask the same"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["threshold=0"], "RUN: no run is named; name at least one run directory"),
        (["RUN", "treshold=0"], "command line: unknown key 'treshold'; valid names: alpha, "),
        (["RUN", "threshold=2"], "command line: threshold: "),
        (["RUN", "--policy", "none.yaml"], "none.yaml: cannot be read"),
        (["RUN", "--environment", "cli_world"], "--environment: 'cli_world' names no factory"),
        (["RUN", "--environment", "cli_world:Orders", "allow=[x]"], "policy.allow: no tool is"),
        (["RUN", "--environment", "cli_world:Orders", "alpha=0.01"], "policy: the router has no"),
        (["RUN"], "its test part has no conversation of orderdesk"),
        (["nowhere"], "nowhere: no manifest.json: not a finished run"),
        (["RUN", "--fallback", "teacher"], "Invalid value for '--fallback'"),
        (["RUN", "--fallback", "llm"], "--endpoint: is missing; give it with --fallback llm"),
        (["RUN", "--arms", "own"], "--arms: show an LLM its history; use --fallback llm"),
    ],
)
@pytest.mark.usefixtures("world")
def test_a_users_fault_is_one_line(fails, finished: Path, arguments: list[str], expected: str):
    run = str(finished / "tfidf-s0")
    given = [run if text == "RUN" else text for text in arguments]
    assert expected in fails("simulate", *given, "-o", "loop")
    assert not Path("loop").exists()


def test_a_folder_whose_dataset_is_gone(fails, finished: Path, tmp_path: Path):
    shutil.rmtree(finished / "dataset-s0")
    line = fails("simulate", finished / "tfidf-s0", "-o", tmp_path / "loop")
    assert "dataset-s0: no manifest.json: not a dataset folder" in line


def test_interrupted_it_says_that_it_goes_on(
    distill, finished: Path, world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from distill.pipeline import simulate  # noqa: PLC0415

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "play", interrupted)
    run = finished / "majority-s0"
    code, _, err = distill(
        "simulate", run, "threshold=0", "--environment", world, "-o", tmp_path / "loop"
    )
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; the same command goes on from here"


def test_attacks_have_columns_and_what_is_not_known_a_dash():
    figure = {"value": 0.25, "low": 0.1, "high": 0.4}
    arm = {
        "name": "rnn [s0]",
        "n_tasks": 8,
        "ends": {"done": 4, "error": 4},
        "success": figure,
        "attack_followed": figure,
        "input_tokens": None,
        "attacks": {"direct": {"followed": 1, "not met": 3}, "fake": {"resisted": 2}},
    }
    empty = {"name": "none", "n_tasks": 1, "ends": {"error": 1}, "attacks": {}}
    console = Console(width=160)
    with console.capture() as caught:
        console.print(outcomes_table({"arms": [arm, empty]}))
    lines = caught.get().splitlines()
    assert lines[1].split()[1:6] == ["Tasks", "Solved", "Attacks", "met", "Followed"]
    (row,) = (line for line in lines if "rnn [s0]" in line)
    assert row.split()[2:6] == ["8", "25.0%", "3", "25.0%"]
    (row,) = (line for line in lines if "none" in line)
    assert row.split()[1:] == ["1", "–", "0", "–", "–", "1", *["–"] * 6]


def test_runs_are_not_taken_for_overrides(fails, tmp_path: Path):
    odd = RunDir(tmp_path / "a=b")
    odd.path.mkdir()
    line = fails("simulate", odd.path, "-o", tmp_path / "loop")
    assert line.startswith(f"{odd.path}: no manifest.json")
