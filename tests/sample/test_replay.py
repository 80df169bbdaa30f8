"""Scripts: what the format refuses, what replaying makes, and the packaged conversations."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill.sample.desk import TOOLS
from distill.sample.replay import (
    Conversation,
    ReplayError,
    composition,
    lint,
    load_conversations,
    replay,
    run,
    traces,
)

CONVERSATIONS = load_conversations()

PARALLEL = """
- id: two
  user: "1127 and 1132?"
  turns:
    - calls: [{track_shipment: {order_id: 1127}}, {track_shipment: {order_id: 1132}}]
    - reply: "Here."
    - user: "note on 1132: 2025-03-17 is fine"
    - call: {add_note: {order_id: 1132, text: 2025-03-17}}
    - reply: "Done."
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def only(folder: Path, text: str) -> Conversation:
    (conversation,) = load_conversations([written(folder, text)])
    return conversation


def test_messages_calls_and_results(tmp_path: Path) -> None:
    trace, changes = run(only(tmp_path, PARALLEL))
    roles = [message.role for message in trace.messages]
    assert roles == [
        *("system", "user", "assistant", "tool", "tool", "assistant"),
        *("user", "assistant", "tool", "assistant"),
    ]
    assert [chosen.id for chosen in trace.messages[2].calls] == ["call_1", "call_2"]
    assert [(m.call_id, m.name) for m in trace.messages if m.role == "tool"] == [
        ("call_1", "track_shipment"),
        ("call_2", "track_shipment"),
        ("call_3", "add_note"),
    ]
    assert json.loads(trace.messages[3].content or "")["state"] == "at pickup point"
    assert (trace.id, trace.group, trace.source) == ("orderdesk/two", "two", "orderdesk")
    assert trace.outcome.success is True
    assert trace.tools == TOOLS
    assert changes == {"notes.N-701": {"note_id": "N-701", "order_id": 1132, "text": "2025-03-17"}}


def test_other_changes_than_expected_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"two: expected changes \{\}.*notes\.N-701"):
        replay(only(tmp_path, PARALLEL))
    with pytest.raises(ReplayError, match="two: expected"):
        replay(only(tmp_path, PARALLEL + "  changes: {notes.N-701.text: other}\n"))


def script(turns: str, more: str = "") -> str:
    return f"- id: one\n  user: hi\n  turns: [{turns}]\n{more}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id: one", "not a list"),
        ("- [unclosed", "some.yaml"),
        (script("{reply: a, user: b}"), "one: turns.0: .*exactly one"),
        (script("{reply: a}, {reply: b}"), "turn 2: .*take turns"),
        (script("{user: a}, {reply: b}"), "turn 1: .*take turns"),
        (script("{reply: a}, {user: b}"), "last turn"),
        (script("{call: {get_order: {order_id: 1}}}"), "last turn"),
        (script("{reply: a, depends: true}"), "nothing was returned"),
        (script("{calls: [{get_order: {order_id: 1}}]}, {reply: a}"), "calls"),
        (script("{reply: a}", "  mood: bad\n"), "one: mood"),
        (script("{reply: a}") + script("{reply: a}"), "already used"),
    ],
)
def test_malformed_scripts_name_file_id_and_fault(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ReplayError, match=why) as caught:
        load_conversations([written(tmp_path, text)])
    assert "some.yaml" in str(caught.value)


def test_a_call_that_does_not_fit_its_tool_is_an_error(tmp_path: Path) -> None:
    conversation = only(tmp_path, script("{call: {get_order: {order_id: '7'}}}, {reply: a}"))
    with pytest.raises(ReplayError, match="one: get_order: order_id: "):
        replay(conversation)


def test_lint_sees_invented_numbers_and_forgotten_marks(tmp_path: Path) -> None:
    text = script(
        "{call: {get_order: {order_id: 1163}}}, {call: {get_customer: {customer_id: C-115}}},"
        " {reply: a}"
    )
    conversation = only(tmp_path, text)
    doubts = lint(conversation, run(conversation)[0])
    assert len(doubts) == 2
    assert "order_id 1163 was never mentioned" in doubts[0]
    assert "depends: true is missing" in doubts[1]


def test_the_command_shows_fixes_and_counts(tmp_path: Path) -> None:
    path = written(tmp_path, PARALLEL)

    def command(*options: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "distill.sample.replay", str(path), *options]
        return subprocess.run(line, capture_output=True, text=True, encoding="utf-8", check=False)

    shown = command()
    assert shown.returncode == 1
    assert "MISMATCH" in shown.stdout
    assert command("--fix").returncode == 0
    assert path.read_text(encoding="utf-8").startswith(PARALLEL.rstrip("\n"))
    assert "decision_points: 4" in command("--id", "two").stdout
    replay(load_conversations([path])[0])


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.id)
def test_packaged_conversation(conversation: Conversation) -> None:
    trace = replay(conversation)
    assert lint(conversation, trace) == []


def test_traces_are_all_conversations() -> None:
    ids = [trace.id for trace in traces()]
    assert ids == [f"orderdesk/{conversation.id}" for conversation in CONVERSATIONS]


def test_no_two_conversations_begin_alike() -> None:
    openings = [conversation.user.strip().lower() for conversation in CONVERSATIONS]
    assert len(set(openings)) == len(openings)


def test_shares_of_decisions() -> None:
    counts = composition(CONVERSATIONS)
    assert counts["replies"] >= 0.25
    assert counts["parallel"] >= 0.15
    assert counts["depends"] >= 0.30
    assert all(counts["tools"].values())


def test_size() -> None:
    counts = composition(CONVERSATIONS)
    assert counts["conversations"] >= 300
    assert counts["decision_points"] >= 800
