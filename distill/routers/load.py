"""Any router folder becomes a router: the one place that knows every kind."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import cast

from distill.config import EncoderConfig
from distill.routers.folder import RouterFile, read_router_file
from distill.types import Router

_LOADERS = {
    "majority": ("baselines", "load"),
    "tfidf": ("baselines", "load"),
    "rnn": ("rnn", "RnnRouter.load"),
    "attention": ("attention", "AttentionRouter.load"),
    "encoder": ("encoder", "EncoderRouter.load"),
    "encoder, open": ("open_encoder", "OpenEncoderRouter.load"),
    "encoder, exported": ("onnx", "OnnxEncoderRouter.load"),
    "decoder": ("decoder", "DecoderRouter.load"),
    "cascade": ("cascade", "CascadeRouter.load"),
    "ensemble": ("ensemble", "EnsembleRouter.load"),
    "endpoint": ("endpoint", "EndpointRouter.load"),
}
"""Of each sort of folder the module, and what in it takes a folder and its `RouterFile`.

By name: a TF-IDF router must not cost the seconds that torch and transformers take."""


def load_router(path: str | Path) -> Router:
    """Load any router folder; its confidences are probabilities where it is calibrated.

    Args:
        path: a router folder, or a run directory that contains `router/`.

    Raises:
        RouterError: no router there, or it is damaged.
        ModelError: the base model that an adapter needs cannot be had.
        MissingExtraError: an exported encoder, and ONNX Runtime is not installed.
    """
    folder = router_folder(path)
    return load_as(folder, read_router_file(folder))


def router_folder(path: str | Path) -> Path:
    """The router folder that `path` is, or that it contains as a run directory."""
    folder = Path(path)
    inside = not (folder / "router.json").exists() and (folder / "router").is_dir()
    return folder / "router" if inside else folder


def load_as(
    folder: Path, file: RouterFile, load: Callable[[Path, RouterFile], Router] | None = None
) -> Router:
    """The router of a folder, as if its `router.json` said `file`; errors as `load_router`.

    Args:
        load: makes the router of what the folder's kind says, its arguments' filler apart.
    """
    load = load or _loaded
    config = file.config
    if not isinstance(config, EncoderConfig) or config.arguments == "none":
        return load(folder, file)
    from distill.routers.arguments import FOLDER, ArgumentFiller, FillingRouter  # noqa: PLC0415

    # What is calibrated is the confidence in tools and arguments together.
    tools = load(folder, replace(file, calibration=None))
    return FillingRouter(tools, ArgumentFiller.load(folder / FOLDER, config), file)


def _loaded(folder: Path, file: RouterFile) -> Router:
    module, name = _LOADERS[_sort(file)]
    load = attrgetter(name)(importlib.import_module(f"distill.routers.{module}"))
    return cast(Router, load(folder, file))


def _sort(file: RouterFile) -> str:
    if file.onnx is not None:
        return "encoder, exported"
    if isinstance(file.config, EncoderConfig) and file.config.catalogue == "open":
        return "encoder, open"
    return file.config.kind
