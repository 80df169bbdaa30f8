"""`dspy.ReAct` with a local router that chooses the tools.

Each turn asks the router first. What it decides is executed where it is accepted; else the LM takes
DSPy's own ReAct step. The final answer is always the LM's.
"""

import copy
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import format_error_for_lm

from distill import history
from distill.integrations.dspy.chat import as_arguments, as_text, asked, failed, tool_specs
from distill.integrations.dspy.local import Accept, LocalRouter
from distill.integrations.dspy.recorder import chosen_locally
from distill.types import Context, Message, Router, ToolCall

log = logging.getLogger(__name__)

_FINISH = "finish"
"""The tool by which DSPy's ReAct ends its loop."""
_ATTEMPTS = 3
"""Requests with an ever shorter trajectory before a context window is given up, as in DSPy."""


@dataclass(frozen=True)
class Routing:
    """What one prediction took."""

    lm_calls: int
    """Requests to the LM, those that tools made and repeated ones included."""
    router_calls: int
    """Decisions that the router was asked for."""
    fallbacks: int
    """Those that were not accepted, so that the LM took the step."""


@dataclass
class _Step:
    """Calls made together, and what they returned."""

    calls: tuple[ToolCall, ...]
    thought: str = ""
    by_router: bool = False
    results: list[Any] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return any(call.name == _FINISH for call in self.calls)


class _Callee(Protocol):
    """A DSPy module or tool, or the router."""

    def __call__(self, **arguments: Any) -> Any: ...

    async def acall(self, **arguments: Any) -> Any: ...


_Reply = tuple[Any, Exception | None]
"""What a call returned, or what it raised."""


@dataclass(frozen=True)
class _Request:
    """A call that the loop wants made; whether it is awaited, the loop need not know."""

    callee: _Callee
    arguments: Mapping[str, Any]
    by_router: _Step | None
    """The step that it belongs to, where the router chose it."""

    def reply(self) -> _Reply:
        try:
            with chosen_locally(self.by_router):
                return self.callee(**self.arguments), None
        except Exception as error:
            return None, error

    async def areply(self) -> _Reply:
        try:
            with chosen_locally(self.by_router):
                return await self.callee.acall(**self.arguments), None
        except Exception as error:
            return None, error


_Loop = Generator[_Request, _Reply, Any]


def _call(callee: _Callee, by_router: _Step | None = None, /, **arguments: Any) -> _Loop:
    """Have a call made; returns its value and raises its error."""
    value, error = yield _Request(callee, arguments, by_router)
    if error is not None:
        raise error
    return value


