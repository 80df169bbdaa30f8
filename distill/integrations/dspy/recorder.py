"""A DSPy callback that writes what programs do as traces, for `distill import` and `distill build`.

One trace is one run of an **agent**: a module that has tools (`dspy.ReAct`, `RoutedReAct`), or the
outermost module where none has. Its inputs are the request, its tool calls the assistant's, its
outputs the reply (`distill.integrations.dspy.chat`); LM calls are in `usage`. What a module that a
tool runs does, is a trace of its own. Calls between two requests to the LM are one message.

Only what the LM chose is a decision of the trace: calls that a router made, or the program before
it asked any LM, are context, and so is a reply that no LM chose to give. What is not seen: tools
that are not run as `dspy.Tool`s, or by code in an interpreter. Of a module without `tools`, the
tools on offer are those it was handed or has called.

A trace is on disk when the agent's call returns; a run that a crash cuts off leaves none. Settings
of the LM are never written, and values of environment variables that are named like secrets are
masked; other secrets in inputs and results are not known to be any.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dspy
import orjson
from dspy.predict.react_v2 import ReActV2
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from distill import history
from distill.chat import digest, message_json, trace_json
from distill.integrations.dspy.chat import (
    as_arguments,
    as_text,
    asked,
    failed,
    replied,
    tool_specs,
    tools_in,
)
from distill.render import cut
from distill.runs import append_line
from distill.types import Message, ToolCall, Trace, Usage

log = logging.getLogger(__name__)

_CLOSING = {dspy.ReAct: "finish", ReActV2: "submit"}
"""Of DSPy's own agents, the tool by which the LM says that it will reply: a decision, no call."""
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_SHORTEST_SECRET = 8

_By = tuple[str, int]
"""Who chose calls: `router` and which step, or `lm` and how many requests it had answered."""

_router_step: ContextVar[tuple[str | None, int] | None] = ContextVar("router_step", default=None)
"""The call of the agent whose router chose, and which step."""


@contextmanager
def chosen_locally(step: object | None) -> Iterator[None]:
    """Says of the tools that the running agent calls in the block that its router chose them, as
    one step; None says that it did not."""
    token = _router_step.set(None if step is None else (ACTIVE_CALL_ID.get(), id(step)))
    try:
        yield
    finally:
        _router_step.reset(token)


@dataclass
class _Said:
    """Calls that were chosen together, and their results."""

    by: _By
    calls: list[ToolCall] = field(default_factory=list)
    results: list[str] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        """Whether the LM chose them."""
        kind, number = self.by
        return kind == "lm" and number > 0


@dataclass
class _Run:
    """What is known of a running agent."""

    id: str
    agent: Any
    request: tuple[Message, ...]
    tools: dict[str, dspy.Tool]
    closing: str | None
    outermost: bool
    said: list[_Said] = field(default_factory=list)
    closed: _By | None = None
    models: dict[str, None] = field(default_factory=dict)
    lm_calls: int = 0
    seconds: float = 0.0
    size: int = 0

    @property
    def signature(self) -> type[dspy.Signature] | None:
        return getattr(self.agent, "signature", None)

    def chose(self) -> _By:
        """Who chooses the tool that is called now."""
        agent, step = _router_step.get() or (None, 0)
        return ("router", step) if agent == self.id else ("lm", self.lm_calls)

    def replied_by_lm(self) -> bool:
        """Whether that there is a reply now was the LM's choice."""
        if self.closing is not None:
            return self.closed is not None and _Said(self.closed).decided
        return self.lm_calls > 0 and (not self.said or self.said[-1].by != ("lm", self.lm_calls))


