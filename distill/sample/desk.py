"""The desk: what a caller sees of `orderdesk`'s tools, their schemas and a checked `call`.

Nothing that a caller passes raises, and a call that does not fit its tool's schema changes nothing.
"""

import inspect
import re
import sqlite3
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonschema import TypeChecker
from jsonschema.exceptions import best_match
from jsonschema.validators import Draft202012Validator, extend

from distill.render import cut
from distill.sample.tools import FUNCTIONS, Result
from distill.types import ToolCall, ToolSpec

_JSON_TYPES: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def spec_of(function: Callable[..., Result]) -> ToolSpec:
    """The tool that a function is: summary, parameters and their descriptions."""
    doc = inspect.cleandoc(function.__doc__ or "")
    summary, _, args = doc.partition("\n\nArgs:\n")
    texts = dict(re.findall(r"^    (\w+): (.+)$", args, re.MULTILINE))
    hints = get_type_hints(function)
    properties: dict[str, Any] = {}
    required = []
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        properties[name] = {**_type_schema(hints[name]), "description": texts[name]}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    return ToolSpec(
        function.__name__,
        summary,
        {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        },
    )


def _type_schema(hint: Any) -> dict[str, Any]:
    options = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        # An optional argument is left out, never passed as null.
        (hint,) = (option for option in options if option is not NoneType)
        return _type_schema(hint)
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(options)}
    return {"type": _JSON_TYPES[hint]}


TOOLS: tuple[ToolSpec, ...] = tuple(spec_of(function) for function in FUNCTIONS)


def _is_text(checker: TypeChecker, value: object) -> bool:
    # Half a surrogate pair is valid in a Python string, but nowhere else.
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_integer(checker: TypeChecker, value: object) -> bool:
    # JSON Schema takes 1.0 for an integer, the functions' type does not.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: TypeChecker, value: object) -> bool:
    # NaN and the infinities are no JSON, and neither they nor huge numbers are amounts of money.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


_Strict = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"string": _is_text, "integer": _is_integer, "number": _is_number}
    ),
)
_FUNCTIONS = {function.__name__: function for function in FUNCTIONS}
_VALIDATORS = {spec.name: _Strict(spec.parameters) for spec in TOOLS}


def problem(chosen: ToolCall) -> str | None:
    """Why a call does not fit its tool's schema; None if it does."""
    validator = _VALIDATORS.get(chosen.name)
    if validator is None:
        return f"no tool {chosen.name}"
    if chosen.arguments is None:
        return "no arguments given"
    error = best_match(validator.iter_errors(chosen.arguments))
    if error is None:
        return None
    where = "".join(f"{key}: " for key in error.path)
    return cut(f"{where}{error.message}", 200)


def call(conn: sqlite3.Connection, chosen: ToolCall) -> Result:
    """Run a tool; a call that does not fit its schema gives an error and changes nothing."""
    wrong = problem(chosen)
    if wrong is not None:
        return {"error": wrong}
    return _FUNCTIONS[chosen.name](conn, **(chosen.arguments or {}))
