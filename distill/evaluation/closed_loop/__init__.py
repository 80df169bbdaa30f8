"""The closed loop: a router takes the tool decisions of whole tasks, and outcomes are counted.

    fallback    who answers what the policy does not let the router decide
    loop        one task from its first message to its score
    log         finished tasks, one a line, and going on after the last
    summary     figures with intervals over tasks

Agreement with a teacher, decision by decision, is another measure (`distill.evaluation.metrics`):
here one early mistake may cost the task, and a decision unlike the teacher's may do no harm.
"""

from distill.evaluation.closed_loop.fallback import Answer, Fallback, FromRecord, NoFallback
from distill.evaluation.closed_loop.log import TaskLog
from distill.evaluation.closed_loop.loop import Outcome, play
from distill.evaluation.closed_loop.summary import summarise

__all__ = [
    "Answer",
    "Fallback",
    "FromRecord",
    "NoFallback",
    "Outcome",
    "TaskLog",
    "play",
    "summarise",
]
