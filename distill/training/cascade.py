"""A cascade is put together from trained routers; nothing of it is learned."""

from collections.abc import Mapping
from typing import Any

from distill.config import CascadeConfig
from distill.routers.cascade import CascadeRouter
from distill.routers.folder import RouterFile, read_router_file
from distill.runs import RunDir, read_json
from distill.training.job import Trained


def assemble(config: CascadeConfig, first: RunDir, second: RunDir) -> Trained:
    """The cascade of two whole runs; sizes and training times are the sums of theirs.

    Raises:
        RouterError: a run is not whole, or its router is damaged.
        ModelError: the decoder's base model cannot be had.
    """
    manifests = [_manifest(run) for run in (first, second)]
    decides = read_router_file(first.router)
    file = RouterFile(config, decides.catalogue, decides.labels)
    return Trained(
        CascadeRouter.of(file, first.router, second.router),
        sum(manifest["parameters"] for manifest in manifests),
        sum(manifest["trainable_parameters"] for manifest in manifests),
        sum(manifest["train_seconds"] for manifest in manifests),
    )


def _manifest(run: RunDir) -> Mapping[str, Any]:
    run.require_whole()
    found: Mapping[str, Any] = read_json(run.manifest)
    return found
