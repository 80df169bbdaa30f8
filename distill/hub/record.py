"""What a finished run says about itself, checked and freed of this machine's paths.

The card and the published folder are both made from a `Record`, so neither can state what the other
does not hold. This module knows nothing of Markdown and nothing of the network.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, unmarked
from pydantic import TypeAdapter

from distill.chat import parse_tools
from distill.config import AssembledConfig
from distill.errors import HubError, RouterError
from distill.runs import RunDir, read_json

_MANIFEST = [
    "format",
    "run",
    "router",
    "kind",
    "seed",
    "dataset.hash",
    "dataset.parts",
    "dataset.n_groups",
    "dataset.source.name",
    "dataset.source.sha256",
    "teacher.name",
    "base_model",
    "parameters",
    "trainable_parameters",
    "train_seconds",
    "environment.python",
    "environment.libraries",
    "environment.git_commit",
    "environment.hardware.cpu",
    "environment.hardware.cores",
    "environment.hardware.gpus",
]
_ROUTER = ["format", "kind", "config", "catalogue"]
_REPORT = [
    "dataset.hash",
    "teacher",
    "routers",
    "evaluation.hardware.cpu",
    "evaluation.hardware.cores",
    "evaluation.hardware.gpus",
]
_MEASURED = ["kind", "n_examples", "n_groups"]

_LOCAL = re.compile(r"^(/|~|\.{1,2}/|\\\\|file://|[A-Za-z]:[\\/])")


@dataclass(frozen=True)
class Base:
    """A base model, by what a run recorded of it."""

    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """What the config called it."""
        return str(self.facts["name"])

    @property
    def is_local(self) -> bool:
        """Whether it was a folder where the router was trained.

        No look at this machine's files can tell: a relative path leads elsewhere from elsewhere.
        """
        # Runs older than this key recorded a folder as its bare name.
        origin = str(self.facts.get("origin") or self.name)
        return bool(self.facts.get("local", "/" not in origin))

    @property
    def repo(self) -> str | None:
        """Its name on a hub, mostly `owner/name`; None where it has no such name."""
        # A packaged model's `origin` is the hub's name for the same weights.
        name = self.facts.get("origin") or self.name
        return name if not self.is_local and _is_repo_name(name) else None

    @property
    def license(self) -> str | None:
        """In the hub's words; None where the run does not know it."""
        found = self.facts.get("license")
        return found.lower() if isinstance(found, str) and found else None


@dataclass(frozen=True)
class Record:
    """The run's files as JSON values."""

    manifest: dict[str, Any]
    report: dict[str, Any]
    router: dict[str, Any]
    config: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of what is put together: the `router.json` of each part, by its folder within the whole's."""

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def measured(self) -> dict[str, Any]:
        """The report's one entry about this router."""
        value: dict[str, Any] = self.report["routers"][0]
        return value

    @property
    def tools(self) -> list[str]:
        """The names of the catalogue's tools."""
        return [tool.name for tool in parse_tools([e["tool"] for e in self.router["catalogue"]])]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """`router.json` of whatever was trained, by its folder within the router's (`.`: all)."""
        return self.stages or {".": self.router}

    @property
    def filler(self) -> str | None:
        """The folder, within the router's, of the pointers that fill arguments; None for none."""
        filling = (
            folder
            for folder, file in self.files.items()
            if file["config"].get("arguments", "none") != "none"
        )
        return next((f"{folder}/arguments".removeprefix("./") for folder in filling), None)

    @property
    def bases(self) -> dict[str, Base]:
        """Base models, by the folder within the router's that was made of them (`.`: all of it)."""
        if self.stages:
            found = {folder: stage.get("base_model") for folder, stage in self.stages.items()}
        else:
            found = {".": self.manifest["base_model"]}
        return {folder: Base(facts) for folder, facts in found.items() if facts is not None}

    def base_of(self, path: Path) -> Base | None:
        """The base model that a file was made of, by the file's path within the router's folder."""
        return self.bases.get(path.parts[0] if self.stages else ".")

    @property
    def license(self) -> str | None:
        """What the published weights are under, in the hub's words; None where it is not known, or
        where stages differ.

        A base model's licence goes with what is derived from it. Weights trained from scratch are
        under this project's own.
        """
        known = {base.license for base in self.bases.values()} or {"apache-2.0"}
        return known.pop() if len(known) == 1 else None

    def with_licenses(self, found: Mapping[str, str]) -> "Record":
        """The same record, knowing the licences of base models, by their names on a hub."""

        def known(facts: dict[str, Any] | None) -> dict[str, Any] | None:
            base = None if facts is None else Base(facts)
            if base is None or base.repo is None or base.license is not None:
                return facts
            return base.facts | {"license": found.get(base.repo)}

        stages = {
            folder: stage | {"base_model": known(stage.get("base_model"))}
            for folder, stage in self.stages.items()
        }
        manifest = self.manifest | {"base_model": known(self.manifest["base_model"])}
        return replace(self, manifest=manifest, stages=stages)


