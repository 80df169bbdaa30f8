"""Traces -> dataset folder: verify, spool, split by group, merge duplicates, write.

Memory stays nearly flat with the number of traces: what grows lies in a temporary spool beside the
output. In memory are one trace, what merging one group key's duplicates takes (`dedupe`), some 60
bytes for each distinct first request (`similar`), and a few numbers per trace. The folder appears
whole or not at all, and its bytes depend on nothing but the traces (in any order), the config, the
seed and the source.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from distill.chat import parse_messages
from distill.config import DataConfig, RenderConfig
from distill.dataset.card import render_card
from distill.dataset.dedupe import merge
from distill.dataset.folder import FORMAT, whole_hash, write_catalogues, write_part
from distill.dataset.parts import PARTS, Part
from distill.dataset.points import decision_points, skipped_turns
from distill.dataset.source import describe
from distill.dataset.split import assign, shares
from distill.dataset.spool import Spool, open_spool
from distill.dataset.teacher import TeacherTally, agreement
from distill.dataset.verify import Reason, check_outcome, verify
from distill.errors import DatasetError
from distill.render import render_text
from distill.runs import new_folder, write, write_json
from distill.types import Context, Trace

Progress = Callable[[str, int], None]

_EVERY = 100


def build(
    traces: Iterable[Trace],
    config: DataConfig,
    seed: int,
    out: Path,
    *,
    source: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the dataset folder `out` (replacing one that is there) and return its manifest.

    Args:
        traces: read once; a trace whose id was already accepted is dropped and counted.
        config: outcome filter, schema check, deduplication, split.
        seed: decides the split, nothing else.
        out: the folder; see `distill.dataset.folder`.
        source: where the traces come from: a file or the sample, which are recorded by content
            (`distill.dataset.source`), or a name.
        progress: called as progress(stage, done) with stage "read" (traces), "split" (group keys)
            and "write" (examples).

    Raises:
        DatasetError: nothing is left after verification, a part ends with no group, or train
            knows only one decision.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda stage, done: None)
    with (
        TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.spool.") as temporary,
        open_spool(Path(temporary)) as spool,
    ):
        read = _read(traces, config, spool, report)
        if read.kept == 0:
            raise _nothing_left(source, read)
        n_keys, n_groups = assign(spool, config.split, seed, Path(temporary))
        report("split", n_keys)
        with new_folder(out) as folder:
            written = _write(folder, spool, config, report)
            _check_parts(written, config, n_keys, n_groups)
            catalogues, tools = write_catalogues(folder, spool.catalogues())
            manifest = {
                "format": FORMAT,
                "hash": whole_hash(written.hashes, catalogues),
                "parts": {
                    part: {"examples": written.examples[part], "groups": written.groups[part]}
                    for part in PARTS
                },
                "n_groups": n_groups,
                "n_group_keys": n_keys,
                "n_traces": read.traces,
                "n_decision_points": read.points,
                "tools": tools,
                "teacher": read.teacher.summary() | _agreements(spool),
                "dropped": dict(sorted(read.dropped.items())),
                "merged": {"exact": written.exact, "near": written.near},
                "skipped_turns": dict(sorted(read.skipped.items())),
                "source": describe(source, config.max_line_bytes),
                "config": config.model_dump(mode="json"),
                "seed": seed,
            }
            write(folder / "README.md", render_card(manifest, PARTS))
            write_json(folder / "manifest.json", manifest)
    return manifest


@dataclass
class _Read:
    """What reading counted."""

    traces: int = 0
    points: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    teacher: TeacherTally = field(default_factory=TeacherTally)


def _read(traces: Iterable[Trace], config: DataConfig, spool: Spool, report: Progress) -> _Read:
    read = _Read()
    for trace in traces:
        read.traces += 1
        if read.traces % _EVERY == 0:
            report("read", read.traces)
        examples = list(decision_points(trace))
        read.points += len(examples)
        read.skipped += skipped_turns(trace)
        read.teacher.grade(trace.outcome)
        reason = check_outcome(trace.outcome, config.outcome)
        if reason is None and not spool.is_new(trace.id):
            reason = Reason.REPEATED
        if reason is not None:
            if examples:
                read.dropped[reason.value] += len(examples)
            continue
        read.teacher.observe(trace, len(examples))
        kept = []
        for example in examples:
            fault = verify(example, config.invalid_arguments)
            if fault is None:
                kept.append(example)
            else:
                read.dropped[fault.value] += 1
        if kept:
            spool.add(trace, kept)
            read.kept += len(kept)
    report("read", read.traces)
    return read


@dataclass
class _Written:
    """What writing counted, by part."""

    examples: Counter[Part] = field(default_factory=Counter)
    groups: Counter[Part] = field(default_factory=Counter)
    hashes: dict[Part, str] = field(default_factory=dict)
    train_decisions: set[str] = field(default_factory=set)
    exact: int = 0
    near: int = 0


def _write(folder: Path, spool: Spool, config: DataConfig, report: Progress) -> _Written:
    written = _Written()

    def text(example: int) -> str:
        # Duplicates share their tools already; the text is the conversation alone.
        messages = parse_messages([orjson.loads(message) for message in spool.messages(example)])
        return render_text(Context(messages, ()), RenderConfig())

    done, latest = 0, None
    with ExitStack() as stack:
        parts = {part: stack.enter_context(write_part(folder, part)) for part in PARTS}
        for part, group, keys in spool.by_group_key():
            merged = merge(keys, config.drop_duplicates, text)
            if group != latest:
                written.groups[part] += 1
                latest = group
            written.exact += merged.exact
            written.near += merged.near
            for key in keys:
                if key.id not in merged.weights:
                    continue
                row = spool.row(key.id) | {"weight": merged.weights[key.id]}
                parts[part].add(row, partial(spool.messages, key.id))
                if part == "train" and len(written.train_decisions) < 2:
                    written.train_decisions.add(key.decision)
                done += 1
                if done % _EVERY == 0:
                    report("write", done)
    report("write", done)
    for part, rows in parts.items():
        written.examples[part] = rows.examples
        written.hashes[part] = rows.hash
    return written


def _agreements(spool: Spool) -> dict[str, Any]:
    itself = agreement(spool.observations(by_teacher=True))
    anyone = agreement(spool.observations(by_teacher=False))
    return {
        "self_agreement": itself["value"],
        "self_agreement_contexts": itself["contexts"],
        "label_agreement": anyone["value"],
        "label_agreement_contexts": anyone["contexts"],
    }


def _nothing_left(source: str, read: _Read) -> DatasetError:
    if read.traces == 0:
        return DatasetError(source, "holds no traces", "give a file with traces, or widen `where`")
    counts = (read.dropped + read.skipped).most_common()
    why = ", ".join(f"{reason}: {count}" for reason, count in counts) or "no assistant turns"
    return DatasetError(
        source,
        f"no decision point is left of {read.traces} traces ({why})",
        "widen data.outcome or data.invalid_arguments, or mend the traces",
    )


def _check_parts(written: _Written, config: DataConfig, n_keys: int, n_groups: int) -> None:
    size = f"{n_keys} groups"
    cure = "take another seed or traces of more groups"
    if n_groups < n_keys:
        size += f" that near-duplicate first requests merge into {n_groups}"
        cure += ", or raise data.split.merge_jaccard"
    empty = [p for p, share in shares(config.split).items() if share and not written.groups[p]]
    if empty:
        fault = f"no group falls into {' or '.join(empty)} ({size})"
        raise DatasetError("data.split", fault, cure)
    if len(written.train_decisions) < 2:
        (only,) = map(orjson.loads, written.train_decisions)
        raise DatasetError(
            "data.split",
            f"train knows a single decision ({', '.join(only)}; {size})",
            f"there is nothing to learn: {cure}",
        )
