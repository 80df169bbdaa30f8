"""What pydantic finds wrong with a config, told in the words of the file that holds it."""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from distill.config.base import Config
from distill.config.endpoint import EndpointConfig
from distill.config.routers import (
    AttentionConfig,
    CascadeConfig,
    DecoderConfig,
    EncoderConfig,
    EnsembleConfig,
    MajorityConfig,
    RnnConfig,
    TfidfConfig,
)
from distill.errors import ConfigError


def explain(error: ValidationError, place: object, kind: type[Config]) -> ConfigError:
    """The first fault in words: dotted path, what is wrong, what would be right."""
    fault = error.errors()[0]
    # A discriminated union puts the chosen kind into the path; it is no key of the file.
    path, names = _walk(kind, fault["loc"])
    if fault["type"] == "extra_forbidden":
        return ConfigError(place, f"unknown key {path!r}", f"valid names: {', '.join(names)}")
    if fault["type"] == "missing":
        return ConfigError(place, f"{path!r} is missing", "add it")
    if fault["type"] == "union_tag_not_found":
        return ConfigError(
            place, f"'{path}.kind' is missing", f"one of: {', '.join(_ROUTER_KINDS)}"
        )
    if fault["type"] == "union_tag_invalid":
        unknown = f"{path}.kind: unknown kind {fault['ctx']['tag']!r}"
        return ConfigError(place, unknown, f"one of: {', '.join(_ROUTER_KINDS)}")
    if fault["type"] == "secret":
        cure = "leave that out; a secret belongs into the environment (key_env, url_env)"
        return ConfigError(place, f"{path}: {fault['msg']}", cure)
    message = fault["msg"].removeprefix("Value error, ")
    return ConfigError(place, f"{path}: {message}", f"got {fault['input']!r}"[:300])


def _walk(root: Any, location: Iterable[int | str]) -> tuple[str, list[str]]:
    """The dotted path without union tags, and the field names valid at its parent."""
    keys: list[str] = []
    node: Any = root
    names: list[str] = []
    for part in location:
        if isinstance(node, dict):  # a union by kind: this part is the tag
            node = node.get(str(part))
            continue
        keys.append(str(part))
        fields = getattr(node, "model_fields", None)
        if fields is None:
            node = _ROUTER_KINDS if node is dict else None
            continue
        names = list(fields)
        annotation = _without_none(fields[part].annotation if part in fields else None)
        if part == "routers":
            node = dict
        elif get_origin(annotation) is UnionType:
            node = {}  # its members' types stand in the path, too
        else:
            node = annotation if hasattr(annotation, "model_fields") else None
    return ".".join(keys), names


def _without_none(annotation: Any) -> Any:
    """`X` of `X | None`, which leaves no trace in a path; any other type as it is."""
    rest = [member for member in get_args(annotation) if member is not NoneType]
    return rest[0] if get_origin(annotation) is UnionType and len(rest) == 1 else annotation


_ROUTER_KINDS: dict[str, Any] = {
    "majority": MajorityConfig,
    "tfidf": TfidfConfig,
    "rnn": RnnConfig,
    "attention": AttentionConfig,
    "encoder": EncoderConfig,
    "decoder": DecoderConfig,
    "cascade": CascadeConfig,
    "ensemble": EnsembleConfig,
    "endpoint": EndpointConfig,
}
