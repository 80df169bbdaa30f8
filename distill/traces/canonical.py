"""The project's own trace format: one JSON object a line, OpenAI chat style.

    tools, messages                                       required (`tools` may be empty)
    id, task_id, group, model, outcome, usage, source     optional
    tools_ref                                             a catalogue file's bare name
    decisions                                             optional, see `Trace.decisions`
    anything else                                         kept, for `where` and `group_by`

`tools_ref` stands for an empty `tools`: many rows then share one catalogue that lies beside the
trace file. A trace's id is `id` or else made of the row's content, so that neither it nor the group
that it stands for depends on the rows around. Files and their lines are not known here.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from distill.chat import parse_decisions, parse_messages, parse_outcome, parse_usage
from distill.errors import TraceError
from distill.traces.catalogues import Catalogues
from distill.traces.repeats import Repeats
from distill.traces.rows import Found, LineTally, Row, check_messages, group_key, key_text
from distill.types import Trace

_OWN_KEYS = {
    "id", "group", "model", "source", "tools", "tools_ref", "messages", "outcome", "usage",
    "decisions",
}  # fmt: skip


def read_traces(
    rows: Iterable[Row],
    *,
    name: str,
    catalogues: Catalogues,
    group_by: str | None,
    tally: LineTally,
) -> Iterator[Found]:
    """Turn each row into a trace; `name` is the file's, for traces that state no source.

    Raises:
        TraceError: a row names a catalogue file that cannot be used.
    """
    with closing(Repeats()) as repeats:
        for row in rows:
            try:
                yield _found(row, name, catalogues, group_by, repeats)
            except TraceError:
                raise
            except ValueError as error:
                tally.reject(row.line, str(error))


def _found(
    row: Row, name: str, catalogues: Catalogues, group_by: str | None, repeats: Repeats
) -> Found:
    value = row.value
    shared = value.get("tools_ref") is not None
    if shared and value.get("tools"):
        raise ValueError("tools_ref: beside a tools list that is not empty")
    messages = parse_messages(value.get("messages"))
    check_messages(messages)
    tools = catalogues.named(value["tools_ref"]) if shared else catalogues.parse(value.get("tools"))
    stated = key_text(value, "id")
    trace = Trace(
        id=stated or "",
        group=group_key(value, group_by, ""),
        teacher=key_text(value, "model") or "unknown",
        source=key_text(value, "source") or f"{name}:{row.line}",
        tools=tools,
        messages=messages,
        outcome=parse_outcome(value.get("outcome")),
        usage=parse_usage(value.get("usage")),
        decisions=parse_decisions(value.get("decisions"), messages),
    )
    # The last check, so that a row is only ever the same as one that was used.
    digest = repeats.check(row)
    trace_id = stated or f"row-{digest}"
    trace = replace(trace, id=trace_id, group=trace.group or trace_id)
    extra = {key: item for key, item in value.items() if key not in _OWN_KEYS}
    return Found(trace, row.line, extra, shared)
