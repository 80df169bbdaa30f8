"""Traces of several formats, read as one stream of `Trace`s; nothing is dropped in silence.

A reader knows its format and nothing of datasets: whether a decision point is fit to learn from
is decided later. Here a line is used, filtered out by `where`, or rejected with a reason.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from distill.chat import Note, trace_json
from distill.config import DataConfig
from distill.errors import TraceError
from distill.traces.canonical import read_traces
from distill.traces.catalogues import Catalogues, new_catalogues
from distill.traces.detect import detect_format
from distill.traces.files import OnBytes, new_lines, read_lines
from distill.traces.openai_log import read_conversations
from distill.traces.repeats import with_unique_ids
from distill.traces.rows import Found, LineTally, OnReject, read_rows
from distill.types import Trace

__all__ = ["GATEWAY", "Format", "ImportCounts", "import_traces", "read"]

GATEWAY = "gateway://"
"""What a source begins with that is a gateway's records, and no file (`distill.traces.gateway`)."""

Format = Literal["auto", "traces", "openai"]
"""`traces`: the canonical format; `openai`: logged requests with their responses."""

_MAX_LINE_BYTES = DataConfig().max_line_bytes


@dataclass(frozen=True)
class ImportCounts:
    """What an import did with the lines that are not blank.

    `reasons` and `notes` count lines by what was wrong or was read otherwise than it stands, with
    positions taken out (`messages[].role: …`). In the canonical format every line becomes one
    trace, or is filtered or rejected; several lines of a log can make one trace.
    """

    lines: int
    traces: int
    filtered: int
    rejected: int
    reasons: Mapping[str, int]
    notes: Mapping[str, int]


def read(
    path: Path | str,
    *,
    format: Format = "auto",  # noqa: A002  (what the command line and the config call it)
    group_by: str | None = None,
    where: Mapping[str, str] | None = None,
    max_line_bytes: int = _MAX_LINE_BYTES,
    on_reject: OnReject | None = None,
    on_note: Note | None = None,
) -> Iterator[Trace]:
    """Read a trace file (plain, gzip or zstd) lazily.

    Memory holds the longest line and the open conversations of a log (`openai_log`); the hashes of
    earlier lines and ids are in a temporary file (`repeats`).

    Args:
        path: the file, or a gateway's records (a string; see `distill.traces.gateway`).
        format: `auto` takes the format of the first line that tells it (`detect`).
        group_by: the top-level key that becomes a trace's group; lines without it are rejected.
            Default: `group`, else `task_id`, else the id.
        where: top-level keys and the values, as text, that a line must have.
        max_line_bytes: a longer line is rejected.
        on_reject: told the number and the reason of every line that cannot be used.
        on_note: told what was read in another way than it stands, once a line.

    A line equal to an earlier one is rejected. Ids are unique: a trace whose id came before, with
    other content, gets `#` and its line number behind it; a trace without one gets an id made of
    its content.

    Raises:
        TraceError: the file cannot be opened, its compression is cut off or corrupt, or a tool
            catalogue that it names cannot be read. What was readable has been yielded before.
        InputError: there is no such database of a gateway's, or an extra is missing.
    """
    tally = LineTally(on_reject, on_note)
    found = _read(
        path,
        tally,
        form=format,
        group_by=group_by,
        where=where or {},
        max_line_bytes=max_line_bytes,
    )
    return (item.trace for item in found)


