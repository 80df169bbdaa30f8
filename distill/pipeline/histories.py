"""The history experiment without an endpoint: a dataset's recorded replies under a local LM.

A dataset keeps decisions and no words, so the replies are read from the traces that it was made of.
Measured is the reply that ends a trace, if a tool was called before it: without calls, all
histories are the same. `<out>/replies.jsonl` has a row per reply and is what a killed job goes on
from; `histories.json` and `histories.csv` are written at the end.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill import config as configs
from distill.config import DataConfig, HistoriesConfig
from distill.dataset import Dataset, load_dataset
from distill.dataset.points import final_reply
from distill.dataset.source import is_unchanged
from distill.errors import DatasetError
from distill.pipeline.build import dataset_of, traces
from distill.progress import Progress
from distill.runs import RunDir, hardware, write, write_json
from distill.traces.rows import LineTally
from distill.types import Context, Trace


def measure_histories(
    source: Path, config: HistoriesConfig, out: Path, progress: Progress
) -> dict[str, Any]:
    """Measure the replies of a dataset's part, or of a run's dataset; returns histories.json.

    Raises:
        DatasetError: the dataset is not whole, its traces have changed since, or there is no reply
            to measure.
        TraceError: its traces cannot be read; their path is that of when it was built.
        ModelError: the model cannot be loaded.
        RouterError: the run is not whole; `out` holds rows of another experiment.
    """
    from distill.evaluation.ledger import Ledger  # noqa: PLC0415
    from distill.evaluation.likelihood import LocalLM, Reply, measure, summary  # noqa: PLC0415
    from distill.evaluation.report.histories import to_csv  # noqa: PLC0415
    from distill.routers import pretrained  # noqa: PLC0415

    pretrained.require(config.model)
    dataset = _dataset(source)
    data = configs.parse(dict(dataset.manifest["config"]), dataset.path, DataConfig)
    if not is_unchanged(dataset.manifest["source"], data.traces):
        raise DatasetError(
            data.traces, f"has changed since {dataset.path} was made of it", "build it again"
        )
    groups = {example.trace_id: example.group for example in dataset.examples(config.part)}
    left_out: Counter[str] = Counter()
    found = []
    for trace in _of(groups, data, progress):
        reason = _unfit(trace)
        if reason is None:
            found.append(trace.id)
        else:
            left_out[reason] += 1
    if not found:
        raise DatasetError(
            f"{dataset.path}, {config.part}",
            f"no trace ends with a reply after a call ({dict(left_out) or 'no traces'})",
            "name another part or dataset",
        )
    # Shuffled before it is cut off, so that a higher limit keeps what a lower one has measured.
    chosen = set(random.Random(config.seed).sample(found, len(found))[: config.limit])

    def replies() -> Iterator[Reply]:
        for trace in _of(groups, data, lambda stage, done, total=None: None):
            if trace.id in chosen:
                context, words = _reply(trace)
                yield Reply(trace.id, groups[trace.id], context, words)

    base = pretrained.resolve(config.model, config.revision)
    settings = {
        "dataset": dataset.manifest["hash"],
        "model": base.describe(),
        **config.model_dump(mode="json", exclude={"model", "limit", "batch_size", "bootstrap"}),
    }
    ledger = Ledger(out / "replies.jsonl", settings)
    if not chosen <= ledger.done:
        measure(
            replies(),
            LocalLM.load(base, config),
            ledger,
            lambda done: progress("replies", done, len(chosen)),
        )
    rows = (row for row in ledger.rows() if row["id"] in chosen)
    report = {
        "dataset": {
            "hash": dataset.manifest["hash"],
            "source": dataset.manifest["source"]["name"],
            "part": config.part,
        },
        "model": base.describe(),
        "config": config.model_dump(mode="json"),
        "n_traces": len(groups),
        "not_measured": {**left_out, "beyond the limit": len(found) - len(chosen)},
        **summary(rows, config),
        "hardware": hardware(),
    }
    write(out / "histories.csv", to_csv(report))
    write_json(out / "histories.json", report)
    return report


def _dataset(source: Path) -> Dataset:
    """A dataset folder, or that of a run."""
    run = RunDir(source)
    if not run.config.is_file():
        return load_dataset(source)
    run.require_whole()
    return dataset_of(run, configs.load(run.config))


def _of(wanted: dict[str, str], data: DataConfig, progress: Progress) -> Iterator[Trace]:
    """The traces with these ids, in the order of their file."""
    done = 0
    for trace in traces(data, LineTally()):
        if trace.id in wanted:
            done += 1
            progress("reading traces", done, len(wanted))
            yield trace


def _unfit(trace: Trace) -> str | None:
    reply = final_reply(trace)
    if reply is None:
        return "ends without a worded reply"
    if not any(message.role == "tool" for message in reply[0].messages):
        return "no call before the reply"
    return None


def _reply(trace: Trace) -> tuple[Context, str]:
    reply = final_reply(trace)
    assert reply is not None, "only traces that end with one are chosen"
    return reply
