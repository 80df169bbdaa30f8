"""Logged requests and responses become conversations, whatever they were logged as."""

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.traces import ImportCounts, import_traces, openai_log, read
from distill.types import Message, Outcome, ToolCall, ToolSpec, Trace, Usage

TOOL = {"type": "function", "function": {"name": "switch", "description": "", "parameters": {}}}
OFF = '{"on": false}'


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "refusal": None}


def calls(call_id: str, arguments: str = OFF) -> dict[str, Any]:
    function = {"name": "switch", "arguments": arguments}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "done"}


def asked(messages: list[Any], **keys: Any) -> dict[str, Any]:
    return {"model": "gpt-x", "messages": messages, "tools": [TOOL]} | keys


def answered(message: dict[str, Any], **keys: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "r1", "model": "gpt-x-1", "choices": [choice], "usage": usage} | keys


def exchanges(name: str, turns: int) -> list[dict[str, Any]]:
    """A conversation of several requests, each repeating all that was before it."""
    history: list[Any] = [user(f"{name} please")]
    rows = []
    for turn in range(turns):
        answer = says("Done.") if turn == turns - 1 else calls(f"{name}-{turn}")
        response = answered(answer, id=f"{name}-r{turn}")
        rows.append({"request": asked(list(history)), "response": response})
        # Clients repeat an answer in their own words: a text for null, another spelling of JSON.
        history += [answer | {"content": answer["content"] or ""}, result(f"{name}-{turn}")]
        if turn % 2:
            history[-2] = calls(f"{name}-{turn}", '{ "on" : false }')
    return rows


