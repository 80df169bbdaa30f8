"""The whole job of a config: dataset, trained routers, evaluation, one comparison.

Each step leaves a folder that is whole or absent, and is skipped when its result is there and was
made from the same config; so a killed job goes on where it stopped, and `distill train` then
`distill evaluate` do piecewise what `distill run` does at once.

    <output>/<name>/dataset-s<seed>/            the dataset of a seed
    <output>/<name>/<router>-s<seed>/           a run directory (`distill.runs`)
    <output>/<name>/comparison/                 report.{json,md,csv,html}
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from distill import config as configs
from distill.config import DataConfig, RunConfig
from distill.dataset import Dataset, build, load_dataset
from distill.dataset.vote import repeated, vote
from distill.errors import ConfigError, DatasetError
from distill.progress import Progress
from distill.runs import RunDir, environment, new_file, new_folder, read_json, write, write_json
from distill.traces import read
from distill.traces.rows import Tally
from distill.training.job import require_trackers
from distill.types import Trace

log = logging.getLogger(__name__)

SAMPLE = "sample:orderdesk"

# Seconds of the quick start on two cores: only their ratios are used.
_TRAIN_COST = {"majority": 1, "tfidf": 20, "rnn": 40, "encoder": 215, "decoder": 390}
_EVALUATE_COST = {"majority": 1, "tfidf": 1, "rnn": 2, "encoder": 5, "decoder": 90}


@dataclass(frozen=True)
class Step:
    """One piece of a job. `cost` is a rough share, for the estimate of what is left."""

    name: str
    cost: float
    do: Callable[[Progress], object]


def steps(config: RunConfig) -> list[Step]:
    """The pieces of `distill run`, in order; doing one that is done costs next to nothing.

    Raises:
        MissingExtraError: a tracker is not installed.
    """
    require_trackers(config.trackers)

    def dataset(seed: int) -> Callable[[Progress], object]:
        return lambda progress: ensure_dataset(config, seed, progress)

    def train(router: str, seed: int) -> Callable[[Progress], object]:
        return lambda progress: train_router(config, router, seed, progress)

    def evaluate(router: str, seed: int) -> Callable[[Progress], object]:
        return lambda progress: evaluate_run(run_dir(config, router, seed), progress)

    plan = []
    for seed in config.seeds:
        plan.append(Step(f"dataset, seed {seed}", 3, dataset(seed)))
        for router, settings in config.routers.items():
            run = run_dir(config, router, seed).path.name
            cost = _TRAIN_COST[settings.kind]
            plan.append(Step(f"train {run}", cost, train(router, seed)))
            cost = _EVALUATE_COST[settings.kind]
            plan.append(Step(f"evaluate {run}", cost, evaluate(router, seed)))
    plan.append(Step("compare", 3, lambda _: compare_all(config)))
    return plan


def run_dir(config: RunConfig, router: str, seed: int) -> RunDir:
    """Where the run of one router and seed lies."""
    return RunDir(config.output / config.name / f"{router}-s{seed}")


def dataset_dir(config: RunConfig, seed: int) -> Path:
    """Where the dataset of a seed lies."""
    return config.output / config.name / f"dataset-s{seed}"


def comparison_dir(config: RunConfig) -> Path:
    """Where the comparison of all the job's routers lies."""
    return config.output / config.name / "comparison"


def traces(config: DataConfig, on_reject: Callable[[int, str], None]) -> Iterator[Trace]:
    """The traces that a config names, from a file or the embedded sample."""
    if config.traces == SAMPLE:
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
        on_reject=on_reject,
    )