class RoutedReAct(dspy.ReAct):
    """A drop-in for `dspy.ReAct` whose tools a local router chooses.

    Args:
        signature: what the program answers.
        tools: functions or `dspy.Tool`s.
        max_iters: turns at most, those of the router included.
        router: a router, or the place of its folder or run directory. A program's saved state names
            the place (`distill.integrations.dspy.local`).
        policy: which decisions are acted on: a threshold of confidence, or a function of decision
            and context. A decision without confidence, with arguments missing or breaking their
            schema, with a tool that is not offered, or that repeats the calls just made always goes
            to the LM.
        history: what the LM that words the answer sees of the calls. `synthetic`: messages with
            tool calls as though it had made them, and their results (DSPy's native function
            calling, on for this request). `handed`: the results as text in the field `trajectory`.

    The prediction has ReAct's fields and `routing`, a `Routing`.

    Raises:
        RouterError: no router lies at the place, or it is damaged.
        ValueError: a tool that cannot be offered, such as one without a name; another `history`.
    """

    def __init__(
        self,
        signature: Any,
        tools: list[Callable[..., Any]],
        max_iters: int = 20,
        *,
        router: Router | str | Path,
        policy: Accept | float = 0.9,
        history: Literal["synthetic", "handed"] = "synthetic",
    ) -> None:
        if history not in ("synthetic", "handed"):
            raise ValueError(f"history: {history!r} is neither 'synthetic' nor 'handed'")
        super().__init__(signature, tools, max_iters)
        self.router = LocalRouter(router, policy)
        self._specs = tool_specs(tool for name, tool in self.tools.items() if name != _FINISH)
        self._calls_field = None if history == "handed" else _history_field(self.signature)
        if self._calls_field is not None:
            self.extract = dspy.ChainOfThought(_answering(self.signature, self._calls_field))

    def forward(self, **input_args: Any) -> dspy.Prediction:
        """Answer; `max_iters` among the inputs overrides the program's."""
        with _LmCounter.active() as counter:
            loop = self._loop(counter, **input_args)
            try:
                request = next(loop)
                while True:
                    request = loop.send(request.reply())
            except StopIteration as done:
                return done.value

    async def aforward(self, **input_args: Any) -> dspy.Prediction:
        """As `forward`; tools may be coroutines."""
        with _LmCounter.active() as counter:
            loop = self._loop(counter, **input_args)
            try:
                request = next(loop)
                while True:
                    request = loop.send(await request.areply())
            except StopIteration as done:
                return done.value

    def load_state(self, state: dict[str, Any], **options: Any) -> None:
        """Take a saved state, of a plain `dspy.ReAct`, too; errors as `LocalRouter.load_state`."""
        super().load_state({"router": {}, **state}, **options)

    def _loop(self, counter: "_LmCounter", **input_args: Any) -> _Loop:
        max_iters = input_args.pop("max_iters", self.max_iters)
        before = asked(self.signature, input_args)
        steps: list[_Step] = []
        decisions = fallbacks = 0
        for _ in range(max_iters):
            context = Context(_conversation(before, steps), self._specs)
            decision = yield from _call(self.router, context=context)
            decisions += 1
            step: _Step | None = _Step(decision.calls or (ToolCall(_FINISH, {}),), by_router=True)
            again = bool(steps) and decision.calls == steps[-1].calls
            if again or not self.router.takes(decision, context):
                fallbacks += 1
                step = yield from self._react_step(input_args, steps)
            if step is None:
                break
            for call in step.calls:
                step.results.append((yield from self._result(call, step)))
            steps.append(step)
            if step.finished:
                break
        answer = yield from self._answer(input_args, steps)
        routing = Routing(counter.calls, decisions, fallbacks)
        return dspy.Prediction(trajectory=_trajectory(steps), routing=routing, **answer)

    def _react_step(self, inputs: Mapping[str, Any], steps: Sequence[_Step]) -> _Loop:
        """The LM's choice in DSPy's own form; None where it makes none that can be used."""
        # As text, since DSPy's adapters raise at lists of anything else.
        shown = [
            replace(step, results=[as_text(result) for result in step.results]) for step in steps
        ]
        trajectory = _trajectory(shown)
        try:
            for _ in range(_ATTEMPTS):
                text = self._format_trajectory(trajectory)
                try:
                    chosen = yield from _call(self.react, **{**inputs, "trajectory": text})
                except dspy.ContextWindowExceededError:
                    trajectory = self.truncate_trajectory(trajectory)
                else:
                    call = ToolCall(chosen.next_tool_name, chosen.next_tool_args)
                    return _Step((call,), chosen.next_thought or "")
        except (dspy.ContextWindowExceededError, dspy.AdapterParseError, ValueError) as error:
            # DSPy's ReAct ends its loop on a ValueError alone, and lets a tool that is not there
            # raise out of it as the adapter's error.
            log.warning("the LM chose no tool that can be called: %s", format_error_for_lm(error))
        return None

    def _result(self, call: ToolCall, step: _Step) -> _Loop:
        """What a call returns; a tool that raises says so in its result, as in DSPy."""
        try:
            return (
                yield from _call(
                    self.tools[call.name], step if step.by_router else None, **call.arguments or {}
                )
            )
        except Exception as error:
            return failed(call.name, error)

    def _answer(self, inputs: Mapping[str, Any], steps: Sequence[_Step]) -> _Loop:
        """The LM's last word, without the oldest steps where its context window is too small."""
        left_out = 0
        while True:
            try:
                return (yield from self._asked_for_answer(inputs, steps[left_out:]))
            except dspy.ContextWindowExceededError:
                left_out += 1
                if left_out >= min(_ATTEMPTS, len(steps)):
                    raise

    def _asked_for_answer(self, inputs: Mapping[str, Any], steps: Sequence[_Step]) -> _Loop:
        if self._calls_field is None:
            return (yield from _call(self.extract, **{**inputs, "trajectory": _handed(steps)}))
        earlier = inputs.get(self._calls_field) or dspy.History(messages=[])
        request = {name: value for name, value in inputs.items() if name != self._calls_field}
        events = list(_events(steps))
        if events:
            events[0] = {**request, **events[0]}
            request = {}
        shown = dspy.History(messages=[*earlier.messages, *events])
        return (yield from _call(_Native(self.extract), **request, **{self._calls_field: shown}))


