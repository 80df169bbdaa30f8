"""One decision of a recorded task made otherwise: what it leads to, where the record does the rest.

A **fork** is a place in a task that its record comes to. A decision that is tried there is followed
by the record again, as far as that goes (`FromRecord`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.environment import Environment, Task
from distill.errors import WorkflowError
from distill.evaluation.closed_loop.conversation import Conversation, ForeignError
from distill.evaluation.closed_loop.fallback import NO_USAGE, Answer, FromRecord, NoFallback
from distill.evaluation.closed_loop.loop import MOST_STEPS
from distill.types import Context, Decision, Message

SOLVED, RIGHT_SO_FAR, FAILED, HARMFUL, UNREADABLE = 1.0, 0.5, 0.0, -1.0, -1.0
"""What a try is worth: the task was solved; nothing was wrong, but the record does not say how to
go on; neither; a call changed what it should not; what was written is no decision."""


@dataclass(frozen=True)
class Fork:
    """A place in a task, after so many decisions of its record."""

    world: Environment
    task: Task
    record: Sequence[Message]
    steps: int
    context: Context

    @property
    def name(self) -> str:
        return f"{self.task.id}#{self.steps}"

    def reward(self, decision: Decision | None) -> float:
        """What a decision here leads to; None: one that could not be read.

        A reply is worded by the record where it replies, too, and else tells what the tools have
        returned.

        Raises:
            WorkflowError: the environment raised.
        """
        if decision is None:
            return UNREADABLE
        try:
            return self._played(decision)
        except ForeignError as error:
            raise WorkflowError(self.name, str(error), "mend the environment") from error

    def _played(self, decision: Decision) -> float:
        conversation, recorded = Conversation(self.world, self.task), FromRecord(self.record)
        steps, resolved = 0, True
        while resolved and steps < MOST_STEPS and (context := conversation.context) is not None:
            answer = recorded.answer(context.messages, context.tools)
            if steps == self.steps and decision.calls:
                answer = Answer(decision.calls, usage=NO_USAGE)
            elif steps == self.steps and (answer is None or answer.calls):
                answer = NoFallback().answer(context.messages, context.tools)
            if answer is None:
                resolved = False
            else:
                conversation.take(answer)
                steps += 1
        score = conversation.score()
        if score.harmful_calls:
            return HARMFUL
        if not resolved:
            return FAILED if score.wrong_calls else RIGHT_SO_FAR
        return SOLVED if score.success and conversation.context is None else FAILED


def forks(world: Environment, task: Task, record: Sequence[Message]) -> list[Fork]:
    """All forks of a task; none where its record does not solve it.

    Raises:
        WorkflowError: the environment raised.
    """
    found: list[Fork] = []
    recorded = FromRecord(record)
    try:
        conversation = Conversation(world, task)
        while len(found) < MOST_STEPS and (context := conversation.context) is not None:
            answer = recorded.answer(context.messages, context.tools)
            if answer is None:
                return []
            found.append(Fork(world, task, record, len(found), context))
            conversation.take(answer)
        solved = conversation.context is None and conversation.score().success
    except ForeignError as error:
        raise WorkflowError(task.id, str(error), "mend the environment") from error
    return found if solved else []
