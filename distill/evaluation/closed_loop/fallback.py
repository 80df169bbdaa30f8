"""Who answers what the policy does not let a router decide: nobody, a record, or an LLM."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from distill.chat import call_keys
from distill.endpoint import Endpoint
from distill.evaluation.arms import ARMS, Arm
from distill.types import Context, Decision, Message, ToolCall, ToolSpec, Usage

NO_USAGE = Usage(0, 0, 0, 0.0, 0)
"""Of what costs nothing."""

UNKNOWN_USAGE = Usage()


@dataclass(frozen=True)
class Answer:
    """Calls to make, or words for the user; with calls, words are what is said beside them."""

    calls: tuple[ToolCall, ...] = ()
    words: str | None = None
    usage: Usage = UNKNOWN_USAGE
    """What the answer cost; a None is not known. `llm_calls` counts requests, of which one answer
    may take several."""


class Fallback(Protocol):
    """Answers in one task; each task gets one of its own."""

    def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Answer | None:
        """The answer to a conversation; None: it has none, and the task is left unresolved.

        Args:
            messages: with the router's calls as though the assistant had made them
                (`distill.history.synthetic`).

        Whatever it raises is recorded as an error of the task.
        """


class NoFallback:
    """The router alone: what the tools returned since the user spoke is told as it is."""

    def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Answer:
        results = [message.content or "" for message in _turns(messages)[-1] if _returns(message)]
        return Answer(words="\n".join(results), usage=NO_USAGE)


class FromRecord:
    """The teacher's own next decision, where the conversation has come as far as a record.

    It has, where in each user turn the same calls were made as in the record, whoever made them and
    in whichever order; in the latest turn those that the record has before one of its decisions.
    Anywhere else nobody knows what the teacher would do. Each answer counts as one request, its
    tokens and time as unknown.

    Args:
        record: the teacher's whole conversation.
    """

    def __init__(self, record: Sequence[Message]) -> None:
        self._record = _turns(record)

    def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Answer | None:
        turns = _turns(messages)
        *before, latest = [_calls(turn) for turn in turns]
        recorded = self._record[: len(turns)]
        if len(recorded) < len(turns) or before != [_calls(turn) for turn in recorded[:-1]]:
            return None
        made: Counter[bytes] = Counter()
        for message in recorded[-1]:
            if message.role != "assistant":
                continue
            if made == latest:
                return Answer(message.calls, message.content, Usage(llm_calls=1))
            made += _calls([message])
        return None


class NoAnswerError(Exception):
    """An LLM had no answer, in its endpoint's words."""


class FromLlm:
    """An LLM behind an endpoint.

    Args:
        endpoint: asked as its settings say.
        arm: what the LLM is shown. Where that is its own history, it calls tools or replies; in any
            other it words replies alone, and if it calls all the same it is asked again without
            tools.
    """

    def __init__(self, endpoint: Endpoint, arm: Arm = ARMS["own"]) -> None:
        self._endpoint, self._arm = endpoint, arm

    def answer(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Answer:
        """Raises NoAnswerError where the endpoint gives none."""
        shown = self._arm.shown(Context(tuple(messages), tuple(tools)))
        if self._arm.history == "own":
            return self._ask(shown, "auto")
        answer = self._ask(shown, "none")
        if answer.calls:
            words = self._ask(Context(shown.messages, ()), "none")
            answer = Answer((), words.words, total(answer.usage, words.usage))
        return answer

    def _ask(self, context: Context, tool_choice: str) -> Answer:
        settings = self._endpoint.settings
        found = self._endpoint.complete(
            context.messages,
            context.tools,
            max_tokens=settings.max_tokens,
            tool_choice=tool_choice,
            temperature=settings.temperature,
            seed=settings.seed,
        )
        if found.decision is None:
            raise NoAnswerError(found.error)
        return Answer(found.decision.calls, found.words, found.spent)


def total(a: Usage, b: Usage) -> Usage:
    """The sums; None where one of the two is not known."""
    pairs = ((getattr(a, f.name), getattr(b, f.name)) for f in fields(Usage))
    return Usage(*(None if None in pair else sum(pair) for pair in pairs))


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """The messages from each user message up to the next."""
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "user":
            turns.append([])
        if turns:
            turns[-1].append(message)
    return turns


def _returns(message: Message) -> bool:
    return message.role == "tool"


def _calls(messages: Sequence[Message]) -> Counter[bytes]:
    calls = tuple(call for message in messages for call in message.calls)
    return Counter(call_keys(Decision("call", calls)) if calls else [])