def build_dataset(data: DataConfig, seed: int, out: Path, progress: Progress) -> dict[str, Any]:
    """Build a dataset folder and return its manifest.

    Rejected lines go to `<out>.rejected.jsonl`, also when no dataset comes of the rest.

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

        tally = Tally(reject)
        try:
            manifest = build(
                traces(data, tally.reject),
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
    reasons = "; ".join(
        f"{count} times: {reason}" for reason, count in tally.reasons.most_common(3)
    )
    if fault is not None and tally.rejected:
        why = f"{fault.fault}; {tally.rejected} lines were rejected ({reasons})"
        raise DatasetError(fault.place, why, f"see {beside}; else {fault.cure}")
    if fault is not None:
        raise fault
    if tally.rejected:
        log.warning("%d lines rejected (%s), see %s", tally.rejected, reasons, beside)
    assert manifest is not None
    return manifest


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
            if beside != path and _has_begun(RunDir(beside)):
                raise DatasetError(
                    path,
                    f"{beside.name} is trained on it, and now data or traces are others",
                    f"give the job another name=, or delete {path.parent}",
                )
    build_dataset(config.data, seed, path, progress)
    return load_dataset(path)


def _is_built_from(manifest: dict[str, Any], data: DataConfig) -> bool:
    """Whether a dataset was built from these settings and traces; traces that are gone count."""
    recorded, file = manifest["source"]["sha256"], Path(data.traces)
    if manifest["config"] != data.model_dump(mode="json"):
        return False
    if recorded is None or not file.is_file():
        return True
    facts = file.stat()
    return bool(recorded == _sha256(file, facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=8)
def _sha256(file: Path, modified_ns: int, size: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _has_begun(run: RunDir) -> bool:
    """Whether there is training in the run that another config or dataset must not continue."""
    return run.whole or (run.checkpoints.is_dir() and any(run.checkpoints.iterdir()))


def train_router(config: RunConfig, router: str, seed: int, progress: Progress) -> RunDir:
    """Train one router on one seed's dataset; a whole run of the same config is left as it is.

    Under `accelerate launch` every process calls this; the main one alone writes.

    Raises:
        ConfigError: the run directory holds a run of another config.
        DatasetError: no dataset, or the run was trained on another one.
    """
    from accelerate.state import PartialState  # noqa: PLC0415
    from torch.cuda import is_available  # noqa: PLC0415

    from distill.training import Job, Parts, train  # noqa: PLC0415

    state = PartialState(cpu=not is_available())
    run, settings = run_dir(config, router, seed), config.routers[router]
    with state.main_process_first():
        dataset = ensure_dataset(config, seed, progress)
    single = config.model_copy(update={"routers": {router: settings}, "seeds": [seed]})
    done = _is_done(run, single, dataset)
    if state.is_main_process and configs.dump(single) != _text(run.config):
        # What may differ here is how the router is measured, so an old report no longer holds.
        run.report.unlink(missing_ok=True)
        write(run.config, configs.dump(single))
    if done:
        return run
    train_part, validation = (
        repeated(vote(dataset.examples(part))) for part in ("train", "validation")
    )
    parts = Parts(train_part, validation, dataset.catalogue())
    if settings.kind not in ("majority", "tfidf") or state.is_main_process:
        trained = train(settings, Job(parts, run, seed, config.trackers, progress))
        if state.is_main_process:
            with new_folder(run.router) as folder:
                trained.router.save(folder)
            for stale in (run.report, run.predictions):
                stale.unlink(missing_ok=True)
            write_json(run.manifest, _manifest(single, dataset, trained))
            shutil.rmtree(run.checkpoints, ignore_errors=True)
    state.wait_for_everyone()  # type: ignore[no-untyped-call]
    return run


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _is_done(run: RunDir, single: RunConfig, dataset: Dataset) -> bool:
    """Whether the run is whole; raises when what is there comes from something else."""
    if run.config.is_file() and _has_begun(run):
        before = configs.load(run.config)
        if _identity(before) != _identity(single):
            raise ConfigError(
                run.path,
                "holds a run of another config",
                "give the job another name=, or delete that folder",
            )
    if not run.whole:
        return False
    found = read_json(run.manifest)["dataset"]["hash"]
    if found != dataset.manifest["hash"]:
        raise DatasetError(
            run.path,
            "was trained on another dataset (the traces have changed)",
            "give the job another name=, or delete that folder",
        )
    return True


def _identity(config: RunConfig) -> dict[str, Any]:
    """What a trained router depends on: all but where it lies and how it is measured or watched."""
    return config.model_dump(mode="json", exclude={"output", "evaluation", "trackers"})


def _manifest(single: RunConfig, dataset: Dataset, trained: Any) -> dict[str, Any]:
    facts, (router,) = dataset.manifest, single.routers
    return {
        "format": 1,
        "run": single.name,
        "router": router,
        "kind": single.routers[router].kind,
        "seed": single.seeds[0],
        "dataset": {key: facts[key] for key in ("hash", "parts", "n_groups", "source")},
        "teacher": facts["teacher"],
        "base_model": trained.router.file.base_model,
        "parameters": trained.parameters,
        "trainable_parameters": trained.trainable_parameters,
        "train_seconds": round(trained.seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }


def evaluate_run(run: RunDir, progress: Progress) -> dict[str, Any]:
    """Measure a run's router on its test part, once; returns report.json's content.

    Raises:
        RouterError: the run is not whole.
        DatasetError: the dataset it was trained on is gone or has changed.
    """
    from distill.evaluation.compare import run_report  # noqa: PLC0415
    from distill.evaluation.evaluate import evaluate  # noqa: PLC0415
    from distill.evaluation.predictions import save  # noqa: PLC0415
    from distill.routers import load_router  # noqa: PLC0415

    run.require_whole()
    if run.report.is_file():
        report: dict[str, Any] = read_json(run.report)
        return report
    single = configs.load(run.config)
    (seed,) = single.seeds
    dataset = load_dataset(run.path.resolve().parent / dataset_dir(single, seed).name)
    manifest = read_json(run.manifest)
    if dataset.manifest["hash"] != manifest["dataset"]["hash"]:
        raise DatasetError(dataset.path, "is not what the run was trained on", "train it again")
    predictions, timing = evaluate(
        load_router(run.router),
        dataset.examples("test"),
        single.evaluation,
        seed=seed,
        on_progress=lambda done, total: progress(f"evaluating {run.path.name}", done, total),
    )
    save(run.predictions, predictions)
    report = run_report(run, predictions, timing, single.evaluation)
    write_json(run.report, report)
    return report


def compare_all(config: RunConfig) -> dict[str, Any]:
    """Compare every router of the job over all its seeds."""
    from distill.evaluation.compare import compare  # noqa: PLC0415

    runs = [run_dir(config, router, seed) for seed in config.seeds for router in config.routers]
    return compare(runs, comparison_dir(config), config.evaluation)
