"""The whole job of a config: dataset, trained routers, evaluation, one comparison.

Each step leaves a folder that is whole or absent, and is skipped when its result is there and was
made from the same config; so a killed job goes on where it stopped, and `distill train` then
`distill evaluate` do piecewise what `distill run` does at once.

    <output>/<name>/dataset-s<seed>/            the dataset of a seed
    <output>/<name>/<router>-s<seed>/           a run directory (`distill.runs`)
    <output>/<name>/comparison/                 report.{json,md,csv,html}
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from distill import config as configs
from distill.config import (
    AnyRouterConfig,
    CascadeConfig,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    LearnedConfig,
    MajorityConfig,
    RunConfig,
)
from distill.dataset import Dataset, build, load_dataset
from distill.dataset.parts import Part
from distill.dataset.source import SAMPLE, is_unchanged
from distill.dataset.vote import repeated, vote
from distill.errors import ConfigError, DatasetError
from distill.evaluation import predictions
from distill.evaluation.predictions import Prediction
from distill.progress import Progress
from distill.routers.folder import RouterFile, read_router_file
from distill.runs import RunDir, environment, new_file, new_folder, read_json, write, write_json
from distill.traces import read
from distill.traces.rows import LineTally
from distill.training.job import Parts, require_trackers
from distill.types import Example, Trace

log = logging.getLogger(__name__)

# Seconds of the quick start on two cores: only their ratios are used.
_TRAIN_COST = {
    "majority": 1,
    "tfidf": 20,
    "rnn": 40,
    "attention": 60,
    "encoder": 215,
    "decoder": 390,
    "cascade": 5,
}
_EVALUATE_COST = {
    "majority": 1,
    "tfidf": 1,
    "rnn": 2,
    "attention": 2,
    "encoder": 5,
    "decoder": 90,
    "cascade": 70,
}


@dataclass(frozen=True)
class Step:
    """One piece of a job. `cost` is a rough share, for the estimate of what is left."""

    name: str
    cost: float
    do: Callable[[Progress], object]


def steps(config: RunConfig) -> list[Step]:
    """The pieces of `distill run`, in order; doing one that is done costs next to nothing.

    Raises:
        ConfigError: a cascade names routers that are none of the job's.
        MissingExtraError: a tracker is not installed.
        ModelError: a base model that needs no hub is not there.
    """
    require_trackers(config.trackers)
    for name, settings in config.routers.items():
        if isinstance(settings, CascadeConfig):
            _require_stages(config, name, settings)
        if isinstance(settings, EncoderConfig | DecoderConfig):
            from distill.routers import pretrained  # noqa: PLC0415

            pretrained.require(settings.model)

    def dataset(seed: int) -> Callable[[Progress], object]:
        return lambda progress: ensure_dataset(config, seed, progress)

    def train(router: str, seed: int) -> Callable[[Progress], object]:
        return lambda progress: train_router(config, router, seed, progress)

    def calibrate(router: str, seed: int) -> Callable[[Progress], object]:
        return lambda progress: calibrate_run(run_dir(config, router, seed), progress)

    def evaluate(router: str, seed: int) -> Callable[[Progress], object]:
        return lambda progress: ensure_evaluated(run_dir(config, router, seed), progress)

    plan = []
    for seed in config.seeds:
        plan.append(Step(f"dataset, seed {seed}", 3, dataset(seed)))
        # A cascade is put together from the others.
        last = sorted(config.routers.items(), key=lambda item: isinstance(item[1], CascadeConfig))
        for router, settings in last:
            run = run_dir(config, router, seed).path.name
            cost = _TRAIN_COST[settings.kind]
            plan.append(Step(f"train {run}", cost, train(router, seed)))
            cost = _EVALUATE_COST[settings.kind]
            plan.append(Step(f"calibrate {run}", cost / 2, calibrate(router, seed)))
            plan.append(Step(f"evaluate {run}", cost, evaluate(router, seed)))
    plan.append(Step("compare", 3, lambda _: compare_all(config)))
    return plan


def _require_stages(config: RunConfig, name: str, settings: CascadeConfig) -> None:
    for stage, wanted in (("encoder", settings.encoder), ("decoder", settings.decoder)):
        found = config.routers.get(wanted)
        if found is None or found.kind != stage:
            known = [name for name, other in config.routers.items() if other.kind == stage]
            raise ConfigError(
                f"routers.{name}.{stage}",
                f"{wanted!r} is no {stage} of this job",
                f"one of: {', '.join(known)}" if known else f"add a router of kind {stage}",
            )


def run_dir(config: RunConfig, router: str, seed: int) -> RunDir:
    """Where the run of one router and seed lies."""
    return RunDir(config.output / config.name / f"{router}-s{seed}")


def dataset_dir(config: RunConfig, seed: int) -> Path:
    """Where the dataset of a seed lies."""
    return config.output / config.name / f"dataset-s{seed}"


def comparison_dir(config: RunConfig) -> Path:
    """Where the comparison of all the job's routers lies."""
    return config.output / config.name / "comparison"


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
            if beside != path and _has_begun(RunDir(beside)):
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


