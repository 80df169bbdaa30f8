"""The canonical format: what is written reads back, and what cannot be used says why."""

import gzip
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.chat import trace_json
from distill.errors import TraceError
from distill.traces import read
from distill.traces.files import new_lines
from distill.types import Message, Outcome, ToolCall, ToolSpec, Trace, Usage

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = TEXT.filter(bool)
COUNT = st.none() | st.integers(0, 2**40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
CALL = st.builds(ToolCall, NAME, st.none() | OBJECT, st.none() | NAME)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Any messages in which tool results answer earlier calls."""
    messages = [Message(draw(st.sampled_from(["system", "user"])), draw(TEXT))]
    for _ in range(draw(st.integers(0, 5))):
        called = [call for message in messages for call in message.calls]
        roles = ["user", "assistant", "tool"] if called else ["user", "assistant"]
        role = draw(st.sampled_from(roles))
        if role == "user":
            messages.append(Message("user", draw(TEXT)))
        elif role == "assistant":
            calls = tuple(draw(st.lists(CALL, max_size=3)))
            messages.append(Message("assistant", draw(st.none() | TEXT), calls))
        else:
            call = draw(st.sampled_from(called))
            messages.append(Message("tool", draw(TEXT), call_id=call.id, name=call.name))
    return tuple(messages)


TRACES = st.builds(
    Trace,
    id=NAME,
    group=NAME,
    teacher=NAME,
    source=NAME,
    tools=st.lists(
        st.builds(ToolSpec, NAME, TEXT, OBJECT), max_size=3, unique_by=lambda t: t.name
    ).map(tuple),
    messages=conversations(),
    outcome=st.builds(
        Outcome,
        st.none() | st.booleans(),
        st.none() | st.floats(allow_nan=False, width=32).filter(lambda x: abs(x) != float("inf")),
    ),
    usage=st.builds(Usage, COUNT, COUNT, COUNT, st.none() | st.floats(0, 1e9)),
).flatmap(
    lambda trace: st.sampled_from([None, (), _assistants(trace)]).map(
        lambda decisions: replace(trace, decisions=decisions)
    )
)


def _assistants(trace: Trace) -> tuple[int, ...]:
    return tuple(i for i, message in enumerate(trace.messages) if message.role == "assistant")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


def write_rows(file: Path, *rows: Any) -> Path:
    file.write_bytes(
        b"".join(row if isinstance(row, bytes) else orjson.dumps(row) for row in _lines(rows))
    )
    return file


def _lines(rows):
    for row in rows:
        yield row
        yield b"\n"


def read_all(file: Path, **options: Any) -> tuple[list[Trace], list[tuple[int, str]]]:
    rejected: list[tuple[int, str]] = []
    traces = list(
        read(file, on_reject=lambda line, reason: rejected.append((line, reason)), **options)
    )
    return traces, rejected


def row(**keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Switch it off."}], "tools": []} | keys


def assistant(arguments: Any, **keys: Any) -> dict[str, Any]:
    function = {"name": "switch", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "function": function} | keys],
    }


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@settings(max_examples=50)
@given(traces=st.lists(TRACES, min_size=1, max_size=4, unique_by=lambda trace: trace.id))
def test_traces_survive_writing_and_reading(folder, suffix, traces):
    file = folder / f"traces.jsonl{suffix}"
    with new_lines(file) as sink:
        for trace in traces:
            sink.write(orjson.dumps(trace_json(trace)) + b"\n")
    back, rejected = read_all(file)
    assert not rejected
    assert back == traces
    # Ids of calls are no part of their equality, so they are compared on their own.
    ids = [[[call.id for call in m.calls] for m in trace.messages] for trace in traces]
    assert [[[call.id for call in m.calls] for m in trace.messages] for trace in back] == ids


DEEP: Any = {}
for _ in range(200):
    DEEP = {"a": DEEP}

SURROGATE = b'{"messages": [{"role": "user", "content": "\\ud83d"}]}'
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": ""}}
ARGUMENTS = "messages[0].tool_calls[0].arguments"
ORPHAN = "a tool result that answers no earlier call"
LONG = "a whole number beyond 64 bits"
DEEP_LINE = "the line: nested deeper than 64 levels"
NOT_BARE = ("../t.json", "/etc/t.json", "a/t.json", "a\\t.json", ".", "..", "", "t\0", 7, ["t"])


def said(**message: Any) -> dict[str, Any]:
    return row(messages=[{"role": "user"} | message])


def result(**message: Any) -> dict[str, Any]:
    return {"role": "tool", "content": "done"} | message


REJECTED: dict[str, tuple[Any, str]] = {
    "not JSON": (b'{"messages": [', "not JSON"),
    "a number": (b"NaN", "not JSON"),
    "bytes": (b'{"messages": "\xff"}', "not UTF-8"),
    "surrogate": (SURROGATE, "an unpaired surrogate in a string"),
    "infinite": (b'{"messages": 1e999}', "a number beyond the range of a double"),
    "a list": (b"[1]", "not a JSON object"),
    "deep brackets": (b"[" * 5000 + b"]" * 5000, DEEP_LINE),
    "deep row": (row(note=DEEP), DEEP_LINE),
    "deep role": (said(role=DEEP), DEEP_LINE),
    "no messages": ({"tools": []}, "messages: missing or empty"),
    "empty": (row(messages=[]), "messages: missing or empty"),
    "role": (said(role="ipython"), "messages[0].role: unknown role 'ipython'"),
    "image": (
        said(content=[{"type": "text", "text": "?"}, IMAGE]),
        "messages[0].content[1]: 'image_url' parts are not supported",
    ),
    "audio": (
        said(content=[AUDIO]),
        "messages[0].content[0]: 'input_audio' parts are not supported",
    ),
    "arguments": (row(messages=[assistant("[1]")]), f"{ARGUMENTS}: not a JSON object"),
    "cut arguments": (row(messages=[assistant('{"room": "ki')]), f"{ARGUMENTS}: not JSON"),
    "deep arguments": (
        row(messages=[assistant(orjson.dumps(DEEP).decode())]),
        f"{ARGUMENTS}: nested deeper than 64 levels",
    ),
    "other id": (
        row(messages=[assistant("{}"), result(tool_call_id="c2")]),
        f"messages[1]: {ORPHAN}",
    ),
    "early": (
        row(messages=[result(tool_call_id="c1"), assistant("{}")]),
        f"messages[0]: {ORPHAN}",
    ),
    "other name": (
        row(messages=[assistant("{}"), result(role="function", name="other")]),
        f"messages[1]: {ORPHAN}",
    ),
    "no call": (row(messages=[result()]), f"messages[0]: {ORPHAN}"),
    "tool twice": (row(tools=[{"name": "a"}, {"name": "a"}]), "tools: 'a' is offered twice"),
    "tools_ref with tools": (
        row(tools=[{"name": "a"}], tools_ref="t.json"),
        "tools_ref: beside a tools list that is not empty",
    ),
    "id": (row(id={"a": 1}), "id: neither text nor a number"),
    "long number": (b'{"messages": [], "n": 123456789012345678901}', f"the line: {LONG}"),
    "negative number": (b'{"messages": [], "n": [-9223372036854775809]}', f"the line: {LONG}"),
    "very long number": (b'{"messages": [], "n": %s}' % (b"9" * 100), f"the line: {LONG}"),
    "long argument": (
        row(messages=[assistant('{"card": 123456789012345678901}')]),
        f"{ARGUMENTS}: {LONG}",
    ),
    "verdict": (row(outcome={"success": "false"}), "outcome.success: neither true nor false"),
    "decisions": (row(decisions=[0]), "decisions: not a list of positions of assistant messages"),
} | {
    f"tools_ref {name!r}": (row(tools_ref=name), "tools_ref: not a bare file name")
    for name in NOT_BARE
}


@pytest.mark.parametrize("case", REJECTED)
def test_a_line_that_cannot_be_used_says_why_and_costs_no_other_line(tmp_path, case):
    line, reason = REJECTED[case]
    file = write_rows(tmp_path / "t.jsonl", row(id="before"), line, row(id="after"))
    traces, rejected = read_all(file, format="traces")
    assert rejected == [(2, reason)]
    assert [trace.id for trace in traces] == ["before", "after"]


def test_a_line_over_the_limit_is_rejected(tmp_path):
    long = row(messages=[{"role": "user", "content": "x" * 3000}])
    file = write_rows(tmp_path / "t.jsonl", long, row(id="after"))
    traces, rejected = read_all(file, max_line_bytes=1024)
    assert rejected == [(1, "the line is too long")]
    assert [trace.id for trace in traces] == ["after"]


def test_a_message_of_a_megabyte_is_nothing_special(tmp_path):
    content = "große Nachricht 📦 " * 60_000
    file = write_rows(tmp_path / "t.jsonl", row(messages=[{"role": "user", "content": content}]))
    (trace,), rejected = read_all(file)
    assert not rejected
    assert trace.messages[0].content == content


def test_a_quoted_value_cannot_make_a_reason_long(tmp_path):
    file = write_rows(tmp_path / "t.jsonl", row(messages=[{"role": "x" * 10_000}]))
    _, ((_, reason),) = read_all(file)
    assert reason.startswith("messages[0].role: unknown role 'xxx")
    assert len(reason) < 200


def test_legacy_function_messages_are_read(tmp_path):
    messages = [
        {"role": "user", "content": "Off."},
        {"role": "assistant", "function_call": {"name": "switch", "arguments": "{}"}},
        {"role": "function", "name": "switch", "content": "done"},
    ]
    (trace,), rejected = read_all(write_rows(tmp_path / "t.jsonl", row(messages=messages)))
    assert not rejected
    assert trace.messages[1].calls == (ToolCall("switch", {}),)


def test_a_call_to_a_tool_that_is_not_offered_is_kept(tmp_path):
    """Whether a decision point is fit to learn from is decided when a dataset is built."""
    file = write_rows(tmp_path / "t.jsonl", row(messages=[assistant("{}")], tools=[]))
    traces, rejected = read_all(file)
    assert not rejected
    assert len(traces) == 1


def test_identity_and_group_fall_back_in_order(tmp_path):
    rows = [
        row(id="a", group="g", task_id="t", model="m", source="s"),
        row(id="b", task_id="t"),
        row(id="c"),
        row(id=7, group=None),
    ]
    traces, _ = read_all(write_rows(tmp_path / "t.jsonl", *rows))
    assert [(t.id, t.group) for t in traces] == [
        ("a", "g"), ("b", "t"), ("c", "c"), ("7", "7"),
    ]  # fmt: skip
    assert [t.teacher for t in traces[:2]] == ["m", "unknown"]
    assert [t.source for t in traces[:2]] == ["s", "t.jsonl:2"]


def test_group_by_takes_any_key_and_rejects_lines_without_it(tmp_path):
    rows = [row(template="T1", group="g"), row(group="g"), row(template=3), row(template=[])]
    file = write_rows(tmp_path / "t.jsonl", *rows)
    traces, rejected = read_all(file, group_by="template")
    assert [trace.group for trace in traces] == ["T1", "3"]
    assert rejected == [
        (2, "template: missing, and traces are grouped by it"),
        (4, "template: neither text nor a number"),
    ]


def test_where_compares_top_level_keys_as_text(tmp_path):
    rows = [
        row(id="1", toolset="all", ok=True, n=2.0),
        row(id="2", toolset="all"),
        row(id="3", ok=True),
    ]
    file = write_rows(tmp_path / "t.jsonl", *rows)

    def ids(**where: str) -> list[str]:
        traces, rejected = read_all(file, where=where)
        assert not rejected
        return [trace.id for trace in traces]

    assert ids(toolset="all") == ["1", "2"]
    assert ids(toolset="all", ok="true") == ["1"]
    assert ids(n="2") == ["1"]
    assert ids(ok="True") == []


def asks(text: str, **keys: Any) -> dict[str, Any]:
    return row(messages=[{"role": "user", "content": text}], **keys)


def test_an_id_is_made_of_the_content_and_does_not_move_with_the_line(tmp_path):
    """Splits are made by group, and a group without a name is the id."""
    rows = [asks("One."), asks("Two."), asks("Two.", model="m")]
    traces, _ = read_all(write_rows(tmp_path / "t.jsonl", *rows))
    assert len({trace.id for trace in traces}) == 3
    assert [trace.group for trace in traces] == [trace.id for trace in traces]
    later, _ = read_all(write_rows(tmp_path / "t.jsonl", asks("New."), *rows))
    assert [trace.id for trace in later[1:]] == [trace.id for trace in traces]


def test_ids_are_unique_and_keep_their_group(tmp_path):
    rows = [asks("1", id="a"), asks("2", id="a"), asks("3", id="a#2"), asks("4", id="a")]
    traces, rejected = read_all(write_rows(tmp_path / "t.jsonl", *rows))
    assert not rejected
    assert [trace.id for trace in traces] == ["a", "a#2", "a#2#3", "a#4"]
    assert [trace.group for trace in traces] == ["a", "a", "a#2", "a"]


def test_a_file_concatenated_with_itself_gives_each_trace_once(tmp_path):
    rows = [asks("1", id="a"), asks("2", id="a"), asks("2"), asks("2", id="b")]
    reordered = [dict(reversed(item.items())) for item in rows]
    traces, rejected = read_all(write_rows(tmp_path / "t.jsonl", *rows, *reordered))
    assert len(traces) == 4
    assert rejected == [(4 + i, f"the same as line {i}, counted once") for i in range(1, 5)]


def test_a_row_is_the_same_only_as_one_that_was_used(tmp_path):
    bad = said(role="robot")
    _, rejected = read_all(write_rows(tmp_path / "t.jsonl", row(), bad, bad))
    assert {reason for _, reason in rejected} == {"messages[0].role: unknown role 'robot'"}


def test_numbers_that_64_bits_hold_are_kept_to_the_digit(tmp_path):
    numbers = [2**64 - 1, -(2**63), 1e20, 2**53 + 1]
    text = "12345678901234567890123"
    filled = assistant(orjson.dumps({"n": numbers, "text": text}).decode())
    (trace,), rejected = read_all(write_rows(tmp_path / "t.jsonl", row(messages=[filled])))
    assert not rejected
    assert trace.messages[0].calls[0].arguments == {"n": numbers, "text": text}


def test_stated_decisions_are_read(tmp_path):
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    file = write_rows(tmp_path / "t.jsonl", row(messages=turn * 2, decisions=[3, 3]))
    (trace,), rejected = read_all(file)
    assert not rejected
    assert trace.decisions == (3,)


def test_blank_lines_and_crlf_are_no_fault(tmp_path):
    crlf = orjson.dumps(row(id="crlf")) + b"\r"
    traces, rejected = read_all(write_rows(tmp_path / "t.jsonl", b"", crlf, b"   ", row(id="x")))
    assert not rejected
    assert [(trace.id, trace.source) for trace in traces] == [
        ("crlf", "t.jsonl:2"), ("x", "t.jsonl:4"),
    ]  # fmt: skip


def test_many_rows_share_one_catalogue(tmp_path):
    (tmp_path / "tools.json").write_bytes(orjson.dumps([{"name": "switch", "description": "d"}]))
    file = write_rows(
        tmp_path / "t.jsonl",
        *[row(tools_ref="tools.json", id=i) for i in range(3)],
        row(tools=[{"name": "b"}]),
    )
    traces, rejected = read_all(file)
    assert not rejected
    assert traces[0].tools == (ToolSpec("switch", "d"),)
    assert traces[0].tools is traces[2].tools
    assert traces[3].tools == (ToolSpec("b"),)


def test_equal_tool_lists_are_held_once(tmp_path):
    lists = [[{"name": "a"}], [{"name": "b"}]]
    rows = [row(tools=lists[i % 2], id=i) for i in range(6)]
    traces, _ = read_all(write_rows(tmp_path / "t.jsonl", *rows))
    assert len({id(trace.tools) for trace in traces}) == 2


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "No such file"),
        (b"[", "not JSON"),
        (b'{"a": 1}', "tools: not a list"),
        (b'[{"name": "a"}, {"name": "a"}]', "offered twice"),
        (orjson.dumps([{"name": "a", "parameters": DEEP}]), "nested deeper"),
    ],
)
def test_a_catalogue_that_cannot_be_used_stops_the_reading(tmp_path, content, fault):
    if content is not None:
        (tmp_path / "tools.json").write_bytes(content)
    file = write_rows(tmp_path / "t.jsonl", row(tools_ref="tools.json"))
    with pytest.raises(TraceError, match=fault) as caught:
        list(read(file))
    assert caught.value.place == str(tmp_path / "tools.json")


def test_reading_is_lazy(tmp_path):
    """The trace before a truncated end is there before the end is met, in a fraction of 20 MB."""
    content = "x" * 20_000
    lines = b"".join(
        orjson.dumps(row(id=i, messages=[{"role": "user", "content": content}])) + b"\n"
        for i in range(1000)
    )
    file = tmp_path / "t.jsonl.gz"
    file.write_bytes(gzip.compress(lines, compresslevel=1)[:-100])
    assert len(lines) > 20_000_000
    del lines
    tracemalloc.start()
    try:
        traces = read(file)
        assert next(traces).id == "0"
        with pytest.raises(TraceError):
            Counter(trace.teacher for trace in traces)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


WORDS = st.sampled_from(
    [
        *("messages", "tools", "tools_ref", "role", "content", "tool_calls", "function", "name"),
        *("arguments", "id", "user", "assistant", "tool", "type", "text", "request", "response"),
        *("input", "output", "body", "choices", "message", "delta", "index", "usage", "error"),
        *("group", "finish_reason", "object", "{}", "[]", "null"),
    ]
)
LOOSE = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | WORDS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=30,
)
MESSAGE_LIKE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]) | LOOSE},
    optional={"content": LOOSE, "tool_calls": LOOSE, "tool_call_id": LOOSE, "name": LOOSE},
)
CHOICE_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "message": MESSAGE_LIKE,
        "delta": MESSAGE_LIKE,
        "index": LOOSE,
        "finish_reason": LOOSE,
    },
)
RESPONSE_LIKE = st.fixed_dictionaries(
    {}, optional={"choices": st.lists(CHOICE_LIKE | LOOSE), "id": LOOSE, "usage": LOOSE}
)
ROW_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(MESSAGE_LIKE) | LOOSE,
        "tools": LOOSE,
        "id": LOOSE,
        "request": st.fixed_dictionaries({"messages": st.lists(MESSAGE_LIKE)}) | LOOSE,
        "input": LOOSE,
        "response": st.lists(RESPONSE_LIKE, max_size=3) | RESPONSE_LIKE | LOOSE,
        "output": MESSAGE_LIKE | LOOSE,
        "outcome": LOOSE,
        "usage": LOOSE,
        "latency_ms": LOOSE,
    },
)


@pytest.mark.parametrize("form", ["auto", "traces", "openai"])
@settings(max_examples=60)
@given(
    lines=st.lists(
        st.binary(max_size=60).map(lambda line: line.replace(b"\n", b""))
        | LOOSE.map(orjson.dumps)
        | ROW_LIKE.map(orjson.dumps),
        max_size=6,
    )
)
def test_no_bytes_crash_the_reader(folder, form, lines):
    """Every line is used, or rejected once, or names a catalogue that is not there."""
    file = folder / "hostile"
    file.write_bytes(b"\n".join(lines))
    rejected: list[int] = []
    try:
        traces = list(read(file, format=form, on_reject=lambda line, _: rejected.append(line)))
    except TraceError:
        return
    assert len(rejected) == len(set(rejected))
    assert len(traces) + len(rejected) <= len(lines)
    for trace in traces:
        orjson.dumps(trace_json(trace))
