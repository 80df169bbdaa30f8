"""One chat completion from the chunks in which its stream was sent."""

from collections.abc import Mapping, Sequence
from typing import Any


class Assembly:
    """The first choice's message, put together delta by delta.

    Text and arguments are concatenated; of a call's other fields the first that is not empty
    counts. A delta belongs to the latest call of its `index` (0 where it has none), unless it
    names a tool under an id, or by a name, that is not that call's: some servers send parallel
    calls under one index, and some repeat the name, or make up an id, in every chunk.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._calls: list[tuple[int, dict[str, Any]]] = []
        self._latest: dict[int, dict[str, Any]] = {}

    def add(self, delta: Any, place: str) -> None:
        """Take the next delta; raises ValueError, with `place` in it, for one out of shape."""
        if not isinstance(delta, dict):
            raise ValueError(f"{place}: not an object")
        self._texts.append(_string(delta.get("content"), f"{place}.content"))
        parts = objects(delta.get("tool_calls"), f"{place}.tool_calls")
        if delta.get("function_call"):
            parts = [*parts, {"index": 0, "function": delta["function_call"]}]
        for part in parts:
            self._add_call(part, place)

    def message(self) -> dict[str, Any]:
        """The message so far; calls are in the order of their index, then of their arrival."""
        calls = [call for _, call in sorted(self._calls, key=lambda item: item[0])]
        return {"role": "assistant", "content": "".join(self._texts) or None, "tool_calls": calls}

    def _add_call(self, part: dict[str, Any], place: str) -> None:
        index, function = part.get("index"), part.get("function") or {}
        index = 0 if index is None else index
        if not isinstance(index, int) or not isinstance(function, dict):
            raise ValueError(f"{place}.tool_calls: not calls with an index and a function")
        call = self._latest.get(index)
        if call is None or _is_another(call, part.get("id"), function.get("name")):
            call = self._latest[index] = {"id": None, "function": {"name": "", "arguments": ""}}
            self._calls.append((index, call))
        call["id"] = call["id"] or part.get("id")
        whole = call["function"]
        whole["name"] = whole["name"] or function.get("name") or ""
        whole["arguments"] += _string(function.get("arguments"), f"{place}.arguments")


def assembled(chunks: Sequence[Any]) -> dict[str, Any]:
    """One completion from the chunks of its stream; `usage` is the last stated.

    Raises ValueError for chunks that are none, state an error, or end before the answer does.
    """
    whole: dict[str, Any] = {"choices": []}
    assembly = Assembly()
    finish = None
    indices: set[int] = set()
    for i, chunk in enumerate(chunks):
        if not isinstance(chunk, dict):
            raise ValueError(f"response[{i}]: a chunk that is not an object")
        refuse_error(chunk)
        for key in ("id", "model", "usage"):
            whole[key] = chunk.get(key) or whole.get(key)
        for choice in objects(chunk.get("choices"), f"response[{i}].choices"):
            index = choice.get("index", 0)
            if not isinstance(index, int):
                raise ValueError(f"response[{i}].choices: an index that is no number")
            indices.add(index)
            if index == 0:
                finish = choice.get("finish_reason") if finish is None else finish
                assembly.add(choice.get("delta") or {}, f"response[{i}].delta")
    if not indices:
        raise ValueError("response: chunks without choices")
    if finish is None:
        raise ValueError("response: a stream that ends early")
    choice = {"message": assembly.message(), "finish_reason": finish}
    whole["choices"] = [choice] * len(indices)
    return whole


def refuse_error(value: Mapping[str, Any]) -> None:
    """Raise ValueError with the API's code for a call that failed."""
    error = stated_error(value)
    if error is not None:
        raise ValueError(f"response: an error ({error})")


def stated_error(value: Mapping[str, Any]) -> str | None:
    """The code of the error that an object states, None where it states none."""
    error, status = value.get("error"), value.get("status_code")
    if error:
        details = error if isinstance(error, dict) else {}
        code = details.get("code") or details.get("type")
        return code if isinstance(code, str) else "no code"
    return f"status {status}" if isinstance(status, int) and status >= 400 else None


def _is_another(call: dict[str, Any], new_id: Any, name: Any) -> bool:
    known_id, known_name = call["id"], call["function"]["name"]
    if not name or not known_name:
        return False
    return bool(name != known_name or (new_id and known_id and new_id != known_id))


def objects(value: Any, place: str) -> list[dict[str, Any]]:
    """A list of objects, empty for null; raises ValueError for anything else."""
    items = value or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"{place}: not a list of objects")
    return items


def _string(value: Any, place: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: not text")
    return value or ""
