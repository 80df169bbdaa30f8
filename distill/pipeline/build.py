"""The dataset of a seed: built from a config's traces, or found as it was built before."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from distill.config import DataConfig, RunConfig
from distill.dataset import Dataset, build, load_dataset
from distill.dataset.source import SAMPLE, is_unchanged
from distill.errors import ConfigError, DatasetError
from distill.pipeline.layout import dataset_dir
from distill.progress import Progress
from distill.runs import RunDir, new_file, read_json
from distill.traces import read
from distill.traces.rows import LineTally
from distill.types import Trace

log = logging.getLogger(__name__)


def traces(config: DataConfig, tally: LineTally) -> Iterator[Trace]:
    """The traces that a config names, from a file or the embedded sample.

    `tally` is told what became of a file's lines.

    Raises:
        ConfigError: there is no such sample, or a setting asks for keys that its traces lack.
        TraceError: the file cannot be read.
    """
    if config.traces == SAMPLE:
        for name, value in (("where", config.where), ("group_by", config.group_by)):
            if value:
                raise ConfigError(
                    f"data.{name}",
                    f"reads keys of a trace file's rows, and the traces of {SAMPLE} have none",
                    "leave it out, or name a trace file in data.traces",
                )
        from distill.sample.replay import traces as sample_traces  # noqa: PLC0415

        return sample_traces()
    if config.traces.startswith("sample:"):
        raise ConfigError("data.traces", f"no sample {config.traces!r}", f"use {SAMPLE}")
    return read(
        config.traces,
        format=config.format,
        group_by=config.group_by,
        where=config.where,
        max_line_bytes=config.max_line_bytes,
        on_reject=tally.reject,
        on_note=tally.note,
    )


def build_dataset(data: DataConfig, seed: int, out: Path, progress: Progress) -> dict[str, Any]:
    """Build a dataset folder and return its manifest.

    Rejected lines go to `<out>.rejected.jsonl`, also when no dataset comes of the rest. They and
    what was read otherwise than it stands are counted in the log.

    Raises:
        DatasetError: no usable dataset, or `out` is there and is something else.
        TraceError: the traces cannot be read.
    """
    _require_replaceable(out)
    beside = out.with_name(f"{out.name}.rejected.jsonl")
    manifest: dict[str, Any] | None = None
    fault: DatasetError | None = None
    with new_file(beside) as file:

        def reject(line: int, reason: str) -> None:
            entry = {"line": line, "reason": reason}
            file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

        tally = LineTally(reject)
        try:
            manifest = build(
                traces(data, tally),
                data,
                seed,
                out,
                source=data.traces,
                progress=lambda stage, done: progress(f"dataset: {stage}", done),
            )
        except DatasetError as error:
            fault = error
    if not tally.rejected:
        beside.unlink()
    reasons = _most_common(tally.reasons)
    if fault is not None and tally.rejected:
        why = f"{fault.fault}; {tally.rejected} lines were rejected ({reasons})"
        raise DatasetError(fault.place, why, f"see {beside}; else {fault.cure}")
    if fault is not None:
        raise fault
    if tally.rejected:
        log.warning("%d lines rejected (%s), see %s", tally.rejected, reasons, beside)
    if tally.notes:
        log.warning("read otherwise than it stands: %s", _most_common(tally.notes))
    assert manifest is not None
    return manifest


def _most_common(counts: Counter[str]) -> str:
    return "; ".join(f"{count} times: {text}" for text, count in counts.most_common(3))


def _require_replaceable(out: Path) -> None:
    """Raise DatasetError where writing a dataset folder would delete something else."""
    ours = (out / "manifest.json").is_file() and (out / "catalogues.jsonl").is_file()
    if out.exists() and not ours and not (out.is_dir() and not any(out.iterdir())):
        raise DatasetError(out, "is there and is no dataset folder", "name another folder")


def ensure_dataset(config: RunConfig, seed: int, progress: Progress) -> Dataset:
    """The dataset of a seed, built where it is missing or was built from other data.

    Raises:
        DatasetError: it was built from other data, and a run is trained on it.
    """
    path = dataset_dir(config, seed)
    if (path / "manifest.json").is_file():
        dataset = load_dataset(path)
        if _is_built_from(dataset.manifest, config.data):
            return dataset
        for beside in sorted(path.parent.glob(f"*-s{seed}")):
            if beside != path and RunDir(beside).begun:
                raise DatasetError(
                    path,
                    f"{beside.name} is trained on it, and now data or traces are others",
                    f"give the job another name=, or delete {path.parent}",
                )
    build_dataset(config.data, seed, path, progress)
    return load_dataset(path)


def _is_built_from(manifest: dict[str, Any], data: DataConfig) -> bool:
    """Whether a dataset was built from these settings and traces."""
    same_settings = manifest["config"] == data.model_dump(mode="json")
    return same_settings and is_unchanged(manifest["source"], data.traces)


def dataset_of(run: RunDir, single: RunConfig) -> Dataset:
    """The dataset that a whole run was trained on.

    Raises:
        DatasetError: it is gone or has changed.
    """
    (seed,) = single.seeds
    dataset = load_dataset(run.path.resolve().parent / dataset_dir(single, seed).name)
    if dataset.manifest["hash"] != read_json(run.manifest)["dataset"]["hash"]:
        raise DatasetError(dataset.path, "is not what the run was trained on", "train it again")
    return dataset
