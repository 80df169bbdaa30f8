"""Which decisions may teach: the outcome of their trace, and calls that could be executed.

A decision that fails is dropped under a stable `Reason`; the trace's other decisions stay. A label
that breaks its tool's schema could never be acted on: what a router does is held to it, too.
"""

from enum import StrEnum
from typing import Literal

from distill.types import REPLY, Example, Outcome
from distill.validation import Fault, check_arguments


class Reason(StrEnum):
    """Why decision points were dropped, as the manifest counts them."""

    FAILED = "trace graded as failed"
    NOT_GRADED = "trace not graded"
    REPEATED = "trace id seen before"
    RESERVED_NAME = f"a tool named {REPLY!r} cannot be told from replying"
    NOT_OFFERED = "called tool not offered"
    BROKEN_SCHEMA = Fault.BROKEN_SCHEMA.value
    INVALID_ARGUMENTS = Fault.INVALID_ARGUMENTS.value


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
            fault = check_arguments(call, offered[call.name])
            if fault is not None:
                return Reason(fault.value)
    return None
