"""The steps of a job, in order, each with its rough share of the time."""

from collections.abc import Callable
from dataclasses import dataclass

from distill.config import (
    AnyRouterConfig,
    AssembledConfig,
    CascadeConfig,
    DecoderConfig,
    EncoderConfig,
    EndpointConfig,
    RunConfig,
    load_prices,
)
from distill.errors import ConfigError
from distill.pipeline.build import ensure_dataset
from distill.pipeline.calibrate import calibrate_run
from distill.pipeline.evaluate import compare_all, ensure_evaluated, is_evaluated
from distill.pipeline.layout import run_dir
from distill.pipeline.train import train_router
from distill.progress import Progress
from distill.training.job import require_trackers

# Seconds of the quick start on two cores: only their ratios are used.
_TRAIN_COST = {
    "majority": 1,
    "tfidf": 20,
    "rnn": 40,
    "attention": 60,
    "encoder": 215,
    "decoder": 390,
    "cascade": 5,
    "ensemble": 1,
    "endpoint": 1,
}
_EVALUATE_COST = {
    "majority": 1,
    "tfidf": 1,
    "rnn": 2,
    "attention": 2,
    "encoder": 5,
    "decoder": 90,
    "cascade": 70,
    "ensemble": 7,
    "endpoint": 120,
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
        ConfigError: a router is put together from others that are none of the job's or of the
            wrong kind, an endpoint's key is not
            in the environment and is still needed, or the table of prices cannot be read.
        MissingExtraError: a tracker is not installed.
        ModelError: a base model that needs no hub is not there.
    """
    require_trackers(config.trackers)
    for name, settings in config.routers.items():
        if isinstance(settings, AssembledConfig):
            _require_stages(config, name, settings)
        if isinstance(settings, EncoderConfig | DecoderConfig):
            from distill.routers import pretrained  # noqa: PLC0415

            pretrained.require(settings.model)
        if isinstance(settings, EndpointConfig) and not all(
            is_evaluated(run_dir(config, name, seed)) for seed in config.seeds
        ):
            from distill.endpoint.key import key_of  # noqa: PLC0415

            key_of(settings.key_env)
    if config.prices is not None:
        load_prices(config.prices)

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
        # After those that they are put together from.
        last = sorted(config.routers.items(), key=lambda item: isinstance(item[1], AssembledConfig))
        for router, settings in last:
            run = run_dir(config, router, seed).path.name
            cost = _TRAIN_COST[settings.kind]
            plan.append(Step(f"train {run}", cost, train(router, seed)))
            cost = _EVALUATE_COST[settings.kind]
            if not isinstance(settings, EndpointConfig):  # which states no confidence
                plan.append(Step(f"calibrate {run}", cost / 2, calibrate(router, seed)))
            plan.append(Step(f"evaluate {run}", cost, evaluate(router, seed)))
    plan.append(Step("compare", 3, lambda _: compare_all(config)))
    return plan


_KINDS = {
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "closed classifier": ("tfidf", "rnn", "attention", "encoder"),
}


def _require_stages(config: RunConfig, name: str, settings: AssembledConfig) -> None:
    for folder, wanted in settings.stages().items():
        sort = folder if isinstance(settings, CascadeConfig) else "closed classifier"
        known = [other for other, found in config.routers.items() if _is(found, sort)]
        if wanted not in known:
            key = sort if isinstance(settings, CascadeConfig) else "members"
            raise ConfigError(
                f"routers.{name}.{key}",
                f"{wanted!r} is no {sort} of this job",
                f"one of: {', '.join(known)}"
                if known
                else f"add a router of kind {_KINDS[sort][0]}",
            )


def _is(settings: AnyRouterConfig, sort: str) -> bool:
    """Whether a router can be a stage of this sort."""
    reads_tools = isinstance(settings, EncoderConfig) and settings.catalogue == "open"
    return settings.kind in _KINDS[sort] and not (sort == "closed classifier" and reads_tools)
