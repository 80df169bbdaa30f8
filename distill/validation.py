"""Whether a call's arguments fit its tool's JSON Schema.

It is the check of JSON Schema, without leniency, and the only one: what may teach, what a router's
calls are held to, and what a gateway makes are judged alike.

A schema is foreign input. It reaches no file and no network: one that refers to another document is
broken. Patterns are matched by RE2 in time linear in the text, since Python's own matching can take
time exponential in it, and holds up the whole process meanwhile; so a pattern with look-around or
back-references counts as broken, too.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from typing import Any

import orjson
import re2
from jsonschema import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from referencing import Registry

from distill.types import ToolCall, ToolSpec


class Fault(StrEnum):
    """Why a filled call cannot be made."""

    BROKEN_SCHEMA = "called tool has a broken schema"
    INVALID_ARGUMENTS = "arguments break the tool's schema"


def check_arguments(call: ToolCall, tool: ToolSpec) -> Fault | None:
    """Why a filled call breaks its tool's JSON Schema, None if it does not."""
    validator = _validator(orjson.dumps(tool.parameters))
    if validator is None:
        return Fault.BROKEN_SCHEMA
    try:
        valid = validator.is_valid(call.arguments)
    except Exception:  # as in `_validator`: references and patterns are only followed now
        return Fault.BROKEN_SCHEMA
    return None if valid else Fault.INVALID_ARGUMENTS


@lru_cache(maxsize=8192)
def _validator(schema_json: bytes) -> Validator | None:
    """The schema's validator, None when the schema is none itself.

    jsonschema trusts a schema: a reference into a text or a number ends in whatever Python raises
    there (AttributeError, TypeError, OverflowError, …). None of it may end the caller, so every
    exception means a broken schema.
    """
    schema: dict[str, Any] = orjson.loads(schema_json)
    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
        # An empty registry: the default one would fetch what a trace file names.
        checking: type[Validator] = extend(kind, {"pattern": _pattern})
        return checking(schema, registry=Registry())
    except Exception:
        return None


def _pattern(
    validator: Validator, pattern: str, instance: object, schema: object
) -> Iterator[ValidationError]:
    """The keyword `pattern`, of texts alone."""
    if isinstance(instance, str) and not _compiled(pattern).search(instance):
        yield ValidationError("does not match the pattern")


@lru_cache(maxsize=8192)
def _compiled(pattern: str) -> Any:
    """Raises for a pattern that RE2 does not know."""
    options = re2.Options()
    options.log_errors = False  # or it writes foreign text to standard error
    return re2.compile(pattern, options)
