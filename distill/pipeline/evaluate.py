"""A trained router measured on its dataset's test part, and a job's routers compared."""

from typing import Any

from distill import config as configs
from distill.config import RunConfig
from distill.pipeline.build import dataset_of
from distill.pipeline.drafts import draft_of
from distill.pipeline.layout import comparison_dir, run_dir
from distill.progress import Progress
from distill.runs import RunDir, write_json


def ensure_evaluated(run: RunDir, progress: Progress) -> None:
    """Measure a run's router unless that was done; errors as `evaluate_run`."""
    if not is_evaluated(run):
        evaluate_run(run, progress)


def is_evaluated(run: RunDir) -> bool:
    """Whether a run's router was measured."""
    return run.whole and run.report.is_file() and run.predictions.is_file()


def evaluate_run(run: RunDir, progress: Progress) -> dict[str, Any]:
    """Measure a run's router on its test part; returns report.json's content.

    A killed evaluation goes on after its last decision, and one that was finished is done again.

    Raises:
        RouterError: the run is not whole.
        DatasetError: the dataset it was trained on is gone or has changed.
        EndpointError: an LLM's endpoint gave no decision at all.
    """
    from distill.evaluation.compare import run_report  # noqa: PLC0415
    from distill.evaluation.evaluate import evaluate  # noqa: PLC0415
    from distill.routers import load_router  # noqa: PLC0415

    run.require_whole()
    single = configs.load(run.config)
    (seed,) = single.seeds
    draft = draft_of(run.predictions, run, single.evaluation.max_examples)
    made, timing = evaluate(
        load_router(run.router),
        dataset_of(run, single).examples("test"),
        single.evaluation,
        draft,
        seed=seed,
        on_progress=lambda done, total: progress(f"evaluating {run.path.name}", done, total),
    )
    report = run_report(run, made, timing, single.evaluation)
    draft.finish()
    write_json(run.report, report)
    return report


def compare_all(config: RunConfig) -> dict[str, Any]:
    """Compare every router of the job over all its seeds."""
    from distill.evaluation.compare import compare  # noqa: PLC0415

    runs = [run_dir(config, router, seed) for seed in config.seeds for router in config.routers]
    prices = None if config.prices is None else configs.load_prices(config.prices)
    return compare(runs, comparison_dir(config), config.evaluation, prices)
