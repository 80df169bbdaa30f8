"""The router folder: what `router.json` says, written and read in one place.

    router.json     kind, config (render settings included), catalogue with a hash per tool,
                    decision classes, base model, calibration and thresholds
    *.safetensors   weights, or a PEFT adapter; an exported encoder has model.onnx instead
    tokenizer.json, chat_template.jinja, …   as the kind needs

A folder moves to another machine by copying: a base model stands in it by name and checksum. The
one exception is a decoder trained on a local base folder, which needs that folder at its path.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from distill.chat import digest, parse_tools, tool_json
from distill.config import AnyRouterConfig, RouterConfig
from distill.errors import RouterError
from distill.routers.confidence import (
    Calibration,
    Threshold,
    calibration_json,
    parse_calibration,
)
from distill.routers.labels import LabelSpace
from distill.runs import read_json, write_json
from distill.types import REPLY, ToolSpec

FORMAT = 2
"""Also raised when `distill.render` writes another text, which no trained router would know."""


@dataclass(frozen=True)
class RouterFile:
    """What `router.json` holds. `base_model` is None for routers trained from scratch."""

    config: AnyRouterConfig
    catalogue: tuple[ToolSpec, ...]
    labels: LabelSpace
    base_model: dict[str, Any] | None = None
    calibration: Calibration | None = None
    thresholds: tuple[Threshold, ...] = ()
    onnx: dict[str, Any] | None = None
    """For an encoder that ONNX Runtime computes: `sha256` of its graph, and `quantise`."""

    def save(self, folder: Path) -> None:
        """Write `router.json` into an existing folder."""
        tools = [tool_json(tool) for tool in self.catalogue]
        value = {
            "format": FORMAT,
            "kind": self.config.kind,
            "config": self.config.model_dump(mode="json"),
            "catalogue": [{"tool": tool, "hash": digest(tool)} for tool in tools],
            "classes": self.labels.classes,
            "base_model": self.base_model,
            "calibration": calibration_json(self.calibration),
            "thresholds": [asdict(threshold) for threshold in self.thresholds],
            "onnx": self.onnx,
        }
        write_json(folder / "router.json", value)


def read_router_file(folder: Path) -> RouterFile:
    """Read and check `router.json`.

    Raises:
        RouterError: missing, of another format, or edited so that a tool's hash no longer fits.
    """
    place = folder / "router.json"
    value = read_json(place)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else None
        raise RouterError(
            place, f"format {found!r}, this version reads {FORMAT}", "train the router again"
        )
    try:
        adapter: TypeAdapter[AnyRouterConfig] = TypeAdapter(RouterConfig)
        config = adapter.validate_python(value["config"])
        catalogue = parse_tools([entry["tool"] for entry in value["catalogue"]])
        changed = [
            entry["tool"]["function"]["name"]
            for entry in value["catalogue"]
            if digest(entry["tool"]) != entry["hash"]
        ]
        labels = LabelSpace(tuple(tuple(names) for names in value["classes"]))
        calibration = parse_calibration(value["calibration"])
        thresholds = tuple(Threshold(**entry) for entry in value["thresholds"] or ())
        onnx = value.get("onnx")
        onnx = None if onnx is None else dict(onnx)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RouterError(place, f"damaged ({reason})", "copy the folder again") from None
    known = {tool.name for tool in catalogue} | {REPLY}
    unknown = [name for names in labels.classes for name in names if name not in known]
    if unknown:
        raise RouterError(
            place, f"a class names {unknown[0]!r}, which no tool is called", "copy the folder again"
        )
    if changed:
        raise RouterError(
            place, f"tool {changed[0]!r} differs from its hash", "train the router again"
        )
    return RouterFile(
        config,
        catalogue,
        labels,
        value.get("base_model"),
        calibration,
        thresholds,
        onnx,
    )


def fingerprint(folder: Path) -> str:
    """Hash of all of a router's files, their names included."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = found
    return digest(files)


def require_files(folder: Path, names: Sequence[str]) -> None:
    """Raise RouterError naming the first file that is missing, or is weights cut off."""
    for name in names:
        if not (folder / name).is_file():
            raise RouterError(folder / name, "missing", "copy the whole router folder")
        if name.endswith(".safetensors"):
            try:
                # Opening checks the header, and that it accounts for every byte of the file.
                with safe_open(folder / name, framework="numpy"):
                    pass
            except SafetensorError as error:
                raise RouterError(
                    folder / name, f"damaged ({error})", "copy the folder again"
                ) from None