class TraceRecorder(BaseCallback):
    """Appends a trace for each run of an agent.

        dspy.configure(lm=lm, callbacks=[TraceRecorder("traces.jsonl")])

    Several threads, tasks and processes may write to one file. DSPy logs what a callback raises (a
    full disk, say) and goes on; `written` counts what is on disk. Token counts are those of DSPy's
    usage tracking (`track_usage=True`), which adds them up for a program as a whole: an agent
    inside another module has none.

    Args:
        path: the trace file; added to where it is there.
        max_chars: of a message's text; more is cut out of it.
        max_bytes: of a trace; a longer one is left out, counted in `left_out`, with a warning.
    """

    def __init__(
        self, path: Path | str, *, max_chars: int = 20_000, max_bytes: int = 4 * 2**20
    ) -> None:
        self.path, self.max_chars, self.max_bytes = Path(path), max_chars, max_bytes
        self.written = self.left_out = 0
        self._runs: dict[str, _Run | None] = {}
        """Of every running module and tool, by call: the agent it works for; None inside a tool."""
        self._called: dict[str, tuple[_Run, _Said, int]] = {}
        self._asked: dict[str, tuple[_Run, float]] = {}
        self._secrets = [
            value
            for name, value in os.environ.items()
            if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
        ]

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An agent begins, or a part of one."""
        inputs = inputs.get("kwargs", inputs)
        around = self._around()
        own = tools_in(getattr(instance, "tools", None))
        if around is not None and not own:
            self._runs[call_id] = around
            return
        closing = next(
            (name for kind, name in _CLOSING.items() if isinstance(instance, kind)), None
        )
        tools = [*own, *(tool for value in inputs.values() for tool in tools_in(value))]
        self._runs[call_id] = _Run(
            id=call_id,
            agent=instance,
            request=tuple(
                replace(message, content=self._kept(message.content or ""))
                for message in asked(getattr(instance, "signature", None), inputs)
            ),
            tools={tool.name: tool for tool in tools if tool.name != closing},
            closing=closing,
            outermost=ACTIVE_CALL_ID.get() is None,
        )

    def on_module_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        """An agent has ended, whether or not it failed: its trace is written."""
        run = self._runs.pop(call_id, None)
        if run is not None and run.id == call_id and (run.lm_calls or run.said):
            self._write(run, outputs)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """A tool is called; what it does inside is nothing that the agent chose."""
        run = self._around()
        self._runs[call_id] = None
        if run is None:
            return
        by = run.chose()
        if instance.name == run.closing:
            run.closed = by
            return
        arguments = self._arguments(inputs.get("kwargs", inputs))
        run.size += len(str(arguments))
        if run.size > self.max_bytes:
            return
        run.tools.setdefault(instance.name, instance)
        if not run.said or run.said[-1].by != by:
            run.said.append(_Said(by))
        said = run.said[-1]
        self._called[call_id] = run, said, len(said.calls)
        said.calls.append(ToolCall(instance.name, arguments))
        said.results.append("")

    def on_tool_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        """A tool has returned or raised, which is its result, too."""
        self._runs.pop(call_id, None)
        if call_id in self._called:
            run, said, i = self._called.pop(call_id)
            text = as_text(outputs) if exception is None else failed(said.calls[i].name, exception)
            said.results[i] = self._kept(text)
            run.size += len(said.results[i])

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """The LM is asked."""
        run = self._around()
        if run is not None:
            run.lm_calls += 1
            run.models[str(getattr(instance, "model", "unknown"))] = None
            self._asked[call_id] = run, time.monotonic()

    def on_lm_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        """It has answered."""
        if call_id in self._asked:
            run, started = self._asked.pop(call_id)
            run.seconds += time.monotonic() - started

    def _around(self) -> _Run | None:
        """The agent for which the code that runs now works."""
        return self._runs.get(ACTIVE_CALL_ID.get() or "")

    def _kept(self, text: str) -> str:
        return cut(self._masked(text), self.max_chars)

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _arguments(self, value: Mapping[str, Any]) -> dict[str, Any] | None:
        arguments = as_arguments(value)
        if not self._secrets or arguments is None:
            return arguments
        return as_arguments(orjson.loads(self._masked(orjson.dumps(arguments).decode())))

    def _write(self, run: _Run, outputs: Any) -> None:
        line = orjson.dumps(trace_json(_trace(run, outputs, self._kept)))
        if max(len(line), run.size) > self.max_bytes:
            self.left_out += 1
            log.warning("%s: a trace of more than %d bytes is left out", self.path, self.max_bytes)
            return
        append_line(self.path, line)
        self.written += 1


def _trace(run: _Run, outputs: Any, kept: Callable[[str], str]) -> Trace:
    messages = run.request
    # Later turns of a conversation, which repeat its first, must not be torn from it.
    opening = messages[: next(i for i, m in enumerate(messages) if m.role == "user") + 1]
    decisions = []
    for said in run.said:
        if said.decided:
            decisions.append(len(messages))
        messages = history.synthetic(messages, said.calls, said.results)
    fields = _fields(outputs)
    if fields:
        if run.replied_by_lm():
            decisions.append(len(messages))
        messages = (*messages, _reply(run, fields, kept))
    return Trace(
        id=run.id,
        group=digest([message_json(message) for message in opening])[:32],
        teacher="+".join(run.models) or "unknown",
        source=f"dspy:{type(run.agent).__name__}",
        tools=tool_specs(run.tools.values()),
        messages=messages,
        usage=_usage(run, outputs),
        decisions=tuple(decisions),
    )


def _fields(outputs: Any) -> dict[str, Any]:
    """A module's outputs by name; none where it failed."""
    if isinstance(outputs, dspy.Example):
        return dict(outputs.items())
    return {} if outputs is None else {"output": outputs}


def _reply(run: _Run, fields: Mapping[str, Any], kept: Callable[[str], str]) -> Message:
    """The last message: words, or calls that are left to whoever asked."""
    chosen = [
        ToolCall(call.name, call.args, call.id)
        for value in fields.values()
        if isinstance(value, dspy.ToolCalls)
        for call in value.tool_calls
    ]
    if chosen:
        return Message("assistant", None, tuple(chosen))
    return Message("assistant", kept(replied(run.signature, fields)))


def _usage(run: _Run, outputs: Any) -> Usage:
    """What the run spent; tokens where DSPy tracked them for this program alone."""
    tracked = outputs.get_lm_usage() if isinstance(outputs, dspy.Prediction) else None
    spent = list((tracked or {}).values()) if run.outermost else []

    def total(name: str) -> int | None:
        # No request takes no tokens: a zero is an engine's way not to say.
        return sum(usage.get(name) or 0 for usage in spent) or None

    return Usage(
        total("prompt_tokens"), total("completion_tokens"), run.lm_calls, run.seconds * 1000
    )
