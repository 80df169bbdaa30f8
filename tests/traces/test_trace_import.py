"""Importing writes whole files, counts every line and says what became of it."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from distill.chat import parse_tools
from distill.errors import TraceError
from distill.traces import import_traces, read
from distill.traces.catalogues import new_catalogues


def row(**keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Off."}], "tools": []} | keys


BAD_ROLE = row(messages=[{"role": "user", "content": "?"}, {"role": "robot", "content": "!"}])


def write(file: Path, *rows: Any) -> Path:
    lines = (row if isinstance(row, bytes) else orjson.dumps(row) for row in rows)
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def lines_of(file: Path) -> list[Any]:
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


def test_every_line_is_counted_once(tmp_path):
    again = row(messages=[{"role": "robot"}])
    source = write(
        tmp_path / "in.jsonl", row(), b"", BAD_ROLE, again, b"{", row(set="b"), row(id=1)
    )
    counts = import_traces(source, tmp_path / "out.jsonl", format="traces")
    assert (counts.lines, counts.traces, counts.filtered, counts.rejected) == (6, 3, 0, 3)
    assert counts.reasons == {"messages[].role: unknown role 'robot'": 2, "not JSON": 1}
    assert lines_of(tmp_path / "out.jsonl.rejected.jsonl") == [
        {"line": 3, "reason": "messages[1].role: unknown role 'robot'"},
        {"line": 4, "reason": "messages[0].role: unknown role 'robot'"},
        {"line": 5, "reason": "not JSON"},
    ]


def test_filtered_lines_are_neither_traces_nor_rejected(tmp_path):
    source = write(tmp_path / "in.jsonl", row(set="a"), row(set="b"), BAD_ROLE | {"set": "b"})
    counts = import_traces(source, tmp_path / "out.jsonl", where={"set": "a"})
    assert (counts.lines, counts.traces, counts.filtered, counts.rejected) == (3, 1, 2, 0)


def test_a_clean_import_removes_the_rejections_of_an_earlier_one(tmp_path):
    out = tmp_path / "out.jsonl"
    import_traces(write(tmp_path / "in.jsonl", row(), BAD_ROLE), out)
    assert (tmp_path / "out.jsonl.rejected.jsonl").exists()
    import_traces(write(tmp_path / "in.jsonl", row()), out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([BAD_ROLE, BAD_ROLE, b"{"], "no usable line among 3 .mostly, 2 times: messages"),
        ([{"a": 1}], "neither a trace .messages. nor a request"),
        ([], "no line at all"),
        ([b"", b"  "], "no line at all"),
    ],
)
def test_a_file_without_a_trace_is_a_fault(tmp_path, rows, fault):
    out = write(tmp_path / "out.jsonl", row(id="old"))
    source = write(tmp_path / "in.jsonl", *rows)
    with pytest.raises(TraceError, match=fault):
        import_traces(source, out)
    assert [trace.id for trace in read(out)] == ["old"]
    rejected = tmp_path / "out.jsonl.rejected.jsonl"
    wanted = [i for i, item in enumerate(rows, start=1) if item not in (b"", b"  ")]
    assert [item["line"] for item in (lines_of(rejected) if rejected.exists() else [])] == wanted
    assert rejected.exists() == bool(wanted)


def test_a_filter_that_nothing_passes_is_a_fault(tmp_path):
    source = write(tmp_path / "in.jsonl", row(set="a"))
    with pytest.raises(TraceError, match="none of 1 lines has the values of `where`"):
        import_traces(source, tmp_path / "out.jsonl", where={"set": "b"})


def test_a_truncated_source_leaves_the_old_files(tmp_path):
    out = tmp_path / "out.jsonl.gz"
    import_traces(write(tmp_path / "in.jsonl", row(id="old"), BAD_ROLE), out)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    lines = b"".join(orjson.dumps(row(id=i)) + b"\n" for i in range(100))
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(lines)[:-20])
    with pytest.raises(TraceError, match="ends early"):
        import_traces(cut, out)
    cut.unlink()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_target_must_not_be_a_folder(tmp_path):
    with pytest.raises(TraceError, match="is a folder"):
        import_traces(write(tmp_path / "in.jsonl", row()), tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_keys_that_filters_and_groups_need_survive_an_import(tmp_path, suffix):
    source = write(tmp_path / "in.jsonl", row(template="T1", toolset="all", task_id="t", id="x"))
    out = tmp_path / f"out.jsonl{suffix}"
    import_traces(source, out)
    (trace,) = read(out, where={"toolset": "all"}, group_by="template")
    assert (trace.id, trace.group) == ("x", "T1")
    import_traces(source, out, group_by="template")
    (trace,) = read(out)
    assert trace.group == "T1"


def test_an_import_can_replace_its_own_source(tmp_path):
    file = write(tmp_path / "t.jsonl", row(id="a"), row(id="a", model="m"))
    counts = import_traces(file, file)
    assert counts.notes == {"an id that came before: the line number is appended": 1}
    assert [trace.id for trace in read(file)] == ["a", "a#2"]
    first = file.read_bytes()
    import_traces(file, file)
    assert file.read_bytes() == first


def shared_rows(count: int) -> list[dict[str, Any]]:
    return [row(tools_ref="tools.json", id=i) for i in range(count)]


def test_shared_catalogues_travel_with_the_traces(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    tools = [{"name": f"tool{i}", "description": "d" * 100} for i in range(50)]
    (here / "tools.json").write_bytes(orjson.dumps(tools))
    source = write(here / "in.jsonl", *shared_rows(20), row(tools=tools[:1]))
    import_traces(source, there / "out.jsonl")
    before = list(read(source))
    (here / "tools.json").unlink()
    assert [t.tools for t in read(there / "out.jsonl")] == [t.tools for t in before]
    (catalogue,) = there.glob("tools-*.json")
    assert (there / "out.jsonl").stat().st_size < 2 * catalogue.stat().st_size


@pytest.mark.parametrize("there", [False, True])
def test_an_import_that_fails_leaves_no_catalogue_behind(tmp_path, there):
    """A catalogue that was there before is another trace file's and stays."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "tools.json").write_bytes(b'[{"name": "a"}]')
    out = tmp_path / "out" / "t.jsonl"
    if there:
        import_traces(write(source / "t.jsonl", *shared_rows(1)), out)
    before = sorted(out.parent.glob("*"))
    lines = b"".join(orjson.dumps(item) + b"\n" for item in shared_rows(900))
    cut = source / "cut.gz"
    cut.write_bytes(gzip.compress(lines)[:-20])
    with pytest.raises(TraceError, match="ends early"):
        import_traces(cut, out)
    assert sorted(out.parent.glob("*")) == before


