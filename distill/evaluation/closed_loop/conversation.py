"""A task under way: what has been said so far, and an environment that executes its calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import orjson

from distill.environment import Environment, Score, Task
from distill.evaluation.closed_loop.fallback import Answer
from distill.history import synthetic
from distill.types import Context, Message, ToolCall
from distill.validation import check_arguments

T = TypeVar("T")

_MOST_ERROR = 300


class ForeignError(Exception):
    """What an environment or a fallback raised, in words."""


class Conversation:
    """A task, begun. Until it is over somebody answers its `context`, time and again.

    Args:
        environment: the task is all that it does meanwhile.

    Raises:
        ForeignError: the environment raised, here or in any method.
    """

    def __init__(self, environment: Environment, task: Task) -> None:
        self.environment, self.task = environment, task
        self.words: list[str] = []
        """What the user was told."""
        self.refused = 0
        """Calls that were not executed."""
        with foreign("environment"):
            environment.reset(task)
            self._tools = tuple(environment.tools)
        self.messages: tuple[Message, ...] = ()
        """All that was said and called so far."""
        if task.system is not None:
            self.messages = (Message("system", task.system),)
        self._unsaid = iter(task.user)
        self._over = False
        self._hear()

    @property
    def context(self) -> Context | None:
        """What is to be answered next; None when the user has said all and was answered."""
        return None if self._over else Context(self.messages, self._tools)

    def take(self, answer: Answer) -> None:
        """Go on with an answer: its calls are executed, else its words end the user's turn.

        The calls enter the conversation as synthetic history. Those that are not offered or do not
        fit their schemas are answered with an error instead of being executed, and count as wrong.
        """
        if answer.words is not None:
            self.words.append(answer.words)
        if answer.calls:
            self._execute(answer)
        else:
            self.messages = (*self.messages, Message("assistant", answer.words or ""))
            self._hear()

    def score(self) -> Score:
        """How it stands, the refused calls among the wrong ones."""
        with foreign("environment"):
            score = _typed(self.environment.score(self.words), Score, "score")
        return replace(score, wrong_calls=score.wrong_calls + self.refused)

    def _hear(self) -> None:
        said = next(self._unsaid, None)
        if said is None:
            self._over = True
        else:
            self.messages = (*self.messages, Message("user", said))

    def _execute(self, answer: Answer) -> None:
        context, results = Context(self.messages, self._tools), []
        for call in answer.calls:
            refusal = _refusal(call, context)
            if refusal is not None:
                self.refused += 1
                results.append(orjson.dumps({"error": refusal}).decode())
                continue
            with foreign("environment"):
                results.append(_typed(self.environment.execute(call), str, "execute"))
        messages = list(synthetic(self.messages, answer.calls, results))
        place = len(self.messages)
        messages[place] = replace(messages[place], content=answer.words)
        self.messages = tuple(messages)


def _refusal(call: ToolCall, context: Context) -> str | None:
    """Why a call is not executed; None if it is. A tool whose own schema is broken is executed."""
    spec = next((tool for tool in context.tools if tool.name == call.name), None)
    if spec is None:
        return f"no tool {call.name}"
    if call.arguments is None:
        return "the arguments are no JSON object"
    return check_arguments(call, spec)


def _typed(value: T, kind: type[T], method: str) -> T:
    """What foreign code returned; raises TypeError where it is not what it should be."""
    if not isinstance(value, kind):
        raise TypeError(f"{method} returned {type(value).__name__}, not {kind.__name__}")
    return value


@contextmanager
def foreign(who: str) -> Iterator[None]:
    """Tell the faults of foreign code, whatever they are, from ours.

    Raises:
        ForeignError: in place of whatever was raised.
    """
    try:
        yield
    except Exception as error:
        text = f"{who}: {type(error).__name__}: {error}"
        raise ForeignError(text[:_MOST_ERROR]) from error
