"""The closed loop: a router takes the tool decisions of whole tasks, and outcomes are counted.

    fallback        who answers what the policy does not let the router decide
    conversation    a task under way: what was said, and the environment that executes calls
    loop            one task from its first message to its score
    outcome         what became of it
    summary         figures with intervals over tasks, and differences between arms

The **history experiment** is the same loop with an LLM as the fallback, played under the arms of
`distill.evaluation.arms`: in `own` there is no router and the LLM calls the tools itself; in every
other the router's calls are made, and the LLM words the replies from what that arm shows it.

Agreement with a teacher, decision by decision, is another measure (`distill.evaluation.metrics`):
here one early mistake may cost the task, and a decision unlike the teacher's may do no harm.
"""

from distill.evaluation.closed_loop.conversation import Conversation
from distill.evaluation.closed_loop.fallback import (
    Answer,
    Fallback,
    FromLlm,
    FromRecord,
    NoFallback,
)
from distill.evaluation.closed_loop.loop import play
from distill.evaluation.closed_loop.outcome import Outcome
from distill.evaluation.closed_loop.summary import paired, summarise

__all__ = [
    "Answer",
    "Conversation",
    "Fallback",
    "FromLlm",
    "FromRecord",
    "NoFallback",
    "Outcome",
    "paired",
    "play",
    "summarise",
]
