"""One clear line for traces that cannot be used, and none of them dropped in silence."""

import gzip
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from job_files import MERGE, failing_build
from small_shop import write_traces

from distill.dataset import load_dataset


def test_a_trace_file_that_is_not_there(fails, tmp_path: Path):
    missing = tmp_path / "nowhere.jsonl"
    for line in (
        failing_build(fails, missing),
        fails("import", missing, "-o", tmp_path / "o.jsonl"),
    ):
        assert line.startswith(f"{missing}: cannot be read (No such file or directory); give")


def test_a_trace_file_that_is_cut_off(fails, traces: Path, tmp_path: Path):
    packed = tmp_path / "traces.jsonl.gz"
    packed.write_bytes(gzip.compress(traces.read_bytes())[:-20])
    line = failing_build(fails, packed)
    assert line.startswith(f"{packed}:")
    assert "the compressed stream ends early" in line
    assert line.endswith("; fetch the file again")


TRACE = {
    "tools": [
        {
            "name": "get",
            "parameters": {
                "type": "object",
                "properties": {"n": {"type": "integer"}},
                "required": ["n"],
            },
        }
    ],
    "messages": [
        {"role": "user", "content": "get 1"},
        {"role": "assistant", "tool_calls": [{"name": "get", "arguments": {"n": 1}}]},
    ],
}


def said(*messages: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> bytes:
    return orjson.dumps({"tools": TRACE["tools"] if tools is None else tools, "messages": messages})


USER = {"role": "user", "content": "get 1"}


def calling(name: str, arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"name": name, "arguments": arguments}]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{oops", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"tools": []}', "neither a trace (messages) nor a request with its response"),
        (b'{"tools": [], "messages": []}', "messages: missing or empty"),
        (said(USER, {"role": "robot", "content": "x"}), "messages[].role: unknown role 'robot'"),
        (said(USER, calling("get", "{oops")), "messages[].tool_calls[].arguments: not JSON"),
        (said(USER, calling("get", "[1]")), "messages[].tool_calls[].arguments: not a JSON object"),
        (
            said(USER).replace(b"get 1", b"get \\ud800"),
            "an unpaired surrogate in a string",
        ),
    ],
)
def test_lines_that_are_no_traces_are_named_listed_and_leave_nothing(
    fails, tmp_path: Path, line: bytes, reason: str
):
    source = tmp_path / "bad.jsonl"
    source.write_bytes(line + b"\n")
    assert f"1 lines were rejected (1 times: {reason})" in failing_build(fails, source)
    out = tmp_path / "out.jsonl"
    assert reason in fails("import", source, "-o", out)
    assert not out.exists()
    for listed in (tmp_path / "dataset.rejected.jsonl", tmp_path / "out.jsonl.rejected.jsonl"):
        entry = orjson.loads(listed.read_bytes())
        assert entry["line"] == 1
        assert re.sub(r"\[\d+\]", "[]", entry["reason"]) == reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (said(USER, calling("got", {"n": 1})), "called tool not offered"),
        (said(USER, calling("get", {"n": "one"})), "arguments break the tool's schema"),
        (said(USER, calling("get", {})), "arguments break the tool's schema"),
        (
            said(USER, calling("get", {}), tools=[{"name": "get", "parameters": {"type": 5}}]),
            "called tool has a broken schema",
        ),
    ],
)
def test_decisions_that_cannot_teach_are_dropped_and_counted(
    done, fails, traces: Path, line: bytes, reason: str
):
    with traces.open("ab") as file:
        file.write(line + b"\n")
    printed = done("build", traces, "-o", traces.parent / "mixed", MERGE)
    assert re.search(rf"^ +1  {reason}$", printed, re.MULTILINE)
    alone = traces.parent / "alone.jsonl"
    alone.write_bytes(line)
    assert f"no decision point is left of 1 traces ({reason}: 1)" in failing_build(fails, alone)


def test_rejected_lines_do_not_stop_the_rest(distill, traces: Path, tmp_path: Path, caplog):
    with traces.open("ab") as file:
        file.write(b"{oops\n")
    code, _, _ = distill("build", traces, "-o", tmp_path / "dataset", MERGE)
    assert code == 0
    assert "1 lines rejected (1 times: not JSON)" in caplog.text
    assert load_dataset(tmp_path / "dataset").manifest["n_traces"] == 80


def test_a_message_of_a_megabyte_works(done, traces: Path, tmp_path: Path):
    long = "get " + " ".join(str(n) for n in range(160_000))
    assert len(long) > 1_000_000
    with traces.open("ab") as file:
        file.write(said({"role": "user", "content": long}, calling("get", {"n": 1})) + b"\n")
    imported = tmp_path / "imported.jsonl.zst"
    assert done("import", traces, "-o", imported).startswith("81 traces from 81 lines")
    done("build", imported, "-o", tmp_path / "dataset", "split.train=0.4")
    manifest = load_dataset(tmp_path / "dataset").manifest
    assert (manifest["n_traces"], manifest["dropped"]) == (81, {})


def test_nothing_left_after_filtering(fails, traces: Path):
    line = failing_build(fails, traces, "outcome=succeeded")
    assert re.search(r"no decision point is left of 80 traces \(trace not graded: \d+\); wid", line)


def test_a_filter_that_no_trace_passes(fails, traces: Path):
    assert "holds no traces" in failing_build(fails, traces, "where.toolset=all")


def test_one_decision_only(fails, tmp_path: Path):
    source = tmp_path / "traces.jsonl"
    hello = {"role": "assistant", "content": "Hello."}
    rows = [said({"role": "user", "content": f"greeting {n}"}, hello) for n in range(60)]
    source.write_bytes(b"\n".join(rows))
    line = failing_build(fails, source)
    assert "train knows a single decision (reply; 60 groups); there is nothing to learn" in line


def test_a_part_without_a_group(fails, tmp_path: Path):
    source = write_traces(tmp_path / "traces.jsonl", 3)
    line = failing_build(fails, source)
    assert line.startswith("data.split: no group falls into ")
    assert "(3 groups); take another seed or traces of more groups" in line


def test_an_unknown_format(fails, traces: Path, tmp_path: Path):
    line = fails("import", traces, "-o", tmp_path / "o", "--format", "csv")
    assert line == "--format: unknown format 'csv'; use auto, traces or openai"


def test_a_dataset_is_not_written_over_the_traces(fails, traces: Path):
    before = traces.read_bytes()
    assert "is there and is no dataset folder" in fails("build", traces, "-o", traces)
    assert traces.read_bytes() == before
