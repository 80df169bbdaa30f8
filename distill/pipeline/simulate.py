"""Trained routers in the closed loop: every held-out task, played once, and the figures of it.

    <out>/tasks.jsonl         an outcome a line (`distill.evaluation.closed_loop.log`)
    <out>/closed_loop.json    the figures of each arm, written last

An **arm** is a router under a policy. A killed simulation goes on after its last task, and tasks
that ended in an error are tried again.
"""

import hashlib
import importlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from distill import config as configs
from distill.chat import digest
from distill.config import EvaluationConfig, PolicyConfig
from distill.environment import Environment, Recorded, Task
from distill.errors import ConfigError
from distill.evaluation.closed_loop import (
    Fallback,
    FromRecord,
    NoFallback,
    TaskLog,
    play,
    summarise,
)
from distill.evaluation.closed_loop.loop import MOST_STEPS
from distill.pipeline.build import dataset_of
from distill.policy import Policy
from distill.progress import Progress
from distill.routers.folder import read_router_file
from distill.routers.load import load_router, router_folder
from distill.runs import RunDir, write_json

FallbackName = Literal["none", "recorded"]


def simulate(
    runs: Sequence[Path],
    policy: PolicyConfig,
    out: Path,
    progress: Progress,
    *,
    environment: str | None = None,
    fallback: FallbackName = "none",
    attacks: bool = False,
) -> dict[str, Any]:
    """Play the tasks with each run's router; returns what `closed_loop.json` says.

    Args:
        runs: run directories; with an environment of one's own router folders do, too.
        policy: for every router, with its own thresholds.
        environment: `package.module:factory`; None: `orderdesk`, and of it the conversations in the
            test part of the dataset that the run was trained on.
        fallback: who answers what the policy does not let the router decide.
        attacks: of `orderdesk` play the attacks. Each router has two arms then, without the
            policy's rules about tools and with them, if it has any.

    Raises:
        ConfigError: a policy that does not fit the router or the tools, an environment that cannot
            be made, has no record for the fallback, or raised in every task.
        RouterError: a run that is not whole, or an `out` that holds other outcomes.
        DatasetError: the dataset that a run was trained on is gone or has changed.
    """
    names = [run.name for run in runs]
    arms = []
    for run, name in zip(runs, names, strict=True):
        title = name if names.count(name) == 1 else str(run)
        world = _orderdesk(run, attacks) if environment is None else named(environment)
        policies = {title: policy}
        if attacks and policy.guards:
            policies = {f"{title}, unguarded": policy.unguarded(), title: policy}
        for arm, config in policies.items():
            log = TaskLog(out / "tasks.jsonl", arm, _settings(run, config, environment, fallback))
            kind = _play_all(run, config, world, fallback, log=log, progress=progress)
            found = summarise(log.outcomes(), EvaluationConfig().bootstrap)
            arms.append({"name": arm, "kind": kind, "policy": config.model_dump(), **found})
    report = {
        "environment": environment or "orderdesk",
        "fallback": fallback,
        "attacks": attacks,
        "most_steps": MOST_STEPS,
        "arms": arms,
    }
    write_json(out / "closed_loop.json", report)
    return report


def _play_all(
    run: Path,
    config: PolicyConfig,
    world: Environment,
    fallback: FallbackName,
    *,
    log: TaskLog,
    progress: Progress,
) -> str:
    """Play what the log has not got; returns the router's kind."""
    file = read_router_file(router_folder(run))
    policy = Policy(config, file.thresholds)
    policy.require_known(tool.name for tool in world.tools)
    tasks = _tasks(world)
    left = [task for task in tasks if task.id not in log.done]
    if left:
        router = load_router(run)
        for i, task in enumerate(left, start=len(tasks) - len(left)):
            progress(f"simulating {log.arm}", i, len(tasks))
            log.add(play(router, policy, world, task, _fallback(fallback, world, task)))
        progress(f"simulating {log.arm}", len(tasks), len(tasks))
    _require_some_known(log)
    return file.config.kind


def _tasks(world: Environment) -> list[Task]:
    place, cure = f"{type(world).__name__}.tasks", "mend it"
    try:
        tasks = list(world.tasks())
        names = Counter(task.id for task in tasks)
    except Exception as error:  # whatever foreign code raises
        raise ConfigError(place, f"raised {type(error).__name__}: {error}", cure) from error
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise ConfigError(place, f"{twice!r} comes twice", cure)
    if not tasks:
        raise ConfigError(place, "gave no task", cure)
    return tasks


def _fallback(name: FallbackName, world: Environment, task: Task) -> Fallback:
    if name == "none":
        return NoFallback()
    if not isinstance(world, Recorded):
        raise ConfigError(
            "--fallback",
            f"{type(world).__name__} has no record of a teacher",
            "use none, or give it a method record(task)",
        )
    try:
        return FromRecord(world.record(task))
    except Exception as error:  # whatever foreign code raises
        fault = f"{task.id} has no record ({type(error).__name__}: {error})"
        raise ConfigError("--fallback", fault, "mend record(task), or use none") from error


def _require_some_known(log: TaskLog) -> None:
    """Raise ConfigError where every task ended in an error, which says nothing of the router."""
    errors = [outcome.error for outcome in log.outcomes() if outcome.end == "error"]
    if errors and not log.done:
        raise ConfigError(
            log.path,
            f"all {len(errors)} tasks of {log.arm} ended in an error, first {errors[0]}",
            "mend it and run the same command again",
        )


def _orderdesk(run: Path, attacks: bool) -> Environment:
    """The conversations that the run's router was not trained on."""
    from distill.sample.tasks.attacks import AttackedDesk  # noqa: PLC0415
    from distill.sample.tasks.desk import OrderDesk  # noqa: PLC0415

    folder = RunDir(run)
    folder.require_whole()
    dataset = dataset_of(folder, configs.load(folder.config))
    held_out = {example.trace_id: example.group for example in dataset.examples("test")}
    world = (AttackedDesk if attacks else OrderDesk)(held_out)
    if not world.tasks():
        raise ConfigError(
            run,
            "its test part has no conversation of orderdesk",
            "name an --environment of your own",
        )
    return world


def named(name: str) -> Environment:
    """What `package.module:factory` makes; modules are also found in the working directory.

    Raises:
        ConfigError: there is no such factory, it raises, or what it makes is no environment.
    """
    place = "--environment"
    module, colon, factory = name.partition(":")
    if not (module and colon and factory):
        raise ConfigError(place, f"{name!r} names no factory", "write package.module:factory")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        make = getattr(importlib.import_module(module), factory)
        made = make()
    except Exception as error:  # whatever foreign code raises
        raise ConfigError(
            place, f"{name} cannot be made ({type(error).__name__}: {error})", "mend it"
        ) from error
    if not isinstance(made, Environment):
        wanted = "tools, tasks, reset, execute and score"
        raise ConfigError(place, f"{name} makes no environment", f"give it {wanted}")
    return made


def _settings(
    run: Path, config: PolicyConfig, environment: str | None, fallback: FallbackName
) -> str:
    """Hash of what the outcomes depend on, a user's own code aside."""
    folder = router_folder(run)
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = found
    return digest([files, config.model_dump(mode="json"), environment, fallback, MOST_STEPS])
