"""Scripts: what the format refuses, what replaying makes, and the packaged conversations."""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from distill.sample import tools
from distill.sample.desk import TOOLS
from distill.sample.replay import CONVERSATIONS as FOLDER
from distill.sample.replay import (
    Conversation,
    ReplayError,
    composition,
    groups,
    lint,
    load_conversations,
    main,
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


@pytest.mark.parametrize(
    ("content", "options", "why"),
    [
        (None, (), "some.yaml: No such file"),
        (b"- id: \xff", (), "some.yaml: not UTF-8"),
        (b"- [unclosed", (), "some.yaml: while parsing"),
        (None, ("--fix",), "some.yaml: No such file"),
    ],
)
def test_the_command_says_in_one_line_what_it_cannot_read(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    options: tuple[str, ...],
    why: str,
) -> None:
    path = tmp_path / "some.yaml"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR ")
    assert why in line


def test_the_command_refuses_an_id_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(written(tmp_path, PARALLEL)), "--id", "three"])
    assert "--id three: no such conversation" in capsys.readouterr().err


LATE = "{call: {refund: {order_id: 1120, amount: %s, reason: late}}}, {reply: %s}"
SEEN = "{call: {get_order: {order_id: 1120}}}"
CARE = "{call: {search_help: {query: %s}}}, {reply: a}"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (f"{SEEN}, {LATE % (10, 'a')}", f"{SEEN}, {LATE % (10.0, 'b')}", True),
        (
            f"{SEEN}, {LATE % (10, 'a')}",
            f"{LATE % (10, 'b')}, {{user: c}}, {SEEN}, {{reply: d}}",
            True,
        ),
        (f"{SEEN}, {LATE % (10, 'a')}", f"{SEEN}, {LATE % (5, 'a')}", False),
        (f"{SEEN}, {LATE % (10, 'a')}", LATE % (10, "a"), False),
        (
            "{call: {add_note: {order_id: 1157, text: ring twice}}}, {reply: a}",
            "{call: {add_note: {order_id: 1157, text: knock}}}, {reply: a}",
            True,
        ),
        (
            "{call: {find_customer: {phone: 040 628 04 48}}}, {reply: a}",
            "{call: {find_customer: {phone: 040-628 04 48}}}, {reply: a}",
            True,
        ),
        (CARE % "rust", CARE % "warranty", False),
        (CARE % "rust", CARE % "Rust", True),
        ("{reply: a}", "{reply: a}", False),
    ],
)
def test_scripts_that_make_the_same_calls_are_one_group(
    tmp_path: Path, one: str, other: str, same: bool
) -> None:
    text = script(one) + script(other).replace("id: one", "id: other")
    found = groups(load_conversations([written(tmp_path, text)]))
    assert found == {"one": "one", "other": "one" if same else "other"}


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.id)
def test_packaged_conversation(conversation: Conversation) -> None:
    trace = replay(conversation)
    assert lint(conversation, trace) == []


def test_traces_are_all_conversations() -> None:
    made = list(traces())
    assert [trace.id for trace in made] == [f"orderdesk/{one.id}" for one in CONVERSATIONS]
    assert {trace.id.removeprefix("orderdesk/"): trace.group for trace in made} == groups(
        CONVERSATIONS
    )


def test_hardly_any_two_conversations_are_the_same_case() -> None:
    sizes = Counter(groups(CONVERSATIONS).values())
    assert max(sizes.values()) == 2
    assert sum(size > 1 for size in sizes.values()) <= 3


def test_no_two_conversations_begin_alike() -> None:
    openings = [conversation.user.strip().lower() for conversation in CONVERSATIONS]
    assert len(set(openings)) == len(openings)


def test_shares_of_decisions() -> None:
    counts = composition(CONVERSATIONS)
    assert counts["replies"] >= 0.25
    assert counts["parallel"] >= 0.15
    assert counts["depends"] >= 0.30
    assert all(counts["tools"].values())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_file_has_the_shares_that_the_readme_states(path: Path) -> None:
    text = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    stated = re.search(
        r"In each file at least (\d+) % replies, (\d+) % parallel calls and (\d+) % depending", text
    )
    assert stated
    counts = composition(load_conversations([path]))
    for share, kind in zip(stated.groups(), ("replies", "parallel", "depends"), strict=True):
        assert counts[kind] >= int(share) / 100, kind


CARELESS = {
    "give an email, a phone or a name",
    "street, city and postcode must not be empty",
    "the amount must be above 0",
    "the subject must not be empty",
    "the note must not be empty",
    "give an email or a phone",
}
"""Refusals of calls that the assistant should not make, whatever the customer wants."""


def refusals() -> set[str]:
    """Every refusal that stands in the tools' source, as a pattern."""
    texts: list[ast.expr] = []
    for node in ast.walk(ast.parse(Path(tools.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_error":
            texts += node.args
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "rules":
            assert isinstance(node.value, ast.Tuple)
            texts += [rule.elts[1] for rule in node.value.elts if isinstance(rule, ast.Tuple)]
    return {_pattern(text) for text in texts if not isinstance(text, ast.Name)}


def _pattern(text: ast.expr) -> str:
    if isinstance(text, ast.JoinedStr):
        return "".join(map(_pattern, text.values))
    return re.escape(str(text.value)) if isinstance(text, ast.Constant) else ".+"


def test_every_refusal_occurs_but_those_of_careless_calls() -> None:
    results = [
        json.loads(message.content or "")
        for trace in traces()
        for message in trace.messages
        if message.role == "tool"
    ]
    met = {result["error"] for result in results if "error" in result}
    known = refusals()
    assert len(known) > len(CARELESS) + 20
    never = {text for text in known if not any(re.fullmatch(text, error) for error in met)}
    assert never == {re.escape(text) for text in CARELESS}


def test_size() -> None:
    counts = composition(CONVERSATIONS)
    assert counts["conversations"] >= 300
    assert counts["decision_points"] >= 800
