"""Router folder -> what vLLM serves of it, and the command line that does.

| router | model | served |
|---|---|---|
| decoder | its base | the base with the adapter, by name |
| cascade | its decoder's base | the same; the encoder runs in the gateway |
| encoder, closed | the folder, a sentence-transformers model | class logits |
| encoder, open | the folder's encoder alone | the states of tokens |

An encoder's filler of arguments is a model of its own and runs in the gateway. So does all of any
other router: there is no engine for it. Nor is there for a decoder with a soft prompt: vLLM's
adapters know no tokens that their base lacks. Nothing here starts or asks anything.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from distill.config import DecoderConfig, EncoderConfig, EngineConfig
from distill.errors import ConfigError, RouterError
from distill.routers import pretrained
from distill.routers.cascade import SECOND
from distill.routers.decoder import ADAPTER_FILES
from distill.routers.folder import RouterFile, fingerprint, read_router_file, require_files
from distill.routers.load import router_folder
from distill.runs import read_json
from distill.serving.engine.installed import Installed

HOST = "127.0.0.1"
NAME = "router"
"""What vLLM calls the model: a decoder's base, or the encoder."""
_OWN = f"{NAME}:own"
"""What the router's own adapter is called, as no folder of adapters can be."""

Task = Literal["complete", "embed", "token_embed"]
Options = Mapping[str, str | int | float | bool | None]

_MODULE = "vllm.entrypoints.openai.api_server"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `--max-lora-rank`."""
_OURS = {
    *("host", "port", "uds", "model", "served-model-name", "tokenizer", "revision", "runner"),
    *("lora-modules", "enable-lora", "api-key", "logprobs-mode", "generation-config"),
    *("chat-template", "config", "trust-remote-code", "middleware"),
}
"""Options that decide what is served and who can reach it."""
_WITHOUT = "leave out `engine`"
_ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Served:
    """What vLLM serves of a router."""

    folder: Path
    """The router folder that this is, resolved: the decoder's within a cascade."""
    file: RouterFile
    task: Task
    base: pretrained.BaseModel | None = None
    """A decoder's; an encoder is merged and has none."""


@dataclass(frozen=True)
class Adapter:
    """An adapter under the name that vLLM knows it by."""

    name: str
    folder: Path

    @property
    def is_lora(self) -> bool:
        """Whether it has a rank: a soft prompt alone has none."""
        return bool(read_json(self.folder / "adapter_config.json").get("peft_type") == "LORA")

    @property
    def rank(self) -> int:
        """Its LoRA rank, as PEFT wrote it."""
        place = self.folder / "adapter_config.json"
        rank = read_json(place).get("r")
        if not isinstance(rank, int) or not 1 <= rank <= _RANKS[-1]:
            raise RouterError(place, f"rank {rank!r}", f"vLLM takes 1 to {_RANKS[-1]}")
        return rank


def content_name(name: str, folder: Path) -> str:
    """A name of its content's: vLLM keeps what it computed by adapters' names."""
    return f"{name}-{fingerprint(folder)[:12]}"


def own_name(part: Served) -> str:
    """Under which name vLLM serves the router itself."""
    return NAME if part.base is None else content_name(_OWN, part.folder)


def served(path: Path) -> Served:
    """What vLLM serves of a run directory or a router folder.

    Raises:
        RouterError: none there, a damaged one, or one that has no use for an engine.
        ModelError: a decoder's base model cannot be had.
    """
    folder = router_folder(path).resolve()
    file = read_router_file(folder)
    if file.config.kind == "cascade":
        folder = folder / SECOND
        file = read_router_file(folder)
    config = file.config
    if isinstance(config, DecoderConfig):
        if config.soft_prompt:
            raise RouterError(path, "has a soft prompt, which vLLM cannot serve", _WITHOUT)
        require_files(folder, ADAPTER_FILES)
        return Served(folder, file, "complete", pretrained.resolve(config.model, config.revision))
    if isinstance(config, EncoderConfig) and file.onnx is None:
        require_files(folder, ["model.safetensors"])
        return Served(folder, file, "token_embed" if config.catalogue == "open" else "embed")
    kind = "an exported encoder" if file.onnx else f"a router of kind {config.kind!r}"
    raise RouterError(path, f"holds {kind}, which needs no engine", _WITHOUT)


