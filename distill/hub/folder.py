"""The folder that is published: what of a run goes to the hub, and what must not.

The router's files lie at the top, so that the folder is a router folder and loads as one. Weights
are safetensors; pickles, links and files of unknown kinds are refused, never dropped in silence.
This module knows nothing of the network: what a hub says of the base model is told to it.
"""

import json
import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from distill.errors import HubError, RouterError
from distill.hub.card import render_card
from distill.hub.record import Base, is_local, read_record, require_repo_id
from distill.runs import RunDir, new_folder, read_json, write, write_json

PUBLISHED = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.md",
    "*.yaml",
    "*.model",
]
"""What is pushed and pulled, as file name patterns; `*.model` is a SentencePiece vocabulary.

No `*.onnx`: an export has no report that measured it, so a card would state another router's."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".npy", ".npz")

# Written by transformers and PEFT with the folder a model was loaded from.
_PATH_KEYS = ("_name_or_path", "name_or_path", "base_model_name_or_path")

_SECRETS = [
    rb"\bhf_[A-Za-z0-9]{20,}\b",  # Hugging Face
    rb"\bsk-[A-Za-z0-9_-]{20,}\b",  # OpenAI, Anthropic and others
    rb"\bgh[pousr]_[A-Za-z0-9]{20,}\b|\bgithub_pat_[A-Za-z0-9_]{20,}\b",  # GitHub
    rb"\bAKIA[A-Z0-9]{16}\b",  # AWS
    rb"\bAIza[A-Za-z0-9_-]{35}",  # Google
    rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    rb"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # a JSON Web Token
    rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY",  # PEM
    rb"://[^/\s:@\"']+:[^/\s:@\"']+@",  # a password within a URL
]
# In any case: a TF-IDF router's terms are the conversations' words in lower case.
_SECRET = re.compile(b"|".join(_SECRETS), re.IGNORECASE)


def prepare(
    run: RunDir, repo_id: str, out: Path, *, licenses: Mapping[str, str] | None = None
) -> list[Path]:
    """Write the folder that is published.

    Args:
        run: a finished, evaluated run.
        repo_id: the repository as `owner/name`; the card speaks of it.
        out: where to; a folder prepared earlier is replaced, any other must be empty.
        licenses: what base models are under, by their names on a hub, where the run itself does
            not know it.

    Returns:
        The files written, sorted.

    Raises:
        HubError: a bad `repo_id`, or something that must not be published: a secret, a path of
            this machine, a pickle, a file of unknown kind, an exported router.
        RouterError: the run is not whole, not evaluated, or its files are damaged.
    """
    require_repo_id(repo_id)
    require_replaceable(out)
    record = read_record(run).with_licenses(licenses or {})
    sources = _router_files(run.router)
    for name, base in record.bases.items():
        if base.is_local and (run.router / name / "adapter_config.json").is_file():
            raise HubError(
                run.router / name,
                "an adapter for a model in a folder of this machine: nobody else could load it",
                "publish the base model and train with its hub name",
            )
    with new_folder(out) as fresh:
        for source in sources:
            if source.name == "README.md":
                continue  # PEFT's own; the repository's is the card
            inside = source.relative_to(run.router)
            target = fresh / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".json":
                _copy_json(source, target, record.base_of(inside))
            else:
                shutil.copyfile(source, target)
        # These replace the copies: without paths.
        for name, stage in record.stages.items():
            write_json(fresh / name / "router.json", stage)
        write_json(fresh / "router.json", record.router)
        write_json(fresh / "manifest.json", record.manifest)
        write_json(fresh / "report.json", record.report)
        config = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
        write(fresh / "config.yaml", config)
        write(fresh / "README.md", render_card(record, repo_id, run.router))
        for path in _files(fresh):
            if path.suffix != ".safetensors":
                _require_publishable_text(path, run)
    return _files(out)


def require_replaceable(out: Path) -> None:
    """Raise HubError where a folder holds something other than an earlier copy of a router."""
    ours = (out / "router.json").is_file() and (out / "report.json").is_file()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not ours):
        raise HubError(out, "holds other files", "name an empty or a new folder")


def is_published(name: str) -> bool:
    """Whether a file of this name is part of a published router."""
    return any(fnmatch(name, pattern) for pattern in PUBLISHED)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _router_files(folder: Path) -> list[Path]:
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise HubError(path, "is a link", "put the file itself into the router folder")
        if path.is_dir():
            continue
        if path.suffix in _PICKLES:
            raise HubError(path, "may hold pickled code", "delete it; weights are safetensors")
        if not is_published(path.name):
            raise HubError(path, "is of no kind that is published", f"not in {PUBLISHED}: move it")
        if path.suffix == ".safetensors":
            _require_safetensors(path)
        if path.name in ("report.json", "manifest.json", "config.yaml"):
            raise HubError(path, "would be overwritten by the run's own", "rename it")
        files.append(path)
    return files


def _require_safetensors(path: Path) -> None:
    try:
        # Opening checks the header, and that it accounts for every byte of the file.
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise RouterError(path, f"not safetensors ({error})", "train the router again") from None


def _copy_json(source: Path, target: Path, base: Base | None) -> None:
    """Copy as it is, unless the file says which folder here a model was loaded from."""
    value: Any = read_json(source)
    loaded_from = {
        key: str(value[key]) for key in _PATH_KEYS if isinstance(value, dict) and value.get(key)
    }
    is_ours = base is not None and base.is_local
    local = [key for key, place in loaded_from.items() if is_ours or is_local(place)]
    if not local:
        shutil.copyfile(source, target)
        return
    name = None if base is None else base.repo or base.name
    write_json(target, value | dict.fromkeys(local, name))


def _require_publishable_text(path: Path, run: RunDir) -> None:
    """Raise HubError where a written file still speaks of this machine or holds a secret."""
    content = path.read_bytes()
    if _SECRET.search(content):
        raise HubError(path.name, "holds what looks like a secret", "remove it from the run")
    if path.name in _VOCABULARIES:
        return
    for place in (Path.home(), run.path.resolve()):
        # A short one (/root, /) may stand in a tool's description for other reasons.
        text = json.dumps(str(place))[1:-1]
        if len(place.parts) > 2 and (str(place).encode() in content or text.encode() in content):
            raise HubError(path.name, "holds a path of this machine", "remove it from the run")


# Their entries are pieces of text, not settings: a path there is nobody's.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
