"""A trained decoder that learns from outcomes: a run of its own, beside the one it began from."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill import config as configs
from distill.config import DecoderConfig, OutcomesConfig, RunConfig
from distill.dataset import Dataset
from distill.dataset.source import describe
from distill.environment import Recorded
from distill.errors import ConfigError, RouterError
from distill.evaluation.closed_loop.tries import forks
from distill.pipeline.build import dataset_of
from distill.pipeline.simulate import named, tasks_of
from distill.pipeline.teaching import names_by_use, taught
from distill.progress import Progress
from distill.routers.folder import fingerprint
from distill.runs import RunDir, new_folder, read_json, write, write_json
from distill.runs import environment as about_machine
from distill.training.job import Job, Parts, Trained
from distill.types import Trace

log = logging.getLogger(__name__)


def learn(
    begun: RunDir,
    sources: Sequence[str],
    out: Path,
    config: OutcomesConfig,
    progress: Progress,
    *,
    environment: str | None = None,
) -> RunDir:
    """Teach a run's decoder by what came of decisions; returns the new run.

    A killed one goes on from its last checkpoint, and a whole one of the same inputs is left as it
    is. It has neither calibration nor report: `distill calibrate` and `distill evaluate` make them.

    Args:
        begun: the run whose router is taught; it stays as it is.
        sources: trace files, or the embedded sample by its name; of `grpo` none.
        out: beside `begun`, and named like it: `NAME-sSEED`.
        environment: of `grpo` where the router tries: `orderdesk`, of which the conversations in
            the training part are played, or `package.module:factory`, which has a record.

    Raises:
        RouterError: `begun` is not whole, or `out` holds something else.
        ConfigError: its router is no decoder, `out` lies elsewhere, the method has nothing to learn
            from, the environment cannot be made or has no record, or training diverged.
        DatasetError: the run's dataset is gone or has changed, or nothing is left to learn from.
        TraceError: a file cannot be read.
        WorkflowError: the environment raised.
    """
    _require_teacher(config, sources, environment)
    begun.require_whole()
    single = configs.load(begun.config)
    (settings,) = single.routers.values()
    if not isinstance(settings, DecoderConfig):
        raise ConfigError(
            begun.path,
            f"its router is of kind {settings.kind!r}, and this teaches decoders",
            "let it learn in a workflow (distill.workflow.closed_loop)",
        )
    run, learned = _place(begun, single, out)
    dataset = dataset_of(begun, single)
    inputs = {
        "config": config.model_dump(mode="json"),
        "begun_from": {"run": begun.path.name, "router": fingerprint(begun.router)},
        "environment": environment,
        "traces": [describe(source, single.data.max_line_bytes) for source in sources],
        "dataset": dataset.manifest["hash"],
    }
    if _is_done(run, inputs):
        return run
    write_json(_learned_from(run), inputs)
    write(run.config, configs.dump(learned))

    job = Job(Parts([], [], dataset.catalogue()), run, config.seed, (), progress)
    if environment is None:
        left_out: Counter[str] = Counter()
        traces = taught(sources, single.data, dataset, left_out)
        trained, counts = _from_traces(begun, traces, left_out, config, job)
    else:
        trained, counts = _from_tries(begun, environment, config, dataset, job)
    _finish(begun, run, learned, trained, inputs | counts)
    return run


def _require_teacher(
    config: OutcomesConfig, sources: Sequence[str], environment: str | None
) -> None:
    online = config.method == "grpo"
    if online and (sources or environment is None):
        fault = "grpo learns from tries in an environment, not from traces"
        raise ConfigError("method", fault, "name an --environment, or another method")
    if not online and (environment is not None or not sources):
        fault = f"{config.method} learns from traces, not in an environment"
        raise ConfigError("method", fault, "name trace files, or method=grpo")


def _from_traces(
    begun: RunDir,
    traces: Iterator[Trace],
    left_out: Counter[str],
    config: OutcomesConfig,
    job: Job,
) -> tuple[Trained, dict[str, Any]]:
    """The router that learned from a record, and what the manifest says of it."""
    from distill.training.outcomes import learn_outcomes  # noqa: PLC0415
    from distill.training.trials import trials  # noqa: PLC0415

    made = list(trials(traces, left_out))
    for reason, count in left_out.items():
        log.warning("%d decisions left out: %s", count, reason)
    trained = learn_outcomes(config, begun.router, made, job)
    counts = {"learned": len(made), "left_out": dict(sorted(left_out.items()))}
    return trained, {"trials": counts}


def _from_tries(
    begun: RunDir, environment: str, config: OutcomesConfig, dataset: Dataset, job: Job
) -> tuple[Trained, dict[str, Any]]:
    """The router that learned from its own tries, and what the manifest says of it."""
    from distill.training.online import learn_online  # noqa: PLC0415

    world = _world(environment, dataset)
    held_out, _ = names_by_use(dataset)
    tasks = [task for task in tasks_of(world) if not {task.id, task.group} & held_out]
    places = [fork for task in tasks for fork in forks(world, task, world.record(task))]
    solved = {fork.task.id for fork in places}
    if len(solved) < len(tasks):
        log.warning("%d tasks left out: their record fails", len(tasks) - len(solved))
    trained = learn_online(config, begun.router, places, job)
    return trained, {"tries": {"tasks": len(solved), "contexts": len(places)}}


def _world(name: str, dataset: Dataset) -> Recorded:
    """The environment of a name.

    Raises:
        ConfigError: it cannot be made, or has no record.
    """
    if name == "orderdesk":
        from distill.sample.tasks.desk import OrderDesk  # noqa: PLC0415

        return OrderDesk({one.trace_id: one.group for one in dataset.examples("train")})
    world = named(name)
    if not isinstance(world, Recorded):
        raise ConfigError(
            "--environment", f"{name} has no record of a teacher", "give it a method record(task)"
        )
    return world


def _place(begun: RunDir, single: RunConfig, out: Path) -> tuple[RunDir, RunConfig]:
    """The run that is to be made, and its config; it finds its dataset where the first does."""
    folder, (seed,) = begun.path.resolve().parent, single.seeds
    name = out.name.removesuffix(f"-s{seed}")
    if out.resolve().parent != folder or name == out.name or out.resolve() == begun.path.resolve():
        raise ConfigError(
            "-o",
            f"{out} would not find the dataset of {begun.path}",
            f"name it {begun.path.parent / f'NAME-s{seed}'}",
        )
    (settings,) = single.routers.values()
    values = single.model_dump(mode="json") | {"routers": {name: settings.model_dump(mode="json")}}
    return RunDir(out), configs.parse(values, "-o", RunConfig)


def _learned_from(run: RunDir) -> Path:
    """Where an unfinished run keeps what it learns from; the manifest does once it is whole."""
    return run.checkpoints / "learned_from.json"


def _is_done(run: RunDir, inputs: dict[str, Any]) -> bool:
    """Whether the run is whole; raises when what is there comes from something else."""
    if run.whole:
        found = read_json(run.manifest).get("learned_from")
    elif _learned_from(run).is_file():
        found = read_json(_learned_from(run))
    elif not run.path.exists() or not any(run.path.iterdir()):
        return False
    else:
        found = None
    if found is None or any(found.get(key) != value for key, value in inputs.items()):
        raise RouterError(
            run.path,
            "holds a run that was made from something else",
            "name another folder, or delete that one",
        )
    return run.whole


def _finish(
    begun: RunDir, run: RunDir, learned: RunConfig, trained: Trained, learned_from: dict[str, Any]
) -> None:
    """Write the router, and last the manifest."""
    with new_folder(run.router) as folder:
        trained.router.save(folder)
    before = read_json(begun.manifest)
    seconds = before["train_seconds"] + round(trained.seconds, 1)
    manifest = before | {
        "router": next(iter(learned.routers)),
        "train_seconds": seconds,
        "processes": 1,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": about_machine(),
        "learned_from": learned_from,
    }
    write_json(run.manifest, manifest)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
