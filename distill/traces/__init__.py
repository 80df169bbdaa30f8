"""Trace files of several formats, read as one stream of `Trace`s; nothing is dropped in silence.

A reader knows its format and nothing of datasets: whether a decision point is fit to learn from
is decided later. Here a line is used, filtered out by `where`, or rejected with a reason.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from distill.chat import trace_json
from distill.config import DataConfig
from distill.errors import TraceError
from distill.traces.canonical import is_trace, read_traces
from distill.traces.catalogues import CatalogueFiles, Catalogues
from distill.traces.files import Progress, new_lines, read_lines
from distill.traces.openai_log import is_log, read_conversations
from distill.traces.rows import Found, OnReject, Row, Tally, read_rows
from distill.types import Trace

__all__ = ["Format", "ImportCounts", "import_traces", "read"]

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
) -> Iterator[Trace]:
    """Read a trace file (plain, gzip or zstd) lazily, in memory bounded by its longest line.

    Args:
        path: the file.
        format: `auto` takes the format of the first line that looks like either.
        group_by: the top-level key that becomes a trace's group; lines without it are rejected.
            Default: `group`, else `task_id`, else the id.
        where: top-level keys and the values, as text, that a line must have.
        max_line_bytes: a longer line is rejected.
        on_reject: told the number and the reason of every line that cannot be used.

    Ids are unique: a trace whose id came before gets `#` and its line number behind it.

    Raises:
        TraceError: the file cannot be opened, its compression is cut off or corrupt, or a tool
            catalogue that it names cannot be read. What was readable has been yielded before.
    """
    tally = Tally(on_reject)
    found = _read(
        Path(path),
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
    progress: Progress | None = None,
) -> ImportCounts:
    """Write a trace file of any format as canonical JSON lines, compressed as `out`'s name says.

    `out` appears whole or not at all. Keys that a `Trace` has no place for are kept. Rows that
    share a catalogue through `tools_ref` still do: it is written beside `out`, named by its hash.
    Rejected lines go to `<out>.rejected.jsonl` (`{"line": 7, "reason": "…"}`), which is removed
    when there are none. The other arguments are those of `read`; `progress` is told the bytes read
    and the bytes in all.

    Raises:
        TraceError: as `read`; and when no line gives a trace, in which case the rejected lines are
            written and `out` is left as it was.
    """
    source, out = Path(source), Path(out)
    if out.is_dir():
        raise TraceError(out, "is a folder", "name a file, such as traces.jsonl.gz")
    rejected = out.with_name(out.name + ".rejected.jsonl")
    with new_lines(rejected) as rejects:
        tally = Tally(lambda line, reason: _write_line(rejects, {"line": line, "reason": reason}))
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
    catalogues = CatalogueFiles(out.parent)
    written = 0
    with suppress(_NothingWritten), new_lines(out) as file:
        for item in found:
            value = trace_json(item.trace) | dict(item.extra)
            if item.shared_tools:
                value |= {"tools": [], "tools_ref": catalogues.name(item.trace.tools)}
            _write_line(file, value)
            written += 1
        if not written:
            raise _NothingWritten
    return written


def _write_line(file: BinaryIO, value: dict[str, Any]) -> None:
    file.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def _why_nothing(tally: Tally) -> str:
    if not tally.lines:
        return "no line at all"
    if not tally.rejected:
        return f"none of {tally.lines} lines has the values of `where`"
    ((reason, count),) = tally.reasons.most_common(1)
    return f"no usable line among {tally.lines} (mostly, {count} times: {reason})"


def _cure_nothing(tally: Tally, rejected: Path) -> str:
    if tally.rejected:
        return f"see {rejected}; a trace file holds one JSON object a line"
    return "give another file" if not tally.lines else "change the filter"


def _read(
    path: Path,
    tally: Tally,
    *,
    form: Format,
    group_by: str | None,
    where: Mapping[str, str],
    max_line_bytes: int,
    progress: Progress | None = None,
) -> Iterator[Found]:
    rows = read_rows(read_lines(path, max_line_bytes, progress), where, tally)
    form, rows = (form, rows) if form != "auto" else _detected(rows, tally)
    reader = _READERS[form]
    catalogues = Catalogues(path.parent)
    yield from _with_unique_ids(
        reader(rows, name=path.name, catalogues=catalogues, group_by=group_by, tally=tally), tally
    )


_Reader = Callable[..., Iterator[Found]]
_READERS: dict[str, _Reader] = {"traces": read_traces, "openai": read_conversations}


def _detected(rows: Iterator[Row], tally: Tally) -> tuple[Format, Iterator[Row]]:
    """The format of the first row that looks like either; rows before it are rejected."""
    for row in rows:
        # A log may spell out its request's keys, `messages` too, beside the response.
        if is_log(row.value):
            return "openai", chain([row], rows)
        if is_trace(row.value):
            return "traces", chain([row], rows)
        tally.reject(row.line, "neither a trace (messages) nor a request with its response")
    return "traces", iter(())


def _with_unique_ids(found: Iterable[Found], tally: Tally) -> Iterator[Found]:
    """Number the ids that came before.

    Only 8-byte hashes are held; should two ids share one, the second gets a number it did not need.
    """
    seen: set[bytes] = set()
    for item in found:
        trace_id = item.trace.id
        while (key := hashlib.blake2b(trace_id.encode(), digest_size=8).digest()) in seen:
            trace_id += f"#{item.line}"
        seen.add(key)
        if trace_id == item.trace.id:
            yield item
        else:
            tally.note("an id that came before: the line number is appended")
            yield replace(item, trace=replace(item.trace, id=trace_id))