def model_folder(part: Served, work: Path) -> Path:
    """An encoder's folder for vLLM; an open one's without the head, which vLLM takes for weights.

    Args:
        work: an existing folder, which links to the encoder's files are put into.
    """
    if part.task != "token_embed":
        return part.folder
    model = work / "encoder"
    model.mkdir()
    for name in _ENCODER_FILES:
        (model / name).symlink_to(part.folder / name)
    return model


def command(
    part: Served,
    model: Path | None,
    adapters: Iterable[Adapter],
    installed: Installed,
    config: EngineConfig,
    *,
    rank: int = 1,
) -> list[str]:
    """The command line of vLLM's server.

    Args:
        model: an encoder's `model_folder`; None for a decoder.
        adapters: a decoder's own and those to be there from the start.
        rank: the largest rank of an adapter that may be loaded later.

    Raises:
        ConfigError: `config.options` has an option that is the engine's to set.
    """
    ours = _names(part, model, config.port)
    if part.base is not None:
        ours |= _decoder(part, part.base, list(adapters), rank)
    ours |= _numbers(part, installed)
    given = {name.lstrip("-").replace("_", "-"): value for name, value in config.options.items()}
    for name in given:
        # `no-` negates a switch, and a dot leads into an option of JSON.
        if name.removeprefix("no-").partition(".")[0] in _OURS:
            raise ConfigError(f"engine.options.{name}", "is the engine's to set", "leave it out")
    return [str(config.python.expanduser()), "-m", _MODULE, *_line(ours | given)]


def _names(part: Served, model: Path | None, port: int) -> dict[str, Any]:
    options = {
        "host": HOST,
        "port": port,
        "served-model-name": NAME,
        "disable-uvicorn-access-log": True,
    }
    if part.base is not None:
        return options | {"model": part.base.source, "revision": part.base.revision or False}
    # The router's tokens come as ids, so that there is no template and no text.
    pooling = orjson.dumps({"task": part.task, "use_activation": False}).decode()
    return options | {"model": str(model), "runner": "pooling", "pooler-config": pooling}


def _decoder(
    part: Served, base: pretrained.BaseModel, adapters: list[Adapter], rank: int
) -> dict[str, Any]:
    most = max([rank, *(adapter.rank for adapter in adapters)])
    return {
        "tokenizer": str(part.folder),
        "chat-template": str(part.folder / "chat_template.jinja"),
        "chat-template-content-format": "string",
        "enable-auto-tool-choice": True,
        "tool-call-parser": "hermes",
        # The tool list comes first, so that it is read once.
        "enable-prefix-caching": True,
        "enable-lora": True,
        "lora-modules": [
            orjson.dumps({"name": adapter.name, "path": str(adapter.folder)}).decode()
            for adapter in adapters
        ],
        "max-lora-rank": next(rank for rank in _RANKS if rank >= most),
        # As many as memory holds, since a long tool list may exceed what training saw.
        "max-model-len": "auto",
        # The base's own settings would speak against tools that the prompt has named.
        "generation-config": "vllm",
        # Before masks and temperature: what a confidence is made of.
        "logprobs-mode": "raw_logprobs",
    }


def _numbers(part: Served, installed: Installed) -> dict[str, Any]:
    """The number format in which the router was measured, and how a processor computes."""
    config = part.file.config
    stated = config.train.precision if isinstance(config, DecoderConfig) else "float32"
    if stated == "auto":
        stated = "float32" if installed.cpu else "auto"
    # Compiled for a processor, models would need a compiler and minutes to start.
    return {"dtype": stated} | ({"enforce-eager": True} if installed.cpu else {})


def _line(options: Options) -> list[str]:
    """`{a: 1, b: true, c: false}` -> `--a 1 --b`."""
    line: list[str] = []
    for name, value in options.items():
        if value is False:
            continue
        line.append(f"--{name}")
        if isinstance(value, list):
            line += map(str, value)
        elif value is not True and value is not None:
            line.append(str(value))
    return line
