"""What a dataset was made from is told by content, so that no change of it goes unnoticed."""

import gzip
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from distill.dataset import source
from distill.dataset.source import SAMPLE, describe, is_unchanged
from distill.errors import TraceError

LIMIT = 100_000


def row(**keys: object) -> bytes:
    return orjson.dumps({"messages": [], **keys}) + b"\n"


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A trace file whose rows name two catalogues that are there."""
    for name in ("tools.json", "käse 2.json", "unnamed.json"):
        (tmp_path / name).write_text("[]")
    path = tmp_path / "traces.jsonl"
    said = [{"role": "user", "content": 'is "tools_ref": "unnamed.json" right?'}]
    path.write_bytes(
        row(tools_ref="tools.json")
        + row(tools_ref="käse 2.json")
        + row(tools_ref="tools.json", messages=said)
        + row(tools_ref="../outside.json")
        + row(tools_ref="gone.json")
        + row(tools_ref="long" * 100)
        + row(tools_ref=None)
        + b'{"tools_ref": "cut \\ud800'
        + b"\n{"
    )
    return path


def test_named_catalogues_count_and_nothing_else_does(traces: Path) -> None:
    (traces.parent.parent / "outside.json").write_text("[]")
    empty = sha256(b"[]").hexdigest()
    assert describe(str(traces), LIMIT) == {
        "name": "traces.jsonl",
        "sha256": sha256(traces.read_bytes()).hexdigest(),
        "catalogues": {"käse 2.json": empty, "tools.json": empty},
    }


def test_catalogues_are_found_in_compressed_files_and_not_in_lines_too_long(traces: Path) -> None:
    packed = traces.with_name("traces.jsonl.gz")
    packed.write_bytes(gzip.compress(traces.read_bytes()))
    assert set(describe(str(packed), LIMIT)["catalogues"]) == {"käse 2.json", "tools.json"}
    traces.write_bytes(row(tools_ref="tools.json", note="x" * LIMIT))
    assert describe(str(traces), LIMIT)["catalogues"] == {}
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(TraceError, match="fetch the file again"):
        describe(str(packed), LIMIT)


@pytest.mark.parametrize("changed", ["traces.jsonl", "tools.json"])
def test_a_change_of_any_file_is_noticed(traces: Path, changed: str) -> None:
    recorded = describe(str(traces), LIMIT)
    assert is_unchanged(recorded, str(traces))
    (traces.parent / "unnamed.json").write_text("[1]")
    assert is_unchanged(recorded, str(traces))
    with (traces.parent / changed).open("a") as file:
        file.write(" ")
    assert not is_unchanged(recorded, str(traces))


@pytest.mark.parametrize("gone", ["traces.jsonl", "tools.json"])
def test_a_file_that_is_gone_has_not_changed(traces: Path, gone: str) -> None:
    recorded = describe(str(traces), LIMIT)
    (traces.parent / gone).unlink()
    assert is_unchanged(recorded, str(traces))


def test_an_edited_sample_conversation_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = describe(SAMPLE, LIMIT)
    assert (recorded["name"], recorded["catalogues"]) == (SAMPLE, {})
    assert is_unchanged(recorded, SAMPLE)
    (tmp_path / "conversations").mkdir()
    conversation = tmp_path / "conversations" / "first.yaml"
    conversation.write_text("- id: a")
    monkeypatch.setattr(source, "sample", SimpleNamespace(__path__=[str(tmp_path)]))
    assert not is_unchanged(recorded, SAMPLE)
    recorded = describe(SAMPLE, LIMIT)
    (tmp_path / "conversations" / "README.md").write_text("words about it")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "attacks.yaml").write_text("- id: makes no trace")
    assert is_unchanged(recorded, SAMPLE)
    conversation.write_text("- id: ab")
    assert not is_unchanged(recorded, SAMPLE)


def test_any_other_name_is_only_a_name() -> None:
    recorded = describe("made up", LIMIT)
    assert recorded == {"name": "made up", "sha256": None, "catalogues": {}}
    assert is_unchanged(recorded, "made up")
