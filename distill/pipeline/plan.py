"""The steps of a job, in order, each with its rough share of the time."""

from collections.abc import Callable
from dataclasses import dataclass

from distill.config import (
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
        ConfigError: a cascade names routers that are none of the job's, an endpoint's key is not
            in the environment and is still needed, or the table of prices cannot be read.
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
        if isinstance(settings, EndpointConfig) and not all(
            is_evaluated(run_dir(config, name, seed)) for seed in config.seeds
        ):
            from distill.endpoint.client import key_of  # noqa: PLC0415

            key_of(settings)
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
        # A cascade is put together from the others.
        last = sorted(config.routers.items(), key=lambda item: isinstance(item[1], CascadeConfig))
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