def _has_begun(run: RunDir) -> bool:
    """Whether there is training in the run that another config or dataset must not continue."""
    return run.whole or any(run.checkpoints.glob("checkpoint-*"))


def train_router(config: RunConfig, router: str, seed: int, progress: Progress) -> RunDir:
    """Train one router on one seed's dataset; a whole run of the same config is left as it is.

    Under `accelerate launch` every process calls this; the main one alone writes.

    Raises:
        ConfigError: the run directory holds a run of another config.
        DatasetError: no dataset, one that leaves this router a single decision to learn, or the
            run was trained on another one.
    """
    from accelerate.state import PartialState  # noqa: PLC0415

    from distill.routers.devices import device  # noqa: PLC0415
    from distill.training import Job, train  # noqa: PLC0415
    from distill.training.cascade import assemble  # noqa: PLC0415

    state: Any = PartialState(cpu=device().type == "cpu")
    run, settings = run_dir(config, router, seed), config.routers[router]
    with state.main_process_first():
        dataset = ensure_dataset(config, seed, progress)
    single = config.model_copy(update={"routers": {router: settings}, "seeds": [seed]})
    done = _is_done(run, single, dataset)
    # All have looked before the main process changes what they look at.
    state.wait_for_everyone()
    if state.is_main_process:
        _begin(run, single, dataset)
    if done:
        if isinstance(settings, CascadeConfig):
            _require_same_stages(run, _stages(config, settings, seed))
        return run
    if settings.kind not in ("majority", "tfidf", "cascade") or state.is_main_process:
        if isinstance(settings, CascadeConfig):
            trained = assemble(settings, *_stages(config, settings, seed))
        else:
            parts = _parts(dataset, settings)
            trained = train(settings, Job(parts, run, seed, config.trackers, progress))
        if state.is_main_process:
            with new_folder(run.router) as folder:
                trained.router.save(folder)
            for stale in (run.report, run.predictions, run.calibration):
                stale.unlink(missing_ok=True)
            manifest = _manifest(single, dataset, trained, state.num_processes)
            if isinstance(settings, CascadeConfig):
                manifest["stages"] = _finished(_stages(config, settings, seed))
            write_json(run.manifest, manifest)
            shutil.rmtree(run.checkpoints, ignore_errors=True)
    state.wait_for_everyone()
    return run


def _stages(config: RunConfig, settings: CascadeConfig, seed: int) -> tuple[RunDir, RunDir]:
    """The runs that a cascade is put together from."""
    return run_dir(config, settings.encoder, seed), run_dir(config, settings.decoder, seed)


def _finished(stages: Sequence[RunDir]) -> dict[str, str]:
    return {run.path.name: read_json(run.manifest)["finished"] for run in stages}


def _require_same_stages(run: RunDir, stages: Sequence[RunDir]) -> None:
    if read_json(run.manifest)["stages"] != _finished(stages):
        raise ConfigError(
            run.path,
            "is put together from routers that were trained again since",
            "delete that folder",
        )


def _parts(dataset: Dataset, settings: LearnedConfig) -> Parts:
    train_part = _voted(dataset, "train", settings)
    validation = _voted(dataset, "validation", settings)
    _require_choice(dataset, train_part)
    return Parts(repeated(train_part), repeated(validation), dataset.catalogue())


