"""Trained routers in the closed loop: every task, played once, and the figures of it.

    <out>/tasks.jsonl         the outcomes, a `Ledger` with a part for each arm
    <out>/closed_loop.json    the figures of each arm and what differs between them, written last,
                              after the same as .md and .csv

An **arm** is a router under a policy, or one arm of the history experiment with it. A killed
simulation goes on after its last task, and tasks that ended in an error are tried again. While an
LLM answers, other tasks are played, each in an environment of its own, `concurrency` at a time.
"""

import importlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Literal

import orjson

from distill import config as configs
from distill.chat import parse_messages, trace_json
from distill.config import ArmName, EndpointConfig, EvaluationConfig, PolicyConfig
from distill.dataset.parts import Part
from distill.dataset.points import TRIES
from distill.endpoint import Endpoint
from distill.environment import Environment, Recorded, Task
from distill.errors import ConfigError
from distill.evaluation.arms import ARMS, Arm
from distill.evaluation.closed_loop import (
    Fallback,
    FromLlm,
    FromRecord,
    NoFallback,
    Outcome,
    paired,
    play,
    summarise,
)
from distill.evaluation.closed_loop.loop import MOST_STEPS
from distill.evaluation.ledger import Ledger
from distill.evaluation.report import write_outcomes
from distill.pipeline.build import dataset_of
from distill.policy import Policy
from distill.progress import Progress
from distill.routers.folder import fingerprint, read_router_file
from distill.routers.load import load_router, router_folder
from distill.runs import RunDir
from distill.traces.files import new_lines
from distill.types import Context, Decision, Router, Trace
from distill.types import Outcome as Graded

FallbackName = Literal["none", "recorded", "llm"]

_ASKED = {"model", "base_url", "max_tokens", "temperature", "seed", "extra"}
"""What an LLM's answers depend on; the rest of its config is about patience."""

_HOPELESS = 10
"""After so many tasks that all ended in an error, the others are not tried."""


def simulate(
    runs: Sequence[Path],
    policy: PolicyConfig,
    out: Path,
    progress: Progress,
    *,
    environment: str | None = None,
    fallback: FallbackName = "none",
    endpoint: EndpointConfig | None = None,
    arms: Sequence[str] = (),
    attacks: bool = False,
    part: Part = "test",
    most: int | None = None,
    traces: Path | None = None,
) -> dict[str, Any]:
    """Play the tasks with each run's router; returns what `closed_loop.json` says.

    Args:
        runs: run directories; with an environment of one's own router folders do, too.
        policy: for every router, with its own thresholds.
        environment: `package.module:factory`; None: `orderdesk`, and of it the conversations in
            `part` of the dataset that the run was trained on.
        fallback: who answers what the policy does not let the router decide.
        endpoint: the LLM that is the fallback.
        arms: of the history experiment (`distill.evaluation.arms`), each played with every router;
            none: the LLM is offered the tools, too, whatever the router has decided before.
        attacks: of `orderdesk` play the attacks. Each router has two arms then, without the
            policy's rules about tools and with them, if it has any.
        part: of `orderdesk`; `train` for tries that are to teach (`distill learn`).
        most: play at most this many of the tasks, drawn by chance, always the same ones: a later
            call with more goes on with the others.
        traces: a file for the conversations, each with its outcome, as traces.

    Raises:
        ConfigError: a policy that does not fit the router or the tools, an environment that cannot
            be made, has no record for the fallback, or raised in every task; an LLM that is not
            named, has no key, or never answered; arms that cannot be.
        RouterError: a run that is not whole, or an `out` that holds other outcomes.
        DatasetError: the dataset that a run was trained on is gone or has changed.
    """
    shown = _arms(arms, fallback)
    if environment is not None and part != "test":
        raise ConfigError("--part", "is of orderdesk's dataset", "leave it out")
    if (endpoint is None) == (fallback == "llm"):
        fault = "is of no use" if endpoint else "is missing"
        raise ConfigError("--endpoint", fault, "give it with --fallback llm, and only then")
    asked = endpoint and endpoint.model_dump(mode="json", include=_ASKED)
    job = {
        "environment": environment or ("orderdesk" if part == "test" else f"orderdesk, {part}"),
        "fallback": fallback,
        "endpoint": asked,
        "attacks": attacks,
        "most_steps": MOST_STEPS,
    }
    resamples = EvaluationConfig().bootstrap
    played: dict[str, _Contestant] = {}
    figures = []
    with nullcontext() if endpoint is None else closing(Endpoint(endpoint)) as llm:
        for run, title in zip(runs, _titles(runs), strict=True):
            make = (
                partial(named, environment) if environment else partial(_desk, run, attacks, part)
            )
            worlds = _worlds(make, endpoint.concurrency if endpoint else 1)
            tasks = _drawn(tasks_of(worlds[0]), most)
            policies = {title: policy}
            if attacks and policy.guards:
                policies = {f"{title}, unguarded": policy.unguarded(), title: policy}
            for name, config, arm in _each(policies, shown):
                about = {"policy": config.model_dump(mode="json"), "arm": arm and arm.name}
                settings = {"router": fingerprint(router_folder(run)), **job, **about}
                ledger = Ledger(out / "tasks.jsonl", settings, name)
                played[name] = one = _Contestant(run, config, worlds, tasks, arm, ledger)
                kind = one.play(_fallback(fallback, worlds[0], llm, arm), progress)
                found = summarise(one.outcomes(), resamples)
                figures.append({"name": name, "kind": kind, **about, **found})
    outcomes = {name: one.outcomes() for name, one in played.items()}
    report = {**job, "arms": figures, "paired": paired(outcomes, resamples)}
    if traces is not None:
        with new_lines(traces) as file:
            for name, one in played.items():
                for trace in one.traces(name):
                    file.write(orjson.dumps(trace_json(trace), option=orjson.OPT_APPEND_NEWLINE))
    write_outcomes(report, out)
    return report


