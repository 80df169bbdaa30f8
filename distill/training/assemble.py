"""Cascades and ensembles are put together from trained routers; nothing of them is learned."""

from collections.abc import Mapping
from typing import Any

from distill.config import AssembledConfig, CascadeConfig
from distill.routers.cascade import FIRST, CascadeRouter
from distill.routers.ensemble import EnsembleRouter, joined
from distill.routers.folder import RouterFile, read_router_file
from distill.runs import RunDir, read_json
from distill.training.job import Trained


def assemble(config: AssembledConfig, stages: Mapping[str, RunDir]) -> Trained:
    """The router of whole runs; sizes and training times are the sums of theirs.

    Args:
        stages: by the names that `config.stages()` gives their folders.

    Raises:
        RouterError: a run is not whole, or its router is damaged or of the wrong kind.
        ModelError: a decoder's base model cannot be had.
    """
    manifests = [_manifest(run) for run in stages.values()]
    folders = {name: run.router for name, run in stages.items()}
    files = {name: read_router_file(folder) for name, folder in folders.items()}
    router: CascadeRouter | EnsembleRouter
    if isinstance(config, CascadeConfig):
        file = RouterFile(config, files[FIRST].catalogue, files[FIRST].labels)
        router = CascadeRouter.of(file, folders)
    else:
        labels = joined([file.labels for file in files.values()])
        # Trained on one dataset, all members know its catalogue.
        file = RouterFile(config, next(iter(files.values())).catalogue, labels)
        router = EnsembleRouter.of(file, folders)
    return Trained(
        router,
        sum(manifest["parameters"] for manifest in manifests),
        sum(manifest["trainable_parameters"] for manifest in manifests),
        sum(manifest["train_seconds"] for manifest in manifests),
    )


def _manifest(run: RunDir) -> Mapping[str, Any]:
    run.require_whole()
    found: Mapping[str, Any] = read_json(run.manifest)
    return found