class _Native:
    """A module whose request to the LM carries tool calls and results as messages of their own."""

    def __init__(self, module: dspy.Module) -> None:
        self._module = module

    def __call__(self, **arguments: Any) -> Any:
        with dspy.context(adapter=self._adapter()):
            return self._module(**arguments)

    async def acall(self, **arguments: Any) -> Any:
        with dspy.context(adapter=self._adapter()):
            return await self._module.acall(**arguments)

    def _adapter(self) -> dspy.Adapter:
        adapter = copy.copy(dspy.settings.adapter or dspy.ChatAdapter())
        adapter.use_native_function_calling = True
        return adapter


class _LmCounter(BaseCallback):
    """Counts the requests to any LM."""

    def __init__(self) -> None:
        self.calls = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.calls += 1

    @classmethod
    @contextmanager
    def active(cls) -> Iterator["_LmCounter"]:
        """Counts while the block runs, in it alone."""
        counter = cls()
        with dspy.context(callbacks=[*dspy.settings.get("callbacks", []), counter]):
            yield counter


def _history_field(signature: type[dspy.Signature]) -> str:
    """The field of the history that an answer is given after: the signature's, or a new name."""
    for name, info in signature.input_fields.items():
        if info.annotation is dspy.History:
            return str(name)
    return next(name for name in ("history", "call_history") if name not in signature.fields)


def _answering(signature: type[dspy.Signature], calls_field: str) -> type[dspy.Signature]:
    """The signature with a history; the other inputs may be left to its first event."""
    fields: dict[str, Any] = {
        name: (info.annotation | None, copy.deepcopy(info))
        for name, info in signature.input_fields.items()
        if name != calls_field
    }
    fields[calls_field] = (dspy.History, dspy.InputField())
    fields |= {name: (info.annotation, info) for name, info in signature.output_fields.items()}
    made: type[dspy.Signature] = dspy.Signature(fields, signature.instructions)
    return made


def _conversation(before: tuple[Message, ...], steps: Sequence[_Step]) -> tuple[Message, ...]:
    """What the router is asked about: the calls of all steps, whoever chose them."""
    messages = before
    for step in steps:
        calls = [replace(call, arguments=as_arguments(call.arguments)) for call in step.calls]
        messages = history.synthetic(messages, calls, [as_text(r) for r in step.results])
    return messages


def _trajectory(steps: Sequence[_Step]) -> dict[str, Any]:
    """The steps as ReAct's trajectory: four keys for each call, a thought before the first."""
    trajectory: dict[str, Any] = {}
    calls = [
        (step.thought if i == 0 else "", call, result)
        for step in steps
        for i, (call, result) in enumerate(zip(step.calls, step.results, strict=True))
    ]
    for i, (thought, call, result) in enumerate(calls):
        trajectory[f"thought_{i}"] = thought
        trajectory[f"tool_name_{i}"] = call.name
        trajectory[f"tool_args_{i}"] = dict(call.arguments or {})
        trajectory[f"observation_{i}"] = result
    return trajectory


def _shown(steps: Sequence[_Step]) -> Iterator[tuple[str, Message, tuple[Message, ...]]]:
    """Of each step before the last word, its thought, its calls and their results."""
    messages: tuple[Message, ...] = ()
    for step in steps:
        if not step.finished:
            before = len(messages)
            messages = _conversation(messages, [step])
            yield step.thought, messages[before], messages[before + 1 :]


def _events(steps: Sequence[_Step]) -> Iterator[dict[str, Any]]:
    """The calls as events of a `dspy.History`; a thought is the reasoning before them."""
    for thought, made, results in _shown(steps):
        calls = dspy.ToolCalls.from_dict_list(
            [{"id": call.id, "name": call.name, "args": call.arguments} for call in made.calls]
        )
        calls.tool_call_results = dspy.ToolCallResults.from_tool_calls_and_values(
            calls, [result.content for result in results]
        )
        yield ({"reasoning": thought} if thought else {}) | {"tool_calls": calls}


def _handed(steps: Sequence[_Step]) -> str:
    """The results as text, in place of ReAct's trajectory."""
    messages = [
        message
        for thought, made, results in _shown(steps)
        for message in (replace(made, content=thought or None), *results)
    ]
    return "\n\n".join(message.content or "" for message in history.handed(messages))