def stream(response: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks in which the API sends a completion, a few characters each."""
    message = response["choices"][0]["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    text = message.get("content") or ""
    deltas += [{"content": text[i : i + 3]} for i in range(0, len(text), 3)]
    for index, call in enumerate(message.get("tool_calls") or []):
        arguments = call["function"]["arguments"]
        head = {"name": call["function"]["name"], "arguments": ""}
        deltas.append({"tool_calls": [call | {"index": index, "function": head}]})
        for i in range(0, len(arguments), 3):
            part = {"index": index, "function": {"arguments": arguments[i : i + 3]}}
            deltas.append({"tool_calls": [part]})
    head = {"id": response["id"], "model": response["model"], "object": "chat.completion.chunk"}
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return [
        *(head | {"choices": [choice], "usage": None} for choice in choices),
        head | {"choices": [], "usage": response["usage"]},
    ]


def read_log(folder: Path, *rows: Any, **options: Any) -> tuple[list[Trace], list[tuple[int, str]]]:
    file = folder / "log.jsonl"
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    rejected: list[tuple[int, str]] = []
    traces = read(file, on_reject=lambda line, why: rejected.append((line, why)), **options)
    return list(traces), rejected


REQUEST = asked([user("Off.")])
RESPONSE = answered(calls("c1"))
SHAPES: dict[str, dict[str, Any]] = {
    "request, response": {"request": REQUEST, "response": RESPONSE},
    "input, output": {"input": REQUEST, "output": RESPONSE},
    "kwargs, response": {"kwargs": REQUEST, "response": RESPONSE},
    "batch": {
        "custom_id": "r1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": REQUEST,
        "response": {"status_code": 200, "request_id": "q", "body": RESPONSE},
        "error": None,
    },
    "http": {"request": {"url": "/v1", "body": REQUEST}, "response": {"body": RESPONSE}},
    "text": {
        "request": orjson.dumps(REQUEST).decode(),
        "response": {"status_code": 200, "body": orjson.dumps(RESPONSE).decode()},
    },
    "flat": REQUEST | {"response": RESPONSE},
    "stream": {"request": REQUEST | {"stream": True}, "response": stream(RESPONSE)},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_people_log_give_the_same_trace(tmp_path, shape):
    traces, rejected = read_log(tmp_path, SHAPES[shape])
    assert not rejected
    assert traces == [
        Trace(
            id="r1",
            group="r1",
            teacher="gpt-x-1",
            source="log.jsonl:1",
            tools=(ToolSpec("switch"),),
            messages=(
                Message("user", "Off."),
                Message("assistant", None, (ToolCall("switch", {"on": False}, "c1"),)),
            ),
            usage=Usage(100, 10, 1, None),
            decisions=(1,),
        )
    ]
    assert traces[0].messages[1].calls[0].id == "c1"


def test_bare_messages_as_input_and_output(tmp_path):
    row = {"input": [user("Off.")], "output": calls("c1"), "tools": [TOOL], "model": "m", "id": 5}
    (trace,), rejected = read_log(tmp_path, row)
    assert not rejected
    assert (trace.id, trace.teacher, trace.tools) == ("5", "m", (ToolSpec("switch"),))
    assert [message.role for message in trace.messages] == ["user", "assistant"]
    assert trace.usage == Usage(llm_calls=1)


def test_a_trace_with_keys_of_its_own_is_no_log(tmp_path):
    row = {"messages": [user("Off.")], "id": "t", "output": "off", "input": {"a": 1}}
    (trace,), rejected = read_log(tmp_path, row)
    assert not rejected
    assert trace.id == "t"


def test_the_requests_of_a_conversation_become_one_trace(tmp_path):
    rows = exchanges("lamp", 4)
    for duration, row in enumerate(rows, start=1):
        row["latency_ms"] = duration
    (trace,), rejected = read_log(tmp_path, *rows)
    assert not rejected
    assert [message.role for message in trace.messages] == [
        "user", *["assistant", "tool"] * 3, "assistant",
    ]  # fmt: skip
    assert trace.messages[-1].content == "Done."
    assert (trace.id, trace.source) == ("lamp-r0", "log.jsonl:1")
    assert trace.usage == Usage(400, 40, 4, 10)
    assert trace.decisions == (1, 3, 5, 7)


def test_a_sum_with_an_unknown_part_is_unknown(tmp_path):
    rows = exchanges("lamp", 2)
    del rows[1]["response"]["usage"]
    (trace,), _ = read_log(tmp_path, *rows)
    assert trace.usage == Usage(None, None, 2, None)


@settings(max_examples=40)
@given(
    turns=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    streamed=st.booleans(),
)
def test_interleaved_conversations_are_told_apart(tmp_path_factory, turns, seed, streamed):
    folder = tmp_path_factory.mktemp("log")
    names = [f"c{i}" for i in range(len(turns))]
    rows = {name: exchanges(name, count) for name, count in zip(names, turns, strict=True)}
    if streamed:
        for row in (row for group in rows.values() for row in group):
            row["response"] = stream(row["response"])
    order = [name for name, count in zip(names, turns, strict=True) for _ in range(count)]
    random.Random(seed).shuffle(order)
    remaining = {name: iter(group) for name, group in rows.items()}
    traces, rejected = read_log(folder, *(next(remaining[name]) for name in order))
    assert not rejected
    assert {trace.messages[0].content: len(trace.messages) for trace in traces} == {
        f"{name} please": 2 * count for name, count in zip(names, turns, strict=True)
    }
    assert sum(trace.usage.llm_calls or 0 for trace in traces) == sum(turns)


def test_equal_openings_do_not_swallow_each_other(tmp_path):
    """Two users say hello and are greeted alike; each goes on alone."""
    rows = [
        {"request": asked([user("Hello")]), "response": answered(says("Hi!"), id=f"r{i}")}
        for i in range(2)
    ]
    for text in ("Lamp.", "Door."):
        history = [user("Hello"), says("Hi!"), user(text)]
        rows.append({"request": asked(history), "response": answered(says("Done."))})
    traces, rejected = read_log(tmp_path, *rows)
    assert not rejected
    assert sorted(trace.messages[2].content or "" for trace in traces) == ["Door.", "Lamp."]
    assert all(len(trace.messages) == 4 for trace in traces)


def test_a_retried_request_is_another_trace(tmp_path):
    rows = [
        {"request": asked([user("Off.")]), "response": answered(says(text), id=text)}
        for text in ("One.", "Two.")
    ]
    traces, _ = read_log(tmp_path, *rows)
    assert [trace.messages[-1].content for trace in traces] == ["One.", "Two."]


def test_rows_of_different_groups_are_never_joined(tmp_path):
    rows = [row | {"user_id": i} for i, row in enumerate(exchanges("lamp", 2))]
    traces, _ = read_log(tmp_path, *rows)
    assert len(traces) == 1
    traces, rejected = read_log(tmp_path, *rows, {"request": 1, "response": 2}, group_by="user_id")
    assert [trace.group for trace in traces] == ["0", "1"]
    assert [line for line, _ in rejected] == [3]


def test_tools_and_models_of_all_rows_count(tmp_path):
    rows = exchanges("lamp", 3)
    rows[1]["request"]["tools"] = [TOOL, {"type": "function", "function": {"name": "other"}}]
    del rows[2]["request"]["tools"]
    rows[2]["response"]["model"] = "gpt-y"
    rows[2]["outcome"] = {"success": True}
    (trace,), _ = read_log(tmp_path, *rows)
    assert [tool.name for tool in trace.tools] == ["switch", "other"]
    assert trace.teacher == "gpt-x-1+gpt-y"
    assert trace.outcome == Outcome(success=True)


def test_only_so_many_conversations_stay_open(tmp_path, monkeypatch):
    lamp, door, fan = (exchanges(name, 2) for name in ("lamp", "door", "fan"))
    rows = [lamp[0], door[0], lamp[1], fan[0], door[1]]
    monkeypatch.setattr(openai_log, "OPEN_CONVERSATIONS", 2)
    traces, rejected = read_log(tmp_path, *rows)
    assert not rejected
    # The door was untouched longest when the fan came, so its second row begins anew.
    firsts = [trace.messages[0].content for trace in traces]
    assert firsts == ["door please", "lamp please", "fan please", "door please"]
    assert [trace.usage.llm_calls for trace in traces] == [1, 2, 1, 1]


def test_open_conversations_are_bounded_in_bytes(tmp_path, monkeypatch):
    rows = exchanges("lamp", 2) + exchanges("door", 2)
    monkeypatch.setattr(openai_log, "OPEN_BYTES", 1)
    traces, _ = read_log(tmp_path, rows[0], rows[2], rows[1], rows[3])
    assert [trace.usage.llm_calls for trace in traces] == [1, 1, 1, 1]
    traces, _ = read_log(tmp_path, *rows)
    assert [trace.usage.llm_calls for trace in traces] == [2, 2]


def test_servers_that_repeat_the_name_in_every_chunk(tmp_path):
    chunks = stream(RESPONSE)
    for chunk in chunks:
        for choice in chunk["choices"]:
            for part in choice["delta"].get("tool_calls", ()):
                part["function"]["name"] = "switch"
    (trace,), _ = read_log(tmp_path, {"request": REQUEST, "response": chunks})
    assert trace.messages[1].calls == (ToolCall("switch", {"on": False}),)


@pytest.mark.parametrize("index", [0, None])
@pytest.mark.parametrize("arguments", ["", OFF])
@pytest.mark.parametrize("ids", [("c1", "c2"), (None, None)])
def test_parallel_calls_that_share_an_index_stay_apart(tmp_path, index, arguments, ids):
    """Some servers send every call whole, under index 0 or none; ids or names tell them apart."""
    answer = calls("c1", arguments)
    chunks = stream(answered(answer))
    head = chunks[1]["choices"][0]["delta"]["tool_calls"][0]
    chunks = [chunks[0], *(deepcopy(chunks[1]) for _ in ids), *chunks[-2:]]
    for chunk, call_id, name in zip(chunks[1:3], ids, ("switch", "other"), strict=True):
        part = head | {"id": call_id, "function": {"name": name, "arguments": arguments}}
        chunk["choices"][0]["delta"]["tool_calls"] = [part | {"index": index}]
    (trace,), rejected = read_log(tmp_path, {"request": REQUEST, "response": chunks})
    assert not rejected
    filled = orjson.loads(arguments or "{}")
    assert trace.messages[1].calls == (ToolCall("switch", filled), ToolCall("other", filled))
    assert [call.id for call in trace.messages[1].calls] == list(ids)


def test_servers_that_make_up_an_id_for_every_chunk(tmp_path):
    chunks = stream(RESPONSE)
    parts = [
        part
        for chunk in chunks
        for choice in chunk["choices"]
        for part in choice["delta"].get("tool_calls", ())
    ]
    for i, part in enumerate(parts):
        part["id"] = f"made-up-{i}"
    (trace,), _ = read_log(tmp_path, {"request": REQUEST, "response": chunks})
    assert trace.messages[1].calls == (ToolCall("switch", {"on": False}),)


def test_parallel_calls_are_assembled_from_interleaved_chunks(tmp_path):
    answer = calls("c1")
    answer["tool_calls"].append(calls("c2", '{"on": "yes"}')["tool_calls"][0])
    role, *body, finish, usage = stream(answered(answer))
    half = len(body) // 2
    # The second call's chunks come in between, and first, each call's own still in order.
    woven = [chunk for pair in zip(body[half:], body[:half], strict=True) for chunk in pair]
    indices = [chunk["choices"][0]["delta"]["tool_calls"][0]["index"] for chunk in woven]
    assert indices == [1, 0] * half
    chunks = [role, *woven, finish, usage]
    (trace,), rejected = read_log(tmp_path, {"request": REQUEST, "response": chunks})
    assert not rejected
    assert trace.messages[1].calls == (
        ToolCall("switch", {"on": False}),
        ToolCall("switch", {"on": "yes"}),
    )


FAILED = {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}
LIMITED = "response: an error (rate_limit_exceeded)"
CUT_CALL = answered(calls("c", '{"on"'))
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "error": ({"response": {"error": FAILED}}, LIMITED),
    "error of the row": ({"response": None, "error": FAILED}, LIMITED),
    "error in a stream": ({"response": [*stream(RESPONSE)[:3], {"error": FAILED}]}, LIMITED),
    "status": ({"response": {"status_code": 500, "body": {}}}, "response: an error (status 500)"),
    "no response": ({"response": None}, "no response"),
    "no request": ({"request": None}, "no request"),
    "no choices": ({"response": {"choices": []}}, "response.choices: missing or empty"),
    "no message": (
        {"response": {"choices": [{"text": "x"}]}},
        "response.choices[0].message: missing",
    ),
    "words": ({"response": "Done."}, "response: text that is not JSON"),
    "cut stream": ({"response": stream(RESPONSE)[:-2]}, "response: a stream that ends early"),
    "empty stream": ({"response": []}, "response: chunks without choices"),
    "cut call": ({"response": CUT_CALL}, "response.message.tool_calls[0].arguments: not JSON"),
    "orphan": (
        {"request": asked([result("c0")])},
        "messages[0]: a tool result that answers no earlier call",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_that_cannot_be_used_says_why(tmp_path, fault):
    change, reason = FAULTS[fault]
    good = {"request": asked([user("On.")]), "response": answered(says("Done."))}
    bad = {"request": REQUEST, "response": RESPONSE} | change
    traces, rejected = read_log(tmp_path, good, bad, good | {"id": "other"})
    assert rejected == [(2, reason)]
    assert len(traces) == 2


def test_a_failed_call_does_not_break_its_conversation(tmp_path):
    rows = exchanges("lamp", 3)
    rows.insert(1, {"request": rows[1]["request"], "response": {"error": FAILED}})
    (trace,), rejected = read_log(tmp_path, *rows)
    assert len(trace.messages) == 6
    assert [line for line, _ in rejected] == [2]


def test_of_several_choices_the_first_is_taken_and_noted(tmp_path):
    choices = [{"index": i, "message": says(text)} for i, text in enumerate(["One.", "Two."])]
    row = {"request": REQUEST, "response": answered(says("")) | {"choices": choices}}
    (trace,), rejected = read_log(tmp_path, row)
    assert not rejected
    assert trace.messages[-1].content == "One."
    counts = import_traces(tmp_path / "log.jsonl", tmp_path / "out.jsonl")
    assert counts.notes == {"the response has several choices: the first is taken": 1}


def counts_of(folder: Path, *rows: Any, **options: Any) -> ImportCounts:
    (folder / "log.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return import_traces(folder / "log.jsonl", folder / "out.jsonl", **options)


def test_a_malformed_call_costs_only_the_row_that_answered_with_it(tmp_path):
    rows = exchanges("lamp", 4)
    rows[1]["response"] = answered(calls("lamp-1", '{"on"'), id="lamp-r1")
    for row in rows[2:]:
        row["request"]["messages"][3] = calls("lamp-1", '{"on"')
    (trace,), rejected = read_log(tmp_path, *rows)
    assert rejected == [(2, "response.message.tool_calls[0].arguments: not JSON")]
    assert trace.messages[3].calls == (ToolCall("switch", None),)
    assert trace.decisions == (1, 5, 7)
    note = "messages[].tool_calls[].arguments: not JSON, read as not filled"
    assert counts_of(tmp_path, *rows).notes == {note: 2}


def test_an_image_in_a_request_costs_no_row(tmp_path):
    parts = [{"type": "text", "text": "Off."}, {"type": "image_url", "image_url": {"url": "x"}}]
    row = {"request": asked([{"role": "user", "content": parts}]), "response": RESPONSE}
    counts = counts_of(tmp_path, row)
    assert counts.notes == {
        "messages[].content[]: 'image_url' parts are not supported, left out": 1
    }
    (trace,) = read(tmp_path / "out.jsonl")
    assert trace.messages[0].content == "Off."


def decisions(traces: list[Trace]) -> list[str | None]:
    return [trace.messages[i].content for trace in traces for i in trace.decisions or ()]


def forked() -> list[dict[str, Any]]:
    """One first turn and three answers to the second, as when a user regenerates."""
    history = [user("Off."), says("Which?"), user("The lamp.")]
    return [
        {"request": asked(history[:1]), "response": answered(says("Which?"), id="r0")},
        *(
            {"request": asked(history), "response": answered(says(text), id=text)}
            for text in ("One.", "Two.", "Three.")
        ),
    ]


def test_every_logged_answer_is_one_decision_however_often_it_is_repeated(tmp_path):
    traces, rejected = read_log(tmp_path, *forked())
    assert not rejected
    assert sorted(map(str, decisions(traces))) == ["One.", "Three.", "Two.", "Which?"]
    assert [len(trace.messages) for trace in traces] == [4, 4, 4]


def test_the_history_of_trimmed_requests_is_no_decision(tmp_path):
    rows = []
    history: list[Any] = []
    for turn in range(6):
        history = [*history, user(f"Question {turn}.")][-3:]
        answer = says(f"Answer {turn}.")
        rows.append({"request": asked(list(history)), "response": answered(answer, id=turn)})
        history.append(answer)
    traces, _ = read_log(tmp_path, *rows)
    assert sorted(map(str, decisions(traces))) == [f"Answer {turn}." for turn in range(6)]


def test_demonstrations_in_the_prompt_are_no_decisions(tmp_path):
    shots = [user("On."), calls("shot"), result("shot"), says("Shown.")]
    rows = [
        {"request": asked([*shots, user(f"{i}.")]), "response": answered(says(f"{i}!"), id=i)}
        for i in range(3)
    ]
    traces, _ = read_log(tmp_path, *rows)
    assert decisions(traces) == ["0!", "1!", "2!"]


def test_pieces_that_nothing_ties_together_are_noted_with_the_cure(tmp_path):
    (note,) = counts_of(tmp_path, *forked()).notes.items()
    assert note == (openai_log._UNTIED, 2)
    assert "--group-by" in note[0]
    told: list[str] = []
    list(read(tmp_path / "log.jsonl", on_note=told.append))
    assert told == [note[0]] * 2
    rows = [row | {"session": "s"} for row in forked()]
    counts = counts_of(tmp_path, *rows, group_by="session")
    assert counts.notes == {openai_log._UNRECORDED: 2}
    assert {trace.group for trace in read(tmp_path / "out.jsonl")} == {"s"}
    assert not counts_of(tmp_path, *exchanges("lamp", 4)).notes


def test_a_log_concatenated_with_itself_gives_each_decision_once(tmp_path):
    rows = [*exchanges("lamp", 3), *forked(), {"input": [user("On.")], "output": says("Yes.")}]
    once, _ = read_log(tmp_path, *rows)
    twice, rejected = read_log(tmp_path, *rows, *rows)
    assert twice == once
    assert rejected == [
        (len(rows) + i, f"the same as line {i}, counted once") for i in range(1, len(rows) + 1)
    ]


def test_a_conversation_without_an_id_has_one_made_of_its_content(tmp_path):
    rows = [{"input": [user(text)], "output": says("Yes.")} for text in ("On.", "Off.")]
    (first, second), _ = read_log(tmp_path, *rows)
    assert first.id != second.id
    traces, _ = read_log(tmp_path, {"input": [user("New.")], "output": says("Yes.")}, *rows)
    assert [(t.id, t.group) for t in traces[1:]] == [(t.id, t.id) for t in (first, second)]


def test_numbers_beyond_64_bits_in_the_usage_are_not_known(tmp_path):
    rows = exchanges("lamp", 2)
    for row in rows:
        row["response"]["usage"] = {"prompt_tokens": 2**63, "completion_tokens": 2**53}
        row["latency_ms"] = 2**64 - 1
    counts_of(tmp_path, *rows)
    (trace,) = read(tmp_path / "out.jsonl")
    assert trace.usage == Usage(None, None, 2, None)


def test_a_verdict_that_is_not_understood_rejects_the_row(tmp_path):
    good, bad = ({"request": REQUEST, "response": RESPONSE, "id": i} for i in range(2))
    _, rejected = read_log(tmp_path, good, bad | {"outcome": "failed"})
    assert rejected == [(2, "outcome: neither true nor false")]


def test_keys_on_which_the_rows_of_a_conversation_agree_survive_an_import(tmp_path):
    rows = exchanges("lamp", 3)
    for i, row in enumerate(rows):
        row |= {"session": "s1", "toolset": "all", "number": i, "error": None, "decisions": "x"}
    rows[1]["once"] = True
    counts_of(tmp_path, *rows)
    value = orjson.loads((tmp_path / "out.jsonl").read_bytes())
    assert {"session": "s1", "toolset": "all"}.items() <= value.items()
    assert not value.keys() & {"number", "once", "error", "request", "response"}
    assert value["decisions"] == [1, 3, 5]
    (trace,) = read(tmp_path / "out.jsonl", where={"toolset": "all"}, group_by="session")
    assert (trace.id, trace.group) == ("lamp-r0", "s1")


def test_an_imported_log_reads_back_as_the_same_traces(tmp_path):
    traces, _ = read_log(tmp_path, *exchanges("lamp", 3), *exchanges("door", 1))
    counts = import_traces(tmp_path / "log.jsonl", tmp_path / "out.jsonl.zst")
    assert (counts.lines, counts.traces) == (4, 2)
    assert list(read(tmp_path / "out.jsonl.zst")) == traces