def import_traces(
    source: Path | str,
    out: Path | str,
    *,
    format: Format = "auto",  # noqa: A002
    group_by: str | None = None,
    where: Mapping[str, str] | None = None,
    max_line_bytes: int = _MAX_LINE_BYTES,
    progress: OnBytes | None = None,
) -> ImportCounts:
    """Write traces of any format as canonical JSON lines, compressed as `out`'s name says.

    `out` appears whole or not at all. Keys that a `Trace` has no place for are kept; of a log,
    those on which the rows of a conversation agree. Rows that share a catalogue through `tools_ref`
    still do: it is written beside `out`, named by its hash.
    Rejected lines go to `<out>.rejected.jsonl` (`{"line": 7, "reason": "…"}`), which is removed
    when there are none. The other arguments are those of `read`; `progress` is told the bytes (of
    a gateway: the records) read, and how many there are in all.

    Raises:
        TraceError: as `read`; and when no line gives a trace, in which case the rejected lines are
            written and `out` is left as it was.
    """
    out = Path(out)
    if out.is_dir():
        raise TraceError(out, "is a folder", "name a file, such as traces.jsonl.gz")
    rejected = out.with_name(out.name + ".rejected.jsonl")
    with new_lines(rejected) as rejects:
        tally = LineTally(
            lambda line, reason: _write_line(rejects, {"line": line, "reason": reason})
        )
        found = _read(
            source,
            tally,
            form=format,
            group_by=group_by,
            where=where or {},
            max_line_bytes=max_line_bytes,
            progress=progress,
        )
        written = _write_traces(found, out)
    if not tally.rejected:
        rejected.unlink()
    if not written:
        raise TraceError(source, _why_nothing(tally), _cure_nothing(tally, rejected))
    return ImportCounts(
        lines=tally.lines,
        traces=written,
        filtered=tally.filtered,
        rejected=tally.rejected,
        reasons=dict(tally.reasons.most_common()),
        notes=dict(tally.notes.most_common()),
    )


class _NothingWritten(Exception):  # noqa: N818  (it leaves a block, no user sees it)
    """Leaves the block of an atomic write without giving the file its name."""


def _write_traces(found: Iterable[Found], out: Path) -> int:
    written = 0
    with (
        new_catalogues(out.parent) as catalogues,
        suppress(_NothingWritten),
        new_lines(out) as file,
    ):
        for item in found:
            value = trace_json(item.trace) | dict(item.extra)
            if item.shared_tools:
                value |= {"tools": [], "tools_ref": catalogues.name(item.trace.tools)}
            _write_line(file, value)
            written += 1
        if not written:
            raise _NothingWritten
        # Before `out` has its name, which must never name a catalogue that is not there.
        catalogues.write()
    return written


def _write_line(file: BinaryIO, value: dict[str, Any]) -> None:
    file.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def _why_nothing(tally: LineTally) -> str:
    if not tally.lines:
        return "no line at all"
    if not tally.rejected:
        return f"none of {tally.lines} lines has the values of `where`"
    ((reason, count),) = tally.reasons.most_common(1)
    return f"no usable line among {tally.lines} (mostly, {count} times: {reason})"


def _cure_nothing(tally: LineTally, rejected: Path) -> str:
    if tally.rejected:
        return f"see {rejected}; a trace file holds one JSON object a line"
    return "give another file" if not tally.lines else "change the filter"


def _read(
    source: Path | str,
    tally: LineTally,
    *,
    form: Format,
    group_by: str | None,
    where: Mapping[str, str],
    max_line_bytes: int,
    progress: OnBytes | None = None,
) -> Iterator[Found]:
    if isinstance(source, str) and source.startswith(GATEWAY):
        from distill.traces.gateway import read_records  # noqa: PLC0415  (SQLAlchemy is an extra)

        if form == "traces":
            raise TraceError(GATEWAY, "holds requests and answers, no traces", "leave format out")
        form, path = "openai", Path("gateway")
        rows = read_records(source, where, tally, max_line_bytes, progress)
    else:
        path = Path(source)
        rows = read_rows(read_lines(path, max_line_bytes, progress), where, tally)
    form, rows = (form, rows) if form != "auto" else detect_format(rows, tally)
    reader = _READERS[form]
    catalogues = Catalogues(path.parent)
    yield from with_unique_ids(
        reader(rows, name=path.name, catalogues=catalogues, group_by=group_by, tally=tally), tally
    )


_Reader = Callable[..., Iterator[Found]]
_READERS: dict[str, _Reader] = {"traces": read_traces, "openai": read_conversations}
