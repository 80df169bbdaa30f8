"""A run's encoder as a folder for ONNX Runtime, with thresholds that hold for it."""

import logging
from pathlib import Path

from distill import config as configs
from distill.errors import DatasetError
from distill.pipeline.calibrate import fitted, raw_decisions
from distill.progress import Progress
from distill.routers.export import Quantise, export, require_replaceable
from distill.routers.folder import RouterFile, read_router_file
from distill.runs import RunDir, new_folder

log = logging.getLogger(__name__)


def export_run(source: Path, out: Path, quantise: Quantise, progress: Progress) -> RouterFile:
    """Write the router folder `out`, and return what its `router.json` holds.

    int8 weights answer with confidences of their own. Calibration and thresholds are fitted to
    these as a run's are: on the calibration part of its dataset, for the promises of its config.
    Where the dataset is not at hand the folder has none, and the log says why.

    Args:
        source: a run directory, or a router folder, which knows no dataset.
        quantise: as for `distill.routers.export.export`; with `none` the run's own thresholds hold.

    Raises:
        RouterError, MissingExtraError: as `distill.routers.export.export`.
        ConfigError: `risk.max_examples` holds no whole group.
    """
    require_replaceable(out)
    with new_folder(out) as folder:
        export(source, folder, quantise)
        if quantise == "int8":
            try:
                _calibrate(folder, RunDir(source), progress)
            except DatasetError as error:
                log.warning("%s: no thresholds (%s)", out, error)
        return read_router_file(folder)


def _calibrate(folder: Path, run: RunDir, progress: Progress) -> None:
    if not run.whole:
        raise DatasetError(run.path, "no finished run, so no dataset", "name a run directory")
    single = configs.load(run.config)
    made = [p.unscored for p in raw_decisions(folder, run, single, progress)]
    fitted(read_router_file(folder), made, single.risk).save(folder)
