"""A gateway's records become traces: the LLM's answers teach, the router's are context."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_values import answer, ask, record, result, says, switches, user

from distill.config import StoreConfig
from distill.dataset.points import decision_points
from distill.dataset.source import describe, is_unchanged
from distill.errors import ConfigError, TraceError
from distill.store import TOOLS_LEFT_OUT, Record, Store
from distill.traces import ImportCounts, import_traces, read
from distill.types import Message, ToolCall, Trace, Usage

LOCAL = "answered by the router: context only"


def keep(folder: Path, records: Sequence[Record]) -> str:
    """Put records into a file of the folder; what it is called."""
    store = Store(StoreConfig(url=f"sqlite:///{folder}/gateway.db"))

    async def all_at_once() -> None:
        await asyncio.gather(*map(store.put, records))

    asyncio.run(all_at_once())
    store.close()
    return f"gateway://{folder}/gateway.db"


def read_all(source: str, **options: Any) -> tuple[list[Trace], list[tuple[int, str]]]:
    rejected: list[tuple[int, str]] = []
    traces = read(source, on_reject=lambda line, why: rejected.append((line, why)), **options)
    return list(traces), rejected


def conversation(session: str, answered_by: str, first: int = 0) -> list[Record]:
    """A conversation of as many turns as letters: `l`, answered locally, or `u`, upstream.

    All turns but the last call the tool; each request repeats what was before it.
    """
    history = [user(f"Hello from {session}.")]
    records = []
    for turn, who in enumerate(answered_by):
        call_id = f"{session}-{turn}"
        last = turn == len(answered_by) - 1
        said = says("Done.") if last else switches(call_id, turn=turn)
        local = {"decided_by": "local", "upstream_ms": None, "mode": "on", "usage": Usage()}
        records.append(
            record(
                first + turn,
                session=session,
                request=ask(*history),
                response=answer(said),
                **(local if who == "l" else {}),
            )
        )
        history += [said, result(call_id)]
    return records


def taught(traces: Sequence[Trace]) -> list[tuple[str, int]]:
    """Which answers are decisions: group and turn."""
    return sorted(
        (trace.group, position // 2) for trace in traces for position in trace.decisions or ()
    )


def test_a_conversation_of_the_llm_alone_is_one_trace(tmp_path):
    (trace,), rejected = read_all(keep(tmp_path, conversation("s1", "uuu")))
    assert not rejected
    assert trace.decisions == (1, 3, 5)
    assert (trace.group, trace.teacher) == ("s1", "large-1")
    assert (trace.id, trace.source) == (record(0).id, f"gateway:{record(0).id}")
    assert trace.usage == Usage(300, 30, 3, 1500.0)
    assert trace.messages[1] == Message(
        "assistant", None, (ToolCall("switch", {"turn": 0}, "s1-0"),)
    )


def test_what_the_router_answered_is_context_and_never_a_label(tmp_path):
    (trace,), rejected = read_all(keep(tmp_path, conversation("s1", "ululu")))
    assert rejected == [(2, LOCAL), (4, LOCAL)]
    assert len(trace.messages) == 10
    assert trace.messages[3].calls == (ToolCall("switch", {"turn": 1}, "s1-1"),)
    assert trace.decisions == (1, 5, 9)
    assert [len(example.context.messages) for example in decision_points(trace)] == [1, 5, 9]


def test_a_conversation_that_begins_and_ends_locally(tmp_path):
    (trace,), rejected = read_all(keep(tmp_path, conversation("s1", "lul")))
    assert [line for line, _ in rejected] == [1, 3]
    assert trace.decisions == (3,)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(TraceError, match=r"no usable line among 2 \(mostly, 2 times: answered by"):
        import_traces(keep(other, conversation("s2", "ll")), tmp_path / "out.jsonl")


@settings(max_examples=25)
@given(
    answered_by=st.lists(st.text("lu", min_size=1, max_size=5), min_size=1, max_size=4),
    data=st.data(),
)
def test_every_answer_of_the_llm_is_one_decision(tmp_path_factory, answered_by, data):
    """However conversations interleave, and whoever answered between."""
    conversations = {f"s{i}": by for i, by in enumerate(answered_by)}
    turns = [session for session, by in conversations.items() for _ in by]
    order = data.draw(st.permutations(turns))
    waiting = {session: iter(conversation(session, by)) for session, by in conversations.items()}
    records = []
    for minute, session in enumerate(order):
        item = next(waiting[session])
        at = record(minute)
        records.append(record(**vars(item) | {"id": at.id, "at": at.at}))
    traces, rejected = read_all(keep(tmp_path_factory.mktemp("store"), records))
    assert taught(traces) == sorted(
        (session, turn)
        for session, by in conversations.items()
        for turn, who in enumerate(by)
        if who == "u"
    )
    assert len(rejected) == sum(by.count("l") for by in answered_by)
    assert len({trace.id for trace in traces}) == len(traces)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "rejected": ({"accepted": False}, "rejected by a person"),
    "local": ({"decided_by": "local", "accepted": True}, LOCAL),
    "no tools": ({"reason": TOOLS_LEFT_OUT}, "asked for without tools: no free decision"),
    "status": ({"status": 429, "response": {"error": {"code": "slow"}}}, "status 429"),
    "cut": ({"error": "upstream cut off"}, "an error: upstream cut off"),
    "not whole": (
        {"response": {"choices": [{"message": says("On"), "finish_reason": None}]}},
        "an answer that ends early",
    ),
    "no answer": ({"response": None}, "no response"),
    "no request": ({"request": None}, "no request"),
    "an error with 200": ({"response": {"error": {"code": "slow"}}}, "response: an error (slow)"),
    "half a character": (
        {"request": ask(user("\ud800"))},
        "an unpaired surrogate in a string",
    ),
    "a huge number": (
        {"request": ask(user("Hi.")) | {"seed": 10**30}},
        "the line: a whole number beyond 64 bits",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_record_that_is_no_decision_of_the_teacher_says_why(tmp_path, fault):
    changes, reason = FAULTS[fault]
    items = [record(0, session="a"), record(1, session="b", **changes), record(2, session="c")]
    traces, rejected = read_all(keep(tmp_path, items))
    assert rejected == [(2, reason)]
    assert [trace.group for trace in traces] == ["a", "c"]


def test_a_rejected_answer_stays_context_of_what_came_after(tmp_path):
    items = conversation("s", "uuu")
    items[1] = record(**vars(items[1]) | {"accepted": False})
    (trace,), rejected = read_all(keep(tmp_path, items))
    assert rejected == [(2, "rejected by a person")]
    assert trace.decisions == (1, 5)


def test_accepted_records_can_be_taken_alone(tmp_path):
    items = [record(i, session=f"s{i}", accepted=[None, True, False, None][i]) for i in range(4)]
    source = keep(tmp_path, items)
    assert [trace.group for trace in read_all(source)[0]] == ["s0", "s1", "s3"]
    traces, rejected = read_all(source, where={"accepted": "true"})
    assert [trace.group for trace in traces] == ["s1"]
    assert not rejected
    assert traces[0].outcome.success is None


def test_import_counts_records_and_writes_a_trace_file(tmp_path):
    items = [*conversation("s1", "ulu"), *conversation("s2", "ul", first=10)]
    source = keep(tmp_path, items)
    out = tmp_path / "traces.jsonl.gz"
    told: list[tuple[int, int]] = []
    counts = import_traces(source, out, progress=lambda done, size: told.append((done, size)))
    assert counts == ImportCounts(5, 2, 0, 2, {LOCAL: 2}, {})
    assert told[-1] == (5, 5)
    rejected = (tmp_path / "traces.jsonl.gz.rejected.jsonl").read_bytes().splitlines()
    assert orjson.loads(rejected[0]) == {"line": 2, "reason": LOCAL}
    assert list(read(out)) == read_all(source)[0]
    assert [trace.group for trace in read(out)] == ["s1", "s2"]
    assert [trace.group for trace in read(out, group_by="client")] == ["shop", "shop"]


def test_another_group_may_be_asked_for(tmp_path):
    items = [record(0, client="a"), record(1, client="b"), record(2, client=None)]
    traces, rejected = read_all(keep(tmp_path, items), group_by="client")
    assert [trace.group for trace in traces] == ["a", "b"]
    assert rejected == [(3, "client: missing, and traces are grouped by it")]
    traces, _ = read_all(keep(tmp_path, items), where={"client": "b"})
    assert [trace.source for trace in traces] == [f"gateway:{record(1).id}"]


def test_records_too_long_for_a_line_are_rejected(tmp_path):
    source = keep(tmp_path, [record(0), record(1, request=ask(user("x" * 5000)))])
    traces, rejected = read_all(source, max_line_bytes=4000)
    assert len(traces) == 1
    assert rejected == [(2, "the line is too long")]


def test_the_records_of_a_running_gateway_can_be_read(tmp_path, postgres, monkeypatch):
    for address in (f"sqlite:///{tmp_path}/gateway.db", postgres.new_database()):
        monkeypatch.setenv("STORE", address)
        store = Store(StoreConfig(url_env="STORE"))
        asyncio.run(store.put(record(0)))
        (trace,), _ = read_all("gateway://env:STORE")
        asyncio.run(store.put(record(1)))
        assert trace.id == record(0).id
        store.close()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("gateway://", "not followed by a file's path"),
        ("gateway://postgresql://ann:secret@host/db", "not followed by a file's path"),
        ("gateway://none.db", "none.db: no such file"),
        ("gateway://env:NOT_SET_HERE", "NOT_SET_HERE: not set"),
    ],
)
def test_a_source_that_is_none_is_a_fault(source, fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TraceError, ConfigError), match=fault) as caught:
        read_all(source)
    assert "secret" not in str(caught.value)
    with pytest.raises(TraceError, match="no traces"):
        read_all(source, format="traces")
    assert not list(tmp_path.iterdir())


def test_a_database_that_fails_on_the_way_is_a_fault(tmp_path):
    source = keep(tmp_path, [record(i, session=f"s{i}") for i in range(100)])
    with sqlite3.connect(tmp_path / "gateway.db") as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
        database.execute("PRAGMA journal_mode = DELETE")
    database.close()
    with (tmp_path / "gateway.db").open("r+b") as file:
        file.seek(pages // 2 * size)
        file.write(b"\xff" * size * (pages // 2))
    with pytest.raises(TraceError, match="malformed"):
        read_all(source)


def test_a_dataset_names_no_path_and_outlives_new_records(tmp_path):
    source = keep(tmp_path, [record(0)])
    recorded = describe(source, 1000)
    assert recorded == {"name": "gateway://gateway.db", "sha256": None, "catalogues": {}}
    keep(tmp_path, [record(1)])
    assert is_unchanged(recorded, source)
