"""What a trained router's confidences are worth, fitted on its dataset's calibration part."""

import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from distill import config as configs
from distill.config import EndpointConfig, RiskConfig, RunConfig
from distill.errors import RouterError
from distill.evaluation.predictions import Prediction, load
from distill.pipeline.build import dataset_of
from distill.pipeline.drafts import draft_of
from distill.progress import Progress
from distill.routers.folder import RouterFile, read_router_file
from distill.runs import RunDir, write, write_json

log = logging.getLogger(__name__)


def calibrate_run(run: RunDir, progress: Progress) -> RouterFile:
    """Fit a run's calibration and thresholds into its `router.json`, and return what that holds.

    The calibration part is decided once, with raw confidences; other alphas are fitted on the
    same decisions, and a killed calibration goes on after its last decision. A report that the
    change makes untrue is written anew, or removed.

    Raises:
        RouterError: the run is not whole, or of a kind that states no confidence.
        DatasetError: the dataset it was trained on is gone or has changed.
        ConfigError: `risk.max_examples` holds no whole group.
    """
    from distill.evaluation.compare import reported_again  # noqa: PLC0415

    run.require_whole()
    single = configs.load(run.config)
    before = read_router_file(run.router)
    if isinstance(before.config, EndpointConfig):
        raise RouterError(run.path, "an endpoint states no confidence", "calibrate another run")
    after = fitted(before, _decided_once(run, single, progress), single.risk)
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


def _decided_once(run: RunDir, single: RunConfig, progress: Progress) -> list[Prediction]:
    """The run's raw decisions on the calibration part, decided now or before."""
    if run.calibration.is_file():
        return load(run.calibration)
    draft = draft_of(run.calibration, run, single.risk.max_examples)
    for prediction in raw_decisions(run.router, run, single, progress, draft.done):
        draft.add(prediction)
    made = list(draft)
    if made:
        draft.finish()
    return made


def raw_decisions(
    folder: Path,
    run: RunDir,
    single: RunConfig,
    progress: Progress,
    done: Collection[str] = (),
) -> Iterator[Prediction]:
    """What a router folder decides on the calibration part of a run's dataset, uncalibrated.

    Nothing, and a line in the log, where the dataset has no such part.

    Args:
        folder: the run's router, or what was made of it.
        single: the run's config.
        done: the ids of examples that were decided before.

    Raises:
        DatasetError: the dataset that the run was trained on is gone or has changed.
        ConfigError: `risk.max_examples` holds no whole group.
    """
    from distill.evaluation.evaluate import limited, predict  # noqa: PLC0415
    from distill.routers.load import load_as  # noqa: PLC0415

    (seed,) = single.seeds
    examples = dataset_of(run, single).examples("calibration")
    if not examples:
        log.warning("%s: no calibration part, so no thresholds (data.split)", run.path.name)
        return
    examples = limited(examples, single.risk.max_examples, seed, "risk.max_examples")
    # Whatever an earlier fit left is put aside: a calibration is fitted to raw confidences.
    router = load_as(folder, replace(read_router_file(folder), calibration=None))

    def decided(done: int, total: int) -> None:
        progress(f"calibrating {run.path.name}", done, total)

    yield from predict(router, examples, single.evaluation.batch_size, done, decided)


def fitted(file: RouterFile, made: list[Prediction], risk: RiskConfig) -> RouterFile:
    """The file with the calibration and thresholds that its router's raw decisions support."""
    from distill.evaluation.calibrate import fit_calibration  # noqa: PLC0415
    from distill.evaluation.risk import fit_thresholds  # noqa: PLC0415

    calibration = fit_calibration(made)
    thresholds = () if calibration is None else fit_thresholds(made, calibration, risk)
    return replace(file, calibration=calibration, thresholds=tuple(thresholds))
