"""YAML and `key.sub=value` overrides -> configs, and configs -> YAML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from distill.config.base import Config
from distill.config.endpoint import EndpointConfig
from distill.config.faults import explain
from distill.config.policy import PolicyConfig
from distill.config.prices import PricesConfig
from distill.config.run import RunConfig
from distill.config.serve import ServeConfig
from distill.errors import ConfigError

C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML where a key that comes twice is a fault, not a silent loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    problem = f"{key.value!r} stands in line {lines[key.value]} already"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run config and apply `key.sub=value` overrides (values are YAML).

    Raises:
        ConfigError: the file is missing, not YAML, or has unknown keys or bad values.
    """
    return parse(_read(path, "see configs/run/"), path, RunConfig, overrides)


def load_serve(path: Path, overrides: Sequence[str] = ()) -> ServeConfig:
    """Read a gateway's config and apply overrides; errors as `load`."""
    return parse(_read(path, "see configs/serve/"), path, ServeConfig, overrides)


def load_any(path: Path, overrides: Sequence[str] = ()) -> RunConfig | ServeConfig:
    """Read a run's config or a gateway's, which alone names an `upstream`; errors as `load`."""
    value = _read(path, "see configs/")
    kind: type[RunConfig | ServeConfig] = ServeConfig if "upstream" in value else RunConfig
    return parse(value, path, kind, overrides)


def load_prices(path: Path) -> PricesConfig:
    """Read a table of prices; errors as `load`."""
    return parse(_read(path, "see configs/prices.yaml"), path, PricesConfig)


def load_policy(path: Path | None, overrides: Sequence[str] = ()) -> PolicyConfig:
    """A policy from a file, or the default one, and overrides; errors as `load`."""
    if path is None:
        return parse({}, "command line", PolicyConfig, overrides)
    return parse(_read(path, "write it like `threshold: 0.9`"), path, PolicyConfig, overrides)


def load_endpoint(path: Path) -> EndpointConfig:
    """Read an LLM's endpoint; errors as `load`."""
    return parse(_read(path, "see configs/endpoint/"), path, EndpointConfig)


def _read(path: Path, example: str) -> dict[str, Any]:
    """A YAML file's mapping; `example` is the cure for one that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(path, f"cannot be read ({reason})", "give a config file") from None
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", "unreadable")
        raise ConfigError(place, f"not YAML ({problem})", "mend the line") from None
    except (ValueError, RecursionError) as error:  # a date like 2020-13-45; a thousand brackets
        raise ConfigError(path, f"not YAML ({error})", "mend or quote the value") from None
    if not isinstance(value, dict):
        raise ConfigError(path, "not a mapping of keys to values", example)
    return value


def parse(value: dict[str, Any], place: object, kind: type[C], overrides: Sequence[str] = ()) -> C:
    """Validate a mapping as a config of class `kind`; `place` names it in errors.

    Raises:
        ConfigError: unknown keys, bad values, or an override that is none.
    """
    for override in overrides:
        _apply(value, override)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise explain(error, place, kind) from None


def dump(config: Config) -> str:
    """The resolved config as YAML, every default spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(value: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(override, "not an override", "write key.sub=value")
    *parents, leaf = key.split(".")
    node = value
    for parent in parents:
        child = node.get(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(key, f"{parent!r} holds no keys", "name a key of the config")
        # A copy: what YAML anchors share is one object, and only this key is meant.
        node[parent] = dict(child)
        node = node[parent]
    try:
        node[leaf] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(key, f"{text!r} is not a YAML value", "quote it") from None
