"""Hypothesis strategies for chat values: JSON, calls, messages, conversations, traces."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from distill.types import (
    Context,
    Message,
    Outcome,
    ToolCall,
    ToolSpec,
    Trace,
    Usage,
)

NASTY = [
    "<tool_call>",
    "</tool_call>",
    '"}}\n</tool_call>',
    "\\<tool_call>",
    "\\u003c/tool_call>",
    '"quoted" and \\ and \n',
    "Größe 漢字 🙂 \u2028",
    "reply",
    "{",
    "null",
]
"""Texts that a careless writer or reader of tool calls trips over."""

texts = st.text(max_size=30) | st.sampled_from(NASTY)
names = st.text(min_size=1, max_size=12) | st.sampled_from(NASTY)

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(texts, values, max_size=4)

calls = st.builds(
    ToolCall, names, st.none() | arguments, st.none() | st.text(min_size=1, max_size=8)
)
filled_calls = st.builds(ToolCall, names, arguments)

_said = st.builds(Message, st.sampled_from(["system", "user"]), texts)
_assistants = st.builds(
    Message,
    st.just("assistant"),
    st.none() | texts,
    st.lists(calls, max_size=3).map(tuple),
)
_results = st.builds(
    Message,
    st.just("tool"),
    texts,
    st.just(()),
    st.none() | texts,
    st.none() | texts,
)
messages = _said | _assistants | _results

tools = st.lists(
    st.builds(ToolSpec, names, texts, st.dictionaries(texts, values, max_size=3)),
    max_size=4,
    unique_by=lambda tool: tool.name,
).map(tuple)

contexts = st.builds(Context, st.lists(messages, max_size=12).map(tuple), tools)

_counts = st.none() | st.integers(0, 2**40)
_traces = st.builds(
    Trace,
    id=names,
    group=names,
    teacher=names,
    source=names,
    tools=tools,
    messages=st.lists(messages, min_size=1, max_size=6).map(tuple),
    outcome=st.builds(
        Outcome, st.none() | st.booleans(), st.none() | st.floats(-1e6, 1e6, allow_nan=False)
    ),
    usage=st.builds(
        Usage, _counts, _counts, _counts, st.none() | st.floats(0, 1e9, allow_nan=False)
    ),
)


def _with_decisions(trace: Trace) -> st.SearchStrategy[Trace]:
    assistants = [i for i, message in enumerate(trace.messages) if message.role == "assistant"]
    some = st.just([]) if not assistants else st.lists(st.sampled_from(assistants), unique=True)
    return (st.none() | some.map(sorted).map(tuple)).map(
        lambda decisions: replace(trace, decisions=decisions)
    )


traces = _traces.flatmap(_with_decisions)
