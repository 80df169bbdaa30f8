"""Decision points: where in a trace the teacher decided, and what.

One decision point per **assistant turn**. A turn is a run of consecutive assistant messages: a
server is only ever asked after a user, system or tool message, so words followed by a second
message with calls are one answer, and the calls of the whole run are the label. Of a trace that
states which messages were recorded as the teacher's answers (`Trace.decisions`), only those speak;
the others are context.

Three turns are no decision points: one without a recorded message, one before any user message
(nothing was asked yet) and one with neither words nor calls (nothing was decided; but in a router's
own tries it is a reply, for which a router has no words). `skipped_turns` counts them.

This module knows nothing of files, schemas or which decisions are good.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

import orjson

from distill.chat import call_keys, canonical
from distill.types import Context, Decision, Example, Message, ToolCall, ToolSpec, Trace

Run = tuple[Message, ...]

TRIES = "distill simulate"
"""The source of traces in which a router decided, and nobody worded its replies."""


def decision_points(trace: Trace) -> Iterator[Example]:
    """Every decision of the trace, in order, as examples named `<trace id>#<n>` from n = 0."""
    for number, (start, said) in enumerate(_decisions(trace)):
        calls = tuple(call for message in said for call in message.calls)
        yield Example(
            id=f"{trace.id}#{number}",
            trace_id=trace.id,
            group=trace.group,
            context=Context(trace.messages[:start], trace.tools),
            label=Decision("call" if calls else "reply", calls),
        )


def final_reply(trace: Trace) -> tuple[Context, str] | None:
    """The words of the trace's last decision and what was before them; None without any."""
    decisions = list(_decisions(trace))
    if not decisions or any(message.calls for message in decisions[-1][1]):
        return None
    start, said = decisions[-1]
    words = "\n".join(message.content for message in said if message.content)
    return (Context(trace.messages[:start], trace.tools), words) if words else None


def skipped_turns(trace: Trace) -> Counter[str]:
    """The assistant turns that are no decision points, counted by reason."""
    asked = first_user(trace.messages)
    faults = (_fault(trace, start, said, asked) for start, said in _recorded_turns(trace))
    return Counter(fault for fault in faults if fault is not None)


def first_user(messages: tuple[Message, ...]) -> int:
    """Index of the first user message; `len(messages)` when there is none."""
    found = (i for i, message in enumerate(messages) if message.role == "user")
    return next(found, len(messages))


def step(context: Context) -> int:
    """Assistant turns before this decision."""
    return sum(1 for _ in _turns(context.messages))


def _turns(messages: tuple[Message, ...]) -> Iterator[tuple[int, Run]]:
    """Each run of consecutive assistant messages with the index of its first."""
    by_assistant = groupby(enumerate(messages), key=lambda item: item[1].role == "assistant")
    for is_assistant, items in by_assistant:
        if is_assistant:
            run = list(items)
            yield run[0][0], tuple(message for _, message in run)


def _recorded_turns(trace: Trace) -> Iterator[tuple[int, Run]]:
    """Each run's position with those of its messages that are the teacher's recorded decisions."""
    recorded = None if trace.decisions is None else frozenset(trace.decisions)
    for start, run in _turns(trace.messages):
        said = (m for i, m in enumerate(run, start) if recorded is None or i in recorded)
        yield start, tuple(said)


def _decisions(trace: Trace) -> Iterator[tuple[int, Run]]:
    """The turns that are decision points."""
    asked = first_user(trace.messages)
    for start, said in _recorded_turns(trace):
        if _fault(trace, start, said, asked) is None:
            yield start, said


def _fault(trace: Trace, start: int, said: Run, asked: int) -> str | None:
    if not said:
        return "not a recorded decision"
    if start < asked:
        return "no user message yet"
    spoken = any(message.calls or (message.content or "").strip() for message in said)
    if not spoken and trace.source != TRIES:
        return "empty assistant turn"
    return None


def message_key(message: Message) -> bytes:
    """What two equal messages share: role, text, calls. Ids and tool-result names never count."""
    calls = [[call.name, call.arguments] for call in message.calls]
    value = canonical([message.role, message.content or "", calls])
    return hashlib.sha256(value).digest()


def tools_key(tools: tuple[ToolSpec, ...]) -> bytes:
    """The offered tools by name, in any order: rewording a description asks the same question."""
    return hashlib.sha256(orjson.dumps(sorted(tool.name for tool in tools))).digest()


def context_key(context: Context) -> bytes:
    """SHA-256 that is equal for contexts that ask the same.

    System messages do not count: they carry clocks and device states (Home Assistant's do both)
    that differ between any two requests, and routers do not read them by default.
    """
    messages = [message_key(m) for m in context.messages if m.role != "system"]
    return join_keys(tools_key(context.tools), messages)


def join_keys(tools: bytes, messages: list[bytes]) -> bytes:
    """`context_key` from the keys of its parts, so that a trace hashes each message once."""
    return hashlib.sha256(tools + b"".join(messages)).digest()


def label_key(label: Decision) -> bytes:
    """SHA-256 that is equal for decisions with the same calls and arguments, in any order."""
    return hashlib.sha256(b"\n".join(call_keys(label))).digest()


def n_arguments(calls: tuple[ToolCall, ...]) -> int:
    """Arguments over all calls together."""
    return sum(len(call.arguments or {}) for call in calls)
