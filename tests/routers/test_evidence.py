"""Evidence: what a value may be copied from is kept, within its limit, as it stands."""

from hypothesis import given
from hypothesis import strategies as st

from distill.routers.evidence import evidence
from distill.types import Context, Message, ToolCall

HOME = "You control a house.\n\nDevices:\n" + "\n".join(
    f"- name: {room} {thing}\n  kind: {thing.lower()}"
    for room in ("Attic", "Cellar", "Kitchen", "Study", "Nursery", "Garage")
    for thing in ("Lamp", "Blind", "Heater", "Camera")
)


def count(texts):
    return [len(text.split()) for text in texts]


def read(*messages: Message, tool: str = "turn_on", limit: int = 60) -> str:
    return evidence(Context(messages, ()), tool, count, limit)


def test_the_requested_device_is_found_in_a_long_system_prompt():
    found = read(Message("system", HOME), Message("user", "Switch the lamps in the study on"))
    assert found.startswith("user: Switch the lamps in the study on\n")
    assert "- name: Study Lamp\n  kind: lamp\n" in found
    assert "Garage Camera" not in found


def test_the_tools_name_is_part_of_the_request():
    found = read(Message("system", HOME), Message("user", "do it"), tool="start_camera", limit=40)
    assert found.count("Camera") >= 3


def test_the_latest_result_and_past_calls_can_be_copied_from():
    call = ToolCall("find", {"name": "Mills"}, "c")
    found = read(
        Message("user", "mail her"),
        Message("assistant", None, (call,)),
        Message("tool", '[{"id": 1, "mail": "mills@shop.example"}, {"id": 2}]', call_id="c"),
    )
    assert found.splitlines() == [
        'result: [{"id": 1, "mail": "mills@shop.example"}',
        '{"id": 2}]',
        'assistant: find {"name":"Mills"}',
        "user: mail her",
    ]


def test_nothing_said_is_no_evidence():
    assert read() == ""
    assert read(Message("assistant", None)) == ""


messages = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        st.text(max_size=600) | st.none(),
    ),
    max_size=6,
)


@given(messages, st.integers(0, 80))
def test_evidence_keeps_to_its_limit_and_is_made_of_slices(said: list[Message], limit: int):
    found = read(*said, limit=limit)
    assert len(found.split()) <= limit
    texts = "\n".join(message.content or "" for message in said)
    for line in found.split("\n"):
        assert line in texts or line.partition(": ")[2] in texts


def test_a_long_conversation_is_counted_in_part_and_keeps_its_system_prompt():
    counted: list[int] = []

    def counting(texts):
        counted.append(len(texts))
        return count(texts)

    said = [Message("user", "word " * 2000) for _ in range(100)]
    context = Context((Message("system", HOME), *said, Message("user", "study lamp")), ())
    assert "Study Lamp" in evidence(context, "tool", counting, 50)
    assert sum(counted) < 200
