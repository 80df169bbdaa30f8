"""A router of a job: trained on its seed's dataset, or left as it is where that was done."""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from distill import config as configs
from distill.config import (
    AnyRouterConfig,
    AssembledConfig,
    CascadeConfig,
    DecoderConfig,
    EncoderConfig,
    EndpointConfig,
    EnsembleConfig,
    LearnedConfig,
    MajorityConfig,
    RunConfig,
)
from distill.dataset import Dataset
from distill.dataset.parts import Part
from distill.dataset.vote import repeated, vote
from distill.errors import ConfigError, DatasetError
from distill.pipeline.build import ensure_dataset
from distill.pipeline.layout import run_dir
from distill.progress import Progress
from distill.runs import RunDir, environment, new_folder, read_json, write, write_json
from distill.training.job import Parts, Trained
from distill.types import Example, Router


class _Untrained(NamedTuple):
    """A router of somebody else's weights: nothing was trained, and nobody here counts them."""

    router: Router
    parameters: None = None
    trainable_parameters: None = None
    seconds: None = None


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
    from distill.routers.endpoint import EndpointRouter  # noqa: PLC0415
    from distill.training import Job, train  # noqa: PLC0415
    from distill.training.assemble import assemble  # noqa: PLC0415

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
        if isinstance(settings, AssembledConfig):
            _require_same_stages(run, _stages(config, settings, seed))
        return run
    alone = ("majority", "tfidf", "cascade", "ensemble", "endpoint")
    if settings.kind not in alone or state.is_main_process:
        if isinstance(settings, AssembledConfig):
            trained: Trained | _Untrained = assemble(settings, _stages(config, settings, seed))
        elif isinstance(settings, EndpointConfig):
            trained = _Untrained(EndpointRouter(settings))
        else:
            parts = _parts(dataset, settings)
            trained = train(settings, Job(parts, run, seed, config.trackers, progress))
        if state.is_main_process:
            with new_folder(run.router) as folder:
                trained.router.save(folder)
            for stale in (run.report, run.predictions, run.calibration):
                stale.unlink(missing_ok=True)
            manifest = _manifest(single, dataset, trained, state.num_processes)
            manifest["fills_arguments"] = _fills_arguments(settings, config.routers)
            if isinstance(settings, AssembledConfig):
                manifest["stages"] = _finished(_stages(config, settings, seed))
            write_json(run.manifest, manifest)
            shutil.rmtree(run.checkpoints, ignore_errors=True)
    state.wait_for_everyone()
    return run


def _stages(config: RunConfig, settings: AssembledConfig, seed: int) -> dict[str, RunDir]:
    """The runs that a router is put together from, by their folders within its own."""
    return {folder: run_dir(config, name, seed) for folder, name in settings.stages().items()}


def _finished(stages: Mapping[str, RunDir]) -> dict[str, str]:
    return {run.path.name: read_json(run.manifest)["finished"] for run in stages.values()}


def _require_same_stages(run: RunDir, stages: Mapping[str, RunDir]) -> None:
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
    if not run.begun:
        return False
    if run.whole and "learned_from" in read_json(run.manifest):
        raise ConfigError(
            run.path,
            "was taught by outcomes (distill learn)",
            "give the job's router another name, or delete that folder",
        )
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
    is measured, priced or watched."""
    others = {"output", "risk", "evaluation", "trackers", "prices"}
    return config.model_dump(mode="json", exclude=others)


def _manifest(single: RunConfig, dataset: Dataset, trained: Any, processes: int) -> dict[str, Any]:
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
        "train_seconds": None if trained.seconds is None else round(trained.seconds, 1),
        "processes": processes,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }


def _fills_arguments(settings: AnyRouterConfig, job: Mapping[str, AnyRouterConfig]) -> bool:
    if isinstance(settings, EnsembleConfig):
        return any(_fills_arguments(job[name], job) for name in settings.members)
    filling = isinstance(settings, EncoderConfig) and settings.arguments != "none"
    return filling or isinstance(settings, DecoderConfig | CascadeConfig | EndpointConfig)
