"""Which decisions may teach: the outcome of their trace, and calls that could be executed.

A decision that fails is dropped under a stable `Reason`; the trace's other decisions stay. The
schema check is the one of JSON Schema, without leniency: what a router may do is checked by the
same rule when it serves, so a label that breaks it could never be acted on.

Nothing here touches files or the network: a schema that refers to another document is broken.
"""

from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal

import orjson
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry

from distill.types import REPLY, Example, Outcome, ToolCall, ToolSpec


class Reason(StrEnum):
    """Why decision points were dropped, as the manifest counts them."""

    FAILED = "trace graded as failed"
    NOT_GRADED = "trace not graded"
    REPEATED = "trace id seen before"
    RESERVED_NAME = f"a tool named {REPLY!r} cannot be told from replying"
    NOT_OFFERED = "called tool not offered"
    BROKEN_SCHEMA = "called tool has a broken schema"
    INVALID_ARGUMENTS = "arguments break the tool's schema"


def check_outcome(
    outcome: Outcome, rule: Literal["any", "not_failed", "succeeded"]
) -> Reason | None:
    """Why a trace with this outcome must not teach, None if it may."""
    if rule != "any" and outcome.success is False:
        return Reason.FAILED
    if rule == "succeeded" and outcome.success is None:
        return Reason.NOT_GRADED
    return None


def verify(example: Example, invalid_arguments: Literal["drop", "keep"]) -> Reason | None:
    """Why this decision must not teach, None if it may.

    A call that was chosen but not filled (`arguments is None`) has no arguments to check.
    """
    offered = {tool.name: tool for tool in example.context.tools}
    if REPLY in offered:
        return Reason.RESERVED_NAME
    for call in example.label.calls:
        if call.name not in offered:
            return Reason.NOT_OFFERED
        if call.arguments is not None and invalid_arguments == "drop":
            reason = check_arguments(call, offered[call.name])
            if reason is not None:
                return reason
    return None


def check_arguments(call: ToolCall, tool: ToolSpec) -> Reason | None:
    """Why a filled call breaks its tool's JSON Schema, None if it does not."""
    validator = _validator(orjson.dumps(tool.parameters))
    if validator is None:
        return Reason.BROKEN_SCHEMA
    try:
        valid = validator.is_valid(call.arguments)
    except Exception:  # as in `_validator`: references and patterns are only followed now
        return Reason.BROKEN_SCHEMA
    return None if valid else Reason.INVALID_ARGUMENTS


@lru_cache(maxsize=8192)
def _validator(schema_json: bytes) -> Validator | None:
    """The schema's validator, None when the schema is none itself.

    A schema is foreign input, and jsonschema trusts it: a reference into a text or a number, or a
    pattern that `re` cannot hold, ends in whatever Python raises there (AttributeError, TypeError,
    OverflowError, …). None of it may end the build, so every exception means a broken schema.
    """
    schema: dict[str, Any] = orjson.loads(schema_json)
    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
        # An empty registry: the default one would fetch what a trace file names.
        return kind(schema, registry=Registry())
    except Exception:
        return None
