"""`distill learn` on the command line: what it is told, and what it says of faults."""

from pathlib import Path

import pytest

from distill.config import OutcomesConfig
from distill.pipeline import learn as module
from distill.runs import RunDir


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list:
    """What learning was asked for; it does nothing."""
    made: list = []

    def learn(begun, sources, out, config, progress, *, environment=None):
        made.append((begun, list(sources), out, config, environment))

    monkeypatch.setattr(module, "learn", learn)
    return made


def test_traces_and_overrides_are_told_apart(done, told, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("day=1.jsonl").write_text("")
    printed = done("learn", "a/b-s0", "day=1.jsonl", "x.jsonl", "method=kto", "-o", "a/c-s0")
    assert printed == "a/c-s0\n"
    config = OutcomesConfig(method="kto")
    assert told == [
        (RunDir(Path("a/b-s0")), ["day=1.jsonl", "x.jsonl"], Path("a/c-s0"), config, None)
    ]


def test_an_environment_takes_the_place_of_traces(done, told):
    done("learn", "a/b-s0", "method=grpo", "--environment", "orderdesk", "-o", "a/c-s0")
    ((_, sources, _, config, environment),) = told
    assert (sources, config.method, environment) == ([], "grpo", "orderdesk")


def test_faults_are_told_in_a_line(fails):
    assert "unknown key 'betta'" in fails("learn", "a-s0", "x.jsonl", "betta=1", "-o", "b-s0")
    assert "beta: " in fails("learn", "a-s0", "x.jsonl", "beta=0", "-o", "b-s0")
    assert "a-s0: no manifest.json" in fails("learn", "a-s0", "x.jsonl", "-o", "b-s0")