def _voted(dataset: Dataset, part: Part, settings: LearnedConfig) -> list[Example]:
    """One example per question, as this router tells questions apart."""
    reads_system = not isinstance(settings, MajorityConfig) and settings.render.system_chars > 0
    return vote(dataset.examples(part), reads_system=reads_system)


def _require_choice(dataset: Dataset, train_part: list[Example]) -> None:
    decisions = {example.label.tools for example in train_part}
    if len(decisions) == 1:
        ((*names,),) = decisions
        raise DatasetError(
            dataset.path,
            "where the teacher answers one question in several ways the most frequent answer is "
            f"learned, and then train knows a single decision ({', '.join(names)})",
            "take other traces, or set the router's render.system_chars if the system prompt is "
            "what tells the questions apart",
        )


def _is_done(run: RunDir, single: RunConfig, dataset: Dataset) -> bool:
    """Whether the run is whole; raises when what is there comes from something else."""
    if not _has_begun(run):
        return False
    if run.config.is_file() and _identity(configs.load(run.config)) != _identity(single):
        raise ConfigError(
            run.path,
            "holds a run of another config",
            "give the job another name=, or delete that folder",
        )
    if run.whole:
        found = read_json(run.manifest)["dataset"]["hash"]
    else:
        found = read_json(_trained_on(run))["hash"]
    if found != dataset.manifest["hash"]:
        raise DatasetError(
            run.path,
            "was trained on another dataset (the traces have changed)",
            "give the job another name=, or delete that folder",
        )
    return run.whole


def _trained_on(run: RunDir) -> Path:
    """Where an unfinished run keeps its dataset's hash; the manifest does once it is whole."""
    return run.checkpoints / "dataset.json"


def _begin(run: RunDir, single: RunConfig, dataset: Dataset) -> None:
    """Record what the run is made from, before its first checkpoint."""
    before = configs.load(run.config) if run.config.is_file() else None
    if before is not None and before.evaluation != single.evaluation:
        run.report.unlink(missing_ok=True)  # it is to be measured in another way
    if before is not None and before.risk.max_examples != single.risk.max_examples:
        run.calibration.unlink(missing_ok=True)
    if before != single:
        write(run.config, configs.dump(single))
    if not run.whole:
        write_json(_trained_on(run), {"hash": dataset.manifest["hash"]})


def _identity(config: RunConfig) -> dict[str, Any]:
    """What a trained router's weights depend on: all but where it lies, its thresholds, and how it
    is measured or watched."""
    return config.model_dump(mode="json", exclude={"output", "risk", "evaluation", "trackers"})


def _manifest(single: RunConfig, dataset: Dataset, trained: Any, processes: int) -> dict[str, Any]:
    facts, (router,) = dataset.manifest, single.routers
    return {
        "format": 1,
        "run": single.name,
        "router": router,
        "kind": single.routers[router].kind,
        "fills_arguments": _fills_arguments(single.routers[router]),
        "seed": single.seeds[0],
        "dataset": {key: facts[key] for key in ("hash", "parts", "n_groups", "source")},
        "teacher": facts["teacher"],
        "base_model": trained.router.file.base_model,
        "parameters": trained.parameters,
        "trainable_parameters": trained.trainable_parameters,
        "train_seconds": round(trained.seconds, 1),
        "processes": processes,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }


def _fills_arguments(settings: AnyRouterConfig) -> bool:
    filling = isinstance(settings, EncoderConfig) and settings.arguments != "none"
    return filling or isinstance(settings, DecoderConfig | CascadeConfig)


def ensure_evaluated(run: RunDir, progress: Progress) -> None:
    """Measure a run's router unless that was done; errors as `evaluate_run`."""
    if not (run.whole and run.report.is_file() and run.predictions.is_file()):
        evaluate_run(run, progress)