def test_a_catalogue_goes_when_the_traces_cannot_be_written_beside_it(tmp_path):
    (tool,) = parse_tools([{"name": "a"}])

    def fail_late() -> None:
        with new_catalogues(tmp_path) as catalogues:
            catalogues.name((tool,))
            catalogues.write()
            assert len(list(tmp_path.iterdir())) == 1
            raise OSError

    with pytest.raises(OSError):
        fail_late()
    assert list(tmp_path.iterdir()) == []


def test_repeated_lines_are_counted_under_one_reason(tmp_path):
    source = write(tmp_path / "in.jsonl", row(id=1), row(id=2), row(id=1), row(id=2))
    counts = import_traces(source, tmp_path / "out.jsonl")
    assert (counts.traces, counts.rejected) == (2, 2)
    assert counts.reasons == {"the same as line N, counted once": 2}


def test_hostile_reasons_do_not_grow_the_counts(tmp_path):
    rows = [row(messages=[{"role": f"r{i}"}]) for i in range(300)]
    counts = import_traces(write(tmp_path / "in.jsonl", row(), *rows), tmp_path / "out.jsonl")
    assert counts.rejected == sum(counts.reasons.values()) == 300
    assert len(counts.reasons) == 101
    assert counts.reasons["other reasons"] == 200


def test_progress_ends_at_the_size_of_the_source(tmp_path):
    source = write(tmp_path / "in.jsonl", *[row()] * 1000)
    seen: list[tuple[int, int]] = []
    import_traces(source, tmp_path / "out.jsonl", progress=lambda *counts: seen.append(counts))
    size = source.stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


def test_a_missing_source_leaves_nothing_behind(tmp_path):
    with pytest.raises(TraceError, match="cannot be read"):
        import_traces(tmp_path / "missing.jsonl", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