def _arms(names: Sequence[str], fallback: FallbackName) -> list[Arm]:
    """The arms of the history experiment, in order."""
    place = "--arms"
    known: dict[str, Arm] = {name: arm for name, arm in ARMS.items() if name != _IMPOSSIBLE}
    if names and fallback != "llm":
        raise ConfigError(place, "show an LLM its history", "use --fallback llm")
    for name in names:
        if name not in known:
            raise ConfigError(place, f"no arm {name!r}", f"the arms are: {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ConfigError(place, "one of them comes twice", "name each arm once")
    return [known[name] for name in names]


_IMPOSSIBLE: ArmName = "own-no-tools"
"""Only a record can have it: an LLM cannot call tools that it is not offered."""


def _titles(runs: Sequence[Path]) -> list[str]:
    """What each run is called: its folder's name, or its path where two have that name."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run) for run, name in zip(runs, names, strict=True)
    ]


def _each(
    policies: dict[str, PolicyConfig], arms: Sequence[Arm]
) -> Iterator[tuple[str, PolicyConfig, Arm | None]]:
    """The name, policy and arm of everything that one router is played with."""
    for title, policy in policies.items():
        if not arms:
            yield title, policy, None
        for arm in arms:
            yield f"{title}, {arm.name}", policy, arm


@dataclass
class _Contestant:
    """An arm with its tasks, and their outcomes."""

    run: Path
    policy: PolicyConfig
    worlds: Sequence[Environment]
    """So many tasks are played at once."""
    tasks: Sequence[Task]
    arm: Arm | None
    ledger: Ledger

    def play(self, fallback: Callable[[Task], Fallback], progress: Progress) -> str:
        """Play what the ledger has not got; returns the router's kind."""
        file = read_router_file(router_folder(self.run))
        policy = Policy(self.policy, file.thresholds)
        policy.require_known(tool.name for tool in self.worlds[0].tools)
        left = [task for task in self.tasks if task.id not in self.ledger.done]
        if left:
            alone = self.arm is not None and self.arm.history == "own"
            router = None if alone else _OneAtATime(load_router(self.run))
            stage, total, failed = f"simulating {self.ledger.part}", len(self.tasks), 0
            done = total - len(left)
            progress(stage, done, total)
            for outcome in self._played(left, router, policy, fallback):
                self.ledger.add(outcome.row())
                done += 1
                progress(stage, done, total)
                failed += outcome.error is not None
                if failed == done == _HOPELESS:
                    break
        self._require_some_known()
        return file.config.kind

    def _played(
        self,
        tasks: Sequence[Task],
        router: Router | None,
        policy: Policy,
        fallback: Callable[[Task], Fallback],
    ) -> Iterator[Outcome]:
        """The outcomes as they come; tasks not yet begun are dropped when nobody wants more."""
        free: SimpleQueue[Environment] = SimpleQueue()
        for world in self.worlds:
            free.put(world)

        def one(task: Task) -> Outcome:
            world = free.get()
            try:
                return play(router, policy, world, task, fallback(task))
            finally:
                free.put(world)

        pool = ThreadPoolExecutor(len(self.worlds))
        try:
            for future in as_completed([pool.submit(one, task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def outcomes(self) -> Iterator[Outcome]:
        """Of these tasks, whatever else the ledger has."""
        wanted = {task.id for task in self.tasks}
        return (Outcome.of(row) for row in self.ledger.rows() if row["id"] in wanted)

    def traces(self, name: str) -> Iterator[Trace]:
        """The conversations as traces: of an outcome that is not known, ungraded ones."""
        tools = tuple(self.worlds[0].tools)
        for outcome in self.outcomes():
            if outcome.messages:
                yield Trace(
                    id=f"{name}: {outcome.id}",
                    group=outcome.group,
                    teacher=name,
                    source=TRIES,
                    tools=tools,
                    messages=parse_messages(list(outcome.messages)),
                    outcome=Graded(outcome.success),
                )

    def _require_some_known(self) -> None:
        """Raise ConfigError where every task ended in an error, which tells nothing."""
        errors = [outcome.error for outcome in self.outcomes()]
        if None not in errors:
            raise ConfigError(
                self.ledger.path,
                f"all {len(errors)} tasks that were tried of {self.ledger.part} ended in an error, "
                f"first {errors[0]}",
                "mend it and run the same command again",
            )


class _OneAtATime:
    """A router that several threads may ask: tokenizers are not made for that."""

    def __init__(self, router: Router) -> None:
        self.router, self._lock = router, Lock()

    @property
    def kind(self) -> str:
        return self.router.kind

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        with self._lock:
            return self.router.decide(contexts)

    def save(self, path: Path) -> None:
        self.router.save(path)


def _worlds(make: Callable[[], Environment], most: int) -> list[Environment]:
    """Environments that do not know of each other: one, or where each is a new one `most`."""
    found: list[Environment] = []
    for _ in range(most):
        made = make()
        if found and made is found[0]:
            break
        found.append(made)
    return found


def tasks_of(world: Environment) -> list[Task]:
    """An environment's tasks.

    Raises:
        ConfigError: it raises, has none, or has one twice.
    """
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


def _drawn(tasks: list[Task], most: int | None) -> list[Task]:
    """So many of the tasks, in their order; more hold all of fewer."""
    by_chance = random.Random(0).sample(range(len(tasks)), len(tasks))
    return [tasks[i] for i in sorted(by_chance[:most])]


def _fallback(
    name: FallbackName, world: Environment, llm: Endpoint | None, arm: Arm | None
) -> Callable[[Task], Fallback]:
    """What makes each task's fallback."""
    if name == "none":
        return lambda task: NoFallback()
    if llm is not None:
        answers = FromLlm(llm) if arm is None else FromLlm(llm, arm)
        return lambda task: answers
    if not isinstance(world, Recorded):
        raise ConfigError(
            "--fallback",
            f"{type(world).__name__} has no record of a teacher",
            "use another, or give it a method record(task)",
        )

    def recorded(task: Task) -> Fallback:
        try:
            return FromRecord(world.record(task))
        except Exception as error:  # whatever foreign code raises
            fault = f"{task.id} has no record ({type(error).__name__}: {error})"
            raise ConfigError("--fallback", fault, "mend record(task), or use another") from error

    return recorded


def _desk(run: Path, attacks: bool, part: Part) -> Environment:
    """The conversations in a part of the dataset that the run's router was trained on."""
    from distill.sample.tasks.attacks import AttackedDesk  # noqa: PLC0415
    from distill.sample.tasks.desk import OrderDesk  # noqa: PLC0415

    folder = RunDir(run)
    folder.require_whole()
    dataset = dataset_of(folder, configs.load(folder.config))
    chosen = {example.trace_id: example.group for example in dataset.examples(part)}
    world = (AttackedDesk if attacks else OrderDesk)(chosen)
    if not world.tasks():
        raise ConfigError(
            run,
            f"its {part} part has no conversation of orderdesk",
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