def calibrate_run(run: RunDir, progress: Progress) -> RouterFile:
    """Fit a run's calibration and thresholds into its `router.json`, and return what that holds.

    The calibration part is decided once, with raw confidences; other alphas are fitted on the
    same decisions. A report that the change makes untrue is written anew, or removed.

    Raises:
        RouterError: the run is not whole.
        DatasetError: the dataset it was trained on is gone or has changed.
        ConfigError: `risk.max_examples` holds no whole group.
    """
    from distill.evaluation.calibrate import fit_calibration  # noqa: PLC0415
    from distill.evaluation.compare import reported_again  # noqa: PLC0415
    from distill.evaluation.risk import fit_thresholds  # noqa: PLC0415

    run.require_whole()
    single = configs.load(run.config)
    before = read_router_file(run.router)
    made = _calibration_part(run, single, progress)
    calibration = fit_calibration(made)
    thresholds = () if calibration is None else fit_thresholds(made, calibration, single.risk)
    after = replace(before, calibration=calibration, thresholds=tuple(thresholds))
    if after != before:
        after.save(run.router)
        if after.calibration != before.calibration:
            run.report.unlink(missing_ok=True)
        elif run.report.is_file():
            write_json(run.report, reported_again(run, single.evaluation))
    return after


def recalibrate(
    run: RunDir, alphas: list[float] | None, delta: float | None, progress: Progress
) -> RouterFile:
    """`calibrate_run` for other alphas and another delta, which the run's config keeps.

    Errors as `calibrate_run`, and ConfigError for shares that are none.
    """
    run.require_whole()
    values = configs.load(run.config).model_dump(mode="json")
    if alphas:
        values["risk"]["alphas"] = alphas
    if delta is not None:
        values["risk"]["delta"] = delta
    write(run.config, configs.dump(configs.parse(values, "command line", RunConfig)))
    return calibrate_run(run, progress)


def _calibration_part(run: RunDir, single: RunConfig, progress: Progress) -> list[Prediction]:
    """The router's raw decisions on the calibration part, decided now or before."""
    from distill.evaluation.evaluate import limited, predict  # noqa: PLC0415
    from distill.routers.load import load_as  # noqa: PLC0415

    if run.calibration.is_file():
        return predictions.load(run.calibration)
    (seed,) = single.seeds
    examples = _dataset_of(run, single).examples("calibration")
    if not examples:
        log.warning("%s: no calibration part, so no thresholds (data.split)", run.path.name)
        return []
    examples = limited(examples, single.risk.max_examples, seed, "risk.max_examples")
    # Whatever an earlier fit left is put aside: a calibration is fitted to raw confidences.
    file = replace(read_router_file(run.router), calibration=None)
    router = load_as(run.router, file)

    def decided(done: int, total: int) -> None:
        progress(f"calibrating {run.path.name}", done, total)

    made = predict(router, examples, single.evaluation.batch_size, decided)
    predictions.save(run.calibration, made)
    return made


def _dataset_of(run: RunDir, single: RunConfig) -> Dataset:
    """The dataset that a whole run was trained on.

    Raises:
        DatasetError: it is gone or has changed.
    """
    (seed,) = single.seeds
    dataset = load_dataset(run.path.resolve().parent / dataset_dir(single, seed).name)
    if dataset.manifest["hash"] != read_json(run.manifest)["dataset"]["hash"]:
        raise DatasetError(dataset.path, "is not what the run was trained on", "train it again")
    return dataset


def evaluate_run(run: RunDir, progress: Progress) -> dict[str, Any]:
    """Measure a run's router on its test part; returns report.json's content.

    Raises:
        RouterError: the run is not whole.
        DatasetError: the dataset it was trained on is gone or has changed.
    """
    from distill.evaluation.compare import run_report  # noqa: PLC0415
    from distill.evaluation.evaluate import evaluate  # noqa: PLC0415
    from distill.routers import load_router  # noqa: PLC0415

    run.require_whole()
    single = configs.load(run.config)
    (seed,) = single.seeds
    made, timing = evaluate(
        load_router(run.router),
        _dataset_of(run, single).examples("test"),
        single.evaluation,
        seed=seed,
        on_progress=lambda done, total: progress(f"evaluating {run.path.name}", done, total),
    )
    predictions.save(run.predictions, made)
    report = run_report(run, made, timing, single.evaluation)
    write_json(run.report, report)
    return report


def compare_all(config: RunConfig) -> dict[str, Any]:
    """Compare every router of the job over all its seeds."""
    from distill.evaluation.compare import compare  # noqa: PLC0415

    runs = [run_dir(config, router, seed) for seed in config.seeds for router in config.routers]
    return compare(runs, comparison_dir(config), config.evaluation)
