"""What all configs are: frozen, finite, strict, and mending their own defaults."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """Base of all configs: frozen, finite, and a key that no field has is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _departs_from_the_fields_own_default(cls, value: Any) -> Any:
        """`train: {epochs: 1}` keeps the other values that this kind's `train` has by default."""
        if not isinstance(value, dict):
            return value
        defaults = {
            name: field.default.model_dump()
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Config) and isinstance(value.get(name), dict)
        }
        return value | {name: _merged(default, value[name]) for name, default in defaults.items()}


def _merged(default: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` over `default`, dictionary by dictionary."""
    merged = default | given
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(default.get(key), dict):
            merged[key] = _merged(default[key], value)
    return merged