def read_record(run: RunDir) -> Record:
    """Read what a run says about itself.

    Absolute paths shrink to their last component: where a file lay is nobody else's business.

    Raises:
        RouterError: the run is not whole, one of its files lacks keys (all are named), or the
            files belong to different routers or datasets.
        HubError: it is an exported router.
    """
    for folder in (run.path, run.router):
        _require_no_export(folder)
    run.require_whole()
    manifest = _mapping(run.manifest, read_json(run.manifest), _MANIFEST, "distill train")
    parts = [f"dataset.parts.{name}" for name in manifest["dataset"]["parts"]]
    counts = [f"{part}.{count}" for part in parts for count in ("examples", "groups")]
    base = [] if manifest["base_model"] is None else ["base_model.name"]
    _mapping(run.manifest, manifest, counts + base, "distill train")
    router = _router(run.router, _ROUTER)
    stages = {}
    if router["kind"] == "endpoint":
        raise HubError(
            run.path, "holds nothing to publish: its LLM is behind an endpoint", "push another run"
        )
    if router["kind"] in ("cascade", "ensemble"):
        assembled: TypeAdapter[AssembledConfig] = TypeAdapter(AssembledConfig)
        names = assembled.validate_python(router["config"]).stages()
        stages = {name: _router(run.router / name, _ROUTER) for name in names}
    report = _mapping(run.report, read_json(run.report), _REPORT, "distill evaluate")
    config = _mapping(run.config, _read_yaml(run.config), [], "distill train")
    _agree(run, manifest, report, router)
    _mapping(run.report, report["routers"][0], _MEASURED, "distill evaluate")
    return Record(
        without_paths(manifest), without_paths(report), router, without_paths(config), stages
    )


def _require_no_export(folder: Path) -> None:
    """Raise HubError for a folder that `distill export` wrote: a card has nothing to say of it."""
    place = folder / "router.json"
    value = read_json(place) if place.is_file() else None
    if isinstance(value, dict) and value.get("onnx") is not None:
        raise HubError(
            folder,
            "is exported for ONNX Runtime, and a card's figures would be another router's",
            "push the run it is from; distill export makes the same of what is pulled",
        )


def _router(folder: Path, keys: Iterable[str]) -> dict[str, Any]:
    """A `router.json` with these keys, without paths."""
    place = folder / "router.json"
    value = dict(_mapping(place, read_json(place), keys, "distill train"))
    for key in ("config", "base_model"):
        # The catalogue stays as it is: a tool may well speak of paths, and its hash must fit.
        value[key] = without_paths(value.get(key))
    return value


def is_local(text: str) -> bool:
    """Whether a string is a path of this machine rather than a name."""
    return bool(_LOCAL.match(text))


def _is_repo_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def require_repo_id(repo_id: str) -> None:
    """Raise HubError unless `repo_id` reads `owner/name` in the characters that hubs allow."""
    cure = "write owner/name, in letters, digits and single '-', '_', '.'"
    if not _is_repo_name(repo_id):
        raise HubError(repr(repo_id), "no repository name", cure)
    if "/" not in repo_id:
        raise HubError(repr(repo_id), "names no owner", cure)


def without_paths(value: Any) -> Any:
    """Every string that is a local path, at any depth, cut down to its last component."""
    match value:
        case str():
            return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if is_local(value) else value
        case dict():
            return {key: without_paths(item) for key, item in value.items()}
        case list():
            return [without_paths(item) for item in value]
    return value


def _mapping(place: Path, value: Any, keys: Iterable[str], cure: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RouterError(place, "not a mapping of keys to values", f"run {cure} again")
    missing = [key for key in keys if not _has(value, key.split("."))]
    if missing:
        raise RouterError(place, f"lacks {', '.join(missing)}", f"run {cure} again")
    return value


def _has(value: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _agree(
    run: RunDir, manifest: dict[str, Any], report: dict[str, Any], router: dict[str, Any]
) -> None:
    place = run.router / "router.json"
    try:
        parse_tools([entry["tool"] for entry in router["catalogue"]])
    except (KeyError, TypeError, ValueError):
        raise RouterError(place, "no catalogue of tools", "run distill train again") from None
    routers = report["routers"]
    if not isinstance(routers, list) or len(routers) != 1 or not isinstance(routers[0], dict):
        raise RouterError(run.report, "not about one router", "run distill evaluate on this run")
    again = "run distill evaluate again"
    for place, what, found, expected in [
        (run.report, "kind", routers[0].get("kind"), manifest["kind"]),
        (run.router / "router.json", "kind", router["kind"], manifest["kind"]),
        (run.report, "dataset", report["dataset"]["hash"], manifest["dataset"]["hash"]),
    ]:
        if found != expected:
            fault = f"{what} {found!r}, but manifest.json says {expected!r}"
            raise RouterError(place, fault, again)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RouterError(path, "missing", "run distill train again") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise RouterError(path, "not YAML", "run distill train again") from None
